//! From a command to its request, its answer and its words.

use std::time::Duration;

use wolfpack_client::Client;
use wolfpack_types::NodeId;
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::event::EventId;

use crate::args::{
    self, Args, Cluster, Command, Config, Group, Key, Network, NetworkInterface, Resource,
};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::wait::{Goal, Target};
use crate::{capture, database, generate, local, membership, render, rotate, wait};

/// Preparing a witness disk may have to wait for storage.
const CREATE_TIMEOUT_MIN: Duration = Duration::from_secs(60);

/// Carries out the command.
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    match &args.command {
        Command::Cluster(Cluster::Create { name, overwrite }) => {
            let request = Request::ClusterCreate { name: name.clone(), overwrite: *overwrite };
            let reply = ask(args, args.timeout().max(CREATE_TIMEOUT_MIN), &request)?;
            output.reply(&reply, || format!("cluster '{name}' is created"))
        }
        Command::Cluster(Cluster::Status) | Command::Status => {
            show(args, output, &Request::ClusterStatus)
        }
        Command::Node(command) => membership::node(args, output, command),
        Command::Quorum(command) => membership::quorum(args, output, command),
        Command::Network(Network::Status { name, paths }) => {
            let request = Request::NetworkStatus { network: name.clone(), paths: *paths };
            show(args, output, &request)
        }
        Command::Network(Network::Dump(wanted)) => capture::dump(wanted, output),
        Command::NetworkInterface(NetworkInterface::Status) => {
            show(args, output, &Request::NetworkInterfaceStatus)
        }
        Command::Group(command) => group(args, output, command),
        Command::Resource(command) => resource(args, output, command),
        Command::Events(wanted) => events(args, output, wanted),
        Command::Database(command) => database::run(args, output, command),
        Command::Key(Key::Generate { file }) => local::generate_key(file, output),
        Command::Key(Key::Reload) => {
            let done = "this node uses what its cluster key file has now";
            change(args, output, &Request::KeyReload, done)
        }
        Command::Key(Key::RotateStep { step, new, file }) => rotate::step(*step, new, file, output),
        Command::Key(Key::Node { file }) => capture::node_key(file, output),
        Command::Config(Config::Check { file }) => local::check_config(file, output),
        Command::Generate { directory } => generate::generate(directory, output),
    }
}

pub(crate) fn ask(args: &Args, timeout: Duration, request: &Request) -> Result<Reply, Failure> {
    let mut client = Client::connect(&args.socket, timeout)?;
    Ok(client.request(request)?)
}

/// Asks for something that is only shown.
pub(crate) fn show(args: &Args, output: &mut Output, request: &Request) -> Result<(), Failure> {
    let reply = ask(args, args.timeout(), request)?;
    output.reply(&reply, || render::reply(&reply))
}

/// Asks for a change and says that it is done.
pub(crate) fn change(
    args: &Args,
    output: &mut Output,
    request: &Request,
    done: &str,
) -> Result<(), Failure> {
    let reply = ask(args, args.timeout(), request)?;
    output.reply(&reply, || done.to_owned())
}

/// Asks for a change of state, and waits for the state if so wanted.
pub(crate) fn change_and_wait(
    args: &Args,
    output: &mut Output,
    request: &Request,
    limit: Option<Duration>,
    goal: &Goal,
) -> Result<(), Failure> {
    let Some(limit) = limit else {
        return change(args, output, request, &format!("{goal}: on its way"));
    };
    // Where it is now, before it moves.
    let goal = goal.clone().settled(|status| ask(args, args.timeout(), status))?;
    let reply = ask(args, args.timeout(), request)?;
    let last = wait::wait(&goal, limit, output, |status| ask(args, args.timeout(), status))?;
    output.reply(last.as_ref().unwrap_or(&reply), || format!("{goal}: done"))
}

fn group(args: &Args, output: &mut Output, command: &Group) -> Result<(), Failure> {
    match command {
        Group::Create { name, preferred } => {
            let request =
                Request::GroupCreate { group: name.clone(), preferred: preferred.clone() };
            change(args, output, &request, &format!("group '{name}' is created"))
        }
        Group::Online { name, wait } => {
            let request = Request::GroupOnline { group: name.clone() };
            let goal = Goal::Group(name.clone(), Target::Online);
            change_and_wait(args, output, &request, wait.limit(), &goal)
        }
        Group::Offline { name, wait } => {
            let request = Request::GroupOffline { group: name.clone() };
            let goal = Goal::Group(name.clone(), Target::Offline);
            change_and_wait(args, output, &request, wait.limit(), &goal)
        }
        Group::Move { name, to, wait } => {
            let request = Request::GroupMove { group: name.clone(), to: to.clone() };
            let goal = Goal::Group(name.clone(), Target::Moved { to: to.clone(), from: None });
            change_and_wait(args, output, &request, wait.limit(), &goal)
        }
        Group::Delete { name } => {
            let request = Request::GroupDelete { group: name.clone() };
            change(args, output, &request, &format!("group '{name}' is deleted"))
        }
        Group::Status { name } => show(args, output, &Request::GroupStatus { group: name.clone() }),
    }
}

fn resource(args: &Args, output: &mut Output, command: &Resource) -> Result<(), Failure> {
    match command {
        Resource::Create { name, group, kind, depends_on, set } => {
            let properties = args::properties(set).map_err(|e| Failure::new(Exit::Usage, e, ""))?;
            let request = Request::ResourceCreate {
                resource: name.clone(),
                group: group.clone(),
                kind: kind.clone(),
                properties,
                depends_on: depends_on.clone(),
            };
            let done = format!("resource '{name}' is created in group '{group}'");
            change(args, output, &request, &done)
        }
        Resource::Online { name, wait } => {
            let request = Request::ResourceOnline { resource: name.clone() };
            let goal = Goal::Resource(name.clone(), Target::Online);
            change_and_wait(args, output, &request, wait.limit(), &goal)
        }
        Resource::Offline { name, wait } => {
            let request = Request::ResourceOffline { resource: name.clone() };
            let goal = Goal::Resource(name.clone(), Target::Offline);
            change_and_wait(args, output, &request, wait.limit(), &goal)
        }
        Resource::Fail { name } => {
            let request = Request::ResourceFail { resource: name.clone() };
            change(args, output, &request, &format!("resource '{name}' is made to fail"))
        }
        Resource::Delete { name } => {
            let request = Request::ResourceDelete { resource: name.clone() };
            change(args, output, &request, &format!("resource '{name}' is deleted"))
        }
        Resource::Status { name } => {
            show(args, output, &Request::ResourceStatus { resource: name.clone() })
        }
    }
}

fn events(args: &Args, output: &mut Output, wanted: &args::Events) -> Result<(), Failure> {
    let mut query = wanted.query();
    if let Some(text) = &wanted.chain {
        query.chain = Some(event_id(args, text)?);
    }
    let chained = query.chain.is_some();
    let client = Client::connect(&args.socket, args.timeout())?;
    let mut events = client.events_where(query)?;
    let mut depth = 0;
    while let Some(event) = events.next() {
        if let Some(count) = events.take_gap() {
            output.reply(&Reply::Dropped { count }, || render::gap(count, chained))?;
        }
        let event = event?;
        let line = if chained { render::link(&event, depth) } else { render::event(&event) };
        depth += 1;
        output.reply(&Reply::Event(Box::new(event)), || line)?;
    }
    Ok(())
}

/// An event as it is named on the command line: `2:1000017`, `b:1000017`, or `1000017` of the node
/// that is asked.
fn event_id(args: &Args, text: &str) -> Result<EventId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let wrong = || {
        let what = format!("'{text}' is no event");
        let advice = "write it as NODE:NUMBER or as NUMBER, as 'wolfpack events' shows it";
        Failure::new(Exit::Usage, what, advice)
    };
    let (name, number) = match text.split_once(':') {
        Some((name, number)) => (Some(name), number),
        None => (None, text),
    };
    let number = number.parse().map_err(|_| wrong())?;
    let Reply::Cluster(status) = ask(args, args.timeout(), &Request::ClusterStatus)? else {
        return Err(wrong());
    };
    let name = name.unwrap_or(&status.node);
    let Some(node) = status.nodes.iter().find(|n| n.name == name) else {
        let names: Vec<&str> = status.nodes.iter().map(|n| n.name.as_str()).collect();
        let what = format!("there is no node '{name}'");
        let advice = format!("the nodes are {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, what, advice));
    };
    let node = NodeId::new(node.id).map_err(|_| wrong())?;
    Ok(EventId::new(node, number))
}
