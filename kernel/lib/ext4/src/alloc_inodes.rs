//! The inode allocator.
//!
//! Files go into their directory's group, or the next one with room. Directories at the top are spread over groups
//! with more than average room; others stay near their parent while its group is not crowded (Orlov).

use crate::block::{Edit, Seal};
use crate::error::{Error, Result};
use crate::group::{self, Bitmap, Group, INODE_UNINIT};
use crate::inode::{self, Inode, Time, Which, flags};
use crate::layout::Layout;
use crate::superblock::{Incompat, RawSuper};
use crate::view;

/// What a new inode shall be.
#[derive(Clone, Copy, Debug)]
pub struct NewInode {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// All four times.
    pub time: Time,
    /// A number that tells this inode from earlier ones with its number.
    pub generation: u32,
}

/// Free inodes, as the superblock counts them.
pub fn nr_free_inodes(layout: &Layout, blocks: &dyn crate::block::Blocks) -> Result<u32> {
    let (block, at) = layout.super_place();
    let held = blocks.read(block)?;
    Ok(view::get::<RawSuper>(held.bytes(), at)?.free_inodes_count.get())
}

/// Whether inode `ino` is in use. `Corrupt`: no such inode.
pub fn is_inode_used(layout: &Layout, blocks: &dyn crate::block::Blocks, ino: u32) -> Result<bool> {
    if !layout.is_ino(ino) {
        return Err(Error::Corrupt("inode number"));
    }
    let (nr, idx) = ((ino - 1) / layout.inodes_per_group, (ino - 1) % layout.inodes_per_group);
    Ok(group::is_set(Bitmap::Inodes.read(layout, blocks, nr)?.bytes(), idx))
}

/// Makes an inode near its directory `parent` and stores it. `NoSpace`: none is free.
pub fn alloc_inode(layout: &Layout, edit: &mut dyn Edit, parent: &Inode, new: &NewInode) -> Result<Inode> {
    let is_dir = new.mode & 0o170_000 == 0o040_000;
    let home = (parent.ino() - 1) / layout.inodes_per_group;
    let start = if is_dir { dir_group(layout, edit, parent, home)? } else { home };
    for step in 0..layout.nr_groups {
        let nr = start.checked_add(step).map_or(0, |nr| nr % layout.nr_groups);
        if Group::read(layout, edit, nr)?.free_inodes() == 0 {
            continue;
        }
        let bitmap = Bitmap::Inodes.read(layout, edit, nr)?;
        let reserved = if nr == 0 { layout.first_ino - 1 } else { 0 };
        let Some(idx) = group::next_clear(bitmap.bytes(), reserved, layout.inodes_per_group) else {
            continue;
        };
        let ino = nr * layout.inodes_per_group + idx + 1;
        let place = inode::place(layout, edit, ino)?;
        let first = idx - (ino - place.first);
        let is_first_user = group::next_set(bitmap.bytes(), first, first + layout.inodes_per_block())
            == first + layout.inodes_per_block();
        drop(bitmap);
        take(layout, edit, nr, idx, is_dir)?;
        if is_first_user && !edit.is_at_hand(place.block) {
            // Nobody needs what the device has there.
            edit.create(place.block, Seal::None)?;
        }
        return init(layout, edit, ino, parent, new);
    }
    Err(Error::NoSpace)
}

fn take(layout: &Layout, edit: &mut dyn Edit, nr: u32, idx: u32, is_dir: bool) -> Result<()> {
    // Before the bitmap is written: that clears the flag which says that the whole table is unused.
    Group::update(layout, edit, nr, |group| inode::note_used(layout, group, idx))?;
    group::set_bits(Bitmap::Inodes.write(layout, edit, nr)?, idx, 1);
    Group::update(layout, edit, nr, |group| {
        group.set_flags(group.flags() & !INODE_UNINIT);
        group.set_free_inodes(group.free_inodes().saturating_sub(1));
        if is_dir {
            group.set_used_dirs(group.used_dirs().saturating_add(1));
        }
    })?;
    count_free(layout, edit, -1)
}

fn count_free(layout: &Layout, edit: &mut dyn Edit, delta: i32) -> Result<()> {
    let (block, at) = layout.super_place();
    let sb: &mut RawSuper = view::get_mut(edit.write(block, Seal::Super)?, at)?;
    sb.free_inodes_count.set(sb.free_inodes_count.get().saturating_add_signed(delta));
    Ok(())
}

fn init(layout: &Layout, edit: &mut dyn Edit, ino: u32, parent: &Inode, new: &NewInode) -> Result<Inode> {
    let mut inode = Inode::empty(layout, ino)?;
    inode.set_mode(new.mode);
    inode.set_owner(new.uid, new.gid);
    inode.set_nlink(new.nlink);
    inode.set_generation(new.generation);
    if layout.inode_size > inode::BASE_LEN {
        inode.set_extra_isize(layout.want_extra_isize);
    }
    for which in [Which::Access, Which::Modify, Which::Change, Which::Birth] {
        inode.set_time(which, new.time);
    }
    let mut inherited = parent.flags() & flags::INHERITED;
    if !inode.is_dir() {
        inherited &= !flags::DIR_ONLY;
    }
    if inode.is_symlink() || !(inode.is_dir() || inode.is_regular()) {
        inherited &= flags::NOATIME | flags::NODUMP;
    }
    inode.set_flags(inherited);
    if (inode.is_dir() || inode.is_regular()) && layout.incompat.contains(Incompat::EXTENTS) {
        inode.init_extents();
    }
    inode.store(layout, edit)?;
    Ok(inode)
}

/// The group for a new directory in `parent`, whose group is `home`.
fn dir_group(layout: &Layout, edit: &dyn Edit, parent: &Inode, home: u32) -> Result<u32> {
    let groups = u64::from(layout.nr_groups);
    let mean_inodes = u64::from(nr_free_inodes(layout, edit)?) / groups;
    let mean_blocks = crate::alloc_blocks::nr_free_blocks(layout, edit)? / groups;
    let is_top = parent.ino() == inode::ROOT_INO || parent.has_flags(flags::TOPDIR);
    let mut best = None;
    for step in 0..layout.nr_groups {
        let nr = home.checked_add(step).map_or(0, |nr| nr % layout.nr_groups);
        let group = Group::read(layout, edit, nr)?;
        let (inodes, blocks) = (u64::from(group.free_inodes()), u64::from(group.free_blocks()));
        if inodes == 0 {
            continue;
        }
        if is_top {
            if inodes >= mean_inodes && blocks >= mean_blocks {
                let fewer = best.is_none_or(|(dirs, _)| group.used_dirs() < dirs);
                if fewer {
                    best = Some((group.used_dirs(), nr));
                }
            }
        } else if inodes >= mean_inodes / 4 && blocks >= mean_blocks / 4 {
            return Ok(nr);
        }
    }
    Ok(best.map_or(home, |(_, nr)| nr))
}

/// Frees inode `inode`, which has no names and no blocks, and stores its time of deletion.
pub fn free_inode(layout: &Layout, edit: &mut dyn Edit, mut inode: Inode) -> Result<()> {
    let ino = inode.ino();
    if ino < layout.first_ino || !layout.is_ino(ino) {
        return Err(Error::Corrupt("reserved inode is freed"));
    }
    let (nr, idx) = ((ino - 1) / layout.inodes_per_group, (ino - 1) % layout.inodes_per_group);
    let bytes = Bitmap::Inodes.write(layout, edit, nr)?;
    if !group::is_set(bytes, idx) {
        return Err(Error::Corrupt("inode is free already"));
    }
    if let Some(byte) = bytes.get_mut(idx as usize / 8) {
        *byte &= !(1 << (idx % 8));
    }
    let is_dir = inode.is_dir();
    Group::update(layout, edit, nr, |group| {
        group.set_free_inodes(group.free_inodes().saturating_add(1));
        if is_dir {
            group.set_used_dirs(group.used_dirs().saturating_sub(1));
        }
    })?;
    count_free(layout, edit, 1)?;
    inode.set_dtime(edit.now() as u32);
    inode.set_nlink(0);
    inode.set_size(0);
    inode.set_mode(0);
    inode.store(layout, edit)
}
