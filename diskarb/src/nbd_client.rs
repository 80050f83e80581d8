//! A small blocking client of [`crate::export`], for applications and tests.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::data::REQUEST_MAX;
use crate::nbd;

/// A connection to an exported disk.
#[derive(Debug)]
pub struct NbdClient {
    stream: UnixStream,
    size: u64,
    cookie: u64,
}

impl NbdClient {
    /// Connects to the socket of an export.
    ///
    /// # Errors
    /// Nobody serves there, or it speaks something else.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        if nbd::u64_of(&mut stream)? != nbd::MAGIC || nbd::u64_of(&mut stream)? != nbd::OPTION_MAGIC
        {
            return Err(nbd::nonsense("no greeting"));
        }
        let flags = nbd::u16_of(&mut stream)?;
        if flags & nbd::FLAG_FIXED_NEWSTYLE == 0 {
            return Err(nbd::nonsense("the server is too old"));
        }
        let mut hello = u32::from(flags & (nbd::FLAG_FIXED_NEWSTYLE | nbd::FLAG_NO_ZEROES))
            .to_be_bytes()
            .to_vec();
        hello.extend_from_slice(&nbd::OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&nbd::OPT_GO.to_be_bytes());
        // Six bytes: the empty name, and no particular information.
        hello.extend_from_slice(&[0, 0, 0, 6, 0, 0, 0, 0, 0, 0]);
        stream.write_all(&hello)?;
        let size = Self::await_go(&mut stream)?;
        Ok(Self { stream, size, cookie: 0 })
    }

    fn await_go(stream: &mut UnixStream) -> io::Result<u64> {
        let mut size = None;
        loop {
            let (magic, option) = (nbd::u64_of(stream)?, nbd::u32_of(stream)?);
            let (kind, length) = (nbd::u32_of(stream)?, nbd::u32_of(stream)?);
            if magic != nbd::REPLY_MAGIC || option != nbd::OPT_GO || length > nbd::OPTION_MAX {
                return Err(nbd::nonsense("no reply to an option"));
            }
            let data = nbd::bytes_of(stream, length)?;
            match kind {
                nbd::REP_INFO => {
                    if let Some((head, rest)) = data.split_first_chunk::<2>()
                        && u16::from_be_bytes(*head) == nbd::INFO_EXPORT
                    {
                        size = rest.first_chunk::<8>().map(|b| u64::from_be_bytes(*b));
                    }
                }
                nbd::REP_ACK => return size.ok_or_else(|| nbd::nonsense("no size")),
                _ => return Err(io::Error::other("the export refused")),
            }
        }
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Fills `data` from `offset`.
    ///
    /// # Errors
    /// The export refused or is gone.
    pub fn read_at(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for part in data.chunks_mut(REQUEST_MAX as usize) {
            self.request(nbd::CMD_READ, at, part.len(), &[])?;
            self.stream.read_exact(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes `data` at `offset`; durable when it returns.
    ///
    /// # Errors
    /// The export refused (EIO once authority has ended) or is gone.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut at = offset;
        for part in data.chunks(REQUEST_MAX as usize) {
            self.request(nbd::CMD_WRITE, at, part.len(), part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Makes earlier writes durable (they are already; kept for the protocol).
    ///
    /// # Errors
    /// As for writing.
    pub fn flush(&mut self) -> io::Result<()> {
        self.request(nbd::CMD_FLUSH, 0, 0, &[])
    }

    /// Sends a request and reads the head of its reply.
    fn request(&mut self, kind: u16, offset: u64, length: usize, data: &[u8]) -> io::Result<()> {
        self.cookie += 1;
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let mut out = nbd::REQUEST_MAGIC.to_be_bytes().to_vec();
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(data);
        self.stream.write_all(&out)?;
        let (magic, error) = (nbd::u32_of(&mut self.stream)?, nbd::u32_of(&mut self.stream)?);
        if magic != nbd::SIMPLE_REPLY_MAGIC || nbd::u64_of(&mut self.stream)? != self.cookie {
            return Err(nbd::nonsense("no reply to the request"));
        }
        match i32::try_from(error) {
            Ok(0) => Ok(()),
            Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
            Err(_) => Err(nbd::nonsense("an impossible error number")),
        }
    }
}
