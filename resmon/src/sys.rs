//! System calls without a safe wrapper elsewhere: pidfds, what a child does between fork and exec,
//! and the handler of deadly signals.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use nix::sys::signal::Signal;

/// A descriptor of a process: readable when it has ended, and never another's.
///
/// # Errors
/// The process is gone (`ESRCH`), or the kernel gives no descriptor.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::other("no descriptor number"))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to exactly the process of the descriptor.
///
/// # Errors
/// It is gone (`ESRCH`), or may not be signalled.
pub(crate) fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let (raw, signal) = (fd.as_raw_fd(), signal as i32);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a valid descriptor, a signal number, no siginfo (the kernel fills it in), no flags.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, raw, signal, no_info, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where the descriptors of a monitor are, in its process.
pub(crate) const INHERITED_FIRST: RawFd = 3;

/// Makes a monitor's command inherit `fds` as descriptors 3, 4, ..., die with its parent thread,
/// stand in a process group of its own, and join a cgroup (`procs`: its opened `cgroup.procs`).
pub(crate) fn prepare_monitor(command: &mut Command, fds: &[OwnedFd], procs: Option<&OwnedFd>) {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let highest = INHERITED_FIRST + RawFd::try_from(fds.len()).expect("a handful");
    assert!(fds.iter().all(|&fd| fd >= highest), "dup2 must not overwrite one of them");
    let procs = procs.map(AsRawFd::as_raw_fd);
    let parent = std::process::id();
    let between = move || {
        // SAFETY: prctl, setpgid, getppid, dup2 and write are async-signal-safe and take integers
        // (write: a static string); nothing is allocated between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ECHILD));
            }
            libc::setpgid(0, 0);
            mortal();
            join_cgroup(procs)?;
            for (target, &fd) in (INHERITED_FIRST..).zip(&fds) {
                if libc::dup2(fd, target) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    };
    // SAFETY: the closure does only what is allowed between fork and exec (see above).
    unsafe { command.pre_exec(between) };
}

/// Makes an application's command start in a session of its own and in a cgroup. It does not die
/// with its monitor: a monitor that crashes must not take the application with it.
pub(crate) fn prepare_application(command: &mut Command, procs: Option<&OwnedFd>) {
    let procs = procs.map(AsRawFd::as_raw_fd);
    let between = move || {
        // SAFETY: setsid and write are async-signal-safe; nothing is allocated.
        unsafe {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            unblock_signals()?;
            join_cgroup(procs)
        }
    };
    // SAFETY: the closure does only what is allowed between fork and exec (see above).
    unsafe { command.pre_exec(between) };
}

/// Between fork and exec: what the guard starts is not protected from the OOM killer as the guard
/// is. An error leaves the protection, which harms less than not starting.
///
/// # Safety
/// Only async-signal-safe calls are made; there is nothing for the caller to uphold.
unsafe fn mortal() {
    // SAFETY: static strings; the descriptor is this function's own.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// Between fork and exec: no signal is blocked. The guard receives its signals as data and blocks
/// them; an application that inherits that never hears SIGTERM.
///
/// # Safety
/// Only async-signal-safe calls are made; there is nothing for the caller to uphold.
unsafe fn unblock_signals() -> io::Result<()> {
    // SAFETY: a zeroed set is storage for sigemptyset, which makes it valid.
    let result = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Between fork and exec: moves the caller into the cgroup.
///
/// # Safety
/// Only async-signal-safe calls are made; there is nothing for the caller to uphold.
unsafe fn join_cgroup(procs: Option<RawFd>) -> io::Result<()> {
    if let Some(fd) = procs {
        // SAFETY: a static string of one byte; "0" means the writer itself.
        if unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A copy of a descriptor with a number of at least `least`, closed at exec.
///
/// # Errors
/// Too many open files.
pub(crate) fn copy_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a valid descriptor and a number; returns a new descriptor or -1.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes over a descriptor that the parent process has put at a fixed place; once per number.
///
/// # Errors
/// There is no such descriptor.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD on any number is harmless: EBADF if it is not open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was put there for this process, and its only taker is the start of main.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    // Not for the applications.
    // SAFETY: an open descriptor and a flag.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(owned)
}

static CRASH_WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_deadly_signal(signal: libc::c_int) {
    // SAFETY: gettid, signal and raise are async-signal-safe; the word is 'static (see below). The
    // raised signal waits until this handler returns, and then ends the process: a fault would do
    // that by itself when the instruction runs again, but one that was sent or abort() would not.
    unsafe {
        if let Some(word) = CRASH_WORD.load(Ordering::SeqCst).as_ref() {
            let thread = u64::try_from(libc::gettid()).unwrap_or(0);
            let _ = word.compare_exchange(0, thread, Ordering::SeqCst, Ordering::SeqCst);
        }
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// From now on a thread that gets SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGABRT leaves its thread id in
/// `word` before the process dies of it.
///
/// # Errors
/// The kernel refuses a handler.
pub(crate) fn record_deadly_signals(word: &'static AtomicU64) -> io::Result<()> {
    CRASH_WORD.store(std::ptr::from_ref(word).cast_mut(), Ordering::SeqCst);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
        // SAFETY: a zeroed sigaction is valid; the handler is an extern "C" function that makes
        // async-signal-safe calls only; SA_ONSTACK uses the stack that std gives each thread.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_deadly_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// SCHED_RR for a thread (0: the caller), not for its children: whoever must act at a lease's end
/// must not wait for a processor.
///
/// # Errors
/// Not permitted (also in a cgroup v1 without real-time budget).
pub(crate) fn make_realtime(thread: i32, priority: i32) -> io::Result<()> {
    // SAFETY: a zeroed sched_param is valid; a number that is no thread gives ESRCH.
    let result = unsafe {
        let mut param: libc::sched_param = std::mem::zeroed();
        param.sched_priority = priority;
        let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
        libc::sched_setscheduler(thread, policy, &raw const param)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
