//! One node of an extent tree.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MAX_DEPTH, MAX_LEN};
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::inode::MAP_LEN;
use crate::layout::Layout;
use crate::view;

const MAGIC: u16 = 0xf30a;
/// Length of the header and of each entry.
pub(super) const ENTRY: usize = 12;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: U16,
    pub entries: U16,
    pub max: U16,
    pub depth: U16,
    pub generation: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawLeaf {
    block: U32,
    len: U16,
    start_hi: U16,
    start_lo: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawIndex {
    block: U32,
    leaf_lo: U32,
    leaf_hi: U16,
    unused: U16,
}

/// A run of a file's blocks on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block in the file.
    pub logical: u32,
    /// How many blocks, 1 to [`MAX_LEN`].
    pub len: u32,
    /// The first block on the device.
    pub physical: u64,
    /// Allocated but never written: reads as zeroes.
    pub is_unwritten: bool,
}

impl Extent {
    /// The block behind the last in the file.
    pub fn end(&self) -> u64 {
        u64::from(self.logical) + u64::from(self.len)
    }

    pub(super) fn decode(bytes: &[u8], idx: usize) -> Result<Self> {
        let raw: &RawLeaf = view::get(bytes, ENTRY + idx * ENTRY)?;
        let len = u32::from(raw.len.get());
        let is_unwritten = len > MAX_LEN;
        Ok(Self {
            logical: raw.block.get(),
            len: if is_unwritten { len - MAX_LEN } else { len },
            physical: u64::from(raw.start_lo.get()) | u64::from(raw.start_hi.get()) << 32,
            is_unwritten,
        })
    }

    pub(super) fn encode(&self) -> [u8; ENTRY] {
        let len = if self.is_unwritten { self.len + MAX_LEN } else { self.len };
        let raw = RawLeaf {
            block: self.logical.into(),
            len: (len as u16).into(),
            start_hi: ((self.physical >> 32) as u16).into(),
            start_lo: (self.physical as u32).into(),
        };
        zerocopy::transmute!(raw)
    }
}

/// An entry of an inner node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    pub logical: u32,
    pub child: u64,
}

impl Index {
    pub(super) fn decode(bytes: &[u8], idx: usize) -> Result<Self> {
        let raw: &RawIndex = view::get(bytes, ENTRY + idx * ENTRY)?;
        let child = u64::from(raw.leaf_lo.get()) | u64::from(raw.leaf_hi.get()) << 32;
        Ok(Self { logical: raw.block.get(), child })
    }

    pub(super) fn encode(&self) -> [u8; ENTRY] {
        let raw = RawIndex {
            block: self.logical.into(),
            leaf_lo: (self.child as u32).into(),
            leaf_hi: ((self.child >> 32) as u16).into(),
            unused: 0.into(),
        };
        zerocopy::transmute!(raw)
    }
}

pub(super) fn header(bytes: &[u8]) -> Result<&Header> {
    view::get(bytes, 0)
}

/// Number of entries; at most what the node has room for.
pub(super) fn nr_entries(bytes: &[u8]) -> usize {
    header(bytes).map_or(0, |h| h.entries.get().min(h.max.get()).into())
}

pub(super) fn has_room(bytes: &[u8]) -> bool {
    header(bytes).is_ok_and(|h| h.entries.get() < h.max.get())
}

/// The first logical block of entry `idx`: the first field of both kinds of entries.
pub(super) fn key(bytes: &[u8], idx: usize) -> u32 {
    view::le32(bytes, ENTRY + idx * ENTRY)
}

/// The last entry that begins at or before `logical`.
pub(super) fn search(bytes: &[u8], logical: u32) -> Option<usize> {
    let (mut low, mut high) = (0, nr_entries(bytes));
    while low < high {
        let mid = low.midpoint(high);
        if key(bytes, mid) <= logical { low = mid + 1 } else { high = mid }
    }
    low.checked_sub(1)
}

/// Makes `bytes` an empty node of `depth`.
pub(super) fn init(bytes: &mut [u8], depth: u16) {
    let max = (bytes.len() - ENTRY) / ENTRY;
    let header = Header {
        magic: MAGIC.into(),
        entries: 0.into(),
        max: (max as u16).into(),
        depth: depth.into(),
        generation: 0.into(),
    };
    view::put(bytes, 0, header.as_bytes());
}

/// Makes `map` an empty tree.
pub(crate) fn init_root(map: &mut [u8; MAP_LEN]) {
    map.fill(0);
    init(map, 0);
}

/// Puts `entry` in at `idx`; the node has room.
pub(super) fn insert_at(bytes: &mut [u8], idx: usize, entry: &[u8; ENTRY]) -> Result<()> {
    let count = nr_entries(bytes);
    let (at, end) = (ENTRY + idx * ENTRY, ENTRY + count * ENTRY);
    if idx > count || end + ENTRY > bytes.len() {
        return Err(Error::Corrupt("no room in an extent node"));
    }
    bytes.copy_within(at..end, at + ENTRY);
    view::put(bytes, at, entry);
    set_entries(bytes, count + 1)
}

/// Replaces entry `idx`.
pub(super) fn set_at(bytes: &mut [u8], idx: usize, entry: &[u8; ENTRY]) {
    view::put(bytes, ENTRY + idx * ENTRY, entry);
}

/// Replaces the key of entry `idx`.
pub(super) fn set_key(bytes: &mut [u8], idx: usize, logical: u32) {
    view::put(bytes, ENTRY + idx * ENTRY, &logical.to_le_bytes());
}

pub(super) fn remove_at(bytes: &mut [u8], idx: usize) -> Result<()> {
    let count = nr_entries(bytes);
    if idx >= count {
        return Err(Error::Corrupt("no such extent entry"));
    }
    let (at, end) = (ENTRY + idx * ENTRY, ENTRY + count * ENTRY);
    bytes.copy_within(at + ENTRY..end, at);
    set_entries(bytes, count - 1)
}

pub(super) fn set_entries(bytes: &mut [u8], count: usize) -> Result<()> {
    view::get_mut::<Header>(bytes, 0)?.entries.set(count as u16);
    Ok(())
}

/// What a parent says about its child.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expect {
    pub depth: u16,
    /// Keys lie in here.
    pub first: u64,
    pub end: u64,
}

/// Checks X1 to X3 of one node. `room` is the number of entries that fit.
pub(super) fn check_node(layout: &Layout, bytes: &[u8], expect: Expect) -> Result<()> {
    let header = header(bytes)?;
    let room = (bytes.len() - ENTRY) / ENTRY;
    let count = usize::from(header.entries.get());
    if header.magic.get() != MAGIC
        || header.depth.get() != expect.depth
        || expect.depth > MAX_DEPTH
        || usize::from(header.max.get()) > room
        || header.max.get() == 0
        || count > usize::from(header.max.get())
    {
        return Err(Error::Corrupt("extent header"));
    }
    if expect.depth > 0 && count == 0 {
        return Err(Error::Corrupt("empty extent index"));
    }
    let mut next = expect.first;
    for idx in 0..count {
        let logical = u64::from(key(bytes, idx));
        if logical < next || logical >= expect.end {
            return Err(Error::Corrupt("extents out of order"));
        }
        if expect.depth > 0 {
            if !layout.is_file_range(Index::decode(bytes, idx)?.child, 1) {
                return Err(Error::Corrupt("extent index leads out of the file system"));
            }
            next = logical + 1;
        } else {
            let extent = Extent::decode(bytes, idx)?;
            if extent.len == 0 || !layout.is_file_range(extent.physical, extent.len.into()) {
                return Err(Error::Corrupt("extent leads out of the file system"));
            }
            next = extent.end();
            if next > expect.end {
                return Err(Error::Corrupt("extents overlap"));
            }
        }
    }
    Ok(())
}

fn csum_at(bytes: &[u8]) -> Result<usize> {
    Ok(ENTRY + usize::from(header(bytes)?.max.get()) * ENTRY)
}

/// Checks the checksum behind the entries.
pub(super) fn check_csum(layout: &Layout, bytes: &[u8], seed: u32) -> Result<()> {
    if !layout.has_csums() {
        return Ok(());
    }
    let at = csum_at(bytes)?;
    let csum = crc32c(seed, view::slice(bytes, 0, at)?);
    if view::slice(bytes, at, 4)? == csum.to_le_bytes() {
        Ok(())
    } else {
        Err(Error::Corrupt("extent checksum"))
    }
}

/// Makes the checksum behind the entries.
pub(crate) fn seal(bytes: &mut [u8], seed: u32) -> Result<()> {
    let at = csum_at(bytes)?;
    let csum = crc32c(seed, view::slice(bytes, 0, at)?);
    view::put(bytes, at, &csum.to_le_bytes());
    Ok(())
}
