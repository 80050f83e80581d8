//! Authoritative restore (P9): the cluster begins anew from a backup. It is a forced quorum of this
//! node alone, with the backup for the newest database.
//!
//! The positions of the log jump far ahead ([`GAP`]), beyond anything that a lost member may have
//! committed: whoever comes back takes the restored database as a whole, and no position ever
//! stands for two updates.

use std::collections::BTreeSet;

use wolfpack_types::backup::Backup;
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::store::{CopyStep, Persist, Snapshot};
use wolfpack_types::update::Refusal;
use wolfpack_types::{Instant, NodeId, Seq};

use crate::Core;
use crate::database::Database;
use crate::durable::After;
use crate::log::Log;

/// Positions left out: more updates than a lost member can be ahead.
const GAP: u64 = 1_000_000_000;
/// Rows of one step of the store.
const ROWS: usize = 1000;

impl Core {
    /// An administrator restores a backup on this node. `dead`: nodes asserted not to run.
    pub(crate) fn restore(
        &mut self,
        now: Instant,
        id: u64,
        backup: Backup,
        dead: &BTreeSet<NodeId>,
        foreign: bool,
    ) {
        let refuse = |core: &mut Self, why: String| core.reply_refusal(id, &Refusal::Invalid(why));
        if let Err(why) = crate::backup::fits(&backup.header, self.config.cluster, foreign) {
            return refuse(self, why.to_string());
        }
        let heard = self.membership.peers.iter().find(|(_, p)| p.reach != Reach::Unreachable);
        let alone = heard.map(|(&n, _)| n);
        if self.membership.installed.is_some() || alone.is_some() {
            let who =
                alone.map_or_else(String::new, |n| format!(" (node '{}' is heard)", self.name(n)));
            return refuse(
                self,
                format!(
                    "a backup is restored on one node while nothing else runs{who}: stop the \
                     cluster service on all nodes, start it on this one alone, then restore"
                ),
            );
        }
        let names: Vec<String> = dead.iter().map(|&n| self.name(n).to_owned()).collect();
        let busy = self.is_forcing();
        self.force_quorum(now, id, &names);
        if !busy && self.is_forcing() {
            self.restoring = Some(Box::new(backup));
        }
    }

    /// The quorum is about to be forced: the backup becomes this node's database.
    pub(crate) fn adopt_restored(&mut self, now: Instant) {
        let Some(backup) = self.restoring.take() else { return };
        let (ballot, last) = self.log.last();
        let seq = Seq(last.max(backup.snapshot.seq).0 + GAP);
        let snapshot = Snapshot { seq, ballot, rows: backup.snapshot.rows };
        let database = match Database::from_snapshot(&snapshot) {
            Ok(database) => database,
            Err(e) => return self.store_failed(&format!("the backup cannot be restored: {e}")),
        };
        self.persist(Persist::Copy(CopyStep::Begin), After::Nothing);
        for rows in snapshot.rows.chunks(ROWS) {
            let step = CopyStep::Rows { rows: rows.to_vec() };
            self.persist(Persist::Copy(step), After::Nothing);
        }
        self.persist(Persist::Copy(CopyStep::End { ballot, seq }), After::Nothing);
        self.log = Log::new((ballot, seq), []);
        self.database = database;
        self.history_end = seq;
        self.tell_watchers_of_replacement();
        self.manager_changed(now);
        self.publish_standing();
    }

    /// A force that was given up takes its restore with it.
    pub(crate) fn restore_tick(&mut self) {
        if !self.is_forcing() {
            self.restoring = None;
        }
    }
}
