//! Scheduling class and locked memory of the driver thread.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};

/// Above ordinary processes, far below the kernel's own threads.
const PRIORITY: libc::c_int = 50;

/// Runs the calling thread at SCHED_RR. Not reset on fork on purpose: io_uring's workers inherit
/// it; whoever starts a process from this thread resets it there.
///
/// # Errors
/// EPERM without CAP_SYS_NICE, or in a control group without real-time share.
pub(crate) fn round_robin() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `param` is a valid sched_param that outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Locks the process's memory, present and future, as it is touched: no page of it is swapped out.
///
/// # Errors
/// EPERM or ENOMEM without CAP_IPC_LOCK and with a low RLIMIT_MEMLOCK.
pub(crate) fn lock_memory() -> io::Result<()> {
    // On fault: without it every thread's whole stack would be made resident.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)?;
    Ok(())
}
