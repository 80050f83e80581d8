//! `wolfpack quorum` and `wolfpack node`: who counts, who takes part.

use std::collections::BTreeMap;

use clap::builder::PossibleValuesParser;
use clap::{Subcommand, ValueEnum};
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::membership::QuorumType;
use wolfpack_types::register::Exclusion;

use crate::args::{Args, Wait};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::render;
use crate::run::{ask, change, change_and_wait, show};
use crate::wait::Goal;

#[derive(Subcommand, Debug)]
pub(crate) enum Quorum {
    /// Votes and witness
    Show,
    /// The arithmetic in plain words: what can still fail, and who is waited for
    Explain,
    /// Changes type, witness or votes while the cluster runs; what is not given stays
    Set {
        #[arg(long = "type", value_name = "TYPE",
              value_parser = PossibleValuesParser::new(QuorumType::ALL.map(QuorumType::name)))]
        kind: Option<String>,
        /// The witness: iscsi://host:port/iqn/lun, /dev/sdX, share:/directory or file:/path
        #[arg(long, value_name = "PLACE")]
        witness: Option<String>,
        /// How others are kept out of the witness disk
        #[arg(long, value_enum, value_name = "HOW")]
        exclusion: Option<ExclusionName>,
        /// Votes of a node; may be repeated
        #[arg(long = "votes", value_name = "NODE=VOTES", value_parser = votes)]
        votes: Vec<(String, u8)>,
        /// Take the votes of nodes that are gone away, and give them back
        #[arg(long, value_name = "YES|NO", value_parser = yes_or_no)]
        dynamic: Option<bool>,
        /// Overwrite what somebody else has written to the new witness
        #[arg(long)]
        overwrite: bool,
    },
    /// Moves the quorum resource, and with it the lead, to another member
    Move {
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// Goes on without quorum: only when the nodes named are known to be switched off
    #[command(after_help = FORCE_RISK)]
    Force {
        /// The nodes that you know to be switched off, or cut off from all disks and clients
        #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',', required = true)]
        dead: Vec<String>,
        /// Says that the risk is understood
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Node {
    /// State of the nodes and of the paths to them
    Status {
        /// With the messages of other nodes that this one refused, by reason
        #[arg(long, short)]
        verbose: bool,
    },
    /// Places no group on the node any more; what runs there stays, unless it is drained
    Pause {
        name: String,
        /// Moves its groups to other nodes
        #[arg(long)]
        drain: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Ends a pause
    Resume { name: String },
    /// Takes a node out of the cluster; its groups move, its votes are gone
    Evict { name: String },
    /// Lets an evicted node come back: it begins with a fresh copy of the database
    Add { name: String },
    /// Gives up the copy of the cluster on this node: it joins again as if new
    #[command(after_help = DISCARD_RISK)]
    Discard {
        /// Says that the risk is understood
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ExclusionName {
    /// SCSI-2 reservation with challenge and defence
    Reserve,
    /// The register alone
    None,
}

impl From<ExclusionName> for Exclusion {
    fn from(name: ExclusionName) -> Self {
        match name {
            ExclusionName::Reserve => Self::Reserve,
            ExclusionName::None => Self::None,
        }
    }
}

/// What forcing a quorum risks.
const FORCE_RISK: &str = "\
Risk: a node named here that runs after all may go on with its groups while this one starts the same
groups: disks without a fence may then be written by both. Changes that only the nodes named here have
taken part in are lost. So first switch them off, or pull their plugs, and look that they are off.
When they are back, they follow the forced cluster. Only where a quorum was forced on two sides, the
sides never merge by themselves: choose one, and give the copies of the other's nodes up ('wolfpack
node discard' on each).";

/// What giving up a copy risks.
const DISCARD_RISK: &str = "\
Risk: changes that only this node's copy of the database has are lost, and its groups stop. It is for
the nodes of the side that is given up where a quorum was forced on two sides; they cannot join before.";

fn votes(text: &str) -> Result<(String, u8), String> {
    let (node, votes) =
        text.split_once('=').filter(|(n, _)| !n.is_empty()).ok_or("write it as NODE=VOTES")?;
    let votes = votes.parse().map_err(|_| format!("'{votes}' is no number of votes"))?;
    Ok((node.to_owned(), votes))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "on" | "true" => Ok(true),
        "no" | "off" | "false" => Ok(false),
        _ => Err("say yes or no".into()),
    }
}

pub(crate) fn quorum(args: &Args, output: &mut Output, command: &Quorum) -> Result<(), Failure> {
    match command {
        Quorum::Show => show(args, output, &Request::QuorumShow),
        Quorum::Explain => show(args, output, &Request::QuorumExplain),
        Quorum::Set { .. } => {
            let request = set_request(command).map_err(|e| Failure::new(Exit::Usage, e, ""))?;
            let done = "the quorum is to be so; 'wolfpack quorum explain' says what holds now";
            change(args, output, &request, done)
        }
        Quorum::Move { to } => {
            let request = Request::QuorumMove { to: Some(to.clone()) };
            change(args, output, &request, &format!("the quorum resource goes to node '{to}'"))
        }
        Quorum::Force { dead, yes } => {
            if !yes {
                let what = format!(
                    "nothing was done: is it certain that {} switched off?",
                    listed(dead, "is", "are")
                );
                return Err(Failure::new(
                    Exit::Usage,
                    what,
                    format!("{FORCE_RISK}\n  If so, add --yes"),
                ));
            }
            let request = Request::QuorumForce { dead: dead.clone() };
            let done = "this node goes on without them; 'wolfpack quorum explain' says what holds";
            change(args, output, &request, done)
        }
    }
}

fn set_request(command: &Quorum) -> Result<Request, String> {
    let Quorum::Set { kind, witness, exclusion, votes, dynamic, overwrite } = command else {
        return Err("this command sets nothing".into());
    };
    let mut weights = BTreeMap::new();
    for (node, votes) in votes {
        if weights.insert(node.clone(), *votes).is_some() {
            return Err(format!("node '{node}' is given votes twice"));
        }
    }
    let nothing = kind.is_none() && witness.is_none() && exclusion.is_none() && dynamic.is_none();
    if nothing && weights.is_empty() {
        return Err(
            "say what is to change: --type, --witness, --exclusion, --votes, --dynamic".into()
        );
    }
    Ok(Request::QuorumSet {
        kind: kind.as_deref().and_then(QuorumType::parse),
        witness: witness.clone(),
        exclusion: exclusion.map(Into::into),
        weights,
        dynamic: *dynamic,
        overwrite: *overwrite,
        room: None,
    })
}

/// Names as the subject of a sentence.
fn listed(names: &[String], one: &str, many: &str) -> String {
    match names {
        [only] => format!("node '{only}' {one}"),
        all => format!("nodes '{}' {many}", all.join("', '")),
    }
}

pub(crate) fn node(args: &Args, output: &mut Output, command: &Node) -> Result<(), Failure> {
    match command {
        Node::Status { verbose: false } => show(args, output, &Request::NodeStatus),
        Node::Status { verbose: true } => {
            let reply = ask(args, args.timeout(), &Request::ClusterStatus)?;
            output.reply(&reply, || match &reply {
                Reply::Cluster(status) => render::nodes_in_full(status),
                other => render::reply(other),
            })
        }
        Node::Pause { name, drain, wait } => {
            let request = Request::NodePause { node: name.clone(), drain: *drain };
            if *drain {
                let goal = Goal::Drained(name.clone());
                return change_and_wait(args, output, &request, wait.limit(), &goal);
            }
            change(args, output, &request, &format!("no group is placed on node '{name}' any more"))
        }
        Node::Resume { name } => {
            let request = Request::NodeResume { node: name.clone() };
            change(args, output, &request, &format!("node '{name}' takes groups again"))
        }
        Node::Evict { name } => {
            let request = Request::NodeEvict { node: name.clone() };
            let done =
                format!("node '{name}' leaves the cluster for good, until it is added again");
            change(args, output, &request, &done)
        }
        Node::Add { name } => {
            let request = Request::NodeAdd { node: name.clone() };
            change(args, output, &request, &format!("node '{name}' may join: start its service"))
        }
        Node::Discard { yes } => {
            if !yes {
                let what = "nothing was done: this node's copy of the cluster would be given up";
                let advice = format!("{DISCARD_RISK}\n  If that is meant, add --yes");
                return Err(Failure::new(Exit::Usage, what, advice));
            }
            let done = "this node's copy is given up; its service starts again and joins as if new";
            change(args, output, &Request::NodeDiscard, done)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Command;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Args::try_parse_from(std::iter::once("wolfpack").chain(line.split(' '))).map(|a| a.command)
    }

    fn set(line: &str) -> Result<Request, String> {
        match parse(line).map_err(|e| e.to_string())? {
            Command::Quorum(command) => set_request(&command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_given_stays() {
        let request = set("quorum set --type node-and-share --witness share:/mnt/w").unwrap();
        let expected = Request::QuorumSet {
            kind: Some(QuorumType::NodeAndShare),
            witness: Some("share:/mnt/w".into()),
            exclusion: None,
            weights: BTreeMap::new(),
            dynamic: None,
            overwrite: false,
            room: None,
        };
        assert_eq!(request, expected);
        let Request::QuorumSet { weights, dynamic, exclusion, .. } =
            set("quorum set --votes a=2 --votes b=0 --dynamic yes --exclusion reserve").unwrap()
        else {
            panic!("something else")
        };
        assert_eq!(weights, BTreeMap::from([("a".into(), 2), ("b".into(), 0)]));
        assert_eq!((dynamic, exclusion), (Some(true), Some(Exclusion::Reserve)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, word) in [
            ("quorum set", "say what is to change"),
            ("quorum set --type most", "node-and-share"),
            ("quorum set --votes a", "NODE=VOTES"),
            ("quorum set --votes a=many", "'many'"),
            ("quorum set --votes a=300", "'300'"),
            ("quorum set --votes a=1 --votes a=2", "twice"),
            ("quorum set --dynamic perhaps", "yes or no"),
            ("quorum force", "--dead"),
            ("quorum move", "--to"),
        ] {
            let why = set(line).unwrap_err();
            assert!(why.contains(word), "{line}: {why}");
        }
    }

    #[test]
    fn force_and_discard_say_what_they_risk_and_do_nothing_without_a_yes() {
        let args = |line: &str| {
            Args::try_parse_from(std::iter::once("wolfpack").chain(line.split(' '))).unwrap()
        };
        let mut output = Output::new(true);
        let forced = args("quorum force --dead b,c");
        let Command::Quorum(command) = &forced.command else { panic!("something else") };
        let failure = quorum(&forced, &mut output, command).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.what.contains("nodes 'b', 'c' are switched off"), "{}", failure.what);
        assert!(failure.advice.contains("written by both"), "{}", failure.advice);
        let discarded = args("node discard");
        let Command::Node(command) = &discarded.command else { panic!("something else") };
        let failure = node(&discarded, &mut output, command).unwrap_err();
        assert!(failure.advice.contains("--yes"), "{}", failure.advice);
    }
}
