//! Starts a service: configuration, store, guard, then every part, wired by bounded channels.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::bounded;
use wolfpack_core::{Core, CoreConfig, EventStart};
use wolfpack_netdrv::ClusterKey;
use wolfpack_netdrv::clock::boottime;
use wolfpack_resource::section::LeaseWriter;
use wolfpack_store::{Store, StoreThread};
use wolfpack_types::config::{Config, Role};
use wolfpack_types::register::Exclusion;
use wolfpack_types::store::Loaded;
use wolfpack_types::{ClusterId, Instant, NetworkId, NodeInc, Rules};

use crate::api::{Api, Limits};
use crate::args::Args;
use crate::error::StartError;
use crate::guard::{self, Guard};
use crate::journal::Journal;
use crate::life::{Inbox, Service};
use crate::monitor::Monitor;
use crate::outside::{Outside, Parts};
use crate::recorder::Recorder;
use crate::signals::{self, Asked, Blocked};
use crate::supervise::Supervision;
use crate::witness::Seat;
use crate::{pace, setup, systemd};

/// Notices of the driver that may wait. It makes a few hundred a second at most.
const DRIVER_QUEUE: usize = 8192;
/// Notices of the other parts that may wait.
const QUEUE: usize = 1024;
/// Errands that may have ended and wait to be heard.
const ERRANDS: usize = 16;
/// Requests of administrators that may wait.
const CALLS: usize = 64;

/// Starts the service and runs it to its end; returns the exit code.
pub(crate) fn run(args: &Args, blocked: Blocked) -> Result<u8, StartError> {
    let config = setup::config(&args.config)?;
    let key = ClusterKey::load(&config.key_file)?;
    let (store, loaded) = Store::open(&config.state_dir)?;
    let me = NodeInc::new(config.me, loaded.record.incarnation);
    tracing::info!(
        "wolfpackd {} as node '{}' ({me}) of cluster {}",
        env!("CARGO_PKG_VERSION"),
        config.name,
        key.cluster_id()
    );
    tracing::info!("{}", config.times.budget());
    pace::check(&config)?;
    let asked = signals::start(blocked)?;
    let attached = guard::attach(&config.run_dir, me, config.times.margin, &asked.leave)?;
    let Some((guard, monitor)) = attached else {
        tracing::info!("ended before it had begun");
        return Ok(0);
    };
    let mut service = start(config, key, me, Stored { store, loaded }, (guard, monitor), asked)?;
    systemd::ready();
    systemd::watch(service.chain())
        .map_err(|source| StartError::System { act: "start a thread", source })?;
    let reason = service.live();
    Ok(service.end(&reason))
}

/// The store as it was opened.
#[derive(Debug)]
struct Stored {
    store: Store,
    loaded: Loaded,
}

fn start(
    config: Config,
    key: ClusterKey,
    me: NodeInc,
    stored: Stored,
    (guard, monitor): (Guard, OwnedFd),
    asked: Asked,
) -> Result<Service, StartError> {
    let thread = |source| StartError::System { act: "start a thread", source };
    let cluster = key.cluster_id();
    let node_key = setup::node_key(&config)?;
    let in_cluster = stored.loaded.record.accepted.is_some();
    let journal = Journal::open(config.me, &config.state_dir);
    let (supervised_tx, supervised) = bounded(QUEUE);
    guard.listen(supervised_tx.clone())?;
    let monitor = Monitor::start(monitor, me, 0, supervised_tx.clone())
        .map_err(|source| StartError::Guard { path: guard::socket(&config.run_dir), source })?;
    let lease = LeaseWriter::open(guard.section(), me)?;
    let (driver_tx, driver_events) = bounded(DRIVER_QUEUE);
    let driver = wolfpack_netdrv::start(
        setup::driver(&config, key, node_key, me),
        Box::new(move |end| lease.publish(end)),
        driver_tx,
    )?;
    let (store_tx, store_events) = bounded(QUEUE);
    let store = StoreThread::start(stored.store, store_tx).map_err(thread)?;
    // The witness that the own copy of the database has, or else the configuration's.
    let known = stored.loaded.record.accepted.as_ref().map(|view| view.witness.clone());
    let (seat, register_notices) = Seat::start(&config, cluster, me, known).map_err(thread)?;
    let (calls_tx, calls) = bounded(CALLS);
    let (errands_tx, errands) = bounded(ERRANDS);
    let socket = config.run_dir.join("api.sock");
    let api = Api::start(&socket, calls_tx, journal.clone(), Limits::STANDARD)?;
    let core_config = core_config(&config, cluster, me, stored.loaded, journal.start());
    let born = boottime();
    let recorder = recorder(&config, &core_config, born);
    // What the new core says at once is the first step.
    recorder.input(born, None);
    let core = Core::new(core_config, born);
    let inbox = Inbox {
        driver: driver_events,
        store: store_events,
        register: register_notices,
        supervised,
        calls,
        errands,
        leave: asked.leave,
        reload: asked.reload,
    };
    let parts = Parts {
        config,
        cluster,
        driver,
        store,
        seat,
        guard,
        monitor,
        journal,
        errands: errands_tx,
        in_cluster,
    };
    let outside = Outside::new(parts);
    let supervision = Supervision::new(me, supervised_tx, boottime());
    Ok(Service::new(core, outside, inbox, supervision, me, recorder, api))
}

/// The flight recorder, which also hears of a panic.
fn recorder(config: &Config, core: &CoreConfig, born: Instant) -> Recorder {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
    let recorder = Recorder::start(&config.state_dir, config.recorder_bytes, core, born, wall_ms);
    crate::record_panics(recorder.clone());
    recorder
}

fn client_networks(config: &Config) -> BTreeSet<NetworkId> {
    let clients = config.networks.iter().filter(|n| n.role == Role::Client);
    clients.map(|n| n.id).collect()
}

fn core_config(
    config: &Config,
    cluster: ClusterId,
    me: NodeInc,
    loaded: Loaded,
    events: EventStart,
) -> CoreConfig {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the kernel has had entropy since boot");
    CoreConfig {
        me,
        cluster,
        nodes: config.nodes.values().map(|n| (n.id, n.name.clone())).collect(),
        networks: config.networks.iter().map(|n| n.name.clone()).collect(),
        client_networks: client_networks(config),
        votes: config.votes(),
        quorum: config.quorum,
        witness: config.witness.as_ref().map(|w| w.place.clone()),
        exclusion: config.witness.as_ref().map_or(Exclusion::None, |w| w.exclusion),
        times: config.times,
        loaded,
        seed: u64::from_le_bytes(seed),
        rules: Rules::ALL,
        events,
    }
}
