//! Physical Disk: a LUN that this node alone reaches (reserved and defended, see `diskarb::data`),
//! served to the applications of its group as a network block device on a Unix socket.
//!
//! The session is in the monitor's own process and ends with it; so does the export. A new monitor
//! takes the disk again and serves it at the same path; applications have to connect again.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nix::sys::eventfd::{EfdFlags, EventFd};
use wolfpack_diskarb::data::{DataDisk, DataEvent};
use wolfpack_diskarb::device::{Naming, Purpose};
use wolfpack_diskarb::export::Export;
use wolfpack_resource::kind::{Authority, Fault, ResourceType, Terminator};
use wolfpack_types::monitor::{OnlineMode, ResourceSpec};
use wolfpack_types::properties::DiskProperties;

use super::{Context, lock};
use crate::ledger::Held;

/// One disk.
pub(super) struct PhysicalDisk {
    spec: ResourceSpec,
    properties: DiskProperties,
    context: Arc<Context>,
    end: Arc<End>,
    lost: Option<Arc<Lost>>,
}

/// What the disk's own thread says.
struct Lost {
    why: Mutex<Option<String>>,
    /// Readable from the loss on.
    event: EventFd,
}

/// Stops the export, then releases the disk.
#[derive(Default)]
pub(super) struct End {
    held: Mutex<Option<(Export, Arc<DataDisk>)>>,
}

impl Terminator for End {
    fn terminate(&self) -> Result<(), Fault> {
        // Taken out before it is ended, so that nobody else waits for the lock meanwhile.
        let held = lock(&self.held).take();
        if let Some((export, disk)) = held {
            export.stop();
            // A check under way has a copy; the disk is released with the last one.
            if let Some(disk) = Arc::into_inner(disk) {
                disk.release();
            }
        }
        Ok(())
    }
}

/// Where applications reach a disk.
pub(super) fn socket_path(context: &Context, name: &str) -> PathBuf {
    context.setup.config.run_dir.join("disk").join(format!("{name}.nbd"))
}

/// The variable that tells an application where a disk of its group is.
pub(super) fn variable(name: &str) -> String {
    let word: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("WOLFPACK_DISK_{word}")
}

impl PhysicalDisk {
    pub(super) fn new(
        spec: ResourceSpec,
        properties: DiskProperties,
        context: Arc<Context>,
    ) -> Self {
        lock(&context.disks).entry(spec.group.clone()).or_default().insert(spec.name.clone());
        Self { spec, properties, context, end: Arc::default(), lost: None }
    }

    fn take(&mut self, mode: OnlineMode) -> Result<DataDisk, Fault> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags).map_err(|e| Fault::of(&e))?;
        let lost = Arc::new(Lost { why: Mutex::new(None), event });
        self.lost = Some(Arc::clone(&lost));
        let setup = &self.context.setup;
        let naming =
            Naming { cluster: setup.cluster, node: setup.config.me, purpose: Purpose::Data };
        let on_event = move |DataEvent::Lost { why }| {
            *lock(&lost.why) = Some(why);
            // A counter: writing one to it cannot fail but for being full, which is readable too.
            let _ = lost.event.write(1);
        };
        let (disk, times) = (&self.properties.disk, &setup.config.times);
        // SCSI-2 does not name the holder. Where nothing proves that it was a former owner, it may
        // be a stranger (P7): a holder that lives and defends the disk keeps it.
        let taken = match mode {
            OnlineMode::Start { probe: true } => {
                DataDisk::challenge(disk, &naming, times, on_event)
            }
            OnlineMode::Start { probe: false } | OnlineMode::Restore => {
                DataDisk::take(disk, &naming, times, on_event)
            }
        };
        taken.map_err(|e| Fault::of(&e))
    }
}

impl Drop for PhysicalDisk {
    fn drop(&mut self) {
        if let Some(names) = lock(&self.context.disks).get_mut(&self.spec.group) {
            names.remove(&self.spec.name);
        }
    }
}

impl ResourceType for PhysicalDisk {
    fn online(&mut self, mode: OnlineMode, authority: &dyn Authority) -> Result<(), Fault> {
        authority.remaining()?;
        self.end.terminate()?;
        let path = socket_path(&self.context, &self.spec.name);
        if let Some(dir) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|e| Fault::of(&e).while_doing(format_args!("making {}", dir.display())))?;
        }
        let what = Held::Disk { disk: self.properties.disk.clone() };
        self.context.record(&self.spec, what)?;
        authority.remaining()?;
        let disk = self.take(mode)?;
        // The lease may have ended while the disk was taken; a disk that is dropped is released.
        authority.remaining()?;
        let context = Arc::clone(&self.context);
        let may_write = Arc::new(move || context.authority());
        let export = Export::start(&path, disk.handle(), may_write).map_err(|e| Fault::of(&e))?;
        *lock(&self.end.held) = Some((export, Arc::new(disk)));
        authority.remaining().map(drop)
    }

    fn offline(&mut self, _authority: &dyn Authority) -> Result<(), Fault> {
        self.end.terminate()
    }

    fn looks_alive(&mut self) -> Result<(), Fault> {
        if let Some(why) = self.lost.as_ref().and_then(|l| lock(&l.why).clone()) {
            return Err(Fault(format!("the disk is lost: {why}")));
        }
        match &*lock(&self.end.held) {
            Some((_, disk)) if disk.still_held() => Ok(()),
            Some(_) => Err("the disk's reservation is not held any more".into()),
            None => Err("the disk is not held".into()),
        }
    }

    fn is_alive(&mut self) -> Result<(), Fault> {
        self.looks_alive()?;
        // Not under the lock: a check may take seconds, and terminate must not wait for it.
        let disk = lock(&self.end.held).as_ref().map(|(_, disk)| Arc::clone(disk));
        let disk = disk.ok_or("the disk is not held")?;
        disk.check().map_err(|e| Fault::of(&e))
    }

    fn terminator(&self) -> Arc<dyn Terminator> {
        Arc::clone(&self.end) as Arc<dyn Terminator>
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.lost.as_ref().map(|l| l.event.as_fd())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn variables_are_made_of_any_name() {
        assert_eq!(super::variable("web-disk.1"), "WOLFPACK_DISK_WEB_DISK_1");
    }
}
