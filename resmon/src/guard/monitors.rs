//! The guard's children: starting resource monitors, and learning how children ended.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use wolfpack_resource::kind::Fault;
use wolfpack_resource::rpc::Channel;
use wolfpack_resource::section::Section;
use wolfpack_types::monitor::{MonitorCommand, MonitorEvent};

use crate::cgroup::Base;
use crate::node::Node;
use crate::sys;

/// A monitor that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    pub(super) number: u32,
    pub(super) how: String,
}

/// The running monitors by process id.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    running: BTreeMap<i32, u32>,
}

impl Monitors {
    pub(super) fn has(&self, number: u32) -> bool {
        self.running.values().any(|&n| n == number)
    }

    /// Starts monitor `number` of the section's life: its process id, and the socket for the
    /// service.
    pub(super) fn start(
        &mut self,
        number: u32,
        node: &Node,
        section: &Section,
        poke: BorrowedFd<'_>,
        cgroups: Option<&Base>,
    ) -> Result<(u32, OwnedFd), Fault> {
        if self.has(number) {
            return Err(Fault(format!("monitor {number} runs already")));
        }
        section.clear_area(number).map_err(|e| Fault::of(&e))?;
        let (service_end, monitor_end) =
            Channel::<MonitorCommand, MonitorEvent>::pair().map_err(|e| Fault::of(&e))?;
        let setup = node.hand(section.life(), number, cgroups).map_err(|e| Fault::of(&e))?;
        let monitor_end = monitor_end.into_fd();
        let order = [monitor_end.as_fd(), section.as_fd(), poke, setup.as_fd()];
        let fds = order.into_iter().map(out_of_the_way).collect::<Result<Vec<_>, _>>()?;
        let procs = cgroups.and_then(|base| {
            let cgroup = base.sub(&format!("monitor-{number}")).ok()?;
            cgroup.procs_file().ok()
        });
        // The running program itself, also when its file has been replaced by an upgrade.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("wolfpack-resmon").args(["--monitor", &number.to_string()]);
        command.stdin(Stdio::null());
        sys::prepare_monitor(&mut command, &fds, procs.as_ref());
        let child = command.spawn().map_err(|e| Fault::of(&e).while_doing("starting a monitor"))?;
        // Reaped with all other children, by number.
        let pid = child.id();
        self.running.insert(i32::try_from(pid).unwrap_or(i32::MAX), number);
        Ok((pid, service_end.into_fd()))
    }

    /// SIGKILL to all monitors. They are children that are not reaped yet, so the numbers are theirs.
    pub(super) fn kill(&self) {
        for &pid in self.running.keys() {
            // ESRCH cannot be; whatever else it is, the loop that ends everything tries again.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Takes all children that have ended. The second value: no child is left at all. Because the
    /// guard is the subreaper of everything below it, no child means no descendant: the parents of
    /// a living one would live too, or it would have become the guard's own child.
    pub(super) fn reap(&mut self) -> (Vec<Ended>, bool) {
        let mut ended = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return (ended, false),
                Ok(status) => {
                    let number = status.pid().and_then(|p| self.running.remove(&p.as_raw()));
                    if let Some(number) = number {
                        ended.push(Ended { number, how: in_words(status) });
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return (ended, true),
                Err(e) => {
                    tracing::error!("cannot wait for children: {e}");
                    return (ended, false);
                }
            }
        }
    }
}

/// A copy above the numbers at which a monitor expects its descriptors.
fn out_of_the_way(fd: BorrowedFd<'_>) -> Result<OwnedFd, Fault> {
    sys::copy_above(fd, 16).map_err(|e| Fault::of(&e).while_doing("copying a descriptor"))
}

fn in_words(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, 0) => "it exited by itself".into(),
        WaitStatus::Exited(_, code) => format!("it exited with status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("it was ended by {signal}"),
        other => format!("{other:?}"),
    }
}
