//! The dozen functions of libiscsi that are used, behind a safe session. All `unsafe` of the iSCSI
//! transport is here.
//!
//! libiscsi (1.19 was examined) calls back from inside `iscsi_service` and `iscsi_destroy_context`
//! only, on the thread that calls them; it keeps pointers to the data of a command until its
//! callback has come. A session therefore owns everything that libiscsi may point to, has one
//! command at most, and destroys the context before it drops any of it.

#![expect(unsafe_code, reason = "foreign functions of libiscsi")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_void};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use wolfpack_types::disk::DiskOutcome;

use crate::cdb::{Cdb, Data};
use crate::sense::{self, Sense};

const SESSION_NORMAL: c_int = 2;
const HEADER_DIGEST_NONE_CRC32C: c_int = 1;
const TM_LUN_RESET: c_int = 5;
const STATUS_GOOD: c_int = 0;
const STATUS_CANCELLED: c_int = 0x0f00_0000;
const STATUS_ERROR: c_int = 0x0f00_0001;
const STATUS_TIMEOUT: c_int = 0x0f00_0002;

/// With a user, libiscsi begins the login with the security stage and offers `CHAP,None`; without
/// one it skips that stage, and tgt then does not end the former session of the same name and ISID
/// (it looks for one when the security stage ends). A target without accounts chooses `None`.
const NO_USER: &CStr = c"wolfpack-none";

type Callback = extern "C" fn(*mut c_void, c_int, *mut c_void, *mut c_void);

/// `struct scsi_task` of libiscsi 7 (`scsi-lowlevel.h`); made by the library, read here.
#[repr(C)]
struct ScsiTask {
    status: c_int,
    cdb_size: c_int,
    xfer_dir: c_int,
    expxferlen: c_int,
    cdb: [c_uchar; 16],
    residual_status: c_int,
    residual: usize,
    sense_type: c_uchar,
    sense_key: c_int,
    /// Additional sense code and qualifier as one number.
    sense_ascq: c_int,
    sense_specific: [u8; 4],
    datain_size: c_int,
    datain: *const c_uchar,
    rest: [u8; 96],
}

const _: () = {
    assert!(size_of::<ScsiTask>() == 176);
    assert!(std::mem::offset_of!(ScsiTask, sense_type) == 48);
    assert!(std::mem::offset_of!(ScsiTask, datain_size) == 64);
    assert!(std::mem::offset_of!(ScsiTask, datain) == 72);
};

/// `struct iscsi_data`.
#[repr(C)]
struct IscsiData {
    size: usize,
    data: *mut c_uchar,
}

#[link(name = "iscsi")]
unsafe extern "C" {
    fn iscsi_create_context(initiator: *const c_char) -> *mut c_void;
    fn iscsi_destroy_context(ctx: *mut c_void) -> c_int;
    fn iscsi_set_noautoreconnect(ctx: *mut c_void, state: c_int);
    fn iscsi_set_targetname(ctx: *mut c_void, name: *const c_char) -> c_int;
    fn iscsi_set_session_type(ctx: *mut c_void, kind: c_int) -> c_int;
    fn iscsi_set_header_digest(ctx: *mut c_void, digest: c_int) -> c_int;
    fn iscsi_set_isid_random(ctx: *mut c_void, rnd: u32, qualifier: u32) -> c_int;
    fn iscsi_set_initiator_username_pwd(
        ctx: *mut c_void,
        user: *const c_char,
        password: *const c_char,
    ) -> c_int;
    fn iscsi_connect_async(
        ctx: *mut c_void,
        portal: *const c_char,
        cb: Callback,
        private: *mut c_void,
    ) -> c_int;
    fn iscsi_login_async(ctx: *mut c_void, cb: Callback, private: *mut c_void) -> c_int;
    fn iscsi_get_fd(ctx: *mut c_void) -> c_int;
    fn iscsi_which_events(ctx: *mut c_void) -> c_int;
    fn iscsi_service(ctx: *mut c_void, revents: c_int) -> c_int;
    fn iscsi_get_error(ctx: *mut c_void) -> *const c_char;
    fn iscsi_scsi_command_async(
        ctx: *mut c_void,
        lun: c_int,
        task: *mut ScsiTask,
        cb: Callback,
        data: *mut IscsiData,
        private: *mut c_void,
    ) -> c_int;
    fn iscsi_task_mgmt_async(
        ctx: *mut c_void,
        lun: c_int,
        function: c_int,
        ritt: u32,
        rcmdsn: u32,
        cb: Callback,
        private: *mut c_void,
    ) -> c_int;
    fn scsi_create_task(
        size: c_int,
        cdb: *mut c_uchar,
        direction: c_int,
        length: c_int,
    ) -> *mut ScsiTask;
    fn scsi_free_scsi_task(task: *mut ScsiTask);
}

/// What the callbacks leave behind.
#[derive(Default)]
struct Mailbox {
    connected: Cell<Option<c_int>>,
    logged_in: Cell<Option<c_int>>,
    command: Cell<Option<c_int>>,
    /// Status and the target's response.
    reset: Cell<Option<(c_int, u32)>>,
}

extern "C" fn on_connect(_: *mut c_void, status: c_int, _: *mut c_void, private: *mut c_void) {
    // SAFETY: every `private` given to libiscsi is the mailbox of the session, which outlives it.
    let mailbox = unsafe { &*private.cast::<Mailbox>() };
    mailbox.connected.set(Some(status));
}

extern "C" fn on_login(_: *mut c_void, status: c_int, _: *mut c_void, private: *mut c_void) {
    // SAFETY: as in `on_connect`.
    let mailbox = unsafe { &*private.cast::<Mailbox>() };
    mailbox.logged_in.set(Some(status));
}

extern "C" fn on_command(_: *mut c_void, status: c_int, _: *mut c_void, private: *mut c_void) {
    // SAFETY: as in `on_connect`.
    let mailbox = unsafe { &*private.cast::<Mailbox>() };
    mailbox.command.set(Some(status));
}

extern "C" fn on_reset(_: *mut c_void, status: c_int, data: *mut c_void, private: *mut c_void) {
    // SAFETY: as in `on_connect`.
    let mailbox = unsafe { &*private.cast::<Mailbox>() };
    // The status is GOOD even if the target refused: only the response says what happened.
    let response = if status == STATUS_GOOD && !data.is_null() {
        // SAFETY: with GOOD libiscsi passes a pointer to the response (`iscsi.h`).
        unsafe { data.cast::<u32>().read_unaligned() }
    } else {
        u32::MAX
    };
    mailbox.reset.set(Some((status, response)));
}

/// What a session waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Connect,
    Login,
    Command,
    Reset,
}

/// Why a wait ended without what was wanted.
#[derive(Debug)]
pub(super) enum Unmet {
    Timeout,
    Lost(String),
}

/// What is in flight, with all that libiscsi points to.
enum Flight {
    Command { task: *mut ScsiTask, _data: Vec<u8> },
    Reset,
}

/// One iSCSI session with at most one command in flight.
pub(super) struct Session {
    ctx: *mut c_void,
    mailbox: Box<Mailbox>,
    flight: Option<Flight>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("in_flight", &self.flight.is_some()).finish()
    }
}

// SAFETY: libiscsi keeps no thread-local state; a context may be used by any one thread at a time,
// which `&mut self` ensures. Mailbox and data are owned.
unsafe impl Send for Session {}

impl Session {
    /// A session that is not connected yet.
    pub(super) fn new(initiator: &str, target: &str, isid: (u32, u16)) -> Result<Self, String> {
        let text = |s: &str| CString::new(s).map_err(|_| "a name has a zero byte".to_owned());
        let (initiator, target) = (text(initiator)?, text(target)?);
        check_task_layout()?;
        // SAFETY: the name is a valid string, which libiscsi copies.
        let ctx = unsafe { iscsi_create_context(initiator.as_ptr()) };
        if ctx.is_null() {
            return Err("libiscsi made no context".into());
        }
        let session = Self { ctx, mailbox: Box::default(), flight: None };
        // SAFETY: a fresh context and valid strings. Reconnecting by itself would lose a reservation
        // silently and repeat commands, so it is off.
        let good = unsafe {
            iscsi_set_noautoreconnect(ctx, 1);
            iscsi_set_initiator_username_pwd(ctx, NO_USER.as_ptr(), NO_USER.as_ptr());
            iscsi_set_targetname(ctx, target.as_ptr()) == 0
                && iscsi_set_session_type(ctx, SESSION_NORMAL) == 0
                && iscsi_set_header_digest(ctx, HEADER_DIGEST_NONE_CRC32C) == 0
                && iscsi_set_isid_random(ctx, isid.0 & 0x00ff_ffff, u32::from(isid.1)) == 0
        };
        if good { Ok(session) } else { Err(session.error()) }
    }

    /// Connects to `host:port`.
    pub(super) fn connect(&mut self, portal: &str, until: Instant) -> Result<(), Unmet> {
        let text = CString::new(portal).map_err(|e| Unmet::Lost(e.to_string()))?;
        let private = self.private();
        // SAFETY: live context, valid string, mailbox that outlives the context.
        if unsafe { iscsi_connect_async(self.ctx, text.as_ptr(), on_connect, private) } != 0 {
            return Err(Unmet::Lost(self.error()));
        }
        self.wait(Wanted::Connect, until)?;
        match self.mailbox.connected.get() {
            Some(STATUS_GOOD) => Ok(()),
            _ => Err(Unmet::Lost(self.error())),
        }
    }

    /// Logs in to the target.
    pub(super) fn login(&mut self, until: Instant) -> Result<(), Unmet> {
        let private = self.private();
        // SAFETY: live, connected context; mailbox that outlives it.
        if unsafe { iscsi_login_async(self.ctx, on_login, private) } != 0 {
            return Err(Unmet::Lost(self.error()));
        }
        self.wait(Wanted::Login, until)?;
        match self.mailbox.logged_in.get() {
            Some(STATUS_GOOD) => Ok(()),
            _ => Err(Unmet::Lost(self.error())),
        }
    }

    /// Sends a command. Its end is fetched by [`Session::end`].
    pub(super) fn send(&mut self, lun: u16, cdb: &Cdb, out: Vec<u8>) -> Result<(), String> {
        assert!(self.flight.is_none(), "one command at a time");
        let mut bytes = cdb.bytes().to_vec();
        let (direction, length) = match cdb.data {
            Data::None => (0, 0),
            Data::In(n) => (1, n),
            Data::Out(n) => (2, n),
        };
        assert!(direction != 2 || out.len() == length as usize, "as many bytes as announced");
        let size = c_int::try_from(bytes.len()).map_err(|e| e.to_string())?;
        let length = c_int::try_from(length).map_err(|e| e.to_string())?;
        // SAFETY: `bytes` holds `size` bytes, which libiscsi copies into the task.
        let task = unsafe { scsi_create_task(size, bytes.as_mut_ptr(), direction, length) };
        if task.is_null() {
            return Err("libiscsi made no task".into());
        }
        let mut out = out;
        let mut data = IscsiData { size: out.len(), data: out.as_mut_ptr() };
        let data_ptr = if direction == 2 { &raw mut data } else { std::ptr::null_mut() };
        self.mailbox.command.set(None);
        let private = self.private();
        // SAFETY: live context and task; libiscsi copies `data` itself and points to the bytes of
        // `out`, whose heap block is kept in `flight` until the callback or the context's end.
        let sent = unsafe {
            iscsi_scsi_command_async(
                self.ctx,
                c_int::from(lun),
                task,
                on_command,
                data_ptr,
                private,
            )
        };
        if sent != 0 {
            // SAFETY: the task was made above and was not taken.
            unsafe { scsi_free_scsi_task(task) };
            return Err(self.error());
        }
        self.flight = Some(Flight::Command { task, _data: out });
        Ok(())
    }

    /// Sends LOGICAL UNIT RESET.
    pub(super) fn send_reset(&mut self, lun: u16) -> Result<(), String> {
        assert!(self.flight.is_none(), "one command at a time");
        self.mailbox.reset.set(None);
        let private = self.private();
        // SAFETY: live context; mailbox that outlives it. No task is referred to.
        let sent = unsafe {
            iscsi_task_mgmt_async(
                self.ctx,
                c_int::from(lun),
                TM_LUN_RESET,
                u32::MAX,
                0,
                on_reset,
                private,
            )
        };
        if sent != 0 {
            return Err(self.error());
        }
        self.flight = Some(Flight::Reset);
        Ok(())
    }

    /// Waits for the end of what is in flight.
    pub(super) fn end(&mut self, until: Instant) -> Result<DiskOutcome, Unmet> {
        let wanted = match self.flight {
            Some(Flight::Command { .. }) => Wanted::Command,
            Some(Flight::Reset) => Wanted::Reset,
            None => return Err(Unmet::Lost("nothing is in flight".into())),
        };
        self.wait(wanted, until)?;
        match self.flight.take() {
            Some(Flight::Command { task, _data }) => {
                let status = self.mailbox.command.take().unwrap_or(STATUS_ERROR);
                let end = self.ended(status, task);
                // SAFETY: the callback has come, so libiscsi is done with the task.
                unsafe { scsi_free_scsi_task(task) };
                end
            }
            _ => match self.mailbox.reset.take() {
                Some((STATUS_GOOD, 0)) => Ok(DiskOutcome::Good(Vec::new())),
                Some((STATUS_GOOD, response)) => Ok(DiskOutcome::Transport(format!(
                    "the target refused the LUN reset (response {response})"
                ))),
                _ => Err(Unmet::Lost(self.error())),
            },
        }
    }

    fn ended(&self, status: c_int, task: *const ScsiTask) -> Result<DiskOutcome, Unmet> {
        if matches!(status, STATUS_CANCELLED | STATUS_ERROR | STATUS_TIMEOUT) {
            return Err(Unmet::Lost(self.error()));
        }
        // SAFETY: the task is alive until `end` frees it, and of the layout that was checked.
        let task = unsafe { &*task };
        let data = match usize::try_from(task.datain_size) {
            Ok(n) if n > 0 && !task.datain.is_null() => {
                // SAFETY: libiscsi owns `datain_size` bytes there until the task is freed.
                unsafe { std::slice::from_raw_parts(task.datain, n) }.to_vec()
            }
            _ => Vec::new(),
        };
        let [.., asc, ascq] = task.sense_ascq.to_be_bytes();
        let key = u8::try_from(task.sense_key).unwrap_or(0);
        let status = u8::try_from(status).unwrap_or(u8::MAX);
        Ok(sense::outcome(status, Sense { key, asc, ascq }, data))
    }

    fn met(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Connect => self.mailbox.connected.get().is_some(),
            Wanted::Login => self.mailbox.logged_in.get().is_some(),
            Wanted::Command => self.mailbox.command.get().is_some(),
            Wanted::Reset => self.mailbox.reset.get().is_some(),
        }
    }

    /// Serves the socket until what is wanted has come. (The timeouts of libiscsi are whole seconds
    /// and cancel nothing, so they are not used.)
    fn wait(&mut self, wanted: Wanted, until: Instant) -> Result<(), Unmet> {
        loop {
            if self.met(wanted) {
                return Ok(());
            }
            // SAFETY: live context.
            let (fd, events) = unsafe { (iscsi_get_fd(self.ctx), iscsi_which_events(self.ctx)) };
            if fd < 0 {
                return Err(Unmet::Lost(self.error()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Unmet::Timeout);
            }
            let events = PollFlags::from_bits_truncate(i16::try_from(events).unwrap_or(0));
            // SAFETY: libiscsi owns the descriptor and closes it in calls of this thread only.
            let mut fds = [PollFd::new(unsafe { BorrowedFd::borrow_raw(fd) }, events)];
            let timeout = PollTimeout::try_from(left + Duration::from_micros(999))
                .unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(Unmet::Lost(e.to_string())),
            }
            let revents = fds[0].revents().unwrap_or(PollFlags::empty()).bits();
            // SAFETY: live context; the callbacks touch the mailbox only.
            let served = unsafe { iscsi_service(self.ctx, c_int::from(revents)) };
            if served != 0 && !self.met(wanted) {
                return Err(Unmet::Lost(self.error()));
            }
        }
    }

    fn private(&self) -> *mut c_void {
        std::ptr::from_ref::<Mailbox>(&self.mailbox).cast_mut().cast()
    }

    /// The last error text of libiscsi (often stale: a hint for people).
    fn error(&self) -> String {
        // SAFETY: live context; the text is valid until the next call and copied here.
        let text = unsafe {
            let text = iscsi_get_error(self.ctx);
            if text.is_null() {
                String::new()
            } else {
                CStr::from_ptr(text).to_string_lossy().into()
            }
        };
        let text = text.trim();
        if text.is_empty() { "the connection was lost".to_owned() } else { text.to_owned() }
    }
}

impl Drop for Session {
    /// Abortive: the peer gets a reset, nothing that is still queued here is sent any more.
    fn drop(&mut self) {
        // SAFETY: live context.
        let fd = unsafe { iscsi_get_fd(self.ctx) };
        if fd >= 0 {
            // SAFETY: the descriptor is open: the context owns it and is alive.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let abort = libc::linger { l_onoff: 1, l_linger: 0 };
            // Only a courtesy: without it the connection ends a little later.
            let _ = setsockopt(&fd, sockopt::Linger, &abort);
        }
        // SAFETY: the context is destroyed once, here; callbacks that it makes find the mailbox and
        // the data, which are dropped after it.
        unsafe { iscsi_destroy_context(self.ctx) };
        if let Some(Flight::Command { task, .. }) = self.flight.take() {
            // SAFETY: no context refers to the task any more.
            unsafe { scsi_free_scsi_task(task) };
        }
    }
}

/// A library with another layout of its tasks would be read wrongly: look at one before use.
fn check_task_layout() -> Result<(), String> {
    let mut cdb: [c_uchar; 6] = [0x12, 1, 2, 3, 4, 5];
    // SAFETY: six bytes are there, which libiscsi copies.
    let task = unsafe { scsi_create_task(6, cdb.as_mut_ptr(), 1, 0x0102) };
    if task.is_null() {
        return Err("libiscsi made no task".into());
    }
    // SAFETY: a live task; every layout of libiscsi is longer than the fields read here.
    let known = unsafe {
        let task = &*task;
        task.cdb_size == 6
            && task.xfer_dir == 1
            && task.expxferlen == 0x0102
            && task.cdb[..6] == cdb
    };
    // SAFETY: made above, used by nobody.
    unsafe { scsi_free_scsi_task(task) };
    if known { Ok(()) } else { Err("this libiscsi has an unknown layout of its tasks".into()) }
}
