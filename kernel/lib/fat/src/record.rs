//! The short record of a directory: what the volume knows of a file.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Layout, Width};

/// Attributes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(pub u8);

impl Attributes {
    /// It cannot be written to.
    pub const READ_ONLY: u8 = 0x01;
    /// Not a file: the name of the volume.
    pub const VOLUME: u8 = 0x08;
    /// A directory.
    pub const DIRECTORY: u8 = 0x10;
    /// Changed since the last backup.
    pub const ARCHIVE: u8 = 0x20;
    /// A part of a long name.
    pub const LONG: u8 = 0x0f;

    /// Whether bit `bit` is set.
    pub fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// Whether it is a part of a long name.
    pub fn is_long(self) -> bool {
        self.0 & 0x3f == Self::LONG
    }
}

/// Length of a record.
pub const LEN: usize = 32;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Record {
    /// The short name: 8 and 3 bytes, filled up with spaces.
    pub name: [u8; 11],
    /// [`Attributes`].
    pub attributes: u8,
    /// 0x08: the name is shown in lower case, 0x10: the extension.
    pub case: u8,
    /// Time of creation: hundredths of a second within two.
    pub ctime_fine: u8,
    /// Time and date of creation.
    pub ctime: U16,
    /// See `ctime`.
    pub cdate: U16,
    /// Date of the last access.
    pub adate: U16,
    pub(crate) cluster_hi: U16,
    /// Time and date of the last change.
    pub mtime: U16,
    /// See `mtime`.
    pub mdate: U16,
    pub(crate) cluster_lo: U16,
    /// Bytes of a file; 0 for directories.
    pub size: U32,
}

const _: () = assert!(size_of::<Record>() == LEN);

impl Record {
    /// A record with nothing in it.
    pub fn empty() -> Record {
        Record {
            name: [b' '; 11],
            attributes: 0,
            case: 0,
            ctime_fine: 0,
            ctime: 0.into(),
            cdate: 0.into(),
            adate: 0.into(),
            cluster_hi: 0.into(),
            mtime: 0.into(),
            mdate: 0.into(),
            cluster_lo: 0.into(),
            size: 0.into(),
        }
    }

    /// The attributes.
    pub fn attributes(&self) -> Attributes {
        Attributes(self.attributes)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.attributes().has(Attributes::DIRECTORY)
    }

    /// The first cluster; 0 for none, and in ".." for the root directory.
    pub fn cluster(&self, layout: &Layout) -> u32 {
        // Narrow tables leave the upper half to others (OS/2's attributes).
        let high = if layout.width == Width::Bits32 { self.cluster_hi.get() } else { 0 };
        (u32::from(high) << 16 | u32::from(self.cluster_lo.get())) & 0x0fff_ffff
    }

    /// Sets the first cluster.
    pub fn set_cluster(&mut self, cluster: u32) {
        self.cluster_hi.set((cluster >> 16) as u16);
        self.cluster_lo.set(cluster as u16);
    }
}
