//! Reliable, ordered messages between two lives: fragments, acknowledgements, retransmission, path
//! choice.
//!
//! Messages are cut into numbered fragments of one datagram each; at most [`WINDOW`] are under way.
//! The receiver acknowledges everything up to a number and each later one that it holds, and gives
//! back the sender's time stamp, so that a round trip is measured even of what was sent twice. What
//! is not acknowledged in a round trip and some is sent again, over the next path. A stream lives
//! and dies with its session; nothing of it outlasts either life.
//!
//! Pure: driven by `engine`.

mod frame;
mod receiver;
mod route;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use wolfpack_types::{Instant, NetworkId};

pub(crate) use frame::{AckFrame, Fragment};
use receiver::Receiver;
use sender::Sender;
pub(crate) use sender::cost;

/// Fragments under way at once, in each direction: 64 fill a gigabit network at a round trip of
/// 0.7 ms, and fit into a socket's receive buffer of the usual size; and one word acknowledges them.
const WINDOW: u64 = 64;

/// One thing to send, and on which network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    Fragment(Fragment),
    Ack(AckFrame),
}

/// A peer broke the rules of the stream: its program differs or is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

/// Both directions between this life and one life of a peer.
#[derive(Debug)]
pub(crate) struct Stream {
    sender: Sender,
    receiver: Receiver,
    /// Networks to acknowledge on: those on which fragments came since the last acknowledgement.
    owed: Option<NetworkId>,
    messages: VecDeque<Vec<u8>>,
}

impl Stream {
    /// A stream over these networks, none of which is known to work.
    pub(crate) fn new(networks: BTreeSet<NetworkId>) -> Self {
        Self {
            sender: Sender::new(networks),
            receiver: Receiver::new(),
            owed: None,
            messages: VecDeque::new(),
        }
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, bytes: Vec<u8>) {
        self.sender.queue(bytes);
    }

    /// The failure detector's word on a path.
    pub(crate) fn set_path(&mut self, network: NetworkId, up: bool) {
        self.sender.set_path(network, up);
    }

    /// A fragment came in.
    ///
    /// # Errors
    /// It contradicts an earlier one.
    pub(crate) fn on_fragment(
        &mut self,
        network: NetworkId,
        fragment: Fragment,
    ) -> Result<(), Malformed> {
        self.receiver.take(fragment, &mut self.messages)?;
        // On the way that the fragment came: it works in this moment.
        self.owed = Some(network);
        Ok(())
    }

    /// An acknowledgement came in.
    ///
    /// # Errors
    /// It acknowledges what was never sent.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        network: NetworkId,
        ack: &AckFrame,
    ) -> Result<(), Malformed> {
        self.sender.on_ack(now, network, ack)
    }

    /// The next complete message.
    pub(crate) fn poll_message(&mut self) -> Option<Vec<u8>> {
        self.messages.pop_front()
    }

    /// The next datagram to send. One acknowledgement answers all that came in since the last.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<(NetworkId, Frame)> {
        if let Some(network) = self.owed.take() {
            return Some((network, Frame::Ack(self.receiver.ack())));
        }
        let (network, fragment) = self.sender.poll_transmit(now)?;
        Some((network, Frame::Fragment(fragment)))
    }

    /// When [`Stream::poll_transmit`] may have something to send again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.sender.next_deadline()
    }

    /// Bytes of messages that the peer has acknowledged since the last call.
    pub(crate) fn take_released(&mut self) -> usize {
        self.sender.take_released()
    }

    /// Bytes of messages that it has not acknowledged yet.
    pub(crate) fn queued(&self) -> usize {
        self.sender.queued()
    }
}
