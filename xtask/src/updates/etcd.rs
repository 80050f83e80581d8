//! etcd, three nodes with its defaults; each client puts a key of its own through the JSON gateway of
//! the leader, over one connection that is kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use wolfpack_lab::clock::wait_for;
use wolfpack_lab::netns::Netns;

use super::load::{self, Ask};
use super::{Row, all};
use crate::net::lab::{NetLab, Program};

const NODES: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

pub(super) fn measure(span: Duration) -> Result<Vec<Row>> {
    let lab = NetLab::new(NODES)?;
    let _programs = start(&lab)?;
    let leader = leader(&lab)?;
    all("etcd", NODES, |bytes, count| {
        let mut clients: Vec<Ask> = Vec::new();
        for client in 0..count {
            let mut gateway = Gateway::connect(&lab.nodes[usize::from(leader) - 1], leader)?;
            let key = base64(format!("client{client}").as_bytes());
            clients.push(Box::new(move |n| {
                let value = base64(load::value(client, n, bytes).as_bytes());
                let answer = gateway
                    .post("/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#))?;
                ensure!(answer.get("header").is_some(), "a put was answered by {answer}");
                Ok(())
            }));
        }
        load::run(clients, span)
    })
}

fn address(n: u8) -> String {
    format!("10.88.0.{n}")
}

fn start(lab: &NetLab) -> Result<Vec<Program>> {
    let peers: Vec<String> =
        (1..=NODES).map(|n| format!("n{n}=http://{}:{PEER_PORT}", address(n))).collect();
    let mut programs = Vec::new();
    for n in 1..=NODES {
        let mut command = lab.nodes[usize::from(n) - 1].command("etcd")?;
        let dir = lab.dir.join(format!("etcd-{n}"));
        let client = format!("http://{}:{CLIENT_PORT}", address(n));
        let peer = format!("http://{}:{PEER_PORT}", address(n));
        command.arg("--name").arg(format!("n{n}")).arg("--data-dir").arg(dir);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"]);
        programs.push(Program::start(&format!("etcd {n}"), command, &lab.dir.join("etcd.log"))?);
    }
    Ok(programs)
}

/// The node that leads.
fn leader(lab: &NetLab) -> Result<u8> {
    wait_for("a leader of etcd", PATIENCE, || {
        for n in 1..=NODES {
            let status = Gateway::connect(&lab.nodes[usize::from(n) - 1], n)
                .and_then(|mut g| g.post("/v3/maintenance/status", "{}"))
                .map_err(|e| format!("{e:#}"))?;
            let me = status.pointer("/header/member_id").and_then(Value::as_str);
            let leader = status.get("leader").and_then(Value::as_str);
            if me.is_some() && me == leader {
                return Ok(n);
            }
        }
        Err("no node says that it leads".to_owned())
    })
}

/// A kept connection to the JSON gateway.
struct Gateway {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Gateway {
    fn connect(node: &Netns, n: u8) -> Result<Self> {
        let host = format!("{}:{CLIENT_PORT}", address(n));
        let to = host.clone();
        // A socket belongs to the namespace in which it was made, whoever uses it.
        let thread = node.thread("connect", move || TcpStream::connect(to))?;
        let stream = thread.join().map_err(|_| anyhow::anyhow!("connecting panicked"))???;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream), host })
    }

    fn post(&mut self, path: &str, body: &str) -> Result<Value> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let header = self.line()?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(n) = header.strip_prefix("content-length:") {
                length = Some(n.trim().parse::<usize>()?);
            }
            chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
        }
        let content = if chunked {
            self.chunks()?
        } else {
            let mut content = vec![0; length.context("an answer without a length")?];
            self.stream.read_exact(&mut content)?;
            content
        };
        if !status.contains(" 200 ") {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&content));
        }
        Ok(serde_json::from_slice(&content)?)
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16)?;
            ensure!(size <= 1 << 20, "a chunk of {size} bytes");
            let from = content.len();
            content.resize(from + size, 0);
            self.stream.read_exact(&mut content[from..])?;
            self.line()?;
            if size == 0 {
                return Ok(content);
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
        Ok(line.trim_end().to_owned())
    }
}

/// Base64, as the gateway takes bytes (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            if i <= chunk.len() {
                let digit = (word >> (18 - 6 * i) & 63) as usize;
                out.push(char::from(DIGITS[digit]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
