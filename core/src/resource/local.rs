//! One resource as it is on this node.

use std::time::Duration;

use wolfpack_types::objects::{Resource, ResourceState, ResourceType};
use wolfpack_types::{GroupId, Instant};

/// Where a resource stands here. `by`: when the manager stops to wait for the monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of it runs.
    Offline,
    Starting {
        call: u64,
        by: Instant,
    },
    Online,
    Stopping {
        call: u64,
        by: Instant,
    },
    /// It was online or starting when its monitor died: it may run, unwatched.
    Lost,
    /// It failed; it is terminated once its dependents are down.
    Broken,
    /// Being ended at once. `failed`: because it failed, not because it is unwanted.
    Terminating {
        call: u64,
        by: Instant,
        failed: bool,
    },
    /// It failed and nothing of it runs. None: not restarted here.
    Failed {
        restart_at: Option<Instant>,
    },
}

impl Phase {
    /// Nothing of it runs, for certain.
    pub(super) const fn is_down(&self) -> bool {
        matches!(self, Self::Offline | Self::Failed { .. })
    }

    /// The call whose answer is awaited.
    pub(super) const fn call(&self) -> Option<u64> {
        match self {
            Self::Starting { call, .. }
            | Self::Stopping { call, .. }
            | Self::Terminating { call, .. } => Some(*call),
            _ => None,
        }
    }

    /// As the administrator sees it.
    pub(super) const fn state(&self) -> ResourceState {
        match self {
            Self::Offline => ResourceState::Offline,
            Self::Starting { .. } | Self::Lost => ResourceState::OnlinePending,
            Self::Online => ResourceState::Online,
            Self::Stopping { .. } | Self::Terminating { failed: false, .. } => {
                ResourceState::OfflinePending
            }
            Self::Broken | Self::Terminating { failed: true, .. } | Self::Failed { .. } => {
                ResourceState::Failed
            }
        }
    }
}

/// What was proposed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) state: ResourceState,
    pub(super) why: String,
    pub(super) at: Instant,
}

/// One resource here.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) group: GroupId,
    pub(super) name: String,
    pub(super) kind: ResourceType,
    pub(super) phase: Phase,
    /// Why it is in this phase, in words; may be empty.
    pub(super) why: String,
    /// The next start must ask the network first (RFC 5227).
    pub(super) probe: bool,
    /// Failures within the restart period.
    pub(super) failures: Vec<Instant>,
    /// Failed beyond its threshold: not restarted here.
    pub(super) exhausted: bool,
    /// When to propose (again) what becomes of the group.
    pub(super) escalate_at: Instant,
    pub(super) told: Option<Told>,
    pub(super) restart_threshold: u32,
    pub(super) restart_period: Duration,
    pub(super) restart_delay: Duration,
    pub(super) pending_timeout: Duration,
}

impl Local {
    pub(super) fn new(resource: &Resource) -> Self {
        let ms = |n: u32| Duration::from_millis(n.into());
        Self {
            group: resource.group,
            name: resource.name.clone(),
            kind: resource.kind,
            phase: Phase::Offline,
            why: String::new(),
            probe: true,
            failures: Vec::new(),
            exhausted: false,
            escalate_at: Instant::ZERO,
            told: None,
            restart_threshold: resource.policy.restart_threshold,
            restart_period: ms(resource.policy.restart_period_ms),
            restart_delay: ms(resource.policy.restart_delay_ms),
            pending_timeout: ms(resource.policy.pending_timeout_ms),
        }
    }

    /// Counts a failure. True: it was one too many ("2 in the period": the third is).
    pub(super) fn count_failure(&mut self, now: Instant) -> bool {
        let period = self.restart_period;
        self.failures.retain(|&at| now.since(at) < period);
        self.failures.push(now);
        self.failures.len() > usize::try_from(self.restart_threshold).unwrap_or(usize::MAX)
    }

    /// An administrator starts it anew.
    pub(super) fn forgive(&mut self) {
        self.failures.clear();
        self.exhausted = false;
    }
}
