//! Between the service, the guard and the resource monitors: what to do with resources, how it
//! ended, and the shared section in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::objects::{Policy, ResourceType};
use crate::{NodeInc, ResourceId};

/// Version of this protocol; both sides say it first.
pub const MONITOR_PROTOCOL: u16 = 2;

/// All that a monitor must know of a resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResourceSpec {
    pub id: ResourceId,
    pub name: String,
    pub group: String,
    pub kind: ResourceType,
    pub properties: BTreeMap<String, String>,
    pub policy: Policy,
}

/// How a resource comes online.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OnlineMode {
    /// Start it. `probe`: nothing proves that no other machine uses it (RFC 5227 probe first).
    Start { probe: bool },
    /// It was online here and its monitor died: attach to what still runs, start the rest.
    Restore,
}

/// Service to a monitor. `call` names the answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MonitorCommand {
    Hello {
        version: u16,
        me: NodeInc,
    },
    Online {
        call: u64,
        resource: ResourceSpec,
        mode: OnlineMode,
    },
    /// End it in order.
    Offline {
        call: u64,
        resource: ResourceId,
    },
    /// End it at once, whatever it does; may overtake a call that is under way.
    Terminate {
        call: u64,
        resource: ResourceId,
    },
    /// The owner of the group has said so again (every view change): say again that it is here.
    Announce {
        resource: ResourceId,
    },
}

/// A monitor to the service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MonitorEvent {
    Hello {
        version: u16,
    },
    /// A call ended.
    Done {
        call: u64,
        resource: ResourceId,
        outcome: Result<(), String>,
    },
    /// IsAlive failed, or the kernel said that it is gone.
    Failed {
        resource: ResourceId,
        why: String,
    },
    /// The monitor died. Made by the service from the crash record, not sent by a monitor.
    /// `blame`: the call that was under way.
    Crashed {
        monitor: u32,
        blame: Option<Blame>,
    },
    /// The monitor runs again and has no resource. Made by the service.
    Restarted {
        monitor: u32,
    },
    /// The guard has ended everything (lease end or lost service); what it saw. Made by the guard.
    Terminated {
        why: String,
        left: Vec<String>,
    },
}

/// Which entry point of which resource was being called.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blame {
    pub resource: ResourceId,
    pub entry_point: EntryPoint,
}

/// Entry points of a resource type, as recorded before each call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryPoint {
    Startup,
    Open,
    Close,
    Online,
    Offline,
    Terminate,
    LooksAlive,
    IsAlive,
    Arbitrate,
    Release,
    ResourceControl,
    ResourceTypeControl,
}

impl std::fmt::Display for EntryPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Startup => "startup",
            Self::Open => "open",
            Self::Close => "close",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Terminate => "terminate",
            Self::LooksAlive => "looks-alive",
            Self::IsAlive => "is-alive",
            Self::Arbitrate => "arbitrate",
            Self::Release => "release",
            Self::ResourceControl => "resource-control",
            Self::ResourceTypeControl => "resource-type-control",
        })
    }
}

impl EntryPoint {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 12] = [
        Self::Startup,
        Self::Open,
        Self::Close,
        Self::Online,
        Self::Offline,
        Self::Terminate,
        Self::LooksAlive,
        Self::IsAlive,
        Self::Arbitrate,
        Self::Release,
        Self::ResourceControl,
        Self::ResourceTypeControl,
    ];

    /// The code in the shared section; 0 means none.
    #[must_use]
    pub fn code(self) -> u8 {
        u8::try_from(Self::ALL.iter().position(|&e| e == self).unwrap_or(0)).unwrap_or(0) + 1
    }

    /// The entry point of a code.
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code.checked_sub(1)?)).copied()
    }
}

/// Service to guard (monitor 0). With `StartMonitor` the guard answers with a socket for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GuardCommand {
    /// A service of this life takes over; refused while things of a former life run. Carries the
    /// descriptor of the shared section back.
    Attach {
        version: u16,
        me: NodeInc,
        margin_ms: u64,
    },
    StartMonitor {
        number: u32,
    },
    /// Everything of this life is to be ended now (clean leave or exclusion).
    TerminateAll {
        why: String,
    },
    /// The cluster key file has changed and was found good: what the guard says of ended lives is
    /// said under the key that is in use now.
    ReloadKey,
}

/// Guard to service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GuardEvent {
    /// With the shared section's descriptor.
    Attached {
        version: u16,
    },
    Refused {
        why: String,
    },
    /// With the monitor's socket.
    MonitorStarted {
        number: u32,
        pid: u32,
    },
    /// With the exit in words (signal or status).
    MonitorEnded {
        number: u32,
        how: String,
    },
    /// Nothing of this life runs (`left` is empty), or what could not be ended.
    Terminated {
        me: NodeInc,
        why: String,
        left: Vec<String>,
    },
}
