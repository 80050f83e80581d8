//! Serves a held data disk to the node's applications as a network block device (NBD, fixed
//! newstyle) on a Unix socket.
//!
//! A session of userspace iSCSI gives no block device of the kernel, so this is the counterpart of
//! the gate: what applications reach is not the disk but its owner, which answers EIO from the
//! moment on at which its authority ends, and closes. Authority is asked right before each write
//! command is sent. Every write is durable (FUA) before it is answered, so FLUSH has nothing to do.
//! `nbd-client -unix SOCKET /dev/nbd0` works too.
//!
//! One thread accepts, one per connection serves, request after request.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::data::{Authority, DiskHandle, IoError, REQUEST_MAX};
use crate::nbd;

/// Connections at a time: the applications of one group.
const CONNECTIONS_MAX: usize = 16;
/// Options of one negotiation.
const OPTIONS_MAX: usize = 32;

/// The export could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the disk at {path}")]
pub struct ExportError {
    pub path: String,
    #[source]
    pub source: io::Error,
}

/// A running export. Dropping it closes every connection and removes the socket.
#[derive(Debug)]
pub struct Export {
    path: PathBuf,
    /// Dropped, it wakes the acceptor.
    wake: Option<UnixStream>,
    acceptor: Option<JoinHandle<()>>,
}

/// What a connection's thread needs.
#[derive(Clone)]
struct Service {
    disk: DiskHandle,
    authority: Authority,
    stopping: Arc<AtomicBool>,
}

impl Export {
    /// Serves `disk` at the Unix socket `path`, for its owner only (mode 0600). A socket left there
    /// by a former process is replaced; anything else at `path` is an error.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(path: &Path, disk: DiskHandle, authority: Authority) -> Result<Self, ExportError> {
        let failed = |source| ExportError { path: path.display().to_string(), source };
        let service = Service { disk, authority, stopping: Arc::default() };
        let listener = listen(path).map_err(failed)?;
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        let thread = std::thread::Builder::new().name("disk-export".into());
        let acceptor =
            thread.spawn(move || accept_all(&listener, &woken, &service)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), wake: Some(wake), acceptor: Some(acceptor) })
    }

    /// Closes all connections and the socket; when it returns no write is sent any more.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to remove.
        let _ = fs::remove_file(&self.path);
        self.wake = None;
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            tracing::error!("the acceptor of a disk export panicked");
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no socket"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connections with their threads.
type Connections = Vec<(UnixStream, JoinHandle<()>)>;

fn accept_all(listener: &UnixListener, woken: &UnixStream, service: &Service) {
    let connections: Mutex<Connections> = Mutex::default();
    loop {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => {
                tracing::error!(error = %e, "disk export: poll");
                break;
            }
        }
        if fds[1].revents().is_some_and(|r| !r.is_empty()) {
            break;
        }
        if let Ok((stream, _)) = listener.accept() {
            let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.retain(|(_, thread)| !thread.is_finished());
            if connections.len() < CONNECTIONS_MAX {
                match connection(stream, service.clone()) {
                    Ok(started) => connections.push(started),
                    Err(e) => tracing::warn!(error = %e, "disk export: connection"),
                }
            }
        }
    }
    service.stopping.store(true, Ordering::Release);
    let connections = connections.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (stream, _) in &connections {
        // A peer that has closed is what is wanted.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    for (_, thread) in connections {
        if thread.join().is_err() {
            tracing::error!("a connection of a disk export panicked");
        }
    }
}

fn connection(stream: UnixStream, service: Service) -> io::Result<(UnixStream, JoinHandle<()>)> {
    stream.set_nonblocking(false)?;
    let kept = stream.try_clone()?;
    let thread = std::thread::Builder::new().name("disk-client".into());
    let thread = thread.spawn(move || {
        if let Err(e) = serve(&stream, &service) {
            tracing::debug!(error = %e, "disk export: a connection ended");
        }
        // The acceptor keeps a copy: without this the peer would wait for ever.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    })?;
    Ok((kept, thread))
}

fn serve(stream: &UnixStream, service: &Service) -> io::Result<()> {
    let (mut from, mut to) = (BufReader::new(stream), stream);
    if negotiate(&mut from, &mut to, service.disk.size())? {
        transmit(&mut from, &mut to, service)?;
    }
    Ok(())
}

/// Options until the client goes on to transmission; false if it gives up.
fn negotiate(from: &mut impl Read, to: &mut impl Write, size: u64) -> io::Result<bool> {
    let mut hello = Vec::with_capacity(18);
    hello.extend_from_slice(&nbd::MAGIC.to_be_bytes());
    hello.extend_from_slice(&nbd::OPTION_MAGIC.to_be_bytes());
    let flags = nbd::FLAG_FIXED_NEWSTYLE | nbd::FLAG_NO_ZEROES;
    hello.extend_from_slice(&flags.to_be_bytes());
    to.write_all(&hello)?;
    let client = nbd::u32_of(from)?;
    if client & !u32::from(flags) != 0 {
        return Err(nbd::nonsense("unknown flags of the client"));
    }
    for _ in 0..OPTIONS_MAX {
        if nbd::u64_of(from)? != nbd::OPTION_MAGIC {
            return Err(nbd::nonsense("no option"));
        }
        let (option, length) = (nbd::u32_of(from)?, nbd::u32_of(from)?);
        if length > nbd::OPTION_MAX {
            return Err(nbd::nonsense("an option too long"));
        }
        let data = nbd::bytes_of(from, length)?;
        match option {
            nbd::OPT_EXPORT_NAME => {
                // The old form: any name is this disk.
                let mut answer = size.to_be_bytes().to_vec();
                answer.extend_from_slice(&nbd::TRANSMISSION_FLAGS.to_be_bytes());
                if client & u32::from(nbd::FLAG_NO_ZEROES) == 0 {
                    answer.extend_from_slice(&[0; 124]);
                }
                to.write_all(&answer)?;
                return Ok(true);
            }
            nbd::OPT_ABORT => {
                reply(to, option, nbd::REP_ACK, &[])?;
                return Ok(false);
            }
            nbd::OPT_LIST if data.is_empty() => {
                // One export, with the empty name.
                reply(to, option, nbd::REP_SERVER, &[0; 4])?;
                reply(to, option, nbd::REP_ACK, &[])?;
            }
            nbd::OPT_INFO | nbd::OPT_GO if info_is_whole(&data) => {
                inform(to, option, size)?;
                if option == nbd::OPT_GO {
                    return Ok(true);
                }
            }
            nbd::OPT_LIST | nbd::OPT_INFO | nbd::OPT_GO => {
                reply(to, option, nbd::REP_ERR_INVALID, &[])?;
            }
            _ => reply(to, option, nbd::REP_ERR_UNSUP, &[])?,
        }
    }
    Err(nbd::nonsense("options without end"))
}

/// Name and list of wanted information, each with its length, and nothing else.
fn info_is_whole(data: &[u8]) -> bool {
    let name = data.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b) as usize);
    let rest = data.get(4..).and_then(|rest| rest.get(name..));
    rest.and_then(|rest| rest.split_first_chunk::<2>())
        .is_some_and(|(count, list)| list.len() == usize::from(u16::from_be_bytes(*count)) * 2)
}

fn inform(to: &mut impl Write, option: u32, size: u64) -> io::Result<()> {
    let mut export = nbd::INFO_EXPORT.to_be_bytes().to_vec();
    export.extend_from_slice(&size.to_be_bytes());
    export.extend_from_slice(&nbd::TRANSMISSION_FLAGS.to_be_bytes());
    reply(to, option, nbd::REP_INFO, &export)?;
    // Any alignment is taken; whole pages are quickest.
    let mut sizes = nbd::INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    for n in [1, 4096, REQUEST_MAX] {
        sizes.extend_from_slice(&n.to_be_bytes());
    }
    reply(to, option, nbd::REP_INFO, &sizes)?;
    reply(to, option, nbd::REP_ACK, &[])
}

fn reply(to: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut out = nbd::REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(data);
    to.write_all(&out)
}

fn transmit(from: &mut impl Read, to: &mut impl Write, service: &Service) -> io::Result<()> {
    loop {
        if nbd::u32_of(from)? != nbd::REQUEST_MAGIC {
            return Err(nbd::nonsense("no request"));
        }
        let _flags = nbd::u16_of(from)?;
        let kind = nbd::u16_of(from)?;
        let (cookie, offset, length) = (nbd::u64_of(from)?, nbd::u64_of(from)?, nbd::u32_of(from)?);
        // The data of a write that is too long would have to be read away: close instead.
        if kind == nbd::CMD_WRITE && length > REQUEST_MAX {
            return Err(nbd::nonsense("a write too long"));
        }
        let data = if kind == nbd::CMD_WRITE { nbd::bytes_of(from, length)? } else { Vec::new() };
        if service.stopping.load(Ordering::Acquire) || kind == nbd::CMD_DISC {
            return Ok(());
        }
        let result = match kind {
            nbd::CMD_READ => service.disk.read(offset, length).map_err(|e| error(&e, false)),
            nbd::CMD_WRITE => service
                .disk
                .write_while(offset, data, &service.authority)
                .map(|()| Vec::new())
                .map_err(|e| error(&e, true)),
            nbd::CMD_FLUSH if service.disk.still_held() => Ok(Vec::new()),
            nbd::CMD_FLUSH => Err(nbd::EIO),
            _ => Err(nbd::EINVAL),
        };
        let mut out = nbd::SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        out.extend_from_slice(&result.as_ref().err().copied().unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend(result.unwrap_or_default());
        to.write_all(&out)?;
    }
}

fn error(e: &IoError, write: bool) -> u32 {
    match e {
        IoError::Range(..) if write => nbd::ENOSPC,
        IoError::Range(..) => nbd::EINVAL,
        IoError::NotHeld | IoError::NoAuthority | IoError::Failed { .. } => nbd::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_an_option_are_checked() {
        assert!(info_is_whole(&[0, 0, 0, 0, 0, 0]));
        assert!(info_is_whole(&[0, 0, 0, 1, b'x', 0, 1, 0, 3]));
        for bad in [&[][..], &[0, 0, 0], &[0, 0, 0, 9, 0, 0], &[0, 0, 0, 0, 0, 1], &[255; 8]] {
            assert!(!info_is_whole(bad), "{bad:?}");
        }
    }

    #[test]
    fn nonsense_ends_the_negotiation() {
        for bytes in [&[0u8; 64][..], &[255; 64], b"IHAVEOPT"] {
            assert!(negotiate(&mut &*bytes, &mut Vec::new(), 1).is_err());
        }
        let mut endless = vec![0, 0, 0, 3];
        for _ in 0..100 {
            endless.extend_from_slice(&nbd::OPTION_MAGIC.to_be_bytes());
            endless.extend_from_slice(&[0, 0, 0, 99, 0, 0, 0, 0]);
        }
        let err = negotiate(&mut endless.as_slice(), &mut Vec::new(), 1).unwrap_err();
        assert!(err.to_string().contains("without end"), "{err}");
    }
}
