//! Finding the partitions of a disk.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use partition_table::{Entry, Source};

use crate::device::BlockDevice;
use crate::disk::Partition;
use crate::registry;

struct Bytes<'a>(&'a Arc<BlockDevice>);

impl Source for Bytes<'_> {
    type Error = Errno;

    fn read(&mut self, pos: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_bytes(pos, buf)
    }

    fn block_size(&self) -> u32 {
        self.0.logical_block_size()
    }

    fn len(&self) -> u64 {
        self.0.len_bytes()
    }
}

fn partition(entry: Entry) -> Partition {
    let label = Some(entry.label).filter(|label| !label.is_empty());
    Partition { index: entry.index, start: entry.start, len: entry.len, uuid: Some(entry.uuid), label }
}

/// Reads the partition table of a whole disk and makes its partitions the disk's. May sleep.
///
/// `EBUSY`: a partition is in use, even one that would stay. `EIO`: the table cannot be read.
pub fn scan_partitions(whole: &Arc<BlockDevice>) -> Result<()> {
    let is_used = |part: &Arc<BlockDevice>| part.nr_openers() > 0 || part.holder().is_some();
    if registry::partitions(whole.disk()).iter().any(is_used) {
        return Err(Errno::EBUSY);
    }
    let table = partition_table::read(&mut Bytes(whole))?;
    let parts: Vec<Partition> =
        table.map_or_else(Vec::new, |table| table.entries.into_iter().map(partition).collect());
    registry::set_partitions(whole.disk(), &parts)?;
    if !parts.is_empty() {
        let names: Vec<_> = registry::partitions(whole.disk());
        let names: Vec<_> = names.iter().map(|device| device.name()).collect();
        log::info!(" {}: {}", whole.name(), names.join(" "));
    }
    Ok(())
}
