//! The witness on a file share: one file per (node, incarnation parity), replaced as a whole.
//!
//! ```text
//!  /mnt/witness/wolfpack-<cluster>/superblock   as on a disk, written by `cluster create`
//!                                  n01-0.slot   one block; empty: never written
//!                                  n01-0.body-0 of a slot that does not fit into its block
//! ```
//! A file is written beside (`.new`), made durable, and renamed over the old one: a reader sees the
//! one or the other. All slot files are made at once by `prepare`, so that a file that is missing
//! later is damage (a promise would be forgotten), and so is one that is all zeros. A share has no
//! logs: views only (P4).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use wolfpack_types::ClusterId;
use wolfpack_types::disk::{DiskOp, DiskOutcome};

use super::mount;
use super::worker::{FileDevice, Files, ILLEGAL};
use crate::device::{Capacity, Device, OpenError};
use crate::format::{Overwrite, PrepareError, Prepared};
use crate::layout::{Layout, MAX_NODES, Piece, SuperblockError};

/// Bytes of a block, and so of a slot's file.
const BLOCK: u32 = 4096;
const SUPERBLOCK: &str = "superblock";
/// No file of a witness is longer than a body.
const FILE_BYTES_MAX: u64 = 1 << 20;

struct Share {
    directory: PathBuf,
    layout: Layout,
}

fn directory_of(path: &Path, cluster: ClusterId) -> PathBuf {
    path.join(format!("wolfpack-{cluster}"))
}

fn why(name: &str, why: impl Into<String>) -> OpenError {
    OpenError::Files { place: name.to_owned(), why: why.into() }
}

/// Checks directory and mount.
fn examine(path: &Path) -> Result<(), String> {
    let canonical = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
    if !canonical.is_dir() {
        return Err(format!("{} is not a directory", path.display()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    mount::check(&mounts, &canonical)
}

/// Opens the witness of `cluster` on a share.
pub(super) fn open(name: &str, path: &Path, cluster: ClusterId) -> Result<Device, OpenError> {
    examine(path).map_err(|e| why(name, e))?;
    let directory = directory_of(path, cluster);
    let block = read_file(&directory.join(SUPERBLOCK)).map_err(|e| {
        let text = match e.kind() {
            ErrorKind::NotFound => format!(
                "{} has no witness of this cluster: is the share mounted there? (it is made by \
                 'cluster create' or 'quorum set')",
                path.display()
            ),
            _ => format!("{}: {e}", directory.join(SUPERBLOCK).display()),
        };
        why(name, text)
    })?;
    let layout = Layout::parse(&block).map_err(|e| why(name, superblock_words(&e)))?;
    let capacity = Capacity { blocks: layout.blocks(), block_size: BLOCK };
    let device = FileDevice::start(name, capacity, "file share", Share { directory, layout })?;
    Ok(Box::new(device))
}

fn superblock_words(e: &SuperblockError) -> String {
    format!("its superblock cannot be used: {e}")
}

/// Makes the directory of the cluster with an empty slot for everybody.
pub(super) fn prepare(
    name: &str,
    path: &Path,
    (cluster, register): (ClusterId, ClusterId),
    overwrite: Overwrite,
) -> Result<Prepared, PrepareError> {
    let failed = |why: String| PrepareError::Share { place: name.to_owned(), why };
    examine(path).map_err(failed)?;
    let directory = directory_of(path, cluster);
    let layout = Layout::new(register, BLOCK, MAX_NODES);
    let superblock = directory.join(SUPERBLOCK);
    match read_file(&superblock) {
        Ok(block) => match Layout::parse(&block) {
            _ if overwrite == Overwrite::Yes => {}
            Ok(found) if found.cluster == register => return Ok(Prepared::Already),
            Ok(_) => {
                return Err(failed(format!(
                    "{} holds a former witness of this cluster. If no node uses it any more, say \
                     so with --overwrite",
                    directory.display()
                )));
            }
            Err(e) => return Err(failed(format!("{}: {e}", superblock.display()))),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(failed(format!("{}: {e}", superblock.display()))),
    }
    fill(&directory, &layout).map_err(|e| failed(format!("{}: {e}", directory.display())))?;
    Ok(Prepared::Written)
}

/// The superblock goes first and comes last: what is prepared by half is no witness.
fn fill(directory: &Path, layout: &Layout) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    match fs::remove_file(directory.join(SUPERBLOCK)) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    for at in layout.all_stations() {
        replace(directory, &file_name(Piece::Slot(at)), &[])?;
    }
    replace(directory, SUPERBLOCK, &layout.superblock())?;
    if let Some(parent) = directory.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn file_name(piece: Piece) -> String {
    match piece {
        Piece::Superblock => SUPERBLOCK.to_owned(),
        Piece::Slot(at) => format!("n{:02}-{}.slot", at.node.get(), at.parity),
        Piece::Body(at, which) => format!("n{:02}-{}.body-{which}", at.node.get(), at.parity),
    }
}

/// A whole file, bounded.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut data)?;
    if data.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "longer than anything that we write"));
    }
    Ok(data)
}

/// Puts a file in the place of the former one, durably.
fn replace(directory: &Path, name: &str, data: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
    file.write_all(data)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

impl Share {
    fn write(&self, lba: u64, data: &[u8]) -> io::Result<DiskOutcome> {
        match self.layout.piece_at(lba) {
            Some(piece @ (Piece::Slot(_) | Piece::Body(..))) => {
                replace(&self.directory, &file_name(piece), data)?;
                Ok(DiskOutcome::Good(vec![]))
            }
            // The superblock is not written while the cluster lives, and there are no logs.
            Some(Piece::Superblock) | None => Ok(ILLEGAL),
        }
    }

    fn read(&self, lba: u64, blocks: u32) -> io::Result<DiskOutcome> {
        let bytes = blocks as usize * BLOCK as usize;
        let mut out = Vec::with_capacity(bytes);
        match self.layout.piece_at(lba) {
            Some(Piece::Slot(_)) => {
                for lba in lba..lba + u64::from(blocks) {
                    let Some(piece @ Piece::Slot(_)) = self.layout.piece_at(lba) else {
                        return Ok(ILLEGAL);
                    };
                    out.extend(self.slot(&file_name(piece))?);
                }
            }
            Some(piece) => {
                out = self.named(&file_name(piece))?;
                out.resize(bytes, 0);
            }
            None => return Ok(ILLEGAL),
        }
        Ok(DiskOutcome::Good(out))
    }

    /// A slot's file as a block: zeros if it was never written; whatever is no whole block, or is
    /// zeros where something was written, as something that no checksum takes for good.
    fn slot(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut data = self.named(name)?;
        let torn = !data.is_empty() && (data.len() != BLOCK as usize || is_zero(&data));
        data.resize(BLOCK as usize, 0);
        if torn && is_zero(&data) {
            data.fill(0xff);
        }
        Ok(data)
    }

    fn named(&self, name: &str) -> io::Result<Vec<u8>> {
        read_file(&self.directory.join(name)).map_err(|e| {
            let hint = match e.kind() {
                ErrorKind::NotFound => ": it was removed, or the share is not mounted",
                _ => "",
            };
            io::Error::new(e.kind(), format!("{name}: {e}{hint}"))
        })
    }
}

fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|&b| b == 0)
}

impl Files for Share {
    fn carry_out(&mut self, op: &DiskOp) -> DiskOutcome {
        let end = match op {
            DiskOp::Read { lba, blocks } => self.read(*lba, *blocks),
            DiskOp::Write { lba, data } => self.write(*lba, data),
            DiskOp::Test => self.named(SUPERBLOCK).map(|_| DiskOutcome::Good(vec![])),
            DiskOp::Reserve | DiskOp::Release | DiskOp::LunReset => Ok(ILLEGAL),
        };
        // An error of a write leaves open whether it was carried out.
        end.unwrap_or_else(|e| DiskOutcome::Transport(e.to_string()))
    }
}

#[cfg(test)]
mod tests;
