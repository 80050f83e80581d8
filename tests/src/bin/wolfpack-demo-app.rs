//! The demo's application: a small HTTP server that says which node it runs on, and that appends a
//! record to the group's data disk every ten milliseconds. It knows nothing of the cluster but the
//! environment that its resource gives it.
//!
//! With a disk it serves only once the disk could be read and written: a group that is "back" has
//! its data back. When the disk fails later (the resource monitor, which serves it, was restarted)
//! it goes on serving and connects again.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wolfpack_diskarb::nbd_client::NbdClient;
use wolfpack_lab::clock::now_us;
use wolfpack_lab::record::{RECORD_BYTES, Record, find_newest};

const RECORD_EVERY: Duration = Duration::from_millis(10);
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// How long the disk may take to be there at the start.
const DISK_PATIENCE: Duration = Duration::from_secs(20);
/// A client that says nothing for this long is left.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
const SERVERS: u32 = 4;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wolfpack-demo-app: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    let node = std::env::var("WOLFPACK_NODE").unwrap_or_else(|_| "unknown".into());
    let written = Arc::new(AtomicU64::new(0));
    if let Some(resource) = &options.disk {
        let journal = Journal::open(disk_path(resource)?, node.clone())?;
        let written = Arc::clone(&written);
        std::thread::spawn(move || journal.write_for_ever(&written));
    }
    serve(options.port, &node, &written)
}

struct Options {
    port: u16,
    disk: Option<String>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { port: 8080, disk: None };
        while let Some(arg) = args.next() {
            let value = args.next();
            match (arg.as_str(), value) {
                ("--port", Some(v)) => {
                    options.port = v.parse().map_err(|_| format!("--port: '{v}' is no port"))?;
                }
                ("--disk", Some(v)) => options.disk = Some(v),
                _ => return Err("usage: wolfpack-demo-app [--port N] [--disk RESOURCE]".into()),
            }
        }
        Ok(options)
    }
}

/// Where the resource of this name serves its disk, as the cluster tells its applications.
fn disk_path(resource: &str) -> Result<PathBuf, String> {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let variable: String = "WOLFPACK_DISK_".chars().chain(resource.chars().map(upper)).collect();
    std::env::var_os(&variable)
        .map(PathBuf::from)
        .ok_or_else(|| format!("the environment has no {variable}: is '{resource}' in my group?"))
}

/// The writer of records.
struct Journal {
    path: PathBuf,
    disk: NbdClient,
    next: Record,
}

impl Journal {
    fn open(path: PathBuf, node: String) -> Result<Self, String> {
        let end = Instant::now() + DISK_PATIENCE;
        let (disk, newest) = loop {
            match connect(&path) {
                Ok(found) => break found,
                Err(e) if Instant::now() > end => {
                    return Err(format!("the data disk at {} is not there: {e}", path.display()));
                }
                Err(_) => std::thread::sleep(RETRY_EVERY),
            }
        };
        // Unique for each start on this machine, and the pid makes it so over machines of a lab.
        let tenure = now_us() << 20 | u64::from(std::process::id() & 0xF_FFFF);
        let counter = newest.map_or(0, |r| r.counter + 1);
        let mut journal = Self { path, disk, next: Record { tenure, counter, time_us: 0, node } };
        journal.append().map_err(|e| format!("the data disk cannot be written: {e}"))?;
        Ok(journal)
    }

    /// Writes the next record. One whose write failed, though it may have reached the disk, is
    /// written again as it was, its time included.
    fn append(&mut self) -> io::Result<()> {
        if self.next.time_us == 0 {
            self.next.time_us = now_us();
        }
        self.disk.write_at(Record::offset(self.next.counter), &self.next.encode())?;
        self.next.counter += 1;
        self.next.time_us = 0;
        Ok(())
    }

    fn write_for_ever(mut self, written: &AtomicU64) {
        loop {
            match self.append() {
                Ok(()) => {
                    written.store(self.next.counter, Ordering::Relaxed);
                    std::thread::sleep(RECORD_EVERY);
                }
                Err(e) => {
                    eprintln!("wolfpack-demo-app: the data disk failed: {e}; connecting again");
                    self.connect_again();
                }
            }
        }
    }

    /// Until the disk is there again. The record whose write failed is written again as it was:
    /// nobody else can have written it, or this would not be the owner.
    fn connect_again(&mut self) {
        loop {
            std::thread::sleep(RETRY_EVERY);
            if let Ok(disk) = NbdClient::connect(&self.path) {
                self.disk = disk;
                return;
            }
        }
    }
}

fn connect(path: &std::path::Path) -> io::Result<(NbdClient, Option<Record>)> {
    let mut disk = NbdClient::connect(path)?;
    let newest = find_newest(|offset| {
        let mut block = [0; RECORD_BYTES];
        disk.read_at(offset, &mut block)?;
        Ok(block)
    })?;
    Ok((disk, newest))
}

fn serve(port: u16, node: &str, written: &Arc<AtomicU64>) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .map_err(|e| format!("port {port} cannot be served: {e}"))?;
    let listener = Arc::new(listener);
    let served = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..SERVERS)
        .map(|_| {
            let (listener, served) = (Arc::clone(&listener), Arc::clone(&served));
            let (node, written) = (node.to_owned(), Arc::clone(written));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let n = served.fetch_add(1, Ordering::Relaxed) + 1;
                    let records = written.load(Ordering::Relaxed);
                    // A client that went away is no business of the others.
                    let _ = answer(stream, &node, n, records);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a server thread panicked".to_owned())?;
    }
    Ok(())
}

fn answer(mut stream: TcpStream, node: &str, number: u64, records: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    let mut request = [0; 2048];
    let mut len = 0;
    while !request[..len].windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut request[len..])? {
            0 => return Ok(()),
            n => len += n,
        }
    }
    let body = format!("node={node} answer={number} records={records}\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())
}
