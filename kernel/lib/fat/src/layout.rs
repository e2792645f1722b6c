//! The geometry of a volume, out of its boot sector.

use core::ops::Range;

use crate::name::Spelling;
use crate::{Error, Result, Volume, le16, le32};

/// Bytes of the boot sector that [`Layout::parse`] looks at.
pub const BOOT_LEN: usize = 512;
/// The bit "not unmounted" of a volume's state (Linux, Windows NT).
const STATE_DIRTY: u8 = 1;
/// Stands for the one cluster of a root directory that is not in clusters: FAT12 and FAT16. No table can name it.
pub(crate) const FIXED_ROOT: u32 = u32::MAX;
/// Bytes of a directory's record.
const RECORD_LEN: u32 = 32;

const FSINFO_LEAD: u32 = 0x4161_5252;
const FSINFO_MARK: u32 = 0x6141_7272;

/// How wide the entries of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 12 bits: two entries share three bytes.
    Bits12,
    /// 16 bits.
    Bits16,
    /// 32 bits, of which the top 4 mean nothing.
    Bits32,
}

impl Width {
    /// The bits of an entry that mean something.
    pub(crate) fn mask(self) -> u32 {
        match self {
            Self::Bits12 => 0xfff,
            Self::Bits16 => 0xffff,
            Self::Bits32 => 0x0fff_ffff,
        }
    }

    /// The most clusters that a table can have: with more the width is another (Linux, msdos_fs.h).
    fn max_clusters(self) -> u32 {
        self.mask() - 11
    }

    /// How many entries `bytes` hold.
    fn entries_in(self, bytes: u64) -> u64 {
        match self {
            Self::Bits12 => bytes * 2 / 3,
            Self::Bits16 => bytes / 2,
            Self::Bits32 => bytes / 4,
        }
    }

    /// Where in its table the entry of `cluster` begins.
    fn offset(self, cluster: u32) -> u64 {
        let cluster = u64::from(cluster);
        match self {
            Self::Bits12 => cluster + cluster / 2,
            Self::Bits16 => cluster * 2,
            Self::Bits32 => cluster * 4,
        }
    }
}

/// Where things are. All positions are in bytes from the start of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a sector: 512 to 4096.
    pub sector_size: u32,
    /// Bytes of a cluster, at most 64 KiB.
    pub cluster_size: u32,
    /// The first cluster of the root directory, or what stands for one that is not in clusters.
    pub root: u32,
    /// The width of the tables' entries.
    pub width: Width,
    /// Where a root directory that is not in clusters begins, and its bytes.
    pub(crate) root_at: u64,
    pub(crate) root_len: u32,
    /// Number of the volume.
    pub serial: u32,
    /// How short names are spelled: chosen by who mounts, [`Spelling::Mixed`] if nobody does.
    pub spelling: Spelling,
    /// Where tables begin, how many there are, and the bytes of each.
    pub(crate) tables_at: u64,
    pub(crate) nr_tables: u32,
    pub(crate) table_len: u64,
    /// The one table in use, if the others are not kept equal.
    pub(crate) only_table: Option<u32>,
    data_at: u64,
    /// One more than the highest number of a cluster; the first is 2.
    pub(crate) end: u32,
    fsinfo_at: Option<u64>,
}

impl Layout {
    /// What the boot sector `boot` says of a device of `device_len` bytes.
    ///
    /// `Corrupt`: it contradicts itself or the device. The width is told as Linux tells it: 32 bits where the old place of
    /// the tables' length is 0, 12 or 16 by the number of clusters.
    pub fn parse(boot: &[u8], device_len: u64) -> Result<Layout> {
        let byte = |at: usize| boot.get(at).copied().unwrap_or(0);
        let sector_size = u32::from(le16(boot, 11));
        let per_cluster = u32::from(byte(13));
        let reserved = u64::from(le16(boot, 14));
        let nr_tables = u32::from(byte(16));
        let is_boot = matches!(byte(0), 0xeb | 0xe9) || le16(boot, 510) == 0xaa55;
        if !is_boot || !sector_size.is_power_of_two() || !(512..=4096).contains(&sector_size) {
            return Err(Error::Corrupt("no boot sector"));
        }
        if !per_cluster.is_power_of_two() || per_cluster * sector_size > 65536 {
            return Err(Error::Corrupt("cluster size"));
        }
        if reserved == 0 || nr_tables == 0 {
            return Err(Error::Corrupt("no sectors before the tables, or no tables"));
        }
        let sector = u64::from(sector_size);
        let total = match u64::from(le16(boot, 19)) {
            0 => u64::from(le32(boot, 32)),
            small => small,
        };
        let is_wide = le16(boot, 22) == 0;
        let table_sectors = if is_wide { u64::from(le32(boot, 36)) } else { u64::from(le16(boot, 22)) };
        if total * sector > device_len || is_wide && le16(boot, 42) != 0 {
            return Err(Error::Corrupt("larger than the device, or of an unknown version"));
        }
        let root_len = u32::from(le16(boot, 17)) * RECORD_LEN;
        if !root_len.is_multiple_of(sector_size) || !is_wide && root_len == 0 {
            return Err(Error::Corrupt("length of the root directory"));
        }
        let root_at = reserved + u64::from(nr_tables) * table_sectors;
        let data = root_at + u64::from(root_len / sector_size);
        let nr_clusters = total.checked_sub(data).ok_or(Error::Corrupt("no data"))? / u64::from(per_cluster);
        let width = match is_wide {
            true => Width::Bits32,
            false if nr_clusters > u64::from(Width::Bits12.max_clusters()) => Width::Bits16,
            false => Width::Bits12,
        };
        let room = width.entries_in(table_sectors * sector).saturating_sub(2);
        let nr_clusters = nr_clusters.min(room).min(u64::from(width.max_clusters())) as u32;
        if nr_clusters == 0 {
            return Err(Error::Corrupt("no clusters"));
        }
        let flags = if is_wide { le16(boot, 40) } else { 0 };
        let only_table = (flags & 0x80 != 0).then_some(u32::from(flags & 0xf));
        let fsinfo = if is_wide { u64::from(le16(boot, 48)) } else { 0 };
        let layout = Layout {
            sector_size,
            cluster_size: per_cluster * sector_size,
            root: if is_wide { le32(boot, 44) } else { FIXED_ROOT },
            width,
            spelling: Spelling::Mixed,
            root_at: root_at * sector,
            root_len,
            serial: le32(boot, if is_wide { 67 } else { 39 }),
            tables_at: reserved * sector,
            nr_tables,
            table_len: table_sectors * sector,
            only_table,
            data_at: data * sector,
            end: nr_clusters + 2,
            fsinfo_at: (1..reserved).contains(&fsinfo).then_some(fsinfo * sector),
        };
        let has_root = !is_wide || layout.is_cluster(layout.root);
        if !has_root || only_table.is_some_and(|only| only >= nr_tables) {
            return Err(Error::Corrupt("root directory or table"));
        }
        Ok(layout)
    }

    /// Whether `nr` is the number of a cluster.
    pub fn is_cluster(&self, nr: u32) -> bool {
        (2..self.end).contains(&nr)
    }

    /// How many clusters there are.
    pub fn nr_clusters(&self) -> u32 {
        self.end - 2
    }

    /// Where cluster `nr` begins. `Corrupt`: there is none of this number.
    pub fn cluster_at(&self, nr: u32) -> Result<u64> {
        if !self.is_cluster(nr) {
            return Err(Error::Corrupt("number of a cluster"));
        }
        Ok(self.data_at + u64::from(nr - 2) * u64::from(self.cluster_size))
    }

    /// Where byte `pos` of a file with the clusters `chain` is, and how many bytes follow in its cluster.
    pub fn locate(&self, chain: &[u32], pos: u64) -> Result<(u64, u32)> {
        let size = u64::from(self.cluster_size);
        let nth = usize::try_from(pos / size).unwrap_or(usize::MAX);
        let cluster = *chain.get(nth).ok_or(Error::Corrupt("file longer than its clusters"))?;
        let offset = pos % size;
        Ok((self.cluster_at(cluster)? + offset, (size - offset) as u32))
    }

    /// How many clusters are free and where to look for one, as the volume tells; it may be wrong.
    pub fn read_fsinfo(&self, volume: &dyn Volume) -> Result<(Option<u32>, Option<u32>)> {
        let Some(at) = self.fsinfo_at else { return Ok((None, None)) };
        let mut raw = [0; 512];
        volume.read(at, &mut raw)?;
        if le32(&raw, 0) != FSINFO_LEAD || le32(&raw, 484) != FSINFO_MARK {
            return Ok((None, None));
        }
        let (free, next) = (le32(&raw, 488), le32(&raw, 492));
        Ok((
            Some(free).filter(|&free| free <= self.nr_clusters()),
            Some(next).filter(|&nr| self.is_cluster(nr)),
        ))
    }

    /// Stores what [`Layout::read_fsinfo`] reads, if the volume has a place for it.
    pub fn write_fsinfo(&self, volume: &dyn Volume, free: u32, next: u32) -> Result<()> {
        let Some(at) = self.fsinfo_at else { return Ok(()) };
        let mut raw = [0; 512];
        volume.read(at, &mut raw)?;
        if le32(&raw, 0) != FSINFO_LEAD || le32(&raw, 484) != FSINFO_MARK {
            return Ok(());
        }
        let mut new = [0; 8];
        new[..4].copy_from_slice(&free.to_le_bytes());
        new[4..].copy_from_slice(&next.to_le_bytes());
        volume.write(at + 488, &new)
    }

    /// The bytes of table `nr` that hold the entry of `cluster`.
    pub(crate) fn entry_at(&self, nr: u32, cluster: u32) -> u64 {
        self.tables_at + u64::from(nr) * self.table_len + self.width.offset(cluster)
    }

    /// Where the boot sector keeps the state of the volume.
    pub fn state_at(&self) -> u64 {
        if self.width == Width::Bits32 { 0x41 } else { 0x25 }
    }

    /// Notes in the boot sector whether the volume is in use; gives whether it was noted to be.
    pub fn set_dirty(&self, volume: &dyn Volume, is_dirty: bool) -> Result<bool> {
        let mut state = [0];
        volume.read(self.state_at(), &mut state)?;
        let was_dirty = state[0] & STATE_DIRTY != 0;
        if was_dirty != is_dirty {
            volume.write(self.state_at(), &[state[0] & !STATE_DIRTY | u8::from(is_dirty)])?;
        }
        Ok(was_dirty)
    }

    /// Whether the boot sector says that the volume was not unmounted.
    pub fn is_dirty(&self, volume: &dyn Volume) -> Result<bool> {
        let mut state = [0];
        volume.read(self.state_at(), &mut state)?;
        Ok(state[0] & STATE_DIRTY != 0)
    }

    /// The tables that are kept.
    pub(crate) fn tables(&self) -> Range<u32> {
        match self.only_table {
            Some(only) => only..only + 1,
            None => 0..self.nr_tables,
        }
    }
}
