//! The register over a share: real files, the real thread, and a call that hangs.

use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use wolfpack_types::register::{Exclusion, RegisterCommand, RegisterEvent, RegisterFailure};
use wolfpack_types::store::Snapshot;
use wolfpack_types::times::Profile;
use wolfpack_types::{
    Ballot, Force, Guid, Incarnation, Member, Members, NodeId, NodeInc, Rules, Seq, StoreId, Times,
    View, VoteTable,
};

use super::*;
use crate::register::RegisterConfig;
use crate::thread::{Place, RegisterNotice, RegisterThread};

const CLUSTER: ClusterId = ClusterId(Guid(0xabcd));
/// Cluster and register of the same identity, as after `cluster create`.
const OWN: (ClusterId, ClusterId) = (CLUSTER, CLUSTER);
const PATIENCE: Duration = Duration::from_secs(60);

fn life(n: u8, inc: u64) -> NodeInc {
    NodeInc::new(NodeId::new(n).unwrap(), Incarnation(inc))
}

fn ballot(counter: u64, n: u8) -> Ballot {
    Ballot::new(Force::default(), counter, NodeId::new(n).unwrap())
}

fn members(lives: &[NodeInc]) -> Members {
    lives.iter().map(|l| (l.node, Member { inc: l.inc, store: StoreId(Guid(1)) })).collect()
}

fn view(ballot: Ballot, lives: &[NodeInc]) -> View {
    View {
        ballot,
        members: members(lives),
        former: BTreeSet::new(),
        witness_in: true,
        votes: VoteTable::default(),
        prev_votes: None,
        base_seq: Seq(0),
        witness: None,
        forces: Vec::new(),
    }
}

fn config(me: NodeInc) -> RegisterConfig {
    RegisterConfig {
        me,
        cluster: CLUSTER,
        exclusion: Exclusion::None,
        views_only: true,
        times: Times { command_timeout: Duration::from_secs(2), ..Times::of(Profile::Standard) },
        rules: Rules::ALL,
    }
}

/// A register of one life at the share.
struct Voter {
    thread: RegisterThread,
    notices: Receiver<RegisterNotice>,
    me: NodeInc,
    id: u64,
}

impl Voter {
    fn start(share: &Path, me: NodeInc) -> Self {
        let config = RegisterConfig {
            me,
            cluster: CLUSTER,
            exclusion: Exclusion::None,
            views_only: true,
            times: Times {
                command_timeout: Duration::from_secs(2),
                ..Times::of(Profile::Standard)
            },
            rules: Rules::ALL,
        };
        let (notify, notices) = unbounded();
        let name = format!("share:{}", share.display());
        let place = Place { cluster: CLUSTER, register: config, disk: name };
        let thread = RegisterThread::start(Some(place), notify).unwrap();
        Self { thread, notices, me, id: 0 }
    }

    fn event(&self) -> RegisterEvent {
        loop {
            if let RegisterNotice::Event(event) = self.notices.recv_timeout(PATIENCE).unwrap() {
                return event;
            }
        }
    }

    /// Sends a command and waits for its end. Until the share is open all fails; so again.
    fn ask(&mut self, make: impl Fn(u64) -> RegisterCommand) -> RegisterEvent {
        loop {
            self.id += 1;
            self.thread.command(make(self.id));
            match self.event() {
                RegisterEvent::Failed { why: RegisterFailure::Io(why), .. }
                    if why.contains("not opened yet") => {}
                event => return event,
            }
        }
    }

    fn promise(&mut self, counter: u64, lives: &[NodeInc]) -> RegisterEvent {
        let ballot = ballot(counter, self.me.node.get());
        self.ask(|id| RegisterCommand::Promise { id, ballot, members: members(lives) })
    }

    fn accept(&mut self, view: &View) -> RegisterEvent {
        self.ask(|id| RegisterCommand::Accept {
            id,
            view: view.clone(),
            snapshot: Snapshot::default(),
            entries: vec![],
        })
    }
}

fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(prepare("s", dir.path(), OWN, Overwrite::No).unwrap(), Prepared::Written);
    dir
}

fn best(event: RegisterEvent) -> Option<Ballot> {
    match event {
        RegisterEvent::Promised { best, .. } => best.map(|slot| slot.bal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_nodes_vote_at_a_share_which_keeps_views_and_no_logs() {
    let dir = prepared();
    let (la, lb) = (life(1, 1), life(2, 1));
    let mut a = Voter::start(dir.path(), la);
    let mut b = Voter::start(dir.path(), lb);
    assert_eq!(best(a.promise(5, &[la, lb])), None);
    let first = view(ballot(5, 1), &[la, lb]);
    assert!(matches!(a.accept(&first), RegisterEvent::Accepted { .. }));
    // The other sees it, and its higher promise is seen in turn.
    assert_eq!(best(b.promise(6, &[lb])), Some(first.ballot));
    let RegisterEvent::Renewed { excluded, .. } =
        a.ask(|id| RegisterCommand::Renew { id, view: first.clone() })
    else {
        panic!("not renewed")
    };
    assert_eq!(excluded, BTreeSet::from([la]));
    let outbid = a.promise(5, &[la]);
    assert!(
        matches!(outbid, RegisterEvent::Failed { why: RegisterFailure::Outbid { counter: 6 }, .. }),
        "{outbid:?}"
    );
    for command in [
        a.ask(|id| RegisterCommand::Append { id, ballot: ballot(5, 1), entries: vec![] }),
        a.ask(|id| RegisterCommand::ReadLog { id, slot: la }),
    ] {
        let RegisterEvent::Failed { why: RegisterFailure::Io(why), .. } = command else {
            panic!("{command:?}")
        };
        assert!(why.contains("asks a share for a log"), "{why}");
    }
}

#[test]
fn a_new_life_carries_its_promise_and_its_view_over() {
    let dir = prepared();
    let (old, new) = (life(1, 1), life(1, 2));
    let mut a = Voter::start(dir.path(), old);
    a.promise(5, &[old]);
    a.accept(&view(ballot(5, 1), &[old]));
    a.promise(9, &[old]);
    a.thread.stop();
    let mut a = Voter::start(dir.path(), new);
    let low = a.promise(8, &[new]);
    assert!(
        matches!(low, RegisterEvent::Failed { why: RegisterFailure::Outbid { counter: 9 }, .. }),
        "{low:?}"
    );
    assert_eq!(best(a.promise(10, &[new])), Some(ballot(5, 1)));
    // Also when the former life's file is gone: it was carried over, not just seen.
    let directory = directory_of(dir.path(), CLUSTER);
    fs::write(directory.join("n01-1.slot"), []).unwrap();
    assert_eq!(best(a.promise(11, &[new])), Some(ballot(5, 1)));
}

#[test]
fn torn_zeroed_and_missing_files_are_damage_and_not_empty() {
    let dir = prepared();
    let directory = directory_of(dir.path(), CLUSTER);
    let (la, slot) = (life(1, 1), directory.join("n02-0.slot"));
    let mut a = Voter::start(dir.path(), la);
    assert_eq!(best(a.promise(1, &[la])), None);
    for (n, content) in [vec![7; 100], vec![0; 4096], vec![0; 10], vec![0; 8192]].iter().enumerate()
    {
        fs::write(&slot, content).unwrap();
        let event = a.promise(2 + n as u64, &[la]);
        let RegisterEvent::Failed { why: RegisterFailure::Corrupt(why), .. } = &event else {
            panic!("{n}: {event:?}")
        };
        assert!(why.contains('2'), "names the node: {why}");
    }
    fs::remove_file(&slot).unwrap();
    let event = a.promise(20, &[la]);
    let RegisterEvent::Failed { why: RegisterFailure::Io(why), .. } = &event else {
        panic!("{event:?}")
    };
    assert!(why.contains("n02-0.slot") && why.contains("removed"), "{why}");
}

#[test]
fn a_call_that_hangs_stops_the_writing_until_it_returns() {
    let dir = prepared();
    let directory = directory_of(dir.path(), CLUSTER);
    let (la, slot) = (life(1, 1), directory.join("n02-0.slot"));
    let mut a = Voter::start(dir.path(), la);
    assert_eq!(best(a.promise(1, &[la])), None);
    // Opening a pipe to which nobody writes does not return.
    fs::remove_file(&slot).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&slot).status().unwrap();
    assert!(made.success());
    let event = a.promise(2, &[la]);
    assert!(
        matches!(&event, RegisterEvent::Failed { why: RegisterFailure::Io(why), .. }
            if why.contains("no answer")),
        "{event:?}"
    );
    // It is said, and it stays so: the next promise waits, nothing of it is written.
    let lost = loop {
        if let RegisterNotice::DiskLost { why, .. } = a.notices.recv_timeout(PATIENCE).unwrap() {
            break why;
        }
    };
    assert!(lost.contains("does not return"), "{lost}");
    let own = directory.join("n01-1.slot");
    let before = fs::read(&own).unwrap();
    let (ballot, lives) = (ballot(3, 1), members(&[la]));
    a.thread.command(RegisterCommand::Promise { id: 99, ballot, members: lives });
    assert!(a.notices.recv_timeout(Duration::from_millis(300)).is_err());
    assert_eq!(fs::read(&own).unwrap(), before);
    // The server is back.
    let pipe = directory.join("n02-0.slot");
    fs::write(directory.join("empty"), []).unwrap();
    let writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    fs::rename(directory.join("empty"), &slot).unwrap();
    drop(writer);
    let event = a.event();
    assert!(matches!(event, RegisterEvent::Promised { id: 99, .. }), "{event:?}");
}

#[test]
fn a_hung_share_can_be_left_and_is_not_written_again_before_its_call_returns() {
    let (first, second) = (prepared(), prepared());
    let directory = directory_of(first.path(), CLUSTER);
    let (me, slot) = (life(1, 1), directory.join("n02-0.slot"));
    let there = |dir: &tempfile::TempDir| Place {
        cluster: CLUSTER,
        register: config(me),
        disk: format!("share:{}", dir.path().display()),
    };
    let mut a = Voter::start(first.path(), me);
    assert_eq!(best(a.promise(1, &[me])), None);
    fs::remove_file(&slot).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&slot).status().unwrap();
    assert!(made.success());
    assert!(matches!(a.promise(2, &[me]), RegisterEvent::Failed { .. }));
    // Another witness is there at once.
    a.thread.open(Some(there(&second)));
    assert_eq!(best(a.promise(3, &[me])), None);
    // Back again: nothing is done there.
    a.thread.open(Some(there(&first)));
    let before = fs::read(directory.join("n01-1.slot")).unwrap();
    let (ballot, lives) = (ballot(4, 1), members(&[me]));
    a.thread.command(RegisterCommand::Promise { id: 99, ballot, members: lives.clone() });
    let event = a.event();
    assert!(matches!(event, RegisterEvent::Failed { id: 99, .. }), "{event:?}");
    assert_eq!(fs::read(directory.join("n01-1.slot")).unwrap(), before);
    let writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&slot).unwrap();
    fs::write(directory.join("empty"), []).unwrap();
    fs::rename(directory.join("empty"), &slot).unwrap();
    drop(writer);
    let mut id = 100;
    loop {
        a.thread.command(RegisterCommand::Promise { id, ballot, members: lives.clone() });
        match a.event() {
            RegisterEvent::Promised { .. } => break,
            RegisterEvent::Failed { .. } => id += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_share_serves_many_clusters_and_foreign_things_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letters.txt"), "dear").unwrap();
    let other = ClusterId(Guid(0x1234));
    for cluster in [CLUSTER, other] {
        let name = format!("share:{}", dir.path().display());
        let missing = open(&name, dir.path(), cluster).unwrap_err().to_string();
        assert!(missing.contains("is the share mounted there?"), "{missing}");
        let done = prepare(&name, dir.path(), (cluster, cluster), Overwrite::No).unwrap();
        assert_eq!(done, Prepared::Written);
        open(&name, dir.path(), cluster).unwrap();
        let again = prepare(&name, dir.path(), (cluster, cluster), Overwrite::No).unwrap();
        assert_eq!(again, Prepared::Already);
    }
    assert_eq!(fs::read(dir.path().join("letters.txt")).unwrap(), b"dear");
    // Another register of the same cluster is in the way until that is said.
    let anew = (CLUSTER, ClusterId(Guid(0x77)));
    let former = prepare("s", dir.path(), anew, Overwrite::No).unwrap_err().to_string();
    assert!(former.contains("--overwrite"), "{former}");
    assert_eq!(prepare("s", dir.path(), anew, Overwrite::Yes).unwrap(), Prepared::Written);
    let nowhere = prepare("s", &dir.path().join("none"), OWN, Overwrite::No).unwrap_err();
    assert!(nowhere.to_string().contains("none"), "{nowhere}");
    let relative = crate::files::open("share:mnt", CLUSTER).unwrap().unwrap_err();
    assert!(relative.to_string().contains("absolute"), "{relative}");
    // Damage is not overwritten unless that is said.
    fs::write(directory_of(dir.path(), CLUSTER).join(SUPERBLOCK), [1; 4096]).unwrap();
    prepare("s", dir.path(), OWN, Overwrite::No).unwrap_err();
    assert_eq!(prepare("s", dir.path(), OWN, Overwrite::Yes).unwrap(), Prepared::Written);
}

#[test]
fn views_too_large_for_a_block_have_a_body() {
    let dir = prepared();
    let lives: Vec<_> = (1..=16).map(|n| life(n, u64::MAX >> 1)).collect();
    let mut a = Voter::start(dir.path(), lives[0]);
    a.promise(5, &lives);
    let mut large = view(ballot(5, 1), &lives);
    // More former lives than a block takes.
    large.former = (0..600).map(|n| life(1 + (n % 16) as u8, 1_000_000 + n)).collect();
    let accepted = a.accept(&large);
    assert!(matches!(accepted, RegisterEvent::Accepted { .. }), "{accepted:?}");
    let mut b = Voter::start(dir.path(), life(2, u64::MAX >> 1));
    let RegisterEvent::Promised { best: Some(slot), .. } = b.promise(6, &lives) else {
        panic!("no slot")
    };
    assert_eq!(slot.view, Some(large));
}

#[test]
fn the_witness_is_changed_while_the_thread_runs() {
    let (first, second) = (prepared(), prepared());
    let me = life(1, 1);
    let mut a = Voter::start(first.path(), me);
    assert_eq!(best(a.promise(5, &[me])), None);
    assert!(matches!(a.accept(&view(ballot(5, 1), &[me])), RegisterEvent::Accepted { .. }));
    a.thread.open(None);
    let closed = a.promise(6, &[me]);
    assert!(
        matches!(&closed, RegisterEvent::Failed { why: RegisterFailure::Io(why), .. }
            if why.contains("no witness is open")),
        "{closed:?}"
    );
    let there = |dir: &tempfile::TempDir| Place {
        cluster: CLUSTER,
        register: config(me),
        disk: format!("share:{}", dir.path().display()),
    };
    // The other one knows nothing of what the first promised, and the first has kept it.
    a.thread.open(Some(there(&second)));
    assert_eq!(best(a.promise(3, &[me])), None);
    a.thread.open(Some(there(&first)));
    let low = a.promise(4, &[me]);
    assert!(
        matches!(low, RegisterEvent::Failed { why: RegisterFailure::Outbid { counter: 5 }, .. }),
        "{low:?}"
    );
    assert_eq!(best(a.promise(7, &[me])), Some(ballot(5, 1)));
}
