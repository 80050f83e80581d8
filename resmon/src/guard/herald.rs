//! Says to all peers, on all networks, that nothing of a life runs any more: AllTerminated (P7).
//!
//! Called only after the guard has seen that it is true. A datagram may be lost, so it is said five
//! times; the fact never becomes false again, so saying it too often is harmless.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use wolfpack_netdrv::{ClusterKey, testament};
use wolfpack_types::config::Config;
use wolfpack_types::{Instant, NodeInc};

/// When it is said, from the moment at which it is known.
const TIMES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// The one that goes from peer to peer.
#[derive(Debug)]
pub(super) struct Herald {
    /// Own address on a network, and the peers' ports there.
    ways: Vec<(SocketAddr, Vec<SocketAddr>)>,
    news: Option<News>,
}

#[derive(Debug)]
struct News {
    datagram: Vec<u8>,
    since: Instant,
    said: usize,
}

impl Herald {
    pub(super) fn new(config: &Config) -> Self {
        let me = config.nodes.get(&config.me);
        let ways = config.networks.iter().filter_map(|network| {
            let own = *me?.addresses.get(&network.id)?;
            let peers = config.peers().filter_map(|p| p.addresses.get(&network.id));
            let to_port = |&ip| SocketAddr::new(ip, config.port);
            Some((SocketAddr::new(own, 0), peers.map(to_port).collect()))
        });
        Self { ways: ways.collect(), news: None }
    }

    /// Begins to say it, now for the first time.
    pub(super) fn proclaim(&mut self, now: Instant, key: &ClusterKey, who: NodeInc) {
        self.news = Some(News { datagram: testament::seal(key, who), since: now, said: 0 });
        self.work(now);
    }

    /// Says it again if it is time to.
    pub(super) fn work(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|d| d <= now) {
            let Some(news) = &mut self.news else { return };
            news.said += 1;
            for (own, peers) in &self.ways {
                if let Err(e) = say(*own, peers, &news.datagram) {
                    tracing::warn!(%own, "AllTerminated could not be sent from this address: {e}");
                }
            }
            if news.said == TIMES.len() {
                self.news = None;
            }
        }
    }

    /// When to call [`Herald::work`]; none when all is said.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let news = self.news.as_ref()?;
        Some(news.since + TIMES[news.said])
    }
}

fn say(own: SocketAddr, peers: &[SocketAddr], datagram: &[u8]) -> std::io::Result<()> {
    // A socket for each time: networks come and go, and this is rare.
    let socket = UdpSocket::bind(own)?;
    socket.set_nonblocking(true)?;
    let mut last = Ok(());
    for peer in peers {
        if let Err(e) = socket.send_to(datagram, peer) {
            last = Err(e);
        }
    }
    last
}
