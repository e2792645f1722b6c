//! The superblock and its feature flags.
//!
//! Sources: Documentation/filesystems/ext4/super.rst (Linux 7.2), ext4(5).

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{Blocks, Edit, Seal};
use crate::error::Result;
use crate::layout::Layout;
use crate::view;

/// Where the superblock begins, in bytes.
pub const OFFSET: u64 = 1024;
/// Its length.
pub const LEN: usize = 1024;
/// `s_magic`.
pub const MAGIC: u16 = 0xef53;
/// `s_state`: cleanly unmounted.
pub const STATE_CLEAN: u16 = 1;
/// `s_state`: errors were found.
pub const STATE_ERRORS: u16 = 2;
/// `s_flags`: directory hashes take names as unsigned bytes.
pub(crate) const FLAG_UNSIGNED_HASH: u32 = 2;
/// Where `s_checksum` is.
pub(crate) const CHECKSUM_AT: usize = 0x3fc;

bitflags! {
    /// `s_feature_compat`: unknown ones do no harm.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Compat: u32 {
        /// There is a journal.
        const HAS_JOURNAL = 0x4;
        /// Directories may be indexed.
        const DIR_INDEX = 0x20;
        /// Backups of the superblock are in two groups only.
        const SPARSE_SUPER2 = 0x200;
        /// Fast commits may be in the journal.
        const FAST_COMMIT = 0x400;
        /// There is an orphan file.
        const ORPHAN_FILE = 0x1000;
        const _ = !0;
    }

    /// `s_feature_incompat`: an unknown one forbids mounting.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Incompat: u32 {
        /// Directory entries tell the kind of file.
        const FILETYPE = 0x2;
        /// The journal has to be replayed.
        const RECOVER = 0x4;
        /// Group descriptors are spread over meta groups.
        const META_BG = 0x10;
        /// Files may be mapped by extents.
        const EXTENTS = 0x40;
        /// Block numbers have 48 bits.
        const BITS64 = 0x80;
        /// Metadata of several groups may lie together.
        const FLEX_BG = 0x200;
        /// The checksums' seed is in the superblock.
        const CSUM_SEED = 0x2000;
        /// Directories may have three levels of index.
        const LARGEDIR = 0x4000;
        /// Small files live in their inodes.
        const INLINE_DATA = 0x8000;
        const _ = !0;
    }

    /// `s_feature_ro_compat`: an unknown one forbids writing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RoCompat: u32 {
        /// Backups of the superblock are in some groups only.
        const SPARSE_SUPER = 0x1;
        /// There are files of 2 GiB or more.
        const LARGE_FILE = 0x2;
        /// `i_blocks` may count blocks of the file system.
        const HUGE_FILE = 0x8;
        /// Group descriptors have CRC-16 checksums.
        const GDT_CSUM = 0x10;
        /// Directories may have more than 65,000 subdirectories.
        const DIR_NLINK = 0x20;
        /// Inodes have nanoseconds and creation times.
        const EXTRA_ISIZE = 0x40;
        /// All metadata has CRC-32C checksums.
        const METADATA_CSUM = 0x400;
        /// The orphan file has entries.
        const ORPHAN_PRESENT = 0x1_0000;
        const _ = !0;
    }
}

/// The superblock as it is on disk.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of the format's description")]
pub struct RawSuper {
    pub inodes_count: U32,
    pub blocks_count_lo: U32,
    pub r_blocks_count_lo: U32,
    pub free_blocks_count_lo: U32,
    pub free_inodes_count: U32,
    pub first_data_block: U32,
    pub log_block_size: U32,
    pub log_cluster_size: U32,
    pub blocks_per_group: U32,
    pub clusters_per_group: U32,
    pub inodes_per_group: U32,
    pub mtime: U32,
    pub wtime: U32,
    pub mnt_count: U16,
    pub max_mnt_count: U16,
    pub magic: U16,
    pub state: U16,
    pub errors: U16,
    pub minor_rev_level: U16,
    pub lastcheck: U32,
    pub checkinterval: U32,
    pub creator_os: U32,
    pub rev_level: U32,
    pub def_resuid: U16,
    pub def_resgid: U16,
    pub first_ino: U32,
    pub inode_size: U16,
    pub block_group_nr: U16,
    pub feature_compat: U32,
    pub feature_incompat: U32,
    pub feature_ro_compat: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub last_mounted: [u8; 64],
    pub algorithm_usage_bitmap: U32,
    pub prealloc_blocks: u8,
    pub prealloc_dir_blocks: u8,
    pub reserved_gdt_blocks: U16,
    pub journal_uuid: [u8; 16],
    pub journal_inum: U32,
    pub journal_dev: U32,
    pub last_orphan: U32,
    pub hash_seed: [U32; 4],
    pub def_hash_version: u8,
    pub jnl_backup_type: u8,
    pub desc_size: U16,
    pub default_mount_opts: U32,
    pub first_meta_bg: U32,
    pub mkfs_time: U32,
    pub jnl_blocks: [U32; 17],
    pub blocks_count_hi: U32,
    pub r_blocks_count_hi: U32,
    pub free_blocks_count_hi: U32,
    pub min_extra_isize: U16,
    pub want_extra_isize: U16,
    pub flags: U32,
    pub raid_stride: U16,
    pub mmp_interval: U16,
    pub mmp_block: U64,
    pub raid_stripe_width: U32,
    pub log_groups_per_flex: u8,
    pub checksum_type: u8,
    pub encryption_level: u8,
    pub reserved_pad: u8,
    pub kbytes_written: U64,
    pub snapshot: [u8; 20],
    pub error_count: U32,
    pub first_error_time: U32,
    pub first_error_ino: U32,
    pub first_error_block: U64,
    pub first_error_func: [u8; 32],
    pub first_error_line: U32,
    pub last_error_time: U32,
    pub last_error_ino: U32,
    pub last_error_line: U32,
    pub last_error_block: U64,
    pub last_error_func: [u8; 32],
    pub mount_opts: [u8; 64],
    pub usr_quota_inum: U32,
    pub grp_quota_inum: U32,
    pub overhead_clusters: U32,
    pub backup_bgs: [U32; 2],
    pub encrypt_algos: [u8; 4],
    pub encrypt_pw_salt: [u8; 16],
    pub lpf_ino: U32,
    pub prj_quota_inum: U32,
    pub checksum_seed: U32,
    pub times_hi: [u8; 8],
    pub encoding: U16,
    pub encoding_flags: U16,
    pub orphan_file_inum: U32,
    pub reserved: [u8; 376],
    pub checksum: U32,
}

const _: () = assert!(size_of::<RawSuper>() == LEN);

impl RawSuper {
    /// Number of blocks of the file system.
    pub fn blocks_count(&self) -> u64 {
        join(self.blocks_count_lo, self.blocks_count_hi, self.is_64bit())
    }

    /// Blocks for the privileged only.
    pub fn reserved_blocks(&self) -> u64 {
        join(self.r_blocks_count_lo, self.r_blocks_count_hi, self.is_64bit())
    }

    /// Free blocks.
    pub fn free_blocks(&self) -> u64 {
        join(self.free_blocks_count_lo, self.free_blocks_count_hi, self.is_64bit())
    }

    /// Sets the number of free blocks.
    pub fn set_free_blocks(&mut self, count: u64) {
        self.free_blocks_count_lo.set(count as u32);
        if self.is_64bit() {
            self.free_blocks_count_hi.set((count >> 32) as u32);
        }
    }

    fn is_64bit(&self) -> bool {
        self.incompat().contains(Incompat::BITS64)
    }

    /// Compatible features.
    pub fn compat(&self) -> Compat {
        Compat::from_bits_retain(self.feature_compat.get())
    }

    /// Incompatible features.
    pub fn incompat(&self) -> Incompat {
        Incompat::from_bits_retain(self.feature_incompat.get())
    }

    /// Features that forbid writing to who does not know them.
    pub fn ro_compat(&self) -> RoCompat {
        RoCompat::from_bits_retain(self.feature_ro_compat.get())
    }

    /// Adds and removes incompatible features.
    pub fn change_incompat(&mut self, add: Incompat, remove: Incompat) {
        self.feature_incompat.set((self.incompat() | add).bits() & !remove.bits());
    }

    /// Adds and removes features that forbid writing to who does not know them.
    pub fn change_ro_compat(&mut self, add: RoCompat, remove: RoCompat) {
        self.feature_ro_compat.set((self.ro_compat() | add).bits() & !remove.bits());
    }
}

pub(crate) fn join(low: U32, high: U32, has_high: bool) -> u64 {
    u64::from(low.get()) | if has_high { u64::from(high.get()) << 32 } else { 0 }
}

/// Looks at the superblock by `f`.
pub fn look<R>(layout: &Layout, blocks: &dyn Blocks, f: impl FnOnce(&RawSuper) -> R) -> Result<R> {
    let (block, at) = layout.super_place();
    let held = blocks.read(block)?;
    Ok(f(view::get::<RawSuper>(held.bytes(), at)?))
}

/// Changes the superblock by `f`.
pub fn change<R>(layout: &Layout, edit: &mut dyn Edit, f: impl FnOnce(&mut RawSuper) -> R) -> Result<R> {
    let (block, at) = layout.super_place();
    Ok(f(view::get_mut::<RawSuper>(edit.write(block, Seal::Super)?, at)?))
}

/// Notes in the superblock `raw` that the journal needs no replay, with its checksum.
pub fn clear_recover(raw: &mut [u8]) -> Result<()> {
    let sb: &mut RawSuper = view::get_mut(raw, 0)?;
    sb.change_incompat(Incompat::empty(), Incompat::RECOVER);
    if sb.ro_compat().contains(RoCompat::METADATA_CSUM) {
        let csum = crate::crc::crc32c(!0, view::slice(raw, 0, CHECKSUM_AT)?);
        view::put(raw, CHECKSUM_AT, &csum.to_le_bytes());
    }
    Ok(())
}
