//! The geometry of a file system: everything in the superblock that stays as it is while it is mounted.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::ops::Range;

use crate::block::Blocks;
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::group::{self, Group};
use crate::superblock::{self, Compat, Incompat, RawSuper, RoCompat};
use crate::view;

/// How a file system may be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// For reading and writing.
    ReadWrite,
    /// For reading only; the text names the feature that is in the way.
    ReadOnly(&'static str),
}

/// See the module's front page. All fields were checked against each other.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Bytes in a block: 1024, 2048 or 4096.
    pub block_size: usize,
    /// Its logarithm.
    pub block_bits: u32,
    /// Number of blocks.
    pub blocks_count: u64,
    /// The block of the first group's first bit.
    pub first_data_block: u64,
    /// Blocks in a group.
    pub blocks_per_group: u32,
    /// Inodes in a group.
    pub inodes_per_group: u32,
    /// Number of inodes.
    pub inodes_count: u32,
    /// Number of groups.
    pub nr_groups: u32,
    /// Bytes in an inode.
    pub inode_size: usize,
    /// Bytes in a group descriptor.
    pub desc_size: usize,
    /// Logarithm of the number of groups whose metadata lies together.
    pub flex_bits: u32,
    /// The first inode that is not reserved.
    pub first_ino: u32,
    /// Bytes that new inodes use beyond the first 128.
    pub want_extra_isize: u16,
    /// Blocks that only the privileged may use.
    pub reserved_blocks: u64,
    /// Blocks that never hold files.
    pub overhead: u64,
    /// Features.
    pub compat: Compat,
    /// Features.
    pub incompat: Incompat,
    /// Features.
    pub ro_compat: RoCompat,
    /// Data of all files goes through the journal (mount option `data=journal`).
    pub journals_data: bool,
    /// Data of files with the flag `+j` does (mount option `nodelalloc`).
    pub heeds_journal_flag: bool,
    /// The inode of the journal, 0 for none.
    pub journal_ino: u32,
    /// The inode of the orphan file, 0 for none.
    pub orphan_file_ino: u32,
    /// Identification.
    pub uuid: [u8; 16],
    /// Key of directory hashes.
    pub(crate) hash_seed: [u32; 4],
    /// How new directory indexes hash.
    pub(crate) hash_version: u8,
    /// Directory hashes take names as unsigned bytes.
    pub(crate) is_hash_unsigned: bool,
    /// The start of all checksums, if there are any.
    pub(crate) csum_seed: Option<u32>,
    reserved_gdt_blocks: u32,
    first_meta_bg: u32,
    backup_bgs: [u32; 2],
    /// Blocks with file-system metadata at fixed places, ascending and apart.
    system: Vec<Range<u64>>,
    /// Where the groups' inode tables are.
    tables: Vec<u64>,
}

/// What makes mounting impossible.
const REFUSED: &[(u32, &str)] = &[
    (0x1, "compression"),
    (0x8, "an external journal's device"),
    (0x400, "attributes in inodes (ea_inode)"),
    (0x1000, "directory data"),
    (0x1_0000, "encryption"),
    (0x2_0000, "casefold"),
];

impl Layout {
    /// The geometry that the superblock `raw` (1024 bytes) tells, for a device of `device_bytes`.
    ///
    /// `Corrupt`: it contradicts itself or the device. `Unsupported`: an unknown incompatible feature.
    pub fn new(raw: &[u8], device_bytes: u64) -> Result<Self> {
        let sb: &RawSuper = view::get(raw, 0)?;
        if sb.magic.get() != superblock::MAGIC {
            return Err(Error::Corrupt("no ext4 superblock"));
        }
        check_features(sb)?;
        let incompat = sb.incompat();
        let ro_compat = sb.ro_compat();
        let has_csums = ro_compat.contains(RoCompat::METADATA_CSUM);
        if has_csums {
            if sb.checksum_type != 1 {
                return Err(Error::Unsupported("checksum type"));
            }
            if crc32c(!0, raw.get(..superblock::CHECKSUM_AT).unwrap_or_default()) != sb.checksum.get() {
                return Err(Error::Corrupt("superblock checksum"));
            }
        }
        let csum_seed = has_csums.then(|| {
            if incompat.contains(Incompat::CSUM_SEED) { sb.checksum_seed.get() } else { crc32c(!0, &sb.uuid) }
        });
        let log = sb.log_block_size.get();
        if log > 6 {
            return Err(Error::Corrupt("block size"));
        }
        if log > 2 {
            return Err(Error::Unsupported("blocks larger than pages"));
        }
        let block_bits = 10 + log;
        let is_dynamic = sb.rev_level.get() > 0;
        let is_64bit = incompat.contains(Incompat::BITS64);
        let mut layout = Self {
            block_size: 1 << block_bits,
            block_bits,
            blocks_count: sb.blocks_count(),
            first_data_block: u64::from(sb.first_data_block.get()),
            blocks_per_group: sb.blocks_per_group.get(),
            inodes_per_group: sb.inodes_per_group.get(),
            inodes_count: sb.inodes_count.get(),
            nr_groups: 0,
            inode_size: if is_dynamic { sb.inode_size.get().into() } else { 128 },
            desc_size: if is_64bit { sb.desc_size.get().into() } else { group::MIN_SIZE },
            flex_bits: u32::from(sb.log_groups_per_flex),
            first_ino: if is_dynamic { sb.first_ino.get() } else { 11 },
            want_extra_isize: sb.want_extra_isize.get().max(sb.min_extra_isize.get()),
            reserved_blocks: sb.reserved_blocks(),
            overhead: u64::from(sb.overhead_clusters.get()),
            compat: sb.compat(),
            incompat,
            ro_compat,
            journals_data: false,
            heeds_journal_flag: false,
            journal_ino: if sb.compat().contains(Compat::HAS_JOURNAL) { sb.journal_inum.get() } else { 0 },
            orphan_file_ino: if sb.compat().contains(Compat::ORPHAN_FILE) {
                sb.orphan_file_inum.get()
            } else {
                0
            },
            uuid: sb.uuid,
            hash_seed: sb.hash_seed.map(|word| word.get()),
            hash_version: sb.def_hash_version,
            is_hash_unsigned: sb.flags.get() & superblock::FLAG_UNSIGNED_HASH != 0,
            csum_seed,
            reserved_gdt_blocks: u32::from(sb.reserved_gdt_blocks.get()),
            first_meta_bg: sb.first_meta_bg.get(),
            backup_bgs: sb.backup_bgs.map(|group| group.get()),
            system: Vec::new(),
            tables: Vec::new(),
        };
        layout.check(sb, device_bytes)?;
        Ok(layout)
    }

    /// Checks the numbers against each other and counts the groups.
    fn check(&mut self, sb: &RawSuper, device_bytes: u64) -> Result<()> {
        let corrupt = |what| Err(Error::Corrupt(what));
        let bits = 8 * self.block_size as u32;
        if self.blocks_per_group == 0
            || self.blocks_per_group > bits
            || !self.blocks_per_group.is_multiple_of(8)
        {
            return corrupt("blocks per group");
        }
        if self.inodes_per_group == 0
            || self.inodes_per_group > bits
            || !self.inodes_per_group.is_multiple_of(8)
        {
            return corrupt("inodes per group");
        }
        if !self.inode_size.is_power_of_two() || self.inode_size < 128 || self.inode_size > self.block_size {
            return corrupt("inode size");
        }
        let desc_max = self.block_size.min(1024);
        if !self.desc_size.is_power_of_two() || !(group::MIN_SIZE..=desc_max).contains(&self.desc_size) {
            return corrupt("group descriptor size");
        }
        if self.incompat.contains(Incompat::BITS64) && self.desc_size < group::FULL_SIZE {
            return corrupt("group descriptor size");
        }
        if self.first_data_block != u64::from(self.block_bits == 10) {
            return corrupt("first data block");
        }
        let device_blocks = device_bytes >> self.block_bits;
        if self.blocks_count <= self.first_data_block
            || self.blocks_count > device_blocks
            || self.blocks_count >> 48 != 0
        {
            return corrupt("block count beyond the device");
        }
        let per_group = u64::from(self.blocks_per_group);
        let groups = (self.blocks_count - self.first_data_block).div_ceil(per_group);
        self.nr_groups = u32::try_from(groups).map_err(|_| Error::Corrupt("group count"))?;
        let inodes = groups.checked_mul(u64::from(self.inodes_per_group));
        if inodes != Some(u64::from(self.inodes_count)) || self.inodes_count < self.first_ino {
            return corrupt("inode count");
        }
        if self.flex_bits > 31 || self.first_ino < 11 {
            return corrupt("first inode or flex size");
        }
        if self.reserved_gdt_blocks > bits / 8 / 4 && !self.incompat.contains(Incompat::META_BG) {
            return corrupt("reserved descriptor blocks");
        }
        let extra_max = self.inode_size.saturating_sub(128);
        if usize::from(self.want_extra_isize) > extra_max || !self.want_extra_isize.is_multiple_of(4) {
            self.want_extra_isize = extra_max.min(32) as u16;
        }
        if self.inode_size > 128 && self.want_extra_isize == 0 {
            self.want_extra_isize = 32;
        }
        let has_clusters = self.ro_compat.bits() & 0x200 != 0;
        if !has_clusters && sb.log_cluster_size.get() != sb.log_block_size.get() && sb.rev_level.get() > 0 {
            return corrupt("cluster size");
        }
        self.reserved_blocks = self.reserved_blocks.min(self.blocks_count / 2);
        Ok(())
    }

    /// Whether the file system can be written to.
    pub fn support(&self) -> Support {
        let has = |flag| self.incompat.contains(flag);
        if self.incompat.bits() & 0x100 != 0 {
            return Support::ReadOnly("multi-mount protection");
        }
        if !has(Incompat::FILETYPE) {
            return Support::ReadOnly("no kinds of files in directories");
        }
        let known = RoCompat::SPARSE_SUPER
            | RoCompat::LARGE_FILE
            | RoCompat::HUGE_FILE
            | RoCompat::GDT_CSUM
            | RoCompat::DIR_NLINK
            | RoCompat::EXTRA_ISIZE
            | RoCompat::METADATA_CSUM
            | RoCompat::ORPHAN_PRESENT;
        if self.ro_compat.bits() & !known.bits() != 0 {
            return Support::ReadOnly("an unknown feature");
        }
        Support::ReadWrite
    }

    /// Reads and checks all group descriptors, and notes where fixed metadata is. To be called once after `new`.
    pub fn load_groups(&mut self, blocks: &dyn Blocks) -> Result<()> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut overhead = self.first_data_block;
        let mut reserve = |range: Range<u64>| -> Result<()> {
            ranges.try_reserve(1).map_err(|_| Error::NoMemory)?;
            ranges.push((range.start, range.end));
            Ok(())
        };
        let itable = self.itable_blocks();
        let mut tables = Vec::new();
        tables.try_reserve_exact(self.nr_groups as usize).map_err(|_| Error::NoMemory)?;
        for nr in 0..self.nr_groups {
            let desc = Group::read(self, blocks, nr)?;
            let base = self.group_start(nr);
            let nr_base = self.group_base_blocks(nr);
            if base + nr_base > self.blocks_count {
                return Err(Error::Corrupt("group descriptors beyond the file system"));
            }
            let (table, block_map, inode_map) =
                (desc.inode_table(), desc.block_bitmap(), desc.inode_bitmap());
            for (start, len) in [(block_map, 1), (inode_map, 1), (table, itable)] {
                if !self.is_block_range(start, len) {
                    return Err(Error::Corrupt("group metadata beyond the file system"));
                }
                reserve(start..start + len)?;
            }
            reserve(base..base + nr_base)?;
            tables.push(table);
            overhead += nr_base + 2 + itable;
        }
        if self.overhead == 0 {
            self.overhead = overhead;
        }
        self.overhead = self.overhead.min(self.blocks_count);
        // A heap sorts without recursion: how many groups there are, the image says.
        let ranges = BinaryHeap::from(ranges).into_sorted_vec();
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges.into_iter().map(|(start, end)| start..end).filter(|range| !range.is_empty()) {
            match joined.last_mut() {
                Some(last) if range.start < last.end => {
                    return Err(Error::Corrupt("metadata of groups overlaps"));
                }
                Some(last) if range.start == last.end => last.end = range.end,
                _ => {
                    joined.try_reserve(1).map_err(|_| Error::NoMemory)?;
                    joined.push(range);
                }
            }
        }
        self.system = joined;
        self.tables = tables;
        Ok(())
    }

    /// The first block of group `nr`'s inode table; `None`: no such group, or [`Layout::load_groups`] was not called yet.
    pub(crate) fn inode_table(&self, nr: u32) -> Option<u64> {
        self.tables.get(nr as usize).copied()
    }

    /// Inodes in a block of a table.
    pub(crate) fn inodes_per_block(&self) -> u32 {
        (self.block_size / self.inode_size) as u32
    }

    /// The first block of group `nr`.
    pub(crate) fn group_start(&self, nr: u32) -> u64 {
        self.first_data_block + u64::from(nr) * u64::from(self.blocks_per_group)
    }

    /// How many blocks group `nr` has.
    pub(crate) fn group_len(&self, nr: u32) -> u32 {
        let rest = self.blocks_count.saturating_sub(self.group_start(nr));
        rest.min(u64::from(self.blocks_per_group)) as u32
    }

    /// The group of block `block`, and the block's bit there.
    pub(crate) fn group_of(&self, block: u64) -> (u32, u32) {
        let at = block.saturating_sub(self.first_data_block);
        let per = u64::from(self.blocks_per_group);
        ((at / per) as u32, (at % per) as u32)
    }

    /// Blocks of a group's inode table.
    pub(crate) fn itable_blocks(&self) -> u64 {
        (self.inodes_per_group as usize * self.inode_size).div_ceil(self.block_size) as u64
    }

    fn descs_per_block(&self) -> u32 {
        (self.block_size / self.desc_size) as u32
    }

    /// The block with the descriptor of group `nr`, the byte in it, and the group of the block's first descriptor.
    pub(crate) fn desc_place(&self, nr: u32) -> (u64, usize, u32) {
        let per = self.descs_per_block();
        let (meta, at) = (nr / per, (nr % per) as usize * self.desc_size);
        let block = if self.incompat.contains(Incompat::META_BG) && meta >= self.first_meta_bg {
            let group = meta * per;
            self.group_start(group) + u64::from(self.has_super(group))
        } else {
            self.first_data_block + 1 + u64::from(meta)
        };
        (block, at, meta * per)
    }

    /// Whether group `nr` begins with a copy of the superblock.
    fn has_super(&self, nr: u32) -> bool {
        if nr == 0 {
            return true;
        }
        if self.compat.contains(Compat::SPARSE_SUPER2) {
            return self.backup_bgs.contains(&nr);
        }
        if nr == 1 || !self.ro_compat.contains(RoCompat::SPARSE_SUPER) {
            return true;
        }
        [3u32, 5, 7].into_iter().any(|base| {
            let mut power = base;
            while power < nr {
                power = power.saturating_mul(base);
            }
            power == nr
        })
    }

    /// Blocks at the start of group `nr` with copies of the superblock and of descriptors.
    pub(crate) fn group_base_blocks(&self, nr: u32) -> u64 {
        let per = self.descs_per_block();
        let has_super = self.has_super(nr);
        let is_meta = self.incompat.contains(Incompat::META_BG) && nr / per >= self.first_meta_bg;
        let descs = if is_meta {
            let at = nr % per;
            u64::from(at == 0 || at == 1 || at == per - 1)
        } else if has_super {
            let all = u64::from(self.nr_groups.div_ceil(per));
            let old = if self.incompat.contains(Incompat::META_BG) {
                all.min(u64::from(self.first_meta_bg))
            } else {
                all
            };
            old + u64::from(self.reserved_gdt_blocks)
        } else {
            0
        };
        u64::from(has_super) + descs
    }

    /// Whether `start..start + len` lies in the file system.
    pub(crate) fn is_block_range(&self, start: u64, len: u64) -> bool {
        start >= self.first_data_block.max(1)
            && start.checked_add(len).is_some_and(|end| end <= self.blocks_count)
    }

    /// Whether `start..start + len` may belong to a file: in the file system, and no fixed metadata.
    pub fn is_file_range(&self, start: u64, len: u64) -> bool {
        if len == 0 || !self.is_block_range(start, len) {
            return false;
        }
        let end = start + len;
        let at = self.system.partition_point(|range| range.end <= start);
        self.system.get(at).is_none_or(|range| range.start >= end)
    }

    /// The bits of `group`'s block bitmap that fixed metadata takes.
    pub(crate) fn system_in_group(&self, nr: u32) -> impl Iterator<Item = Range<u32>> {
        let start = self.group_start(nr);
        let end = start + u64::from(self.group_len(nr));
        let first = self.system.partition_point(|range| range.end <= start);
        let rest = self.system.get(first..).unwrap_or_default();
        rest.iter().take_while(move |range| range.start < end).map(move |range| {
            let bit = |block: u64| block.clamp(start, end) - start;
            bit(range.start) as u32..bit(range.end) as u32
        })
    }

    /// The block with the superblock, and the byte in it.
    pub fn super_place(&self) -> (u64, usize) {
        (superblock::OFFSET >> self.block_bits, superblock::OFFSET as usize % self.block_size)
    }

    /// Whether metadata has checksums.
    pub fn has_csums(&self) -> bool {
        self.csum_seed.is_some()
    }

    /// The seed of checksums about inode `ino`.
    pub(crate) fn inode_seed(&self, ino: u32, generation: u32) -> u32 {
        let Some(seed) = self.csum_seed else { return 0 };
        crc32c(crc32c(seed, &ino.to_le_bytes()), &generation.to_le_bytes())
    }

    /// Whether `ino` is the number of an inode.
    pub fn is_ino(&self, ino: u32) -> bool {
        ino >= 1 && ino <= self.inodes_count
    }
}

fn check_features(sb: &RawSuper) -> Result<()> {
    let incompat = sb.incompat();
    for &(bit, what) in REFUSED {
        if incompat.bits() & bit != 0 {
            return Err(Error::Unsupported(what));
        }
    }
    let known = Incompat::FILETYPE
        | Incompat::RECOVER
        | Incompat::META_BG
        | Incompat::EXTENTS
        | Incompat::BITS64
        | Incompat::FLEX_BG
        | Incompat::CSUM_SEED
        | Incompat::LARGEDIR
        | Incompat::INLINE_DATA;
    const MMP: u32 = 0x100;
    if incompat.bits() & !(known.bits() | MMP) != 0 {
        return Err(Error::Unsupported("unknown feature"));
    }
    Ok(())
}

impl Layout {
    /// Where blocks of inode `ino` should be when nothing else is known: in its group, spread by its number.
    pub fn inode_goal(&self, ino: u32) -> u64 {
        let (group, idx) = ((ino.max(1) - 1) / self.inodes_per_group, ino % 16);
        self.group_start(group.min(self.nr_groups - 1)) + u64::from(self.blocks_per_group / 16 * idx)
    }
}
