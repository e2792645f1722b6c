//! `RWF_DONTCACHE`: pages that a read or a write brings into the page cache leave it at once (preadv2(2)).

use alloc::vec::Vec;
use core::ops::Range;

use hal::{PAGE_SHIFT, PAGE_SIZE};

use crate::file::File;

/// The bytes of an access whose pages were not cached before it.
pub(crate) struct Dropped(Vec<Range<u64>>);

impl Dropped {
    /// What is not cached of `len` bytes at `pos` of `file`. Without memory it is less.
    pub(crate) fn new(file: &File, pos: u64, len: usize) -> Self {
        let mut absent: Vec<Range<u64>> = Vec::new();
        let Some(mapping) = file.mapping() else { return Self(absent) };
        let end = pos.saturating_add(len as u64).div_ceil(PAGE_SIZE as u64);
        for idx in pos >> PAGE_SHIFT..end {
            if mapping.get(idx).is_some() {
                continue;
            }
            let start = idx << PAGE_SHIFT;
            let end = start + PAGE_SIZE as u64;
            if let Some(last) = absent.last_mut().filter(|last| last.end == start) {
                last.end = end;
                continue;
            }
            if absent.try_reserve(1).is_err() {
                break;
            }
            absent.push(start..end);
        }
        Self(absent)
    }

    /// Drops those pages, as far as nobody uses or has changed them.
    pub(crate) fn drop_clean(self, file: &File) {
        let Some(mapping) = file.mapping() else { return };
        for range in self.0 {
            mapping.drop_clean(range);
        }
    }

    /// Writes those pages back and drops them. An error of that is told by the next fsync(2), as any of write-back.
    pub(crate) fn write_and_drop(self, file: &File) {
        if let (Some(mapping), Some(first), Some(last)) = (file.mapping(), self.0.first(), self.0.last()) {
            let _ = mapping.write_back(first.start..last.end);
        }
        self.drop_clean(file);
    }
}
