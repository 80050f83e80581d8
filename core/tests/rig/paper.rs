//! Registers on paper: what the register machine of `diskarb` answers on an ideal device, at once.

use std::collections::BTreeMap;

use wolfpack_types::codec::encoded_bytes;
use wolfpack_types::membership::{WitnessKind, WitnessSpec};
use wolfpack_types::register::{RegisterCommand, RegisterEvent, RegisterFailure, Slot};
use wolfpack_types::store::Snapshot;
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, ClusterId, Guid, Instant, Members, NodeInc, Seq, View, same_members};

/// One register: the slots of all lives and, on a disk, their logs.
#[derive(Default)]
pub(crate) struct Paper {
    share: bool,
    /// Bytes of a checkpoint.
    capacity: Option<u64>,
    pub(crate) broken: bool,
    slots: BTreeMap<NodeInc, Slot>,
    logs: BTreeMap<NodeInc, (Snapshot, Vec<LogEntry>)>,
}

impl Paper {
    pub(crate) fn new(spec: &WitnessSpec) -> Self {
        let share = spec.kind == WitnessKind::Share;
        Self { share, capacity: spec.capacity(), ..Self::default() }
    }

    fn own(&mut self, me: NodeInc) -> &mut Slot {
        // A new life carries over what its former ones wrote.
        let former = self.slots.values().filter(|s| s.node == me.node).max_by_key(|s| s.mbal);
        let carried = former.cloned().map(|s| Slot { inc: me.inc, ..s });
        if let Some(old) = carried.as_ref().filter(|_| !self.slots.contains_key(&me))
            && let Some(log) = self
                .logs
                .iter()
                .filter(|(who, _)| who.node == old.node)
                .map(|(_, log)| log.clone())
                .next_back()
        {
            self.logs.insert(me, log);
        }
        self.slots.entry(me).or_insert_with(|| {
            carried.unwrap_or(Slot {
                cluster: ClusterId(Guid(1)),
                node: me.node,
                inc: me.inc,
                wseq: 0,
                mbal: Ballot::ZERO,
                members: Members::new(),
                bal: Ballot::ZERO,
                view: None,
                last_seq: Seq(0),
                renew: 0,
            })
        })
    }

    /// Bytes of a checkpoint of the log as the command leaves it.
    fn log_bytes(&self, me: NodeInc, command: &RegisterCommand) -> Option<u64> {
        let bytes = match command {
            RegisterCommand::Accept { snapshot, entries, .. } => {
                encoded_bytes(&(snapshot, entries))
            }
            RegisterCommand::Append { entries, .. } => {
                encoded_bytes(entries) + self.logs.get(&me).map_or(0, encoded_bytes)
            }
            _ => return None,
        };
        Some(bytes as u64)
    }

    fn excluded(&self, view: &View, who: NodeInc) -> bool {
        self.slots.values().any(|s| {
            s.mbal > view.ballot && !same_members(&s.members, who)
                || s.view.as_ref().is_some_and(|v| v.ballot > view.ballot && !v.has(who))
        })
    }

    pub(crate) fn answer(
        &mut self,
        now: Instant,
        me: NodeInc,
        command: RegisterCommand,
    ) -> Option<RegisterEvent> {
        let id = command.id()?;
        if self.broken {
            let why = RegisterFailure::Io("the disk is broken".into());
            return Some(RegisterEvent::Failed { id, why });
        }
        let share = self.share;
        if let (Some(bytes), Some(limit)) = (self.log_bytes(me, &command), self.capacity)
            && bytes > limit
        {
            let why = RegisterFailure::Io(format!("{bytes} bytes, and {limit} fit"));
            return Some(RegisterEvent::Failed { id, why });
        }
        let slot = self.own(me);
        let ballot = match &command {
            RegisterCommand::Promise { ballot, members, .. } => {
                slot.mbal = slot.mbal.max(*ballot);
                slot.members.clone_from(members);
                Some(*ballot)
            }
            RegisterCommand::Accept { view, snapshot, entries, .. } => {
                assert!(!share || snapshot.rows.is_empty() && entries.is_empty(), "views only");
                slot.bal = view.ballot;
                slot.view = Some(view.clone());
                slot.last_seq = entries.last().map_or(snapshot.seq, |e| e.seq);
                self.logs.insert(me, (snapshot.clone(), entries.clone()));
                Some(view.ballot)
            }
            RegisterCommand::Append { ballot, entries, .. } => {
                assert!(!share, "a share keeps no updates");
                slot.last_seq = entries.last().map_or(slot.last_seq, |e| e.seq);
                self.logs.entry(me).or_default().1.extend(entries.iter().cloned());
                Some(*ballot)
            }
            _ => None,
        };
        let highest = self.slots.values().map(|s| s.mbal).max().unwrap_or_default();
        if ballot.is_some_and(|b| highest > b) {
            let why = RegisterFailure::Outbid { counter: highest.counter };
            return Some(RegisterEvent::Failed { id, why });
        }
        Some(match command {
            RegisterCommand::Promise { .. } => {
                let best = self.slots.values().filter(|s| s.view.is_some());
                let best = best.max_by_key(|s| (s.bal, s.last_seq)).cloned();
                RegisterEvent::Promised { id, written: now, best }
            }
            RegisterCommand::Accept { .. } => RegisterEvent::Accepted { id },
            RegisterCommand::Append { .. } => RegisterEvent::Appended { id },
            RegisterCommand::Renew { view, .. } => {
                let excluded = view.lives().filter(|w| self.excluded(&view, *w)).collect();
                RegisterEvent::Renewed { id, sent: now, excluded }
            }
            RegisterCommand::ReadLog { slot, .. } => {
                let (snapshot, entries) = self.logs.get(&slot).cloned().unwrap_or_default();
                RegisterEvent::Log { id, snapshot, entries }
            }
            RegisterCommand::Release { .. } => RegisterEvent::Released { id },
            RegisterCommand::Cancel => return None,
        })
    }
}
