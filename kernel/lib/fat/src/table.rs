//! The table of clusters: which are free, and which follows which in a file.

use alloc::vec::Vec;
use core::ops::Range;

use crate::layout::{FIXED_ROOT, Width};
use crate::{Error, Layout, Result, Volume, le16, le32};

const FREE: u32 = 0;
/// Bytes that a search for a free cluster reads at a time. They are on the stack: appending needs no memory for them.
const SEARCH_BYTES: usize = 1024;
/// Bytes that are read at a time where all clusters are counted.
const COUNT_BYTES: usize = 4096;

/// From here on an entry ends a chain; the one before means a bad cluster.
fn chain_end(layout: &Layout) -> u32 {
    layout.width.mask() - 7
}

/// Finds free clusters, and counts them.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Where the next search begins.
    next: u32,
    nr_free: u32,
}

/// The entry of `cluster` in `raw`, which begins where that entry does.
fn decode(layout: &Layout, cluster: u32, raw: &[u8]) -> u32 {
    let value = match layout.width {
        Width::Bits12 => u32::from(le16(raw, 0)) >> if cluster.is_multiple_of(2) { 0 } else { 4 },
        Width::Bits16 => u32::from(le16(raw, 0)),
        Width::Bits32 => le32(raw, 0),
    };
    value & layout.width.mask()
}

fn get(layout: &Layout, volume: &dyn Volume, cluster: u32) -> Result<u32> {
    if !layout.is_cluster(cluster) {
        return Err(Error::Corrupt("number of a cluster"));
    }
    let mut raw = [0; 4];
    let len = if layout.width == Width::Bits32 { 4 } else { 2 };
    volume.read(layout.entry_at(layout.tables().start, cluster), raw.get_mut(..len).unwrap_or_default())?;
    Ok(decode(layout, cluster, &raw))
}

/// Sets the entry of `cluster` in all tables; bits that are not its own stay.
fn set(layout: &Layout, volume: &dyn Volume, cluster: u32, value: u32) -> Result<()> {
    if !layout.is_cluster(cluster) {
        return Err(Error::Corrupt("number of a cluster"));
    }
    let shift = if layout.width == Width::Bits12 && !cluster.is_multiple_of(2) { 4 } else { 0 };
    let mask = layout.width.mask() << shift;
    let len = if layout.width == Width::Bits32 { 4 } else { 2 };
    for nr in layout.tables() {
        let at = layout.entry_at(nr, cluster);
        let mut raw = [0; 4];
        volume.read(at, raw.get_mut(..len).unwrap_or_default())?;
        let new = (u32::from_le_bytes(raw) & !mask | value << shift & mask).to_le_bytes();
        volume.write(at, new.get(..len).unwrap_or_default())?;
    }
    Ok(())
}

/// Calls `visit` with the clusters in `range` and their entries, until it gives something. They are read to `raw`.
fn scan<R>(
    layout: &Layout,
    volume: &dyn Volume,
    range: Range<u32>,
    raw: &mut [u8],
    mut visit: impl FnMut(u32, u32) -> Option<R>,
) -> Result<Option<R>> {
    // Clusters at a time: a multiple of 2, as two entries may share bytes.
    let step = ((raw.len() / 4) as u32 & !1).max(2);
    let Range { start: mut at, end: to } = range;
    while at < to {
        let start = layout.entry_at(layout.tables().start, at);
        let last = (to - 1).min(at.saturating_add(step - 1));
        let width = if layout.width == Width::Bits32 { 4 } else { 2 };
        let len = (layout.entry_at(layout.tables().start, last) - start) as usize + width;
        volume.read(start, raw.get_mut(..len).ok_or(Error::Io)?)?;
        for cluster in at..=last {
            let offset = (layout.entry_at(layout.tables().start, cluster) - start) as usize;
            let value = decode(layout, cluster, raw.get(offset..).unwrap_or_default());
            if let Some(found) = visit(cluster, value) {
                return Ok(Some(found));
            }
        }
        at = last + 1;
    }
    Ok(None)
}

/// The clusters of the file that begins with `first`; none for 0.
///
/// `Corrupt`: the chain leads nowhere, in a circle, or beyond `max_len` bytes. `NoMemory`.
pub fn chain(layout: &Layout, volume: &dyn Volume, first: u32, max_len: u32) -> Result<Vec<u32>> {
    let max_clusters = (max_len / layout.cluster_size + 1).min(layout.nr_clusters()) as usize;
    let mut list = Vec::new();
    if first == FIXED_ROOT && layout.root == FIXED_ROOT {
        list.try_reserve(1).map_err(|_| Error::NoMemory)?;
        list.push(FIXED_ROOT);
        return Ok(list);
    }
    let (mut at, mut seen) = (first, 0);
    while at != 0 && at < chain_end(layout) {
        if !layout.is_cluster(at) {
            return Err(Error::Corrupt("chain leads out of the volume"));
        }
        if at == seen || list.len() >= max_clusters {
            return Err(Error::Corrupt("chain is a circle, or too long"));
        }
        // One that was passed; moved on at ever greater distances, it comes to be in the circle (Brent's algorithm).
        if list.len().is_power_of_two() {
            seen = at;
        }
        list.try_reserve(1).map_err(|_| Error::NoMemory)?;
        list.push(at);
        at = get(layout, volume, at)?;
        if at == FREE {
            return Err(Error::Corrupt("chain leads to a free cluster"));
        }
    }
    Ok(list)
}

/// Ends the chain with the clusters `list` before its cluster number `keep`; those from there on are free, and are taken
/// out of `list`.
pub fn free_chain(
    layout: &Layout,
    volume: &dyn Volume,
    table: &mut Table,
    list: &mut Vec<u32>,
    keep: usize,
) -> Result<()> {
    if keep >= list.len() {
        return Ok(());
    }
    if let Some(last) = keep.checked_sub(1).and_then(|last| list.get(last)) {
        set(layout, volume, *last, layout.width.mask())?;
    }
    while list.len() > keep
        && let Some(cluster) = list.pop()
    {
        set(layout, volume, cluster, FREE)?;
        volume.forget(layout.cluster_at(cluster)?, layout.cluster_size);
        table.nr_free = table.nr_free.saturating_add(1);
    }
    Ok(())
}

impl Table {
    /// Counts the free clusters. Cost: the whole table is read. `NoMemory`.
    pub fn open(layout: &Layout, volume: &dyn Volume) -> Result<Table> {
        let mut raw = Vec::new();
        raw.try_reserve_exact(COUNT_BYTES).map_err(|_| Error::NoMemory)?;
        raw.resize(COUNT_BYTES, 0);
        let mut table = Table { next: layout.read_fsinfo(volume)?.1.unwrap_or(2), nr_free: 0 };
        scan(layout, volume, 2..layout.end, &mut raw, |_, value| {
            table.nr_free += u32::from(value == FREE);
            None::<()>
        })?;
        Ok(table)
    }

    /// How many clusters are free.
    pub fn nr_free(&self) -> u32 {
        self.nr_free
    }

    /// Stores the counts, so that others need not count.
    pub fn store(&self, layout: &Layout, volume: &dyn Volume) -> Result<()> {
        layout.write_fsinfo(volume, self.nr_free, self.next)
    }

    /// Appends a cluster to the chain with the clusters `list`: the one behind its last if that is free. `NoSpace`.
    pub fn append(&mut self, layout: &Layout, volume: &dyn Volume, list: &mut Vec<u32>) -> Result<u32> {
        // A root directory that is not in clusters cannot grow.
        if self.nr_free == 0 || list.last() == Some(&FIXED_ROOT) {
            return Err(Error::NoSpace);
        }
        list.try_reserve(1).map_err(|_| Error::NoMemory)?;
        let from = list.last().map_or(self.next, |last| last + 1);
        let cluster = self.find(layout, volume, from)?;
        set(layout, volume, cluster, layout.width.mask())?;
        if let Some(last) = list.last() {
            set(layout, volume, *last, cluster)?;
        }
        list.push(cluster);
        self.nr_free -= 1;
        self.next = if layout.is_cluster(cluster + 1) { cluster + 1 } else { 2 };
        Ok(cluster)
    }

    /// The first free cluster from `from` on, and then from the start.
    fn find(&self, layout: &Layout, volume: &dyn Volume, from: u32) -> Result<u32> {
        let from = if layout.is_cluster(from) { from } else { 2 };
        let mut raw = [0; SEARCH_BYTES];
        for range in [from..layout.end, 2..from] {
            let is_free = |cluster, value| (value == FREE).then_some(cluster);
            if let Some(cluster) = scan(layout, volume, range, &mut raw, is_free)? {
                return Ok(cluster);
            }
        }
        // Counted wrongly.
        Err(Error::NoSpace)
    }
}
