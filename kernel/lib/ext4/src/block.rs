//! Metadata blocks in memory, and the two traits through which everything here reaches them.
//!
//! A [`Block`] is immutable while it is shared: who changes it works on a copy of its own unless nobody else holds
//! it. So a journal that holds on to the blocks of a transaction has frozen them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};

/// The bytes of one metadata block.
#[derive(Debug)]
pub struct Block {
    bytes: Box<[u8]>,
    /// Its checksum and structure were found right once; changes keep them right.
    is_checked: AtomicBool,
    /// Inodes of it whose checksums were found right once, or are made when the transaction ends; bit 0 is the first.
    inodes: AtomicU64,
}

/// A shared block.
pub type BlockRef = Arc<Block>;

impl Block {
    /// A block of `len` zero bytes. `NoMemory`.
    pub fn zeroed(len: usize) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
        bytes.resize(len, 0);
        Ok(Self::new(bytes.into_boxed_slice()))
    }

    /// A block with these bytes.
    pub fn new(bytes: Box<[u8]>) -> Self {
        Self { bytes, is_checked: AtomicBool::new(false), inodes: AtomicU64::new(0) }
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

    /// Whether the inodes of `mask` need no check.
    pub(crate) fn has_checked_inodes(&self, mask: u64) -> bool {
        mask != 0 && self.inodes.load(Relaxed) & mask == mask
    }

    /// Says that the inodes of `mask` need no check.
    pub(crate) fn note_checked_inodes(&self, mask: u64) {
        self.inodes.fetch_or(mask, Relaxed);
    }

    /// Makes `block` the only holder of its bytes, by a copy if need be. `NoMemory`.
    pub fn make_unique(block: &mut BlockRef) -> Result<&mut Self> {
        if Arc::get_mut(block).is_none() {
            let mut copy = Self::zeroed(block.bytes.len())?;
            copy.bytes.copy_from_slice(&block.bytes);
            copy.is_checked = AtomicBool::new(block.is_checked.load(Relaxed));
            copy.inodes = AtomicU64::new(block.inodes.load(Relaxed));
            *block = Arc::new(copy);
        }
        Arc::get_mut(block).ok_or(Error::NoMemory)
    }
}

/// Reads metadata blocks.
pub trait Blocks {
    /// Block `nr`. The caller has checked that it is in the file system.
    fn read(&self, nr: u64) -> Result<BlockRef>;
}

/// Changes metadata blocks as parts of one transaction.
pub trait Edit: Blocks {
    /// Block `nr`, to be changed; `seal` says how its checksum is made when the transaction ends. When it was changed
    /// in this transaction before, both seals count ([`Seal::and`]).
    fn write_block(&mut self, nr: u64, seal: Seal) -> Result<&mut Block>;

    /// The bytes of block `nr`, as [`Edit::write_block`].
    fn write(&mut self, nr: u64, seal: Seal) -> Result<&mut [u8]> {
        self.write_block(nr, seal).map(Block::bytes_mut)
    }

    /// Block `nr`, just allocated, full of zeroes.
    fn create(&mut self, nr: u64, seal: Seal) -> Result<&mut [u8]>;

    /// Whether block `nr` is in memory.
    fn is_at_hand(&self, nr: u64) -> bool;

    /// `count` blocks from `start` on are free: they must not be used again before the transaction is on disk, and
    /// what is in the journal about them must not be replayed if they held metadata.
    fn freed(&mut self, start: u64, count: u64, what: Freed);

    /// The first block of `start..end` that was freed but must not be used again yet.
    fn first_held(&self, start: u64, end: u64) -> Option<(u64, u64)>;

    /// Blocks that are promised to others, of those that are free.
    fn promised(&self) -> u64;

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
    /// It has none, or it was made with the change.
    None,
    /// A block of an inode table: its first inode, and which of them changed (bit 0 is the first).
    Inodes(u32, u64),
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

impl Seal {
    /// What is to be made when `later` is asked for after this, in one transaction.
    pub fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::Inodes(_, before), Self::Inodes(first, mask)) => Self::Inodes(first, before | mask),
            // Records whose checksum was made at once, beside others.
            (Self::Inodes(..), Self::None) => self,
            _ => later,
        }
    }
}
