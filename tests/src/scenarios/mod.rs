//! The scenarios: a fault each, with what must happen. Every one is a test (`tests/tests/`) and can
//! be shown by `cargo xtask demo --scenario NAME`.
//!
//! A scenario waits for conditions with generous deadlines and asserts no time. The watchers run
//! all the time and are asked at its end.

mod both_networks;
mod clean_stop;
mod disk_path;
mod freeze;
mod key_change;
mod monitor_kill;
mod networks;
mod older_database;
mod power_cut;
mod power_cycle;
mod private_network;
mod quorum;
mod service_and_guard_kill;
mod service_kill;
mod service_stop;
mod stage;

use anyhow::{Context, Result};
use wolfpack_types::times::Profile;

use crate::lab::LabOptions;
use crate::node::LabQuorum;
use crate::timeline::Timeline;
pub use stage::{GROUP, Stage};

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub fault: &'static str,
    pub must: &'static str,
    run: fn(&mut Stage<'_>) -> Result<()>,
}

/// All of them, in the order of the README's table.
pub const ALL: [Scenario; 15] = [
    Scenario {
        name: "power-cut",
        fault: "power cut of the owner",
        must: "the group comes online on the other node",
        run: power_cut::run,
    },
    Scenario {
        name: "service-kill",
        fault: "SIGKILL of wolfpackd alone on the owner",
        must: "its guard ends the resources and proves it; the group moves without the lease wait",
        run: service_kill::run,
    },
    Scenario {
        name: "service-stop",
        fault: "SIGSTOP of wolfpackd for 10 s, then SIGCONT",
        must: "the guard ends the resources at lease end; the group moves; the woken node finds \
               that it is out, touches nothing, rejoins",
        run: service_stop::run,
    },
    Scenario {
        name: "freeze",
        fault: "the owner freezes as a whole for 10 s (SIGSTOP of everything), then thaws",
        must: "the group moves; the thawed node touches nothing, ends what it has, rejoins",
        run: freeze::run,
    },
    Scenario {
        name: "monitor-kill",
        fault: "SIGKILL of a resource monitor",
        must: "the service names resource and entry point from the crash record and restarts it; \
               the resources go on or are restored on the same node",
        run: monitor_kill::run,
    },
    Scenario {
        name: "service-and-guard-kill",
        fault: "SIGKILL of service and guard together",
        must: "the address stops answering at lease end by the kernel alone; the group moves",
        run: service_and_guard_kill::run,
    },
    Scenario {
        name: "private-network",
        fault: "the private network fails",
        must: "nothing moves; an event says so",
        run: private_network::run,
    },
    Scenario {
        name: "network-loss",
        fault: "each network fails and comes back; then one direction of one",
        must: "nothing moves; states of networks tell switch and direction in words",
        run: networks::loss,
    },
    Scenario {
        name: "network-trouble",
        fault: "30 % loss; delay, disorder and repetition; a flood of garbage",
        must: "nothing moves, nobody is suspected in vain, and the paths' figures show it",
        run: networks::trouble,
    },
    Scenario {
        name: "network-interfaces",
        fault: "small MTU; an interface removed and made anew, an address taken away, a cable pulled",
        must: "nothing moves; the interface is named, and works again by itself",
        run: networks::interfaces,
    },
    Scenario {
        name: "both-networks",
        fault: "both networks between the nodes fail, the disk is reachable",
        must: "exactly one side keeps or gets the group; the other stops its resources within its \
               lease",
        run: both_networks::run,
    },
    Scenario {
        name: "disk-path",
        fault: "the owner loses the disk path",
        must: "the quorum resource and the group with the disk move",
        run: disk_path::run,
    },
    Scenario {
        name: "clean-stop",
        fault: "clean stop of the owner",
        must: "the group moves without detection time",
        run: clean_stop::run,
    },
    Scenario {
        name: "power-cycle",
        fault: "both nodes power-cycled",
        must: "the cluster forms again with its database, the group comes online once",
        run: power_cycle::run,
    },
    Scenario {
        name: "older-database",
        fault: "only the node with the older database starts",
        must: "it takes the newest state from the quorum disk",
        run: older_database::run,
    },
];

/// Scenarios of other clusters than the usual one of two nodes and a quorum disk.
pub const OTHERS: [(Shape, Scenario); 9] = [
    (
        Shape { nodes: 3, quorum: LabQuorum::Majority },
        Scenario {
            name: "majority",
            fault: "three nodes by majority: power cut of the owner, then of another",
            must: "the group moves; the last node stops, waits and names whom it waits for; with \
                   one more node it goes on",
            run: quorum::majority,
        },
    ),
    (
        Shape { nodes: 2, quorum: LabQuorum::Disk },
        Scenario {
            name: "disk-quorum",
            fault: "the disk alone has the vote: power cut of its owner",
            must: "the other takes the disk, and the group",
            run: quorum::disk,
        },
    ),
    (
        Shape { nodes: 2, quorum: LabQuorum::NodeAndShare },
        Scenario {
            name: "share-quorum",
            fault: "the witness is a file share: power cut of the owner, then of both",
            must: "the group moves; after the power cut the node with the newest state is waited for",
            run: quorum::share,
        },
    ),
    (
        Shape { nodes: 3, quorum: LabQuorum::Majority },
        Scenario {
            name: "votes",
            fault: "votes are changed while the cluster runs; the two with few votes are lost",
            must: "the one with more than half of the votes goes on",
            run: quorum::votes,
        },
    ),
    (
        Shape { nodes: 2, quorum: LabQuorum::NodeAndDisk },
        Scenario {
            name: "witness-move",
            fault: "the witness is moved to another disk, the former one fails, a node is lost",
            must: "the other goes on with the new witness, also after a restart",
            run: quorum::witness_move,
        },
    ),
    (
        Shape { nodes: 3, quorum: LabQuorum::Majority },
        Scenario {
            name: "evict",
            fault: "a node is evicted, and added again",
            must: "it is out and its votes are gone; when it is added it joins with all data",
            run: quorum::evict,
        },
    ),
    (
        Shape { nodes: 3, quorum: LabQuorum::Majority },
        Scenario {
            name: "force",
            fault: "two of three nodes are lost, and the quorum is forced on the third",
            must: "refused with quorum, and without the names of the dead; then the group is online; \
                   a node that comes back follows the forced quorum",
            run: quorum::force,
        },
    ),
    (
        Shape { nodes: 2, quorum: LabQuorum::NodeAndDisk },
        Scenario {
            name: "pause",
            fault: "the owner is paused and drained",
            must: "the group moves, and does not come back before the pause ends",
            run: quorum::pause,
        },
    ),
    (
        Shape { nodes: 2, quorum: LabQuorum::NodeAndDisk },
        Scenario {
            name: "key-change",
            fault: "the cluster key is changed step by step, then the owner's service is killed",
            must: "no regroup and no move while it is changed; then the guard is believed and the \
                   next life joins, by the new key",
            run: key_change::run,
        },
    ),
];

/// A cluster to be made for a scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub nodes: u8,
    pub quorum: LabQuorum,
}

/// How a scenario is run.
pub struct Run<'a> {
    pub profile: Profile,
    /// Where the programs are; none: beside the running one.
    pub binaries: Option<std::path::PathBuf>,
    /// Told what happens, line by line.
    pub say: &'a mut dyn FnMut(&str),
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Scenario {
    /// Finds a scenario by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().chain(OTHERS.iter().map(|(_, s)| s)).find(|s| s.name == name)
    }

    /// Makes a lab, a cluster and its group, strikes, and checks what must happen. Gives the lab as
    /// it then is, and the story of the fault.
    ///
    /// # Errors
    /// What did not happen, or what the watchers saw; the nodes' logs are kept, and where is said.
    pub fn run<'a>(&self, run: Run<'a>) -> Result<(Stage<'a>, Timeline)> {
        let mut options =
            LabOptions { profile: run.profile, binaries: run.binaries, ..LabOptions::default() };
        if let Some((shape, _)) = OTHERS.iter().find(|(_, s)| s.name == self.name) {
            (options.nodes, options.quorum) = (shape.nodes, shape.quorum);
        }
        let mut stage = Stage::new(options, run.say)?;
        let done = stage.make_cluster().and_then(|()| (self.run)(&mut stage));
        let done = done.and_then(|()| stage.lab.check_watchers());
        if let Err(e) = done {
            let kept = stage.keep_logs(self.name);
            return Err(e).with_context(|| format!("scenario {}: {kept}", self.name));
        }
        let timeline = stage.timeline();
        Ok((stage, timeline))
    }
}

/// Where set, the nodes' logs of tests that pass are kept too.
pub const KEEP_LOGS: &str = "WOLFPACK_LAB_KEEP_LOGS";

/// Runs a scenario as a test: skips loudly where the machine cannot, panics where it fails.
///
/// # Panics
/// The scenario fails, or there is none of this name.
pub fn test(name: &str) {
    if let Err(e) = crate::netns::requirements() {
        eprintln!("SKIPPED: {e}");
        return;
    }
    let scenario = Scenario::find(name).expect("a scenario of this name");
    let mut say = |line: &str| eprintln!("{line}");
    let run = Run { profile: Profile::Standard, binaries: None, say: &mut say };
    match scenario.run(run) {
        Ok((stage, timeline)) => {
            eprintln!("\n{}", timeline.text());
            if std::env::var_os(KEEP_LOGS).is_some() {
                eprintln!("{}", stage.keep_logs(name));
            }
        }
        Err(e) => panic!("{e:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let all: Vec<&Scenario> = ALL.iter().chain(OTHERS.iter().map(|(_, s)| s)).collect();
        for s in &all {
            assert_eq!(all.iter().filter(|o| o.name == s.name).count(), 1);
            assert_eq!(Scenario::find(s.name).unwrap().fault, s.fault);
        }
        assert!(Scenario::find("no-such").is_none());
    }
}
