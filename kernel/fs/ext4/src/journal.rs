//! Commits and checkpoints.
//!
//! ```text
//! commit      close the gate, wait for handles           their data is on the device by then (data=ordered)
//!             seal and freeze the running blocks, open the gate
//!             write revokes, descriptors, data to the log; flush; commit block with FUA
//!             freed blocks may be used again; older copies of revoked blocks are forgotten
//! checkpoint  write all frozen blocks home; flush; move the log's start behind the last commit
//! ```
//!
//! Without a journal a commit writes the frozen blocks home at once.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;

use abi::{Errno, Result};
use block::BioFlags;
use ext4_image::journal::{Log, commit_block, records};
use ext4_image::{Block, BlockRef, Seal};

use crate::error::errno;
use crate::fs::Fs;
use crate::state::{State, Txn};

/// The part of the log that one transaction may fill.
const TRANSACTION_SHARE: usize = 4;
/// Blocks of a transaction without a journal, or with a huge one.
const MAX_TRANSACTION: usize = 8192;

/// The log and where its end is. Guarded by `Fs::committing`.
pub(crate) struct Journal {
    log: Option<OpenLog>,
}

struct OpenLog {
    log: Log,
    /// Device blocks of the journal.
    map: Vec<u64>,
    /// The journal's superblock.
    sb: Block,
    /// Where the next transaction begins, and its number.
    head: u32,
    sequence: u32,
    /// Blocks in use between the start and the head.
    used: usize,
}

/// What one commit writes.
struct Frozen {
    tid: u64,
    blocks: Vec<(u64, BlockRef)>,
    revoked: Vec<u64>,
}

impl Journal {
    /// No journal.
    pub(crate) fn none() -> Self {
        Self { log: None }
    }

    /// A journal at the device blocks `map` with the superblock `sb`, whose log is empty.
    pub(crate) fn new(log: Log, map: Vec<u64>, sb: Block, sequence: u32) -> Self {
        let head = log.first();
        Self { log: Some(OpenLog { log, map, sb, head, sequence, used: 0 }) }
    }

    pub(crate) fn max_transaction(&self) -> usize {
        let share = |open: &OpenLog| open.log.len() as usize / TRANSACTION_SHARE;
        // Descriptors and revokes need room beside the blocks.
        self.log.as_ref().map_or(MAX_TRANSACTION, share).clamp(crate::fs::CREDITS, MAX_TRANSACTION)
    }

    /// Writes where the next transaction will be, so that recovery looks there.
    pub(crate) fn mark_in_use(&self, fs: &Fs) -> Result<()> {
        let Some(open) = &self.log else { return Ok(()) };
        let mut log = open.log.clone();
        write_super(fs, &mut log, &open.sb, &open.map, open.sequence, open.head)
    }

    /// Writes that the log is empty.
    pub(crate) fn mark_empty(&self, fs: &Fs) -> Result<()> {
        let Some(open) = &self.log else { return Ok(()) };
        let mut log = open.log.clone();
        write_super(fs, &mut log, &open.sb, &open.map, open.sequence, 0)
    }
}

fn write_super(fs: &Fs, log: &mut Log, sb: &Block, map: &[u64], sequence: u32, start: u32) -> Result<()> {
    let mut copy = Block::zeroed(sb.bytes().len()).map_err(errno)?;
    copy.bytes_mut().copy_from_slice(sb.bytes());
    log.set_tail(copy.bytes_mut(), sequence, start).map_err(errno)?;
    let home = *map.first().ok_or(Errno::EIO)?;
    fs.disk.write_blocks(&[(home, alloc::sync::Arc::new(copy))], BioFlags::FUA)
}

impl OpenLog {
    fn free(&self) -> usize {
        (self.log.len() as usize).saturating_sub(self.used + 1)
    }

    /// Writes a transaction; it is durable afterwards.
    fn write(&mut self, fs: &Fs, frozen: &Frozen) -> Result<()> {
        let list = records(&self.log, self.sequence, &frozen.blocks, &frozen.revoked).map_err(errno)?;
        let mut at = self.head;
        let mut placed = Vec::new();
        placed.try_reserve_exact(list.len()).map_err(|_| Errno::ENOMEM)?;
        for record in list {
            placed.push((*self.map.get(at as usize).ok_or(Errno::EIO)?, record));
            at = self.log.next(at);
        }
        fs.disk.write_blocks(&placed, BioFlags::empty())?;
        let now = vfs::time::now();
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
        let commit = commit_block(&self.log, self.sequence, seconds, nanoseconds).map_err(errno)?;
        let place = *self.map.get(at as usize).ok_or(Errno::EIO)?;
        // The flush before it makes the records durable, and the files' data that belongs to them.
        fs.disk.write_blocks(&[(place, commit)], BioFlags::PREFLUSH | BioFlags::FUA)?;
        self.head = self.log.next(at);
        self.used += placed.len() + 1;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }
}

/// The frozen blocks that are in the log and not home yet.
fn homeless(state: &State) -> Vec<(u64, BlockRef)> {
    state.live.iter().filter_map(|(&nr, live)| Some((nr, live.committed.clone()?))).collect()
}

impl Fs {
    /// The number of the running transaction.
    pub(crate) fn running(&self) -> u64 {
        self.state.read().tid
    }

    /// Makes transaction `tid` and all before it durable. May sleep; not to be called inside of one.
    ///
    /// `EROFS`: writing stopped. Others: the device's; nothing is written from then on.
    pub(crate) fn commit(&self, tid: u64) -> Result<()> {
        if self.committed.load(Acquire) >= tid {
            return Ok(());
        }
        let mut journal = self.committing.lock();
        if self.committed.load(Acquire) >= tid {
            return Ok(());
        }
        self.check_writing()?;
        self.commit_locked(&mut journal).inspect_err(|errno| self.abort(*errno))
    }

    fn commit_locked(&self, journal: &mut Journal) -> Result<()> {
        let frozen = {
            let _closed = self.gate.close();
            let mut state = self.state.write();
            if state.is_clean() {
                let tid = state.tid;
                state.tid = tid + 1;
                self.committed.store(tid, Release);
                drop(state);
                return self.disk.flush();
            }
            if let Some(open) = &mut journal.log {
                // Sealing may bring in blocks of group descriptors.
                let room = state.nr_running + state.nr_running / 16 + 16;
                if open.log.nr_records(room, state.revoked.len()) > open.free() {
                    let home = homeless(&state);
                    self.write_home(open, &home)?;
                    self.settle(&mut state, &home);
                }
                if open.log.nr_records(room, state.revoked.len()) > open.free() {
                    return Err(Errno::ENOSPC);
                }
            }
            self.freeze(&mut state)?
        };
        match &mut journal.log {
            Some(open) => open.write(self, &frozen)?,
            None => {
                self.disk.write_blocks(&frozen.blocks, BioFlags::empty())?;
                self.disk.flush()?;
            }
        }
        let mut state = self.state.write();
        state.freed_before = crate::ranges::Ranges::new();
        for nr in &frozen.revoked {
            if state.live.get(nr).is_some_and(|live| !live.in_running) {
                state.live.remove(nr);
            } else if let Some(live) = state.live.get_mut(nr) {
                live.committed = None;
            }
        }
        if journal.log.is_none() {
            self.settle(&mut state, &frozen.blocks);
        }
        drop(state);
        self.committed.store(frozen.tid, Release);
        match &mut journal.log {
            Some(open) if open.used * 2 > open.log.len() as usize => self.checkpoint(open),
            _ => Ok(()),
        }
    }

    /// Seals and freezes the running transaction; the next one begins.
    fn freeze(&self, state: &mut State) -> Result<Frozen> {
        let is_group = |seal: Seal| matches!(seal, Seal::Groups(_));
        // Bitmaps' checksums go into descriptors: those last.
        for wants_groups in [false, true] {
            for (nr, seal) in state.running() {
                if is_group(seal) == wants_groups {
                    let mut txn = Txn { fs: self, state };
                    ext4_image::seal(&self.layout, &mut txn, nr, seal).map_err(errno)?;
                }
            }
        }
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(state.nr_running).map_err(|_| Errno::ENOMEM)?;
        for (&nr, live) in state.live.iter_mut().filter(|(_, live)| live.in_running) {
            live.in_running = false;
            live.committed = Some(live.data.clone());
            blocks.push((nr, live.data.clone()));
        }
        state.nr_running = 0;
        let revoked = core::mem::take(&mut state.revoked).into_iter().collect();
        state.freed_before = core::mem::take(&mut state.freed);
        let tid = state.tid;
        state.tid += 1;
        Ok(Frozen { tid, blocks, revoked })
    }

    /// Writes all frozen blocks home, so that the log is empty. All of them are in the log.
    ///
    /// Others may change metadata meanwhile, but none of the blocks is used for something else: a block that they free
    /// can be had again only after a commit.
    fn checkpoint(&self, open: &mut OpenLog) -> Result<()> {
        let home = homeless(&self.state.read());
        self.write_home(open, &home)?;
        self.settle(&mut self.state.write(), &home);
        Ok(())
    }

    fn write_home(&self, open: &mut OpenLog, home: &[(u64, BlockRef)]) -> Result<()> {
        self.disk.write_blocks(home, BioFlags::empty())?;
        self.disk.flush()?;
        write_super(self, &mut open.log, &open.sb, &open.map, open.sequence, open.head)?;
        open.used = 0;
        Ok(())
    }

    /// Notes that blocks are home.
    fn settle(&self, state: &mut State, home: &[(u64, BlockRef)]) {
        for (nr, block) in home {
            let Some(live) = state.live.get_mut(nr) else { continue };
            if live.committed.as_ref().is_some_and(|committed| alloc::sync::Arc::ptr_eq(committed, block)) {
                live.committed = None;
            }
            if !live.in_running && live.committed.is_none() {
                state.live.remove(nr);
                self.cache.insert(*nr, block.clone());
            }
        }
    }

    /// Commits, and writes everything home.
    pub(crate) fn commit_and_checkpoint(&self) -> Result<()> {
        self.commit(self.running())?;
        let mut journal = self.committing.lock();
        self.check_writing()?;
        match &mut journal.log {
            Some(open) => self.checkpoint(open),
            None => Ok(()),
        }
    }

    /// Commits if there is anything to commit, otherwise only flushes the device.
    pub(crate) fn commit_or_flush(&self, tid: u64) -> Result<()> {
        if tid == 0 || self.committed.load(Acquire) >= tid { self.disk.flush() } else { self.commit(tid) }
    }
}
