//! Processes of the lab: where their output goes, and a supervisor that restarts a daemon as
//! systemd would.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::clock::{now_us, wait_for};
use crate::sys;

/// As `RestartSec=` of the units.
const RESTART_DELAY: Duration = Duration::from_millis(200);

/// Sends what a process says to the end of a file.
///
/// # Errors
/// The file cannot be written.
pub fn log_to(command: &mut Command, path: &Path) -> Result<()> {
    let open = || {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("log file {}", path.display()))
    };
    command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    Ok(())
}

/// Makes a process start with no signal blocked, whatever this one blocks.
pub fn with_signals(command: &mut Command) -> &mut Command {
    sys::unblock_signals(command);
    command
}

/// One end of a supervised process.
#[derive(Clone, Debug)]
pub struct Ended {
    /// CLOCK_BOOTTIME, microseconds.
    pub at_us: u64,
    pub pid: i32,
    /// `exit status: 75`, `signal: 9 (SIGKILL)`.
    pub how: String,
}

#[derive(Debug, Default)]
struct State {
    /// Of the running process. Set to none before the process is reaped, so that a signal never
    /// reaches another process with the same number.
    pid: Option<i32>,
    /// Started again when it ends.
    restart: bool,
    quit: bool,
    starts: u32,
    ends: Vec<Ended>,
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A daemon and who restarts it.
#[derive(Debug)]
pub struct Supervisor {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How a daemon is started.
pub type Starter = Box<dyn Fn() -> Result<Command> + Send>;

impl Supervisor {
    /// Starts it, and starts it again whenever it ends.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(name: &str, starter: Starter, log: PathBuf) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().restart = true;
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("lab-{name}"))
            .spawn(move || supervise(&theirs, &starter, &log))?;
        Ok(Self { name: name.into(), shared, thread: Some(thread) })
    }

    /// The running process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<i32> {
        let state = self.shared.lock();
        state.pid.with_context(|| {
            match state.failure.as_ref().or_else(|| state.ends.last().map(|e| &e.how)) {
                Some(how) => format!("{} does not run ({how})", self.name),
                None => format!("{} does not run", self.name),
            }
        })
    }

    /// Whether it is to be started again when it ends.
    pub fn set_restart(&self, restart: bool) {
        self.shared.lock().restart = restart;
        self.shared.changed.notify_all();
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<i32> {
        let state = self.shared.lock();
        let Some(pid) = state.pid else { bail!("{} does not run", self.name) };
        kill(Pid::from_raw(pid), signal)?;
        Ok(pid)
    }

    /// Its ends so far.
    #[must_use]
    pub fn ends(&self) -> Vec<Ended> {
        self.shared.lock().ends.clone()
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.shared.lock().starts
    }

    /// Waits until this process has ended, whether or not another follows it.
    ///
    /// # Errors
    /// It lives on after the deadline.
    pub fn wait_end(&self, pid: i32, deadline: Duration) -> Result<Ended> {
        wait_for(&format!("the end of {} (pid {pid})", self.name), deadline, || {
            let ends = self.ends();
            ends.into_iter().find(|e| e.pid == pid).ok_or_else(|| "it runs on".to_owned())
        })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.quit = true;
            if let Some(pid) = state.pid {
                // It may have ended just now, which is as good.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn supervise(shared: &Shared, starter: &Starter, log: &Path) {
    loop {
        {
            let mut state = shared.lock();
            while !state.restart && !state.quit {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.quit {
                return;
            }
        }
        match start_once(shared, starter, log) {
            Ok(Some(child)) => watch(shared, child),
            Ok(None) => return,
            Err(e) => shared.lock().failure = Some(format!("{e:#}")),
        }
        let state = shared.lock();
        let wake = |s: &mut State| !s.quit;
        drop(shared.changed.wait_timeout_while(state, RESTART_DELAY, wake));
    }
}

fn start_once(shared: &Shared, starter: &Starter, log: &Path) -> Result<Option<Child>> {
    let mut command = starter()?;
    log_to(&mut command, log)?;
    with_signals(&mut command);
    // The lock is held over the start, so that whoever ends the lab sees the new process.
    let mut state = shared.lock();
    if state.quit || !state.restart {
        return if state.quit { Ok(None) } else { bail!("held back") };
    }
    let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
    state.pid = i32::try_from(child.id()).ok();
    state.starts += 1;
    state.failure = None;
    Ok(Some(child))
}

fn watch(shared: &Shared, mut child: Child) {
    let pid = i32::try_from(child.id()).unwrap_or(0);
    // Looked at without reaping first: the number stays taken until `pid` is forgotten.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(Pid::from_raw(pid)), flags) == Err(nix::errno::Errno::EINTR) {}
    let mut state = shared.lock();
    state.pid = None;
    let how = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
    state.ends.push(Ended { at_us: now_us(), pid, how });
    drop(state);
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_ends_is_started_again_until_held() {
        let dir = tempfile::tempdir().unwrap();
        let starter: Starter = Box::new(|| {
            let mut command = Command::new("sleep");
            command.arg("1000");
            Ok(command)
        });
        let daemon = Supervisor::start("sleeper", starter, dir.path().join("log")).unwrap();
        let patience = Duration::from_secs(20);
        let running = || daemon.pid().map_err(|e| e.to_string());
        let first = wait_for("the first", patience, running).unwrap();
        daemon.signal(Signal::SIGKILL).unwrap();
        assert!(daemon.wait_end(first, patience).unwrap().how.contains("signal: 9"));
        let second = wait_for("the second", patience, running).unwrap();
        assert_ne!(first, second);
        daemon.set_restart(false);
        daemon.signal(Signal::SIGTERM).unwrap();
        daemon.wait_end(second, patience).unwrap();
        assert!(daemon.pid().is_err());
        assert_eq!(daemon.starts(), 2);
        daemon.set_restart(true);
        wait_for("the third", patience, running).unwrap();
    }
}
