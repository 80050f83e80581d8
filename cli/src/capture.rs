//! Commands that need no service but the cluster driver's words: captured traffic, and the public
//! half of a node's key.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::json;
use wolfpack_netdrv::dissect::Dissector;
use wolfpack_netdrv::pcap::{Pcap, PcapError};
use wolfpack_netdrv::{ClusterKey, KeyError, NodeKey};

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// A key log that is longer is not read: a line for each session makes no such file.
const KEY_LOG_BYTES_MAX: u64 = 256 << 20;

/// What is to be read, and with which keys.
#[derive(clap::Args, Debug)]
pub(crate) struct Dump {
    /// A pcap file, or - for standard input (tcpdump -i any -U -w - udp port 3343)
    file: PathBuf,
    /// The cluster key file: says whether hellos are authentic
    #[arg(long)]
    key: Option<PathBuf>,
    /// The file that security.key_log named while the traffic was captured: opens what is encrypted
    #[arg(long)]
    key_log: Option<PathBuf>,
    /// The cluster's UDP port
    #[arg(long, default_value_t = wolfpack_types::config::CLUSTER_PORT)]
    port: u16,
}

fn unreadable(path: &Path, error: &dyn std::error::Error) -> Failure {
    let mut what = format!("{}: {error}", path.display());
    let mut cause = error.source();
    while let Some(error) = cause {
        what.push_str(&format!(": {error}"));
        cause = error.source();
    }
    Failure::new(Exit::Invalid, what, "")
}

/// Says captured datagrams in words.
pub(crate) fn dump(dump: &Dump, output: &mut Output) -> Result<(), Failure> {
    let mut dissector = Dissector::new();
    if let Some(path) = &dump.key {
        let key = ClusterKey::load(path).map_err(|e: KeyError| unreadable(path, &e))?;
        dissector.set_cluster_key(key);
    }
    if let Some(path) = &dump.key_log {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(KEY_LOG_BYTES_MAX).read_to_string(&mut text))
            .map_err(|e| unreadable(path, &e))?;
        dissector.add_key_log(&text).map_err(|e| unreadable(path, &e))?;
    }
    let input: Box<dyn Read> = if dump.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&dump.file).map_err(|e| unreadable(&dump.file, &e))?;
        Box::new(io::BufReader::new(file))
    };
    let broken = |error: PcapError| unreadable(&dump.file, &error);
    let mut capture = Pcap::open(input).map_err(broken)?;
    let (mut datagrams, mut others) = (0u64, 0u64);
    while let Some(frame) = capture.next_frame().map_err(broken)? {
        let udp = capture.udp(&frame);
        let Some(udp) = udp.filter(|u| u.source.1 == dump.port || u.target.1 == dump.port) else {
            others += 1;
            continue;
        };
        datagrams += 1;
        let words = dissector.describe(udp.payload);
        let (seconds, micros) = (frame.at_ns / 1_000_000_000, frame.at_ns / 1000 % 1_000_000);
        let value = json!({
            "at_ns": frame.at_ns,
            "source": udp.source.0,
            "target": udp.target.0,
            "bytes": udp.payload.len(),
            "words": words,
        });
        let line = format!("{seconds}.{micros:06} {} > {}: {words}", udp.source.0, udp.target.0);
        output.local(&value, &line)?;
    }
    output.progress(&format!("{datagrams} datagrams of the cluster, {others} other frames"));
    Ok(())
}

/// Shows what other nodes are told of this machine's key; makes the key if there is none.
pub(crate) fn node_key(path: &Path, output: &mut Output) -> Result<(), Failure> {
    let key = NodeKey::load_or_create(path).map_err(|e| unreadable(path, &e))?;
    let public = key.public().to_string();
    output.local(&json!({ "public_key": public }), &public)
}
