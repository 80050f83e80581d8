//! Whatever monitors, lockers and administrators do in whatever order: what must always hold.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use wolfpack_types::event::Cause;
use wolfpack_types::monitor::{Blame, EntryPoint, MonitorEvent};
use wolfpack_types::objects::{ResourceState, Wanted};
use wolfpack_types::update::Update;

use super::{Rig, me};
use crate::database::tests::{apply_at, gid, life, node, rid, web};
use crate::resource::ResourceInput;
use crate::resource::local::Phase;

#[derive(Clone, Debug)]
enum Act {
    Done(u128, bool),
    Failed(u128),
    Crash(Option<u128>),
    Restarted,
    Pass(u64),
    /// The locker carries out the proposals, or they are lost.
    Locker(bool),
    Wanted(bool),
    ResourceWanted(u128, bool),
    Move,
    /// The leader names the next owner: this life or another node's.
    Assign(bool),
    Authority(bool),
    View,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1..=3_u128, prop::bool::weighted(0.8)).prop_map(|(id, ok)| Act::Done(id, ok)),
        2 => (1..=3_u128).prop_map(Act::Failed),
        1 => prop::option::of(1..=3_u128).prop_map(Act::Crash),
        2 => Just(Act::Restarted),
        3 => prop_oneof![0..1_000_u64, Just(40_000), Just(200_000)].prop_map(Act::Pass),
        4 => prop::bool::weighted(0.8).prop_map(Act::Locker),
        1 => any::<bool>().prop_map(Act::Wanted),
        1 => (1..=3_u128, any::<bool>()).prop_map(|(id, on)| Act::ResourceWanted(id, on)),
        1 => Just(Act::Move),
        2 => any::<bool>().prop_map(Act::Assign),
        1 => any::<bool>().prop_map(Act::Authority),
        1 => Just(Act::View),
    ]
}

const fn wanted(online: bool) -> Wanted {
    if online { Wanted::Online } else { Wanted::Offline }
}

fn play(rig: &mut Rig, act: &Act) -> Vec<String> {
    let update = |rig: &mut Rig, update| {
        let changes = apply_at(&mut rig.db, 1_000, update).changes;
        rig.feed(ResourceInput::Database(&changes))
    };
    match act {
        Act::Done(id, ok) if rig.calls.contains_key(&rid(*id)) => {
            rig.done(*id, if *ok { Ok(()) } else { Err("it broke") })
        }
        Act::Done(..) => Vec::new(),
        Act::Failed(id) => rig.failed(*id),
        Act::Crash(blame) => {
            rig.calls.clear();
            let entry_point = EntryPoint::Online;
            let blame = blame.map(|id| Blame { resource: rid(id), entry_point });
            rig.feed(ResourceInput::Monitor(&MonitorEvent::Crashed { monitor: 1, blame }))
        }
        Act::Restarted => rig.feed(ResourceInput::Monitor(&MonitorEvent::Restarted { monitor: 1 })),
        Act::Pass(ms) => {
            rig.now += Duration::from_millis(*ms);
            rig.feed(ResourceInput::Deadline)
        }
        Act::Locker(true) => rig.apply_proposals(),
        Act::Locker(false) => {
            rig.proposals.clear();
            Vec::new()
        }
        Act::Wanted(on) => {
            update(rig, Update::SetGroupWanted { group: gid(1), wanted: wanted(*on) })
        }
        Act::ResourceWanted(id, on) => {
            update(rig, Update::SetResourceWanted { resource: rid(*id), wanted: wanted(*on) })
        }
        Act::Move => {
            let cause = Cause::Administrator;
            update(rig, Update::MoveGroup { group: gid(1), to: node(2), cause })
        }
        Act::Assign(mine) => {
            // As P7 allows: released, or owned by one that is not alive.
            let group = &rig.db.groups[&gid(1)];
            if group.owner == Some(me()) && !group.released {
                return Vec::new();
            }
            let (owner, cause) = (if *mine { me() } else { life(2, 1) }, Cause::Administrator);
            let after = group.owned_since;
            update(rig, Update::AssignOwner { group: gid(1), owner, cause, after })
        }
        Act::Authority(authority) => rig.feed(ResourceInput::Authority(*authority)),
        Act::View => rig.feed(ResourceInput::View),
    }
}

/// What must hold after every act.
fn check(rig: &Rig, authority: bool, out: &[String]) -> Result<(), TestCaseError> {
    let group = &rig.db.groups[&gid(1)];
    let mine = group.owner == Some(me());
    prop_assert!(
        !group.released || !mine || !rig.manager.holds(gid(1)),
        "released, and something runs"
    );
    prop_assert!(mine || !rig.manager.holds(gid(1)), "another owns it, and something runs");
    let starts = out.iter().any(|o| o.contains("online ") && !o.starts_with("tell"));
    prop_assert!(authority && mine || !starts, "{out:?}");
    let phase = |id| rig.manager.locals.get(&rid(id)).map(|l| l.phase.clone());
    if matches!(phase(3), Some(Phase::Starting { .. })) && starts {
        prop_assert_eq!((phase(1), phase(2)), (Some(Phase::Online), Some(Phase::Online)));
    }
    prop_assert!(rig.manager.next_deadline().is_none_or(|at| at > rig.now));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// P7 at the owner: nothing runs of what was released or is another's, nothing starts without
    /// authority, nothing starts before what it depends on.
    #[test]
    fn nothing_runs_that_must_not(acts in vec(any_act(), 1..80)) {
        let mut rig = Rig::new(web(2));
        let mut authority = true;
        for act in &acts {
            if let Act::Authority(on) = act {
                authority = *on;
            }
            let out = play(&mut rig, act);
            check(&rig, authority, &out)?;
        }
    }

    /// Once everybody behaves, the group is where it is wanted, in the state that is wanted.
    #[test]
    fn it_settles_once_everything_works(acts in vec(any_act(), 1..60)) {
        let mut rig = Rig::new(web(2));
        for act in &acts {
            play(&mut rig, act);
        }
        for act in [Act::Restarted, Act::Authority(true), Act::View, Act::Wanted(true)] {
            play(&mut rig, &act);
        }
        for id in 1..=3 {
            play(&mut rig, &Act::ResourceWanted(id, true));
        }
        for _ in 0..60 {
            for id in 1..=3 {
                play(&mut rig, &Act::Done(id, true));
            }
            play(&mut rig, &Act::Locker(true));
            play(&mut rig, &Act::Assign(true));
            if let Some(at) = rig.manager.next_deadline() {
                rig.now = at;
                rig.feed(ResourceInput::Deadline);
            }
        }
        prop_assert_eq!(rig.db.groups[&gid(1)].owner, Some(me()));
        for id in 1..=3 {
            prop_assert_eq!(rig.db.resources[&rid(id)].state, ResourceState::Online);
        }
        prop_assert_eq!(rig.manager.next_deadline(), None);
        prop_assert!(rig.proposals.is_empty());
    }
}
