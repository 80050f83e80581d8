//! `--wait`: asks again and again until the group or resource is where it should be, or has failed.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use wolfpack_types::api::{GroupStatus, Reply, Request, ResourceStatus};
use wolfpack_types::objects::{GroupState, ResourceState};

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Between two questions.
const PERIOD: Duration = Duration::from_millis(100);
/// A failure must last this long before it is believed: right after the command the state may
/// still be the one from before it, and a restart may be on its way.
const FAILED_FOR: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Goal {
    Group(String, Target),
    Resource(String, Target),
    /// No group is left on the node.
    Drained(String),
}

/// Where it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Online,
    Offline,
    /// On node `to`, or, if none was named, on another node than `from`.
    Moved {
        to: Option<String>,
        from: Option<String>,
    },
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match self {
            Self::Group(name, target) => {
                write!(f, "group '{name}' ")?;
                target
            }
            Self::Resource(name, target) => {
                write!(f, "resource '{name}' ")?;
                target
            }
            Self::Drained(node) => {
                return write!(f, "pause of node '{node}', its groups elsewhere");
            }
        };
        match target {
            Target::Online => f.write_str("online"),
            Target::Offline => f.write_str("offline"),
            Target::Moved { to: Some(to), .. } => write!(f, "to node '{to}'"),
            Target::Moved { .. } => f.write_str("to another node"),
        }
    }
}

/// How far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Progress {
    There,
    Under(String),
    Failed(String),
}

impl Goal {
    fn question(&self) -> Request {
        match self {
            Self::Group(name, _) => Request::GroupStatus { group: Some(name.clone()) },
            Self::Resource(name, _) => Request::ResourceStatus { resource: Some(name.clone()) },
            Self::Drained(_) => Request::GroupStatus { group: None },
        }
    }

    /// The goal with what must be known before the command is sent: where a group moves from.
    pub(crate) fn settled(
        mut self,
        ask: impl FnOnce(&Request) -> Result<Reply, Failure>,
    ) -> Result<Self, Failure> {
        let question = self.question();
        if let Self::Group(name, Target::Moved { to: None, from }) = &mut self
            && let Reply::Groups { groups } = ask(&question)?
        {
            *from = groups.into_iter().find(|g| g.name == *name).and_then(|g| g.owner);
        }
        Ok(self)
    }

    fn progress(&self, reply: &Reply) -> Progress {
        match (self, reply) {
            (Self::Group(name, target), Reply::Groups { groups }) => {
                match groups.iter().find(|g| g.name == *name) {
                    Some(group) => group_progress(target, group),
                    None => Progress::Failed("it does not exist any more".into()),
                }
            }
            (Self::Resource(name, target), Reply::Resources { resources }) => {
                match resources.iter().find(|r| r.name == *name) {
                    Some(resource) => resource_progress(target, resource),
                    None => Progress::Failed("it does not exist any more".into()),
                }
            }
            (Self::Drained(node), Reply::Groups { groups }) => drain_progress(node, groups),
            _ => Progress::Under("no answer to the question asked".into()),
        }
    }
}

/// A group that is offline is no work of its owner.
fn drain_progress(node: &str, groups: &[GroupStatus]) -> Progress {
    let here =
        |g: &&GroupStatus| g.owner.as_deref() == Some(node) && g.state != GroupState::Offline;
    let left: Vec<&str> = groups.iter().filter(here).map(|g| g.name.as_str()).collect();
    if left.is_empty() {
        return Progress::There;
    }
    Progress::Under(format!("still there: {}", left.join(", ")))
}

fn group_progress(target: &Target, group: &GroupStatus) -> Progress {
    let on = group.owner.as_deref().unwrap_or("no node");
    let state = format!("{} on {on}", group.state);
    let moved = match target {
        Target::Moved { to: Some(to), .. } => group.owner.as_ref() == Some(to),
        Target::Moved { to: None, from } => group.owner.is_some() && group.owner != *from,
        Target::Online | Target::Offline => true,
    } && group.moving_to.is_none();
    match (target, group.state) {
        (Target::Offline, GroupState::Offline) => Progress::There,
        (Target::Online | Target::Moved { .. }, GroupState::Online) if moved => Progress::There,
        // A group that is offline, or only partly online, may be moved too.
        (Target::Moved { .. }, GroupState::Offline | GroupState::PartialOnline)
            if moved && group.wanted == wolfpack_types::objects::Wanted::Offline =>
        {
            Progress::There
        }
        (_, GroupState::Failed) => Progress::Failed(format!("{state}: {}", group.because)),
        _ => Progress::Under(state),
    }
}

fn resource_progress(target: &Target, resource: &ResourceStatus) -> Progress {
    let on = resource.node.as_deref().unwrap_or("no node");
    let mut state = format!("{} on {on}", resource.state);
    if !resource.why.is_empty() {
        state = format!("{state}: {}", resource.why);
    }
    match (target, resource.state) {
        (Target::Offline, ResourceState::Offline)
        | (Target::Online | Target::Moved { .. }, ResourceState::Online) => Progress::There,
        (_, ResourceState::Failed) => Progress::Failed(state),
        _ => Progress::Under(state),
    }
}

/// Waits; returns the last answer.
pub(crate) fn wait(
    goal: &Goal,
    limit: Duration,
    output: &mut Output,
    mut ask: impl FnMut(&Request) -> Result<Reply, Failure>,
) -> Result<Option<Reply>, Failure> {
    let deadline = Instant::now() + limit;
    let mut said = String::new();
    let mut failed_since: Option<Instant> = None;
    loop {
        let state = match ask(&goal.question()) {
            Ok(reply) => match goal.progress(&reply) {
                Progress::There => return Ok(Some(reply)),
                Progress::Under(state) => {
                    failed_since = None;
                    state
                }
                Progress::Failed(why) => {
                    let since = *failed_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= FAILED_FOR {
                        let what = format!("{goal}: {why}");
                        return Err(Failure::new(Exit::Failed, what, "see 'wolfpack status'"));
                    }
                    why
                }
            },
            // The service may just be starting anew, or the cluster be regrouping.
            Err(e) if matches!(e.exit, Exit::NotRunning | Exit::Busy | Exit::NoQuorum) => e.what,
            Err(e) => return Err(e),
        };
        if state != said {
            output.progress(&format!("{goal}: {state}"));
            said = state;
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::new(
                Exit::Failed,
                format!("{goal}: not there after {} s: {said}", limit.as_secs()),
                "it may still get there: see 'wolfpack status'",
            ));
        }
        thread::sleep(PERIOD.min(deadline - now));
    }
}

#[cfg(test)]
mod tests {
    use wolfpack_types::api::Protection;
    use wolfpack_types::objects::Wanted;

    use super::*;

    fn group(state: GroupState, owner: &str, wanted: Wanted) -> Reply {
        Reply::Groups {
            groups: vec![GroupStatus {
                name: "web".into(),
                id: String::new(),
                state,
                wanted,
                owner: Some(owner.into()),
                moving_to: None,
                preferred: Vec::new(),
                because: "disk broke".into(),
                protection: Protection::Lease,
            }],
        }
    }

    fn run(goal: &Goal, limit: Duration, replies: Vec<Reply>) -> Result<Option<Reply>, Failure> {
        let mut replies = replies.into_iter().peekable();
        let mut output = Output::new(true);
        wait(goal, limit, &mut output, |_| {
            let next = replies.next().expect("asked after the end");
            if replies.peek().is_none() {
                // The last answer stands.
                replies = vec![next.clone(), next.clone()].into_iter().peekable();
            }
            Ok(next)
        })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn waits_until_online() {
        let goal = Goal::Group("web".into(), Target::Online);
        let there = group(GroupState::Online, "a", Wanted::Online);
        let replies = vec![
            group(GroupState::Failed, "a", Wanted::Online),
            group(GroupState::Pending, "a", Wanted::Online),
            there.clone(),
        ];
        assert_eq!(run(&goal, LONG, replies), Ok(Some(there)));
    }

    #[test]
    fn a_lasting_failure_ends_the_wait() {
        let goal = Goal::Group("web".into(), Target::Online);
        let err = run(&goal, LONG, vec![group(GroupState::Failed, "a", Wanted::Online)]);
        let err = err.unwrap_err();
        assert_eq!(err.exit, Exit::Failed);
        assert!(err.what.contains("failed on a: disk broke"), "{}", err.what);
    }

    #[test]
    fn a_move_is_over_on_the_other_node() {
        let goal = Goal::Group("web".into(), Target::Moved { to: None, from: None });
        let goal = goal.settled(|_| Ok(group(GroupState::Online, "a", Wanted::Online))).unwrap();
        let there = group(GroupState::Online, "b", Wanted::Online);
        let replies = vec![
            group(GroupState::Online, "a", Wanted::Online),
            group(GroupState::Pending, "b", Wanted::Online),
            there.clone(),
        ];
        assert_eq!(run(&goal, LONG, replies), Ok(Some(there)));
        let offline = group(GroupState::Offline, "b", Wanted::Offline);
        assert_eq!(run(&goal, LONG, vec![offline.clone()]), Ok(Some(offline)));
    }

    #[test]
    fn the_limit_holds_and_says_where_it_is() {
        let goal = Goal::Group("web".into(), Target::Offline);
        let limit = Duration::from_millis(120);
        let err = run(&goal, limit, vec![group(GroupState::Pending, "a", Wanted::Offline)]);
        let err = err.unwrap_err();
        assert_eq!(err.exit, Exit::Failed);
        assert!(err.what.contains("pending on a"), "{}", err.what);
    }

    #[test]
    fn a_deleted_thing_or_a_wrong_question_is_not_waited_for() {
        let goal = Goal::Resource("ip".into(), Target::Online);
        let err = run(&goal, LONG, vec![Reply::Resources { resources: Vec::new() }]).unwrap_err();
        assert!(err.what.contains("does not exist any more"), "{}", err.what);
        let gone = wait(&goal, LONG, &mut Output::new(true), |_| {
            Err(Failure::new(Exit::Unknown, "no such resource", ""))
        });
        assert_eq!(gone.unwrap_err().exit, Exit::Unknown);
    }

    #[test]
    fn a_drain_is_over_when_nothing_that_runs_is_left() {
        let goal = Goal::Drained("a".into());
        let gone = vec![
            group(GroupState::Online, "a", Wanted::Online),
            group(GroupState::Pending, "a", Wanted::Online),
            group(GroupState::Online, "b", Wanted::Online),
        ];
        assert!(run(&goal, Duration::from_secs(60), gone).is_ok());
        let offline = vec![group(GroupState::Offline, "a", Wanted::Offline)];
        assert!(run(&goal, Duration::from_secs(60), offline).is_ok());
        let stays = vec![group(GroupState::Online, "a", Wanted::Online)];
        let why = run(&goal, Duration::ZERO, stays).unwrap_err();
        assert!(why.what.contains("still there"), "{}", why.what);
    }
}
