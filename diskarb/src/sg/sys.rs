//! The two ioctls of the SCSI generic interface, behind safe functions.

#![expect(unsafe_code, reason = "ioctls with pointers to buffers")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::cdb::{Cdb, Data};

/// `struct sg_io_hdr` (`scsi/sg.h`), interface 'S'.
#[repr(C)]
struct SgIoHdr {
    interface_id: i32,
    direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut u8,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut u8,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: i32,
    duration: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SgIoHdr>() == 88);

const DXFER_NONE: i32 = -1;
const DXFER_TO_DEV: i32 = -2;
const DXFER_FROM_DEV: i32 = -3;

nix::ioctl_readwrite_bad!(sg_io, 0x2285, SgIoHdr);
nix::ioctl_readwrite_bad!(sg_scsi_reset, 0x2284, i32);

/// SG_SCSI_RESET_DEVICE, and never more: no escalation to target, bus or host, which would reset
/// the disks of others.
const RESET_DEVICE_ONLY: i32 = 1 | 0x100;

/// How the kernel ended a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub status: u8,
    pub host: u16,
    pub driver: u16,
    pub sense: Vec<u8>,
    pub data: Vec<u8>,
}

/// Sends one command and blocks until the kernel is done with it, its error handling included.
pub(super) fn execute(file: &File, cdb: &Cdb, out: &[u8], deadline: Duration) -> io::Result<Reply> {
    let mut sense = [0u8; 64];
    let (direction, mut buffer) = match cdb.data {
        Data::None => (DXFER_NONE, Vec::new()),
        Data::In(n) => (DXFER_FROM_DEV, vec![0; n as usize]),
        Data::Out(_) => (DXFER_TO_DEV, out.to_vec()),
    };
    let length = u32::try_from(buffer.len()).map_err(io::Error::other)?;
    let command = cdb.bytes();
    let mut header = SgIoHdr {
        interface_id: i32::from(b'S'),
        direction,
        cmd_len: u8::try_from(command.len()).map_err(io::Error::other)?,
        mx_sb_len: 64,
        iovec_count: 0,
        dxfer_len: length,
        dxferp: buffer.as_mut_ptr(),
        cmdp: command.as_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1),
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the header points to buffers of the lengths it names, which live until the call
    // returns; the call is synchronous.
    unsafe { sg_io(file.as_raw_fd(), &raw mut header) }.map_err(io::Error::from)?;
    let resid = usize::try_from(header.resid).unwrap_or(0);
    if direction == DXFER_FROM_DEV {
        buffer.truncate(buffer.len().saturating_sub(resid));
    } else {
        buffer.clear();
    }
    Ok(Reply {
        status: header.status,
        host: header.host_status,
        driver: header.driver_status,
        sense: sense[..usize::from(header.sb_len_wr).min(sense.len())].to_vec(),
        data: buffer,
    })
}

/// LOGICAL UNIT RESET, without escalation.
pub(super) fn reset(file: &File) -> io::Result<()> {
    let mut what = RESET_DEVICE_ONLY;
    // SAFETY: the argument is a pointer to an int that lives through the call.
    unsafe { sg_scsi_reset(file.as_raw_fd(), &raw mut what) }.map_err(io::Error::from)?;
    Ok(())
}
