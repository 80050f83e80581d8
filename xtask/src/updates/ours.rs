//! Wolfpack: whole daemons in the lab; each client sets a value of its own in the tree of keys.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use wolfpack_client::Client;
use wolfpack_lab::lab::LabOptions;
use wolfpack_lab::node::LabQuorum;
use wolfpack_lab::scenarios::Stage;
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::tree::{Transaction, TreeOp, TreeValue};

use super::load::{self, Ask};
use super::{Row, all};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two nodes and a disk, or three nodes by majority.
pub(super) fn measure(release: &Path, nodes: u8, span: Duration) -> Result<Vec<Row>> {
    let mut say = |line: &str| eprintln!("    {line}");
    let quorum = if nodes == 2 { LabQuorum::NodeAndDisk } else { LabQuorum::Majority };
    let options =
        LabOptions { nodes, quorum, binaries: Some(release.to_owned()), ..LabOptions::default() };
    let mut stage = Stage::new(options, &mut say)?;
    stage.make_empty_cluster()?;
    let leader =
        stage.lab.wait_status("a", "a leader", |s| Some(s.view.as_ref()?.leader.clone()))?;
    let socket = stage.lab.node(&leader).socket();
    all("wolfpack", nodes, |bytes, count| {
        let mut clients: Vec<Ask> = Vec::new();
        for client in 0..count {
            let mut connection = Client::connect(&socket, PATIENCE)?;
            clients.push(Box::new(move |n| {
                let op = TreeOp::SetValue {
                    key: "Bench".into(),
                    name: format!("client{client}"),
                    value: TreeValue::Sz(load::value(client, n, bytes)),
                };
                let transaction = Transaction { preconditions: Vec::new(), ops: vec![op] };
                match connection.request(&Request::TreeApply { transaction })? {
                    Reply::Done { .. } => Ok(()),
                    other => bail!("an update was answered by {other:?}"),
                }
            }));
        }
        load::run(clients, span)
    })
}
