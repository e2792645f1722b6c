//! Inodes as they lie in the inode tables.
//!
//! [`Inode`] is a copy of one record: load it, change it, store it. Storing makes its checksum.
//!
//! Sources: Documentation/filesystems/ext4/inodes.rst, inode_table.rst (Linux 7.2).

use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{Blocks, Edit, Seal};
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::extent;
use crate::group::{Group, INODE_UNINIT};
use crate::layout::Layout;
use crate::superblock::RoCompat;
use crate::view;

/// The inode of the root directory.
pub const ROOT_INO: u32 = 2;

/// `i_flags` that mean something here.
pub mod flags {
    /// Writes are synchronous.
    pub const SYNC: u32 = 0x8;
    /// Nothing may change.
    pub const IMMUTABLE: u32 = 0x10;
    /// Data may only be appended.
    pub const APPEND: u32 = 0x20;
    /// dump(8) leaves it out.
    pub const NODUMP: u32 = 0x40;
    /// Access times are not kept.
    pub const NOATIME: u32 = 0x80;
    /// A directory with an index.
    pub const INDEX: u32 = 0x1000;
    /// Data goes through the journal.
    pub const JOURNAL_DATA: u32 = 0x4000;
    /// Changes of the directory are synchronous.
    pub const DIRSYNC: u32 = 0x1_0000;
    /// The top of a tree of directories: subdirectories are spread.
    pub const TOPDIR: u32 = 0x2_0000;
    /// `i_blocks` counts blocks of the file system.
    pub const HUGE_FILE: u32 = 0x4_0000;
    /// Mapped by extents.
    pub const EXTENTS: u32 = 0x8_0000;
    /// Holds an attribute's value.
    pub const EA_INODE: u32 = 0x20_0000;
    /// The contents are in the inode.
    pub const INLINE_DATA: u32 = 0x1000_0000;
    /// What new files take over from their directory.
    pub const INHERITED: u32 =
        SYNC | NODUMP | NOATIME | JOURNAL_DATA | DIRSYNC | 0x1 | 0x2 | 0x4 | 0x400 | 0x8000;
    /// What only directories take over.
    pub const DIR_ONLY: u32 = DIRSYNC | TOPDIR;
    /// What chattr(1) can change, beside [`DIR_ONLY`] of directories. The first three, and 0x8000, have no effect.
    pub const USER_MODIFIABLE: u32 =
        0x1 | 0x2 | 0x4 | SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | JOURNAL_DATA | 0x8000;
    /// What chattr(1) may name, but not change: so it is ignored.
    pub const IGNORED: u32 = 0x100 | 0x200 | 0x400 | 0x800 | INDEX | 0x10_0000 | INLINE_DATA;
}

/// Bytes of the block map.
pub const MAP_LEN: usize = 60;
/// Length of the part that all inodes have.
pub(crate) const BASE_LEN: usize = 128;
const GENERATION_AT: usize = 0x64;
const CSUM_LO_AT: usize = 0x7c;
const CSUM_HI_AT: usize = 0x82;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Base {
    mode: U16,
    uid_lo: U16,
    size_lo: U32,
    atime: U32,
    ctime: U32,
    mtime: U32,
    dtime: U32,
    gid_lo: U16,
    links: U16,
    blocks_lo: U32,
    flags: U32,
    version: U32,
    map: [u8; MAP_LEN],
    generation: U32,
    file_acl_lo: U32,
    size_hi: U32,
    faddr: U32,
    blocks_hi: U16,
    file_acl_hi: U16,
    uid_hi: U16,
    gid_hi: U16,
    checksum_lo: U16,
    reserved: U16,
}

const _: () = assert!(size_of::<Base>() == BASE_LEN);

impl Base {
    fn sectors(&self, layout: &Layout) -> u64 {
        let low = u64::from(self.blocks_lo.get());
        if !layout.ro_compat.contains(RoCompat::HUGE_FILE) {
            return low;
        }
        let blocks = low | u64::from(self.blocks_hi.get()) << 32;
        let is_huge = self.flags.get() & flags::HUGE_FILE != 0;
        if is_huge { blocks << (layout.block_bits - 9) } else { blocks }
    }
}

/// The part beyond 128 bytes; fields count only as far as `extra_isize` reaches.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Extra {
    extra_isize: U16,
    checksum_hi: U16,
    ctime_extra: U32,
    mtime_extra: U32,
    atime_extra: U32,
    crtime: U32,
    crtime_extra: U32,
    version_hi: U32,
    projid: U32,
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

impl Time {
    fn decode(low: u32, extra: Option<u32>) -> Self {
        let sec = i64::from(low as i32);
        let Some(extra) = extra else { return Self { sec, nsec: 0 } };
        Self { sec: sec + (i64::from(extra & 3) << 32), nsec: (extra >> 2).min(999_999_999) }
    }

    fn extra(self) -> u32 {
        let epoch = (self.sec - i64::from(self.sec as i32)) >> 32;
        (epoch as u32 & 3) | self.nsec << 2
    }

    /// The nearest time that the format can hold.
    pub fn clamped(self, has_extra: bool) -> Self {
        let max = if has_extra { (3i64 << 32) + i64::from(i32::MAX) } else { i64::from(i32::MAX) };
        let sec = self.sec.clamp(i64::from(i32::MIN), max);
        Self { sec, nsec: if sec == self.sec && has_extra { self.nsec } else { 0 } }
    }
}

/// Which of an inode's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Last access.
    Access,
    /// Last change of the data.
    Modify,
    /// Last change of the inode.
    Change,
    /// Creation.
    Birth,
}

/// A copy of one inode's record.
#[derive(Clone, Debug)]
pub struct Inode {
    ino: u32,
    raw: Vec<u8>,
}

/// Where an inode lies.
pub(crate) struct Place {
    /// Block on the device.
    pub block: u64,
    /// Byte in it.
    pub at: usize,
    /// The first inode of the block.
    pub first: u32,
    /// The inode's bit in the block's masks; 0 where a block has more inodes than a mask has bits.
    pub mask: u64,
}

/// The place of inode `ino`. `Corrupt`: no such inode.
pub(crate) fn place(layout: &Layout, blocks: &dyn Blocks, ino: u32) -> Result<Place> {
    if !layout.is_ino(ino) {
        return Err(Error::Corrupt("inode number"));
    }
    let (nr, idx) = ((ino - 1) / layout.inodes_per_group, (ino - 1) % layout.inodes_per_group);
    let table = match layout.inode_table(nr) {
        Some(table) => table,
        // The journal's inode is read before the groups are known.
        None => Group::read(layout, blocks, nr)?.inode_table(),
    };
    let per_block = layout.inodes_per_block();
    let nth = idx % per_block;
    let mask = if per_block <= u64::BITS { 1 << nth } else { 0 };
    Ok(Place {
        block: table + u64::from(idx / per_block),
        at: nth as usize * layout.inode_size,
        first: ino - nth,
        mask,
    })
}

/// Makes the checksums of the inodes of `mask` in a block of a table whose first inode is `first`.
pub(crate) fn seal(layout: &Layout, bytes: &mut [u8], first: u32, mask: u64) {
    for (nth, raw) in (0u32..).zip(bytes.chunks_exact_mut(layout.inode_size)) {
        if mask.checked_shr(nth).unwrap_or(0) & 1 != 0 {
            put_csum(layout, first.saturating_add(nth), raw);
        }
    }
}

/// Bytes that record `raw` has in use beyond the first 128.
fn extra_isize_of(raw: &[u8]) -> usize {
    if raw.len() > BASE_LEN { view::le16(raw, BASE_LEN).into() } else { 0 }
}

/// The checksum of record `raw` of inode `ino`, if there are any.
fn csum_of(layout: &Layout, ino: u32, raw: &[u8]) -> Option<u32> {
    layout.csum_seed?;
    let crc = layout.inode_seed(ino, view::le32(raw, GENERATION_AT));
    let crc = crc32c(crc, raw.get(..CSUM_LO_AT)?);
    let crc = crc32c(crc, &[0; 2]);
    let rest_at = CSUM_LO_AT + 2;
    if raw.len() == BASE_LEN || extra_isize_of(raw) < 4 {
        return Some(crc32c(crc, raw.get(rest_at..)?));
    }
    let crc = crc32c(crc, raw.get(rest_at..CSUM_HI_AT)?);
    let crc = crc32c(crc, &[0; 2]);
    Some(crc32c(crc, raw.get(CSUM_HI_AT + 2..)?))
}

fn put_csum(layout: &Layout, ino: u32, raw: &mut [u8]) {
    let Some(csum) = csum_of(layout, ino, raw) else { return };
    view::put(raw, CSUM_LO_AT, &(csum as u16).to_le_bytes());
    if extra_isize_of(raw) >= 4 {
        view::put(raw, CSUM_HI_AT, &((csum >> 16) as u16).to_le_bytes());
    }
}

/// `Corrupt`: the checksum of record `raw` is wrong.
fn check_csum(layout: &Layout, ino: u32, raw: &[u8]) -> Result<()> {
    let Some(csum) = csum_of(layout, ino, raw) else { return Ok(()) };
    let has_high = extra_isize_of(raw) >= 4;
    let low = u32::from(view::le16(raw, CSUM_LO_AT));
    let high = if has_high { u32::from(view::le16(raw, CSUM_HI_AT)) << 16 } else { 0 };
    let mask = if has_high { !0 } else { 0xffff };
    if low | high == csum & mask { Ok(()) } else { Err(Error::Corrupt("inode checksum")) }
}

/// Units of 512 bytes that inode `ino` takes: what [`Inode::load`] and [`Inode::sectors`] give, without a copy.
pub fn sectors_of(layout: &Layout, blocks: &dyn Blocks, ino: u32) -> Result<u64> {
    let place = place(layout, blocks, ino)?;
    let held = blocks.read(place.block)?;
    if held.has_checked_inodes(place.mask) {
        return Ok(view::get::<Base>(held.bytes(), place.at)?.sectors(layout));
    }
    drop(held);
    Ok(Inode::load(layout, blocks, ino)?.sectors(layout))
}

impl Inode {
    /// An empty record for inode `ino`.
    pub(crate) fn empty(layout: &Layout, ino: u32) -> Result<Self> {
        let mut raw = Vec::new();
        raw.try_reserve_exact(layout.inode_size).map_err(|_| Error::NoMemory)?;
        raw.resize(layout.inode_size, 0);
        Ok(Self { ino, raw })
    }

    /// Reads inode `ino`. `Corrupt`: no such inode, or a wrong checksum.
    pub fn load(layout: &Layout, blocks: &dyn Blocks, ino: u32) -> Result<Self> {
        let place = place(layout, blocks, ino)?;
        let held = blocks.read(place.block)?;
        let bytes = view::slice(held.bytes(), place.at, layout.inode_size)?;
        if !held.has_checked_inodes(place.mask) {
            let extra = extra_isize_of(bytes);
            if extra > layout.inode_size - BASE_LEN || !extra.is_multiple_of(4) {
                return Err(Error::Corrupt("extra inode size"));
            }
            check_csum(layout, ino, bytes)?;
            held.note_checked_inodes(place.mask);
        }
        let mut raw = Vec::new();
        raw.try_reserve_exact(bytes.len()).map_err(|_| Error::NoMemory)?;
        raw.extend_from_slice(bytes);
        Ok(Self { ino, raw })
    }

    /// Writes the record back. Its checksum is made when the transaction ends.
    pub fn store(&mut self, layout: &Layout, edit: &mut dyn Edit) -> Result<()> {
        let place = place(layout, edit, self.ino)?;
        let how = match place.mask {
            0 => {
                put_csum(layout, self.ino, &mut self.raw);
                Seal::None
            }
            mask => Seal::Inodes(place.first, mask),
        };
        let block = edit.write_block(place.block, how)?;
        block.note_checked_inodes(place.mask);
        view::put(block.bytes_mut(), place.at, &self.raw);
        Ok(())
    }

    /// The seed of checksums of blocks that belong to this inode.
    pub(crate) fn seed(&self, layout: &Layout) -> u32 {
        layout.inode_seed(self.ino, self.generation())
    }

    fn base(&self) -> &Base {
        view::get(&self.raw, 0).expect("a record has at least 128 bytes")
    }

    fn base_mut(&mut self) -> &mut Base {
        view::get_mut(&mut self.raw, 0).expect("a record has at least 128 bytes")
    }

    /// Bytes in use beyond the first 128.
    pub(crate) fn extra_isize(&self) -> usize {
        extra_isize_of(&self.raw)
    }

    pub(crate) fn set_extra_isize(&mut self, len: u16) {
        view::put(&mut self.raw, BASE_LEN, &len.to_le_bytes());
    }

    /// Bytes behind the fields: room for extended attributes.
    pub(crate) fn tail(&self) -> &[u8] {
        match self.extra_isize() {
            0 => &[],
            extra => self.raw.get(BASE_LEN + extra..).unwrap_or_default(),
        }
    }

    pub(crate) fn tail_mut(&mut self) -> &mut [u8] {
        match self.extra_isize() {
            0 => &mut [],
            extra => self.raw.get_mut(BASE_LEN + extra..).unwrap_or_default(),
        }
    }

    /// The number.
    pub fn ino(&self) -> u32 {
        self.ino
    }

    /// Type and permissions.
    pub fn mode(&self) -> u32 {
        self.base().mode.get().into()
    }

    /// Sets type and permissions.
    pub fn set_mode(&mut self, mode: u32) {
        self.base_mut().mode.set(mode as u16);
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode() & 0o170_000 == 0o040_000
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.mode() & 0o170_000 == 0o100_000
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode() & 0o170_000 == 0o120_000
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        let base = self.base();
        u32::from(base.uid_lo.get()) | u32::from(base.uid_hi.get()) << 16
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        let base = self.base();
        u32::from(base.gid_lo.get()) | u32::from(base.gid_hi.get()) << 16
    }

    /// Sets owner and group.
    pub fn set_owner(&mut self, uid: u32, gid: u32) {
        let base = self.base_mut();
        base.uid_lo.set(uid as u16);
        base.uid_hi.set((uid >> 16) as u16);
        base.gid_lo.set(gid as u16);
        base.gid_hi.set((gid >> 16) as u16);
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        let base = self.base();
        let has_high = self.is_regular() || self.is_dir();
        u64::from(base.size_lo.get()) | if has_high { u64::from(base.size_hi.get()) << 32 } else { 0 }
    }

    /// Sets the size.
    pub fn set_size(&mut self, size: u64) {
        let base = self.base_mut();
        base.size_lo.set(size as u32);
        base.size_hi.set((size >> 32) as u32);
    }

    /// Number of names; directories with more than can be counted have 1.
    pub fn nlink(&self) -> u32 {
        self.base().links.get().into()
    }

    /// Sets the number of names.
    pub fn set_nlink(&mut self, nlink: u32) {
        self.base_mut().links.set(nlink as u16);
    }

    /// `i_flags`.
    pub fn flags(&self) -> u32 {
        self.base().flags.get()
    }

    /// Sets `i_flags`.
    pub fn set_flags(&mut self, flags: u32) {
        self.base_mut().flags.set(flags);
    }

    /// Whether all of `flags` are set.
    pub fn has_flags(&self, flags: u32) -> bool {
        self.flags() & flags == flags
    }

    /// Generation.
    pub fn generation(&self) -> u32 {
        self.base().generation.get()
    }

    pub(crate) fn set_generation(&mut self, generation: u32) {
        self.base_mut().generation.set(generation);
    }

    /// When it was deleted; the next of the orphans while it is one.
    pub fn dtime(&self) -> u32 {
        self.base().dtime.get()
    }

    /// Sets the time of deletion, or the next of the orphans.
    pub fn set_dtime(&mut self, dtime: u32) {
        self.base_mut().dtime.set(dtime);
    }

    /// The block of extended attributes, 0 for none.
    pub fn xattr_block(&self) -> u64 {
        let base = self.base();
        u64::from(base.file_acl_lo.get()) | u64::from(base.file_acl_hi.get()) << 32
    }

    pub(crate) fn set_xattr_block(&mut self, block: u64) {
        let base = self.base_mut();
        base.file_acl_lo.set(block as u32);
        base.file_acl_hi.set((block >> 32) as u16);
    }

    /// Units of 512 bytes that it takes.
    pub fn sectors(&self, layout: &Layout) -> u64 {
        self.base().sectors(layout)
    }

    /// Adds `delta` blocks to what it takes.
    pub(crate) fn add_blocks(&mut self, layout: &Layout, delta: i64) {
        let per_block = 1i64 << (layout.block_bits - 9);
        let sectors = self.sectors(layout).saturating_add_signed(delta * per_block);
        let is_huge = sectors >> 48 != 0;
        let value = if is_huge { sectors >> (layout.block_bits - 9) } else { sectors };
        let old = self.flags();
        self.set_flags(if is_huge { old | flags::HUGE_FILE } else { old & !flags::HUGE_FILE });
        let base = self.base_mut();
        base.blocks_lo.set(value as u32);
        base.blocks_hi.set((value >> 32) as u16);
    }

    /// The block map: the root of the extent tree, the block numbers, or a short link's target.
    pub fn map(&self) -> &[u8; MAP_LEN] {
        &self.base().map
    }

    pub(crate) fn map_mut(&mut self) -> &mut [u8; MAP_LEN] {
        &mut self.base_mut().map
    }

    fn extra(&self) -> Option<&Extra> {
        if self.raw.len() > BASE_LEN { view::get(&self.raw, BASE_LEN).ok() } else { None }
    }

    /// Whether field `at..at + 4` of the extra part is in use.
    fn has_extra(&self, at: usize) -> bool {
        self.raw.len() > BASE_LEN && self.extra_isize() >= at + 4
    }

    /// Whether times have nanoseconds.
    pub fn has_nanoseconds(&self) -> bool {
        self.has_extra(12)
    }

    /// One of the times; the time of creation is 0 if it is not kept.
    pub fn time(&self, which: Which) -> Time {
        let base = self.base();
        let extra = self.extra();
        let (low, field, at) = match which {
            Which::Change => (base.ctime.get(), extra.map(|e| e.ctime_extra.get()), 4),
            Which::Modify => (base.mtime.get(), extra.map(|e| e.mtime_extra.get()), 8),
            Which::Access => (base.atime.get(), extra.map(|e| e.atime_extra.get()), 12),
            Which::Birth if !self.has_extra(16) => return Time::default(),
            Which::Birth => (extra.map_or(0, |e| e.crtime.get()), extra.map(|e| e.crtime_extra.get()), 20),
        };
        Time::decode(low, field.filter(|_| self.has_extra(at)))
    }

    /// Sets one of the times, as far as the record has room for it.
    pub fn set_time(&mut self, which: Which, time: Time) {
        let (base_at, extra_at) = match which {
            Which::Access => (0x08, 12),
            Which::Change => (0x0c, 4),
            Which::Modify => (0x10, 8),
            Which::Birth => (BASE_LEN + 16, 20),
        };
        if which == Which::Birth && !self.has_extra(16) {
            return;
        }
        let has_extra = self.has_extra(extra_at);
        let time = time.clamped(has_extra);
        view::put(&mut self.raw, base_at, &(time.sec as u32).to_le_bytes());
        if has_extra {
            view::put(&mut self.raw, BASE_LEN + extra_at, &time.extra().to_le_bytes());
        }
    }

    /// The device number of a device node, as major and minor.
    pub fn device(&self) -> (u32, u32) {
        let (old, new) = (view::le32(self.map(), 0), view::le32(self.map(), 4));
        if old != 0 {
            return (old >> 8 & 0xff, old & 0xff);
        }
        (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xfff00)
    }

    /// Sets the device number.
    pub fn set_device(&mut self, major: u32, minor: u32) {
        let (old, new) = if major < 256 && minor < 256 {
            (major << 8 | minor, 0)
        } else {
            (0, minor & 0xff | major << 8 | (minor & !0xff) << 12)
        };
        view::put(self.map_mut(), 0, &old.to_le_bytes());
        view::put(self.map_mut(), 4, &new.to_le_bytes());
    }

    /// Whether it is a symbolic link whose target lies in the block map.
    pub fn is_short_link(&self, layout: &Layout) -> bool {
        let xattr_sectors = if self.xattr_block() != 0 { layout.block_size as u64 / 512 } else { 0 };
        self.is_symlink()
            && !self.has_flags(flags::INLINE_DATA)
            && !self.has_flags(flags::EXTENTS)
            && self.size() < MAP_LEN as u64
            && self.sectors(layout) <= xattr_sectors
    }

    /// Makes the block map the target of a short symbolic link, which fits with a NUL behind it.
    pub fn set_short_target(&mut self, target: &[u8]) {
        let map = self.map_mut();
        map.fill(0);
        view::put(map, 0, target);
    }

    /// Makes the block map an empty extent tree.
    pub fn init_extents(&mut self) {
        self.set_flags(self.flags() | flags::EXTENTS);
        extent::init_root(self.map_mut());
    }
}

/// Marks that inode `idx` of group `nr` is in use in the descriptor's count of the table's unused end.
pub(crate) fn note_used(layout: &Layout, group: &mut Group, idx: u32) {
    if layout.ro_compat.intersects(RoCompat::GDT_CSUM | RoCompat::METADATA_CSUM) {
        let unused =
            if group.flags() & INODE_UNINIT != 0 { layout.inodes_per_group } else { group.itable_unused() };
        group.set_itable_unused(unused.min(layout.inodes_per_group.saturating_sub(idx + 1)));
    }
}
