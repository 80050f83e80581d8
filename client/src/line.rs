//! Lines over a stream, each bounded in length and in the time it takes.
//!
//! A socket's own timeout bounds one `read`, so that a peer which drips single bytes could hold a
//! caller for ever; here the whole line has one deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use wolfpack_types::api::LINE_BYTES_MAX;

const CHUNK: usize = 8192;

/// A stream cut into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: UnixStream,
    /// None: wait for ever.
    timeout: Option<Duration>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(stream: UnixStream, timeout: Duration) -> io::Result<Self> {
        // Zero would mean "for ever" to the kernel.
        let timeout = timeout.max(Duration::from_millis(1));
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, timeout: Some(timeout), buffer: Vec::new(), searched: 0 })
    }

    pub(crate) fn wait_for_ever(&mut self) -> io::Result<()> {
        self.timeout = None;
        self.stream.set_read_timeout(None)
    }

    pub(crate) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if line.len() > LINE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the request has {} bytes, {LINE_BYTES_MAX} are allowed", line.len()),
            ));
        }
        self.stream.write_all(line)
    }

    /// The next line without its end, or None when the peer has closed.
    pub(crate) fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let deadline = self.timeout.map(|t| Instant::now() + t);
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
                let end = self.searched + at;
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless line"));
            }
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.stream.set_read_timeout(Some(left))?;
            }
            let mut chunk = [0; CHUNK];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(io::Error::new(io::ErrorKind::InvalidData, "half a line")),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
