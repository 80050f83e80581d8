//! What people want: the cluster and its groups are created, then brought online, taken offline and
//! moved now and then, and at the end everything is to be online.
//!
//! Requests go to any node that is up; one that fails because of a regroup is made again.

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_core::Input as CoreInput;
use wolfpack_types::api::{ErrorKind, Reply, Request};
use wolfpack_types::membership::QuorumConfig;
use wolfpack_types::objects::Cluster as ClusterObject;
use wolfpack_types::{NodeId, NodeInc, Seq};

use crate::clock::Time;
use crate::cluster::Cluster;
use crate::draw::{Params, nanos};
use crate::event::Event;
use crate::invariants;
use crate::node::{CLUSTER, name_of};

/// A step that is repeated until it is done.
#[derive(Clone, PartialEq, Debug)]
enum Task {
    CreateCluster,
    Ask(Request),
}

/// How long a task may be without an answer before it is put again.
const PATIENCE: Duration = Duration::from_secs(12);

/// The administrators.
#[derive(Debug)]
pub struct Admin {
    /// What is still to be done, in order.
    tasks: Vec<Task>,
    /// The task under way: request number, whom it was put to, when.
    under_way: Option<(u64, NodeInc, Time)>,
    last_id: u64,
    groups: Vec<String>,
    /// Where each group ran last.
    pub last_runner: BTreeMap<String, NodeId>,
    /// Random wishes as well.
    pub whims: bool,
    /// Everything is to be online, and this is asked again until it is (an older wish may have been
    /// under way): when it was asked last.
    insisted: Option<Time>,
    /// Wishes about the cluster that are under way, by request number.
    pub wishes: BTreeMap<u64, Request>,
}

fn resource_of(group: &str) -> String {
    format!("{group}-app")
}

impl Admin {
    /// With the cluster and its groups still to be created.
    #[must_use]
    pub fn new(params: &Params) -> Self {
        let groups: Vec<String> = (1..=params.groups).map(|g| format!("g{g}")).collect();
        let mut tasks = vec![Task::CreateCluster];
        for group in &groups {
            let app = resource_of(group);
            tasks.push(Task::Ask(Request::GroupCreate {
                group: group.clone(),
                preferred: Vec::new(),
            }));
            tasks.push(Task::Ask(Request::ResourceCreate {
                resource: app,
                group: group.clone(),
                kind: "generic-application".into(),
                properties: BTreeMap::from([("command".into(), "/usr/bin/app".into())]),
                depends_on: Vec::new(),
            }));
            tasks.push(Task::Ask(Request::GroupOnline { group: group.clone() }));
        }
        Self {
            tasks,
            under_way: None,
            last_id: 0,
            groups,
            last_runner: BTreeMap::new(),
            whims: false,
            insisted: Some(0),
            wishes: BTreeMap::new(),
        }
    }

    /// Names of the groups.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Nothing is to be done.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.tasks.is_empty()
    }

    /// At the end, everything is wanted online.
    pub fn want_all_online(&mut self, now: Time) {
        self.whims = false;
        self.insisted = Some(now);
        for group in self.groups.clone() {
            self.tasks.push(Task::Ask(Request::GroupOnline { group }));
        }
    }

    /// From now on only this is wanted.
    pub fn want_all_offline(&mut self) {
        self.whims = false;
        self.insisted = None;
        for group in self.groups.clone() {
            self.tasks.push(Task::Ask(Request::GroupOffline { group }));
        }
    }

    /// To be asked until it is done.
    pub fn ask_again(&mut self, request: Request) {
        self.tasks.push(Task::Ask(request));
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Cluster {
    /// The administrators look what is to be done, and look again later.
    pub(crate) fn administer(&mut self) {
        let again = |since| self.now > since + nanos(PATIENCE);
        if self.admin.insisted.is_some_and(again)
            && self.admin.is_done()
            && !crate::liveness::groups_online(self)
        {
            self.admin.want_all_online(self.now);
        }
        self.next_task();
        if self.admin.whims && self.chaotic {
            self.whim();
        }
        let pause = self.dice.span(self.params.request_pause * 2) + Duration::from_millis(20);
        self.after(pause, Event::Administer);
    }

    fn next_task(&mut self) {
        if let Some((_, whom, since)) = self.admin.under_way {
            let gone = self.life(whom.node) != Some(whom);
            if !gone && self.now < since + nanos(PATIENCE) {
                return;
            }
            self.admin.under_way = None;
        }
        let Some(task) = self.admin.tasks.first().cloned() else { return };
        let Some(whom) = self.somebody() else { return };
        let id = self.admin.next_id();
        self.admin.under_way = Some((id, whom, self.now));
        let entropy = self.entropy();
        match task {
            Task::CreateCluster => {
                // Always the same node: two first views would be two clusters.
                let Some(whom) = NodeId::new(1).ok().and_then(|n| self.life(n)) else { return };
                self.say(whom, || "administrator: cluster create".into());
                let cluster = ClusterObject {
                    id: CLUSTER,
                    name: "sim".into(),
                    quorum: QuorumConfig::of(self.params.quorum, self.params.witness()),
                };
                self.feed_core(whom, CoreInput::Create { id, cluster, entropy });
            }
            Task::Ask(request) => self.ask(whom, id, request),
        }
    }

    /// Puts a request to a node.
    pub fn ask(&mut self, whom: NodeInc, id: u64, request: Request) {
        self.tally.requests += 1;
        self.say(whom, || format!("administrator: {request:?}"));
        let entropy = self.entropy();
        self.feed_core(whom, CoreInput::Request { id, entropy, request });
    }

    fn entropy(&mut self) -> u128 {
        u128::from(self.dice.number()) << 64 | u128::from(self.dice.number())
    }

    fn somebody(&mut self) -> Option<NodeInc> {
        let up: Vec<NodeInc> = self
            .ids()
            .into_iter()
            .filter(|&id| !self.node(id).paused)
            .filter_map(|id| self.life(id))
            .collect();
        if up.is_empty() { None } else { Some(self.dice.pick(&up)) }
    }

    fn whim(&mut self) {
        let Some(whom) = self.somebody() else { return };
        if self.dice.permille(self.params.wishes) {
            let request = self.wish();
            let id = self.admin.next_id();
            self.admin.wishes.insert(id, request.clone());
            return self.ask(whom, id, request);
        }
        let groups = self.admin.groups.clone();
        let group = groups[self.dice.index(groups.len())].clone();
        let ids = self.ids();
        let request = match self.dice.range(0, 9) {
            0..=3 => {
                let to = self.dice.permille(500).then(|| name_of(self.dice.pick(&ids)));
                Request::GroupMove { group, to }
            }
            4 => Request::GroupOffline { group },
            5..=7 => Request::GroupOnline { group },
            _ => Request::ResourceFail { resource: resource_of(&group) },
        };
        let id = self.admin.next_id();
        self.ask(whom, id, request);
    }

    /// A core answers a request.
    pub(crate) fn answered(&mut self, who: NodeInc, id: u64, reply: &Reply) {
        self.say(who, || format!("answers: {reply:?}"));
        if let Reply::Done { seq } = reply {
            let verdict = invariants::answered_visible::answered(&self.oracle, who, Seq(*seq));
            self.judge(verdict);
        }
        if let Some(request) = self.admin.wishes.remove(&id)
            && !matches!(reply, Reply::Error(_))
        {
            self.wish_done(&request);
        }
        if self.admin.under_way.is_none_or(|(under_way, ..)| under_way != id) {
            return;
        }
        self.admin.under_way = None;
        let done = match reply {
            Reply::Error(e) => {
                matches!(e.kind, ErrorKind::Exists | ErrorKind::Invalid | ErrorKind::Unknown)
            }
            _ => true,
        };
        if done && let Task::Ask(request) = self.admin.tasks.remove(0) {
            self.wish_done(&request);
        }
    }

    /// Nothing more is wanted than what a scene asks for.
    pub(crate) fn only_asked(&mut self) {
        self.admin.insisted = None;
    }
}
