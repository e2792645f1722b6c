//! Orphans: inodes without names that are still open, or that were being cut when the machine stopped.
//!
//! They hang on a list that begins in the superblock and goes on in the inodes' times of deletion. File systems with
//! the feature orphan_file may have them in a file of numbers instead; that is only read here.
//!
//! Source: Documentation/filesystems/ext4/orphan.rst (Linux 7.2).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::block::{Blocks, Edit, Seal};
use crate::crc::crc32c;
use crate::dir;
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::layout::Layout;
use crate::superblock::{RawSuper, RoCompat};
use crate::view;

const FILE_MAGIC: u32 = 0x0b10_ca04;
/// Magic and checksum at the end of a block of the orphan file.
const TAIL: usize = 8;

fn head(layout: &Layout, blocks: &dyn Blocks) -> Result<u32> {
    let (block, at) = layout.super_place();
    Ok(view::get::<RawSuper>(blocks.read(block)?.bytes(), at)?.last_orphan.get())
}

fn set_head(layout: &Layout, edit: &mut dyn Edit, ino: u32) -> Result<()> {
    let (block, at) = layout.super_place();
    view::get_mut::<RawSuper>(edit.write(block, Seal::Super)?, at)?.last_orphan.set(ino);
    Ok(())
}

/// Puts `inode` at the head of the list. It is stored.
pub fn add(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode) -> Result<()> {
    inode.set_dtime(head(layout, edit)?);
    inode.store(layout, edit)?;
    set_head(layout, edit, inode.ino())
}

/// Takes `inode` off the list; its time of deletion becomes 0. It is stored. `NotFound`: it is not there.
///
/// `before` is the one that the caller takes to lead to it, 0 for the list's head; without, the list is searched.
pub fn remove(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, before: Option<u32>) -> Result<()> {
    let next = inode.dtime();
    if let Some(ino) = before.filter(|&ino| layout.is_ino(ino)) {
        let mut before = Inode::load(layout, edit, ino)?;
        if before.dtime() == inode.ino() {
            before.set_dtime(next);
            before.store(layout, edit)?;
            inode.set_dtime(0);
            return inode.store(layout, edit);
        }
    }
    let mut at = head(layout, edit)?;
    if at == inode.ino() {
        set_head(layout, edit, next)?;
    } else {
        let mut seen = BTreeSet::new();
        loop {
            if at == 0 || !seen.insert(at) {
                return Err(Error::NotFound);
            }
            let mut before = Inode::load(layout, edit, at)?;
            at = before.dtime();
            if at == inode.ino() {
                before.set_dtime(next);
                before.store(layout, edit)?;
                break;
            }
        }
    }
    inode.set_dtime(0);
    inode.store(layout, edit)
}

/// Empties the list without a look at its members.
pub fn forget_list(layout: &Layout, edit: &mut dyn Edit) -> Result<()> {
    set_head(layout, edit, 0)
}

/// All orphans on the list. `Corrupt`: it leads in a circle or to no inode; the ones before that are lost.
pub fn listed(layout: &Layout, blocks: &dyn Blocks) -> Result<Vec<u32>> {
    let mut seen = BTreeSet::new();
    let mut list = Vec::new();
    let mut at = head(layout, blocks)?;
    while at != 0 {
        if at < layout.first_ino || !seen.insert(at) {
            return Err(Error::Corrupt("orphan list"));
        }
        list.push(at);
        at = Inode::load(layout, blocks, at)?.dtime();
    }
    Ok(list)
}

fn file_csum(bytes: &[u8], seed: u32, block: u64) -> Result<u32> {
    let len = bytes.len().checked_sub(TAIL).ok_or(Error::Corrupt("orphan file"))?;
    Ok(crc32c(crc32c(seed, &block.to_le_bytes()), view::slice(bytes, 0, len)?))
}

/// Makes the checksum of a block of the orphan file.
pub(crate) fn seal(bytes: &mut [u8], seed: u32, block: u64) -> Result<()> {
    let crc = file_csum(bytes, seed, block)?;
    let at = bytes.len() - 4;
    view::put(bytes, at, &crc.to_le_bytes());
    Ok(())
}

/// Blocks of the orphan file on the device.
fn file_blocks(layout: &Layout, blocks: &dyn Blocks) -> Result<Vec<(u64, u32)>> {
    let mut list = Vec::new();
    if layout.orphan_file_ino == 0 {
        return Ok(list);
    }
    let file = Inode::load(layout, blocks, layout.orphan_file_ino)?;
    let seed = file.seed(layout);
    for logical in 0..dir::nr_blocks(layout, &file).min(512) {
        list.push((dir::block_at(layout, blocks, &file, logical)?, seed));
    }
    Ok(list)
}

/// All orphans in the orphan file, if it says that it has some.
pub fn filed(layout: &Layout, blocks: &dyn Blocks) -> Result<Vec<u32>> {
    let mut list = Vec::new();
    let (block, at) = layout.super_place();
    let sb = blocks.read(block)?;
    if !view::get::<RawSuper>(sb.bytes(), at)?.ro_compat().contains(RoCompat::ORPHAN_PRESENT) {
        return Ok(list);
    }
    for (block, seed) in file_blocks(layout, blocks)? {
        let held = blocks.read(block)?;
        let bytes = held.bytes();
        let end = bytes.len() - TAIL;
        if view::le32(bytes, end) != FILE_MAGIC
            || (layout.has_csums() && file_csum(bytes, seed, block)? != view::le32(bytes, end + 4))
        {
            return Err(Error::Corrupt("orphan file"));
        }
        list.extend((0..end).step_by(4).map(|at| view::le32(bytes, at)).filter(|&ino| ino != 0));
    }
    Ok(list)
}

/// Empties the orphan file and says so in the superblock.
pub fn clear_file(layout: &Layout, edit: &mut dyn Edit) -> Result<()> {
    for (block, seed) in file_blocks(layout, edit)? {
        let bytes = edit.write(block, Seal::Orphans(seed, block))?;
        let end = bytes.len() - TAIL;
        if let Some(entries) = bytes.get_mut(..end) {
            entries.fill(0);
        }
    }
    let (block, at) = layout.super_place();
    let sb: &mut RawSuper = view::get_mut(edit.write(block, Seal::Super)?, at)?;
    sb.change_ro_compat(RoCompat::empty(), RoCompat::ORPHAN_PRESENT);
    Ok(())
}
