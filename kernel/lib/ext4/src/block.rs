//! Metadata blocks in memory, and the two traits through which everything here reaches them.
//!
//! A [`Block`] is immutable while it is shared: who changes it works on a copy of its own unless nobody else holds
//! it. So a journal that holds on to the blocks of a transaction has frozen them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::error::{Error, Result};

/// The bytes of one metadata block.
#[derive(Debug)]
pub struct Block {
    bytes: Box<[u8]>,
    /// Its checksum and structure were found right once; changes keep them right.
    is_checked: AtomicBool,
}

/// A shared block.
pub type BlockRef = Arc<Block>;

impl Block {
    /// A block of `len` zero bytes. `NoMemory`.
    pub fn zeroed(len: usize) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
        bytes.resize(len, 0);
        Ok(Self { bytes: bytes.into_boxed_slice(), is_checked: AtomicBool::new(false) })
    }

    /// A block with these bytes.
    pub fn new(bytes: Box<[u8]>) -> Self {
        Self { bytes, is_checked: AtomicBool::new(false) }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Runs `check` unless it succeeded before.
    pub(crate) fn check(&self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        if !self.is_checked.load(Relaxed) {
            check(&self.bytes)?;
            self.is_checked.store(true, Relaxed);
        }
        Ok(())
    }

    /// Says that the block needs no check: it was made here.
    pub fn set_checked(&self) {
        self.is_checked.store(true, Relaxed);
    }

    /// Makes `block` the only holder of its bytes, by a copy if need be. `NoMemory`.
    pub fn make_unique(block: &mut BlockRef) -> Result<&mut [u8]> {
        if Arc::get_mut(block).is_none() {
            let mut copy = Self::zeroed(block.bytes.len())?;
            copy.bytes.copy_from_slice(&block.bytes);
            copy.is_checked = AtomicBool::new(block.is_checked.load(Relaxed));
            *block = Arc::new(copy);
        }
        Arc::get_mut(block).map(Self::bytes_mut).ok_or(Error::NoMemory)
    }
}

/// Reads metadata blocks.
pub trait Blocks {
    /// Block `nr`. The caller has checked that it is in the file system.
    fn read(&self, nr: u64) -> Result<BlockRef>;
}

/// Changes metadata blocks as parts of one transaction.
pub trait Edit: Blocks {
    /// Block `nr`, to be changed; `seal` says how its checksum is made when the transaction ends.
    fn write(&mut self, nr: u64, seal: Seal) -> Result<&mut [u8]>;

    /// Block `nr`, just allocated, full of zeroes.
    fn create(&mut self, nr: u64, seal: Seal) -> Result<&mut [u8]>;

    /// `count` blocks from `start` on are free: they must not be used again before the transaction is on disk, and
    /// what is in the journal about them must not be replayed if they held metadata.
    fn freed(&mut self, start: u64, count: u64, what: Freed);

    /// The first block of `start..end` that was freed but must not be used again yet.
    fn first_held(&self, start: u64, end: u64) -> Option<(u64, u64)>;

    /// Seconds since 1970.
    fn now(&self) -> u64;
}

/// What blocks held that are freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// Contents of files.
    Data,
    /// Metadata, which may be in the journal.
    Metadata,
}

/// How a block's checksum is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// It has none, or they were made with each change (inodes).
    None,
    /// The block with the superblock.
    Super,
    /// Descriptors of groups; the number of the first.
    Groups(u32),
    /// The block bitmap of a group.
    BlockBitmap(u32),
    /// The inode bitmap of a group.
    InodeBitmap(u32),
    /// A node of an extent tree; the inode's seed.
    Extents(u32),
    /// A block of a directory: with entries, or a node of its index. The inode's seed.
    Dir(u32),
    /// A block of extended attributes; its number.
    Xattr(u64),
    /// A block of the orphan file; the inode's seed and the block's number.
    Orphans(u32, u64),
}
