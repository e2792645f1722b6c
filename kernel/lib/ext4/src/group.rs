//! Group descriptors, the bitmaps they lead to, and the checksums of all metadata blocks.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{BlockRef, Blocks, Edit, Seal};
use crate::crc::{crc16, crc32c};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::superblock::{self, RoCompat, join};
use crate::view;
use crate::{dir, extent, inode, orphan, xattr};

/// Size of a descriptor without the 64bit feature.
pub(crate) const MIN_SIZE: usize = 32;
/// The part of a descriptor that has a meaning.
pub(crate) const FULL_SIZE: usize = 64;

/// `bg_flags`: the inode bitmap and table were never written.
pub(crate) const INODE_UNINIT: u16 = 1;
/// `bg_flags`: the block bitmap was never written.
pub(crate) const BLOCK_UNINIT: u16 = 2;

const CHECKSUM_AT: usize = 0x1e;

/// The first half of a descriptor.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Low {
    block_bitmap: U32,
    inode_bitmap: U32,
    inode_table: U32,
    free_blocks: U16,
    free_inodes: U16,
    used_dirs: U16,
    flags: U16,
    exclude_bitmap: U32,
    block_bitmap_csum: U16,
    inode_bitmap_csum: U16,
    itable_unused: U16,
    checksum: U16,
}

/// The second half, with the 64bit feature.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct High {
    block_bitmap: U32,
    inode_bitmap: U32,
    inode_table: U32,
    free_blocks: U16,
    free_inodes: U16,
    used_dirs: U16,
    itable_unused: U16,
    exclude_bitmap: U32,
    block_bitmap_csum: U16,
    inode_bitmap_csum: U16,
    reserved: U32,
}

/// A descriptor, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    low: Low,
    high: High,
}

fn wide(low: U16, high: U16) -> u32 {
    u32::from(low.get()) | u32::from(high.get()) << 16
}

impl Group {
    /// The descriptor of group `nr`; its checksum is checked when its block is first seen.
    pub(crate) fn read(layout: &Layout, blocks: &dyn Blocks, nr: u32) -> Result<Self> {
        let (block, at, first) = layout.desc_place(nr);
        let held = blocks.read(block)?;
        held.check(|bytes| check_descs(layout, bytes, first))?;
        Self::decode(layout, held.bytes(), at)
    }

    fn decode(layout: &Layout, bytes: &[u8], at: usize) -> Result<Self> {
        let high = if layout.desc_size >= FULL_SIZE {
            *view::get::<High>(bytes, at + MIN_SIZE)?
        } else {
            High::default()
        };
        Ok(Self { low: *view::get::<Low>(bytes, at)?, high })
    }

    /// Changes the descriptor of group `nr`.
    pub(crate) fn update(
        layout: &Layout,
        edit: &mut dyn Edit,
        nr: u32,
        change: impl FnOnce(&mut Self),
    ) -> Result<()> {
        let (block, at, first) = layout.desc_place(nr);
        let bytes = edit.write(block, Seal::Groups(first))?;
        let mut group = Self::decode(layout, bytes, at)?;
        change(&mut group);
        group.encode(layout, bytes, at)
    }

    fn encode(&self, layout: &Layout, bytes: &mut [u8], at: usize) -> Result<()> {
        *view::get_mut::<Low>(bytes, at)? = self.low;
        if layout.desc_size >= FULL_SIZE {
            *view::get_mut::<High>(bytes, at + MIN_SIZE)? = self.high;
        }
        Ok(())
    }

    pub(crate) fn block_bitmap(&self) -> u64 {
        join(self.low.block_bitmap, self.high.block_bitmap, true)
    }

    pub(crate) fn inode_bitmap(&self) -> u64 {
        join(self.low.inode_bitmap, self.high.inode_bitmap, true)
    }

    pub(crate) fn inode_table(&self) -> u64 {
        join(self.low.inode_table, self.high.inode_table, true)
    }

    pub(crate) fn free_blocks(&self) -> u32 {
        wide(self.low.free_blocks, self.high.free_blocks)
    }

    pub(crate) fn free_inodes(&self) -> u32 {
        wide(self.low.free_inodes, self.high.free_inodes)
    }

    pub(crate) fn used_dirs(&self) -> u32 {
        wide(self.low.used_dirs, self.high.used_dirs)
    }

    pub(crate) fn itable_unused(&self) -> u32 {
        wide(self.low.itable_unused, self.high.itable_unused)
    }

    pub(crate) fn flags(&self) -> u16 {
        self.low.flags.get()
    }

    pub(crate) fn set_flags(&mut self, flags: u16) {
        self.low.flags.set(flags);
    }

    pub(crate) fn set_free_blocks(&mut self, count: u32) {
        self.low.free_blocks.set(count as u16);
        self.high.free_blocks.set((count >> 16) as u16);
    }

    pub(crate) fn set_free_inodes(&mut self, count: u32) {
        self.low.free_inodes.set(count as u16);
        self.high.free_inodes.set((count >> 16) as u16);
    }

    pub(crate) fn set_used_dirs(&mut self, count: u32) {
        self.low.used_dirs.set(count as u16);
        self.high.used_dirs.set((count >> 16) as u16);
    }

    pub(crate) fn set_itable_unused(&mut self, count: u32) {
        self.low.itable_unused.set(count as u16);
        self.high.itable_unused.set((count >> 16) as u16);
    }

    fn bitmap_csum(&self, kind: Bitmap) -> u32 {
        match kind {
            Bitmap::Blocks => wide(self.low.block_bitmap_csum, self.high.block_bitmap_csum),
            Bitmap::Inodes => wide(self.low.inode_bitmap_csum, self.high.inode_bitmap_csum),
        }
    }

    fn set_bitmap_csum(&mut self, kind: Bitmap, csum: u32) {
        let (low, high) = (csum as u16, (csum >> 16) as u16);
        match kind {
            Bitmap::Blocks => {
                self.low.block_bitmap_csum.set(low);
                self.high.block_bitmap_csum.set(high);
            }
            Bitmap::Inodes => {
                self.low.inode_bitmap_csum.set(low);
                self.high.inode_bitmap_csum.set(high);
            }
        }
    }
}

/// Which of the two bitmaps of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bitmap {
    Blocks,
    Inodes,
}

impl Bitmap {
    fn place(self, group: &Group) -> u64 {
        match self {
            Self::Blocks => group.block_bitmap(),
            Self::Inodes => group.inode_bitmap(),
        }
    }

    fn seal(self, nr: u32) -> Seal {
        match self {
            Self::Blocks => Seal::BlockBitmap(nr),
            Self::Inodes => Seal::InodeBitmap(nr),
        }
    }

    fn uninit(self) -> u16 {
        match self {
            Self::Blocks => BLOCK_UNINIT,
            Self::Inodes => INODE_UNINIT,
        }
    }

    /// Bits that the checksum covers.
    fn nr_bits(self, layout: &Layout) -> u32 {
        match self {
            Self::Blocks => layout.blocks_per_group,
            Self::Inodes => layout.inodes_per_group,
        }
    }

    /// The bitmap of group `nr`, made up if it was never written.
    pub(crate) fn read(self, layout: &Layout, blocks: &dyn Blocks, nr: u32) -> Result<BlockRef> {
        let group = Group::read(layout, blocks, nr)?;
        if layout.has_uninit() && group.flags() & self.uninit() != 0 {
            let mut fresh = crate::block::Block::zeroed(layout.block_size)?;
            self.fill(layout, nr, fresh.bytes_mut());
            return Ok(alloc::sync::Arc::new(fresh));
        }
        let held = blocks.read(self.place(&group))?;
        held.check(|bytes| {
            let Some(csum) = self.csum(layout, bytes) else { return Ok(()) };
            let stored = group.bitmap_csum(self);
            let is_same =
                if layout.desc_size >= FULL_SIZE { stored == csum } else { stored == csum & 0xffff };
            if is_same { Ok(()) } else { Err(Error::Corrupt("bitmap checksum")) }
        })?;
        Ok(held)
    }

    /// The bitmap of group `nr`, to be changed.
    pub(crate) fn write<'a>(self, layout: &Layout, edit: &'a mut dyn Edit, nr: u32) -> Result<&'a mut [u8]> {
        let group = Group::read(layout, edit, nr)?;
        if layout.has_uninit() && group.flags() & self.uninit() != 0 {
            Group::update(layout, edit, nr, |group| group.set_flags(group.flags() & !self.uninit()))?;
            let bytes = edit.create(self.place(&group), self.seal(nr))?;
            self.fill(layout, nr, bytes);
            return Ok(bytes);
        }
        drop(self.read(layout, edit, nr)?);
        edit.write(self.place(&group), self.seal(nr))
    }

    /// What the bitmap is before anything was allocated.
    fn fill(self, layout: &Layout, nr: u32, bytes: &mut [u8]) {
        let end = 8 * bytes.len() as u32;
        match self {
            Self::Blocks => {
                for range in layout.system_in_group(nr) {
                    set_bits(bytes, range.start, range.end - range.start);
                }
                let len = layout.group_len(nr);
                set_bits(bytes, len, end - len);
            }
            Self::Inodes => set_bits(bytes, layout.inodes_per_group, end - layout.inodes_per_group),
        }
    }

    fn csum(self, layout: &Layout, bytes: &[u8]) -> Option<u32> {
        let covered = bytes.get(..self.nr_bits(layout) as usize / 8)?;
        Some(crc32c(layout.csum_seed?, covered))
    }
}

/// Sets `count` bits from `first` on.
pub(crate) fn set_bits(bytes: &mut [u8], first: u32, count: u32) {
    for bit in first..first.saturating_add(count) {
        if let Some(byte) = bytes.get_mut(bit as usize / 8) {
            *byte |= 1 << (bit % 8);
        }
    }
}

/// Whether bit `bit` is set; bits beyond the end are.
pub(crate) fn is_set(bytes: &[u8], bit: u32) -> bool {
    bytes.get(bit as usize / 8).is_none_or(|byte| byte & 1 << (bit % 8) != 0)
}

/// The bits of the word that byte `at` begins, the word's first bit lowest.
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The first clear bit in `from..end`.
pub(crate) fn next_clear(bytes: &[u8], from: u32, end: u32) -> Option<u32> {
    let mut bit = from;
    while bit < end {
        let at = bit as usize / 8;
        if bit.is_multiple_of(8) && word(bytes, at) == Some(u64::MAX) {
            bit += u64::BITS;
            continue;
        }
        let byte = *bytes.get(at)?;
        if byte == 0xff {
            bit = (bit | 7) + 1;
        } else if byte & 1 << (bit % 8) == 0 {
            return Some(bit);
        } else {
            bit += 1;
        }
    }
    None
}

/// The first set bit in `from..end`, or `end`.
pub(crate) fn next_set(bytes: &[u8], from: u32, end: u32) -> u32 {
    let mut bit = from;
    while bit < end {
        let at = bit as usize / 8;
        if bit.is_multiple_of(8) && word(bytes, at) == Some(0) {
            bit += u64::BITS;
            continue;
        }
        match bytes.get(at) {
            Some(0) => bit = (bit | 7) + 1,
            Some(byte) if byte & 1 << (bit % 8) != 0 => return bit,
            Some(_) => bit += 1,
            None => return bit,
        }
    }
    end
}

impl Layout {
    /// Whether bitmaps may be unwritten.
    fn has_uninit(&self) -> bool {
        self.ro_compat.intersects(RoCompat::GDT_CSUM | RoCompat::METADATA_CSUM)
    }

    fn desc_csum(&self, nr: u32, desc: &[u8]) -> Option<u16> {
        let (before, after) = (desc.get(..CHECKSUM_AT)?, desc.get(CHECKSUM_AT + 2..)?);
        if let Some(seed) = self.csum_seed {
            let crc = crc32c(crc32c(seed, &nr.to_le_bytes()), before);
            return Some(crc32c(crc32c(crc, &[0; 2]), after) as u16);
        }
        if !self.ro_compat.contains(RoCompat::GDT_CSUM) {
            return None;
        }
        let crc = crc16(crc16(crc16(!0, &self.uuid), &nr.to_le_bytes()), before);
        Some(crc16(crc, after))
    }
}

/// Checks the checksums of all descriptors of a block, the first of which is of group `first`.
fn check_descs(layout: &Layout, bytes: &[u8], first: u32) -> Result<()> {
    for (nr, desc) in (first..layout.nr_groups).zip(bytes.chunks_exact(layout.desc_size)) {
        if layout.desc_csum(nr, desc).is_some_and(|csum| csum != view::le16(desc, CHECKSUM_AT)) {
            return Err(Error::Corrupt("group descriptor checksum"));
        }
    }
    Ok(())
}

/// Makes the checksum of a changed block. Bitmaps store theirs in the group descriptor: seal them first, and
/// the blocks of descriptors after them.
pub fn seal(layout: &Layout, edit: &mut dyn Edit, nr: u64, how: Seal) -> Result<()> {
    let Some(seed) = layout.csum_seed else {
        if let Seal::Groups(first) = how {
            seal_descs(layout, edit.write(nr, how)?, first);
        }
        return Ok(());
    };
    match how {
        Seal::None => Ok(()),
        Seal::Inodes(first, mask) => {
            inode::seal(layout, edit.write(nr, how)?, first, mask);
            Ok(())
        }
        Seal::Super => {
            let (_, at) = layout.super_place();
            let bytes = edit.write(nr, how)?;
            let covered = view::slice(bytes, at, superblock::CHECKSUM_AT)?;
            let csum = crc32c(!0, covered);
            view::put(bytes, at + superblock::CHECKSUM_AT, &csum.to_le_bytes());
            Ok(())
        }
        Seal::Groups(first) => {
            seal_descs(layout, edit.write(nr, how)?, first);
            Ok(())
        }
        Seal::BlockBitmap(group) => seal_bitmap(layout, edit, nr, group, Bitmap::Blocks),
        Seal::InodeBitmap(group) => seal_bitmap(layout, edit, nr, group, Bitmap::Inodes),
        Seal::Extents(seed) => extent::seal(edit.write(nr, how)?, seed),
        Seal::Dir(seed) => dir::seal(edit.write(nr, how)?, seed),
        Seal::Xattr(block) => xattr::seal(edit.write(nr, how)?, seed, block),
        Seal::Orphans(seed, block) => orphan::seal(edit.write(nr, how)?, seed, block),
    }
}

fn seal_bitmap(layout: &Layout, edit: &mut dyn Edit, nr: u64, group: u32, kind: Bitmap) -> Result<()> {
    let csum = kind.csum(layout, edit.read(nr)?.bytes()).ok_or(Error::Corrupt("bitmap size"))?;
    Group::update(layout, edit, group, |desc| desc.set_bitmap_csum(kind, csum))
}

fn seal_descs(layout: &Layout, bytes: &mut [u8], first: u32) {
    for (nr, desc) in (first..layout.nr_groups).zip(bytes.chunks_exact_mut(layout.desc_size)) {
        if let Some(csum) = layout.desc_csum(nr, desc) {
            view::put(desc, CHECKSUM_AT, &csum.to_le_bytes());
        }
    }
}
