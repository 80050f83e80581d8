//! The lease in the section: the service's driver thread writes it on every change, guard and
//! monitors read it (protocol P6, "at lease end four independent hands act").

use std::os::fd::BorrowedFd;
use std::time::Duration;

use wolfpack_types::{Instant, NodeInc};

use super::{AT_ENDED, AT_GUARD_BEAT, AT_LEASE_END, HEAD, SectionError, check, life_of};
use crate::sys::{ReadMap, WriteMap};

/// The service's side. Cheap to call from the driver thread: one store, no system call.
#[derive(Debug)]
pub struct LeaseWriter {
    map: WriteMap,
}

impl LeaseWriter {
    /// Opens the section that the guard gave to the service of life `me`.
    ///
    /// # Errors
    /// Not a section, or another life's.
    pub fn open(fd: BorrowedFd<'_>, me: NodeInc) -> Result<Self, SectionError> {
        let life = life_of(&check(fd)?)?;
        if life != me {
            let (node, found) = (u64::from(life.node.get()), life.inc.0);
            return Err(SectionError::OtherLife { node, found, wanted: me });
        }
        let map = WriteMap::new(fd, HEAD)
            .map_err(|source| SectionError::Kernel { act: "map", source })?;
        Ok(Self { map })
    }

    /// Publishes the end of the lease; earlier than the last one is allowed and takes effect.
    pub fn publish(&self, end: Instant) {
        self.map.store(AT_LEASE_END, end.0);
    }

    /// Whether the guard has ended everything of this life: it may own nothing any more.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.map.load(AT_ENDED) != 0
    }

    /// When the guard last said that it lives. It does so at least every eighth of a lease.
    #[must_use]
    pub fn guard_beat(&self) -> Instant {
        Instant(self.map.load(AT_GUARD_BEAT))
    }
}

/// Anybody else's side.
#[derive(Debug)]
pub struct LeaseReader {
    map: ReadMap,
    life: NodeInc,
}

impl LeaseReader {
    /// Opens a section for reading.
    ///
    /// # Errors
    /// Not a section.
    pub fn open(fd: BorrowedFd<'_>) -> Result<Self, SectionError> {
        let map = check(fd)?;
        let life = life_of(&map)?;
        Ok(Self { map, life })
    }

    /// Whose lease it is.
    #[must_use]
    pub const fn life(&self) -> NodeInc {
        self.life
    }

    /// When the lease ends; zero if there never was one.
    #[must_use]
    pub fn lease_end(&self) -> Instant {
        Instant(self.map.load(AT_LEASE_END))
    }

    /// Whether the guard has ended everything of this life.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.map.load(AT_ENDED) != 0
    }

    /// What is left of the authority to run anything: none once the lease is over, or once
    /// everything was ended, whatever the lease says later.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        // The lease first: if the guard marks the end in between, the older lease is not used.
        let left = self.lease_end().since(now);
        (!left.is_zero() && !self.ended()).then_some(left)
    }
}
