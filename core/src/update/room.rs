//! What the witness disk can keep of the database, and which updates are refused for it (P4, P8).
//!
//! A view that counts the witness disk begins with a checkpoint there: the database as it was
//! committed and the updates behind it, at most one batch. One that does not fit would keep every
//! such view from coming about, and with it any failover. So the locker keeps `database + batch`
//! within the witness' room. What the cluster itself has to say (ownership, moves, failures) is
//! never refused: a part of the room is kept back for it.

use wolfpack_types::View;
use wolfpack_types::membership::{QuorumConfig, WitnessSpec};
use wolfpack_types::update::{Refusal, Update};

use crate::database::Database;

/// Kept back at least; of a large room an eighth is.
const RESERVE_MIN: usize = 256 << 10;
/// Bytes of an entry of the log beside its update, at most.
const ENTRY_BYTES: usize = 128;

/// The room at the witness disk with the least of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    capacity: usize,
}

impl Room {
    /// Of the witness that is wanted and of the one that the view still counts; none where neither
    /// is a disk.
    pub(crate) fn of(database: &Database, view: Option<&View>) -> Option<Self> {
        let config = database.cluster.as_ref().map(|c| &c.quorum);
        let wanted = config.filter(|q| q.kind.has_witness()).and_then(|q| q.witness.as_ref());
        let counted = view.filter(|v| v.votes.witness > 0).and_then(|v| v.witness.as_ref());
        // The view's may be older than what is known of the same register now.
        let counted = counted.filter(|w| wanted.is_none_or(|wanted| wanted.id != w.id));
        let specs = wanted.into_iter().chain(counted);
        specs.filter_map(Self::at).min_by_key(|room| room.capacity)
    }

    /// At this witness; none if it keeps only views.
    fn at(witness: &WitnessSpec) -> Option<Self> {
        let capacity = usize::try_from(witness.capacity()?).unwrap_or(usize::MAX);
        Some(Self { capacity })
    }

    fn reserve(self) -> usize {
        RESERVE_MIN.max(self.capacity / 8)
    }

    /// The largest database that an administrator's update may leave.
    const fn limit(self, reserve: usize) -> usize {
        self.capacity.saturating_sub(reserve)
    }

    /// Bytes of a batch on a committed database of so many, without the last part of the reserve.
    pub(super) fn for_batch(self, database: usize) -> usize {
        self.limit(self.reserve() / 2).saturating_sub(database)
    }

    /// An update took the database from `before` to `after` bytes.
    pub(super) fn admits(self, before: usize, after: usize) -> Result<(), Refusal> {
        let limit = self.limit(self.reserve());
        if after <= before || after <= limit {
            return Ok(());
        }
        Err(Refusal::Invalid(format!(
            "the database would have {after} bytes, and at most {limit} are kept at the witness \
             disk ({} less what is kept back for ownership and moves), without which no failover \
             would be possible: delete what is not needed, or choose a larger disk with 'wolfpack \
             quorum set --witness PLACE'",
            self.capacity
        )))
    }

    /// Not even alone has an update of so many bytes room behind a database of so many.
    pub(super) fn too_large(self, update: usize, database: usize) -> Refusal {
        Refusal::Invalid(format!(
            "the update has {update} bytes and the database has {database}; the witness disk has \
             room for {} bytes of both together: divide the update, or choose a larger disk with \
             'wolfpack quorum set --witness PLACE'",
            self.limit(self.reserve() / 2)
        ))
    }

    /// For `quorum show`.
    pub(crate) fn words(self, database: usize) -> String {
        format!(
            " The database has {database} bytes; at most {} are kept at the witness disk.",
            self.limit(self.reserve())
        )
    }
}

/// Whether the present database has room at the witness that is asked for; the one that is there
/// already is not asked again.
pub(crate) fn check_witness(database: &Database, config: &QuorumConfig) -> Result<(), Refusal> {
    let present = database.cluster.as_ref().and_then(|c| c.quorum.witness.as_ref());
    let new = config.witness.as_ref().filter(|w| present.is_none_or(|p| p.id != w.id));
    let Some((witness, room)) = new.and_then(|w| Some((w, Room::at(w)?))) else { return Ok(()) };
    let (bytes, limit) = (database.row_bytes(), room.limit(room.reserve()));
    if bytes <= limit {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "the database has {bytes} bytes, and {} keeps at most {limit} as a witness ({} less what \
         is kept back for ownership and moves): choose a larger disk, or delete what is not \
         needed. The quorum was not changed",
        witness.place, room.capacity
    )))
}

/// What a disk must keep at least to be the witness of a database of so many bytes: the smallest
/// capacity whose limit it does not exceed.
const fn needed(database: usize) -> usize {
    let by_share = database.div_ceil(7).saturating_mul(8);
    let by_least = database.saturating_add(RESERVE_MIN);
    if by_share > by_least { by_share } else { by_least }
}

impl crate::Core {
    /// Bytes that a disk must keep for each node to be made the witness now, for those who prepare
    /// it.
    #[must_use]
    pub fn witness_bytes_needed(&self) -> u64 {
        needed(self.database.row_bytes()) as u64
    }
}

/// Bytes of an update as an entry of the log.
pub(super) const fn entry_bytes(update: usize) -> usize {
    update.saturating_add(ENTRY_BYTES)
}

/// Updates with which administrators (and files that are saved) fill the database. The others are
/// small, follow from what is there, and are never refused for want of room.
pub(super) fn fills(update: &Update) -> bool {
    match update {
        Update::CreateGroup(_)
        | Update::CreateResource(_)
        | Update::SetPreferredOwners { .. }
        | Update::SetQuorum(_)
        | Update::Tree(_) => true,
        Update::Batch(parts) => parts.iter().any(fills),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use wolfpack_types::Guid;
    use wolfpack_types::membership::{CHECKPOINT_BYTES_MIN, QuorumType, WitnessKind};
    use wolfpack_types::objects::Cluster;
    use wolfpack_types::register::Exclusion;
    use wolfpack_types::tree::{Bytes, Transaction, TreeOp, TreeValue};
    use wolfpack_types::{ClusterId, codec};

    use super::*;
    use crate::database::tests::{apply_at, cluster, group};

    fn witness(kind: WitnessKind, id: u128, checkpoint_bytes: u64) -> WitnessSpec {
        let place = format!("/dev/w{id}");
        WitnessSpec { place, kind, exclusion: Exclusion::None, id: Guid(id), checkpoint_bytes }
    }

    fn quorum(witness: WitnessSpec) -> QuorumConfig {
        let kind = match witness.kind {
            WitnessKind::Disk => QuorumType::NodeAndDisk,
            WitnessKind::Share => QuorumType::NodeAndShare,
        };
        QuorumConfig::of(kind, Some(witness))
    }

    fn with(quorum: QuorumConfig) -> Database {
        let mut db = cluster(2);
        db.cluster = Some(Cluster { id: ClusterId(Guid(1)), name: "pack".into(), quorum });
        db
    }

    fn set(key: u32, bytes: usize) -> Update {
        let value = TreeValue::Binary(Bytes(vec![7; bytes]));
        let ops = vec![TreeOp::SetValue { key: format!("data/{key}"), name: "v".into(), value }];
        Update::Tree(Transaction { preconditions: Vec::new(), ops })
    }

    #[test]
    fn the_size_that_is_kept_is_that_of_the_encoded_rows() {
        let mut db = cluster(3);
        for (key, bytes) in [(1, 3), (2, 100), (3, 200), (4, 40_000), (2, 7), (4, 100_000)] {
            assert_eq!(apply_at(&mut db, 0, set(key, bytes)).outcome, Ok(()));
            let rows = db.snapshot().rows;
            let number = codec::encoded_bytes(&(rows.len() as u64));
            assert_eq!(db.row_bytes() + number, codec::encoded_bytes(&rows));
        }
        let rows = db.snapshot();
        let loaded = Database::from_snapshot(&rows).unwrap();
        assert_eq!(loaded.row_bytes(), db.row_bytes());
    }

    #[test]
    fn the_smaller_of_two_disks_counts_and_a_share_does_not() {
        let disk = |id, bytes| witness(WitnessKind::Disk, id, bytes);
        let room = |db: &Database| Room::of(db, None).map(|room| room.capacity);
        assert_eq!(room(&with(quorum(disk(1, 0)))), Some(1 << 20));
        assert_eq!(room(&with(quorum(disk(1, 5 << 20)))), Some(5 << 20));
        assert_eq!(room(&with(quorum(witness(WitnessKind::Share, 1, 0)))), None);
        assert_eq!(room(&with(QuorumConfig::of(QuorumType::Majority, None))), None);
        // A disk that is configured and not used any more.
        assert_eq!(room(&with(QuorumConfig::of(QuorumType::Majority, Some(disk(1, 0))))), None);
        let mut view = View {
            ballot: crate::database::tests::ballot(1),
            members: wolfpack_types::Members::new(),
            former: std::collections::BTreeSet::new(),
            witness_in: true,
            votes: wolfpack_types::VoteTable { nodes: [].into(), witness: 1 },
            prev_votes: None,
            base_seq: wolfpack_types::Seq(0),
            witness: Some(disk(2, 3 << 20)),
            forces: Vec::new(),
        };
        let db = with(quorum(disk(1, 5 << 20)));
        let seen = |view: &View| Room::of(&db, Some(view)).map(|room| room.capacity);
        assert_eq!(seen(&view), Some(3 << 20), "the former witness still counts");
        view.witness = Some(disk(1, 0));
        assert_eq!(seen(&view), Some(5 << 20), "the same, and more is known of it");
    }

    #[test]
    fn growth_beyond_the_room_is_refused_with_both_sizes_and_the_rest_is_not() {
        let room = Room { capacity: 1 << 20 };
        let limit = (1 << 20) - RESERVE_MIN;
        assert_eq!(room.admits(limit - 10, limit), Ok(()));
        let Err(Refusal::Invalid(why)) = room.admits(limit, limit + 1) else { panic!("admitted") };
        for part in [(limit + 1).to_string(), limit.to_string(), "quorum set --witness".into()] {
            assert!(why.contains(&part), "{why}");
        }
        // What is too large already may shrink.
        assert_eq!(room.admits(limit + 500, limit + 400), Ok(()));
        assert!(room.for_batch(limit) >= RESERVE_MIN / 2, "there is room to delete something");
        assert_eq!(Room { capacity: 128 << 20 }.reserve(), 16 << 20);
        for database in [0, 1, 500_000, 1_792 << 10, 5_000_001, 100 << 20] {
            let room = Room { capacity: needed(database) };
            assert!(room.limit(room.reserve()) >= database, "{database}");
            let less = Room { capacity: needed(database) - 16 };
            assert!(less.limit(less.reserve()) < database.max(1), "{database}");
        }
    }

    #[test]
    fn what_fills_the_database_is_told_from_what_runs_the_cluster() {
        let made = Update::CreateGroup(group(1, "g"));
        assert!(fills(&made) && fills(&set(1, 1)) && fills(&Update::Batch(vec![made])));
        let wanted = Update::SetGroupWanted {
            group: crate::database::tests::gid(1),
            wanted: wolfpack_types::objects::Wanted::Online,
        };
        assert!(!fills(&wanted) && !fills(&Update::Batch(vec![wanted])));
    }

    #[test]
    fn a_witness_without_room_for_the_present_database_is_refused() {
        let (small, large) = (
            quorum(witness(WitnessKind::Disk, 8, CHECKPOINT_BYTES_MIN)),
            quorum(witness(WitnessKind::Disk, 9, 8 << 20)),
        );
        let mut db = with(quorum(witness(WitnessKind::Disk, 1, 64 << 20)));
        assert_eq!(db.check(&Update::SetQuorum(small.clone())), Ok(()));
        for key in 0..10 {
            assert_eq!(apply_at(&mut db, 0, set(key, 100_000)).outcome, Ok(()));
        }
        let refused = db.check(&Update::SetQuorum(small));
        let Err(Refusal::Invalid(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains(&db.row_bytes().to_string()) && why.contains("/dev/w8"), "{why}");
        assert!(why.contains("not changed"), "{why}");
        assert_eq!(db.check(&Update::SetQuorum(large)), Ok(()));
        let share = quorum(witness(WitnessKind::Share, 10, 0));
        assert_eq!(db.check(&Update::SetQuorum(share)), Ok(()));
    }
}
