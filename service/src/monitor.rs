//! The service's side of a resource monitor: a thread that sends and one that listens.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use wolfpack_resource::rpc::{Channel, RpcError};
use wolfpack_types::NodeInc;
use wolfpack_types::monitor::{MONITOR_PROTOCOL, MonitorCommand, MonitorEvent};

use crate::guard::Supervised;

/// Commands that may wait for a monitor; one that is further behind hangs.
const QUEUE: usize = 1024;
/// A monitor that does not take a command for this long hangs.
const SEND: Duration = Duration::from_secs(5);

/// A running monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) generation: u64,
    channel: Arc<Channel<MonitorCommand, MonitorEvent>>,
    commands: Sender<MonitorCommand>,
}

impl Monitor {
    /// Greets the monitor behind `socket` and starts to listen to it.
    pub(crate) fn start(
        socket: OwnedFd,
        me: NodeInc,
        generation: u64,
        notify: Sender<Supervised>,
    ) -> Result<Self, RpcError> {
        let channel = Arc::new(Channel::<MonitorCommand, MonitorEvent>::from_fd(socket)?);
        let (commands, queue) = bounded(QUEUE);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.into())
                .stack_size(256 * 1024)
                .spawn(body)
                .map_err(|source| RpcError::Kernel { act: "start a thread", source })
        };
        let out = Arc::clone(&channel);
        spawn(
            "wolfpack-mon-tx",
            Box::new(move || {
                let hello = MonitorCommand::Hello { version: MONITOR_PROTOCOL, me };
                for command in std::iter::once(hello).chain(queue) {
                    if let Err(e) = out.send(&command, SEND) {
                        tracing::error!("a command to the resource monitor was not sent: {e}");
                        // The listener hears the end of the channel and reports it.
                        return out.shutdown();
                    }
                }
            }),
        )?;
        let listener = Arc::clone(&channel);
        spawn(
            "wolfpack-mon-rx",
            Box::new(move || {
                loop {
                    let said = match listener.recv(None) {
                        Ok(Some(r)) => Supervised::Monitor { generation, event: r.message },
                        Ok(None) => continue,
                        Err(e) => Supervised::MonitorLost { generation, why: e.to_string() },
                    };
                    let lost = matches!(said, Supervised::MonitorLost { .. });
                    if notify.send(said).is_err() || lost {
                        return;
                    }
                }
            }),
        )?;
        Ok(Self { generation, channel, commands })
    }

    /// Queues a command; never waits. A monitor that does not take its commands is given up.
    pub(crate) fn send(&self, command: MonitorCommand) {
        if self.commands.try_send(command).is_err() {
            self.give_up();
        }
    }

    /// Ends the connection: the listener reports the monitor as lost.
    pub(crate) fn give_up(&self) {
        self.channel.shutdown();
    }
}
