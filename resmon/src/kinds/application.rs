//! Generic Application: a program that runs as long as its resource is online.
//!
//! It starts in a session, and where there are cgroups in a cgroup, of its own, with a small
//! environment that names its resource; its output goes where the guard's goes. It does not die
//! with its monitor: a new monitor attaches to it by process id and start time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use wolfpack_resource::boottime;
use wolfpack_resource::kind::{Authority, Fault, ResourceType, Terminator};
use wolfpack_types::ResourceId;
use wolfpack_types::monitor::{OnlineMode, ResourceSpec};
use wolfpack_types::properties::ApplicationProperties;

use super::{Context, KILL_PATIENCE, lock};
use crate::cgroup::Cgroup;
use crate::ledger::{self, Held};
use crate::processes::Processes;
use crate::sys;
use crate::tree::{self, ProcessId};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often an application that is being ended is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// One application.
pub(super) struct GenericApplication {
    spec: ResourceSpec,
    properties: ApplicationProperties,
    context: Arc<Context>,
    end: Arc<End>,
    running: Option<Running>,
}

/// The first process.
struct Running {
    pidfd: OwnedFd,
    /// Ours to reap; none if a former monitor started it.
    child: Option<Child>,
}

/// Ends the application's processes.
pub(super) struct End {
    resource: ResourceId,
    processes: Mutex<Processes>,
}

impl End {
    pub(super) fn new(
        resource: ResourceId,
        first: Option<ProcessId>,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self { resource, processes: Mutex::new(Processes::new(resource, first, cgroup)) }
    }

    fn set(&self, first: Option<ProcessId>, cgroup: Option<Cgroup>) {
        *lock(&self.processes) = Processes::new(self.resource, first, cgroup);
    }

    fn processes(&self) -> Processes {
        lock(&self.processes).clone()
    }
}

impl Terminator for End {
    fn terminate(&self) -> Result<(), Fault> {
        self.processes()
            .kill(boottime() + KILL_PATIENCE)
            .map_err(|left| Fault(format!("SIGKILL did not end {}", left.join(", "))))
    }
}

impl GenericApplication {
    pub(super) fn new(
        spec: ResourceSpec,
        properties: ApplicationProperties,
        context: Arc<Context>,
    ) -> Self {
        let end = Arc::new(End::new(spec.id, None, None));
        Self { spec, properties, context, end, running: None }
    }

    /// Attaches to what a former monitor started; false if it does not run any more.
    fn attach(&mut self) -> Result<bool, Fault> {
        let entry = self.context.ledger.get(self.spec.id).map_err(|e| Fault::of(&e))?;
        let Some(entry) = entry.filter(ledger::Entry::of_this_boot) else { return Ok(false) };
        let Held::Application { process, cgroup } = entry.what else {
            return Err(Fault(format!("the ledger says that it is no application: {entry:?}")));
        };
        self.end.set(process, cgroup.clone());
        let Some(first) = process.filter(|p| tree::runs(*p)) else { return Ok(false) };
        let Ok(pidfd) = sys::pidfd_open(first.pid) else { return Ok(false) };
        // The number may have gone to another process before the descriptor was made.
        if !tree::runs(first) {
            return Ok(false);
        }
        self.context.record(&self.spec, Held::Application { process, cgroup })?;
        self.running = Some(Running { pidfd, child: None });
        tracing::info!(resource = self.spec.name, pid = first.pid, "attached to what runs");
        Ok(true)
    }

    fn start(&mut self, authority: &dyn Authority) -> Result<(), Fault> {
        let cgroup = self.cgroup();
        let procs = match &cgroup {
            Some(c) => {
                Some(c.procs_file().map_err(|e| Fault::of(&e).while_doing("opening its cgroup"))?)
            }
            None => None,
        };
        self.end.set(None, cgroup.clone());
        self.context
            .record(&self.spec, Held::Application { process: None, cgroup: cgroup.clone() })?;
        authority.remaining()?;
        let mut command = self.command();
        sys::prepare_application(&mut command, procs.as_ref());
        let program = &self.properties.program;
        let child = command
            .spawn()
            .map_err(|e| Fault::of(&e).while_doing(format_args!("starting '{program}'")))?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        // Not reaped before `child` is asked, so the number is its own until then.
        let first = tree::process(pid).map(|p| p.id);
        self.end.set(first, cgroup.clone());
        let pidfd = sys::pidfd_open(pid)
            .map_err(|e| Fault::of(&e).while_doing("watching the new process"))?;
        self.running = Some(Running { pidfd, child: Some(child) });
        self.context.record(&self.spec, Held::Application { process: first, cgroup })?;
        // The lease may have ended while it was started.
        authority.remaining()?;
        tracing::info!(resource = self.spec.name, pid, "started");
        Ok(())
    }

    fn cgroup(&self) -> Option<Cgroup> {
        let base = self.context.setup.cgroups.as_ref()?;
        base.sub(&format!("resource-{}", self.spec.id))
            .inspect_err(|e| tracing::warn!(resource = self.spec.name, "no cgroup for it: {e}"))
            .ok()
    }

    fn command(&self) -> Command {
        let p = &self.properties;
        let mut command = Command::new(&p.program);
        command
            .args(&p.arguments)
            .current_dir(&p.directory)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .envs(p.environment.iter().map(|(k, v)| (k, v)))
            .env("WOLFPACK_NODE", &self.context.setup.config.name)
            .env("WOLFPACK_GROUP", &self.spec.group)
            .env("WOLFPACK_RESOURCE", &self.spec.name)
            .env(ledger::MARK_NAME, self.spec.id.to_string())
            .stdin(Stdio::null());
        let disks = lock(&self.context.disks);
        for name in disks.get(&self.spec.group).into_iter().flatten() {
            let path = super::disk::socket_path(&self.context, name);
            command.env(super::disk::variable(name), path);
        }
        command
    }

    /// How the first process ended, if it has.
    fn ended(&mut self) -> Option<String> {
        let Some(running) = &mut self.running else { return Some("it does not run".into()) };
        if !readable(running.pidfd.as_fd()) {
            return None;
        }
        let status = running.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
        Some(status.map_or_else(|| "its process has ended".into(), |s| format!("it ended: {s}")))
    }

    /// Reaps the first process, which has ended.
    fn forget(&mut self) {
        if let Some(mut child) = self.running.take().and_then(|r| r.child) {
            // It was killed or has ended; an error says that there is nothing to reap.
            let _ = child.wait();
        }
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}

impl ResourceType for GenericApplication {
    fn online(&mut self, mode: OnlineMode, authority: &dyn Authority) -> Result<(), Fault> {
        authority.remaining()?;
        self.forget();
        if mode == OnlineMode::Restore {
            if self.attach()? {
                return authority.remaining().map(drop);
            }
            // Its children may outlive the first process.
            self.end.terminate()?;
        }
        self.start(authority)
    }

    fn offline(&mut self, authority: &dyn Authority) -> Result<(), Fault> {
        let processes = self.end.processes();
        let until = boottime() + self.properties.stop_timeout;
        processes.signal(Signal::SIGTERM);
        while !processes.living().is_empty() && !authority.cancelled() {
            if boottime() >= until {
                let ms = self.properties.stop_timeout.as_millis();
                let name = &self.spec.name;
                tracing::warn!(resource = name, "did not end within {ms} ms after SIGTERM");
                break;
            }
            std::thread::sleep(LOOK);
        }
        self.end.terminate()?;
        self.forget();
        Ok(())
    }

    fn looks_alive(&mut self) -> Result<(), Fault> {
        self.ended().map_or(Ok(()), |how| Err(Fault(how)))
    }

    fn is_alive(&mut self) -> Result<(), Fault> {
        self.looks_alive()
    }

    fn terminator(&self) -> Arc<dyn Terminator> {
        Arc::clone(&self.end) as Arc<dyn Terminator>
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|r| r.pidfd.as_fd())
    }
}
