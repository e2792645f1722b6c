//! Promises to private mappings: one for each huge page that the mapping has room for, until it is used.
//!
//! A VMA and what it is split into share one [`Reserve`]; a child of fork has none, and gets pages only while some are
//! left. What is unmapped gives its promises back, and so does whatever is left when the last VMA goes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use hal::sync::SpinLock;

use super::subpool::{self, Subpool};

/// Promised pages of one private mapping, by their index in the file.
#[derive(Debug)]
pub(crate) struct Reserve {
    first: u64,
    share: Option<Arc<Subpool>>,
    /// A bit for each page; set: promised and not in use.
    bits: SpinLock<Vec<u64>>,
    /// The next release is that of a mapping that was moved, and takes nothing back.
    is_moved: AtomicBool,
}

impl Reserve {
    /// Promises the pages of `range`. Sleeps. `ENOMEM`: there are not so many.
    pub fn new(range: Range<u64>, share: Option<&Arc<Subpool>>) -> Result<Arc<Self>> {
        let nr = range.end - range.start;
        subpool::charge(share, nr)?;
        let words = usize::try_from(nr.div_ceil(64)).unwrap_or(usize::MAX);
        let mut bits = Vec::new();
        if bits.try_reserve_exact(words).is_err() {
            subpool::uncharge(share, nr);
            return Err(Errno::ENOMEM);
        }
        bits.resize(words, u64::MAX);
        if let (Some(last), true) = (bits.last_mut(), !nr.is_multiple_of(64)) {
            *last = (1 << (nr % 64)) - 1;
        }
        Ok(Arc::new(Self {
            first: range.start,
            share: share.cloned(),
            bits: SpinLock::new("mm.hugetlb.reserve", bits),
            is_moved: AtomicBool::new(false),
        }))
    }

    /// Sets or clears the bit of page `idx`; what it was. `None`: outside.
    fn change(&self, idx: u64, to: bool) -> Option<bool> {
        let at = idx.checked_sub(self.first)?;
        let mut bits = self.bits.lock();
        let word = bits.get_mut(usize::try_from(at / 64).ok()?)?;
        let bit = 1 << (at % 64);
        let was = *word & bit != 0;
        *word = if to { *word | bit } else { *word & !bit };
        Some(was)
    }

    /// Uses up the promise of page `idx`; was there one?
    pub fn take(&self, idx: u64) -> bool {
        self.change(idx, false).unwrap_or(false)
    }

    /// Has page `idx` promised again, for which the caller has a promise.
    pub fn restore(&self, idx: u64) {
        if self.change(idx, true) != Some(false) {
            // It was promised already, or is none of ours.
            subpool::uncharge(self.share.as_ref(), 1);
        }
    }

    /// Gives up the promises of `range`. Sleeps not.
    pub fn release(&self, range: Range<u64>) {
        if self.is_moved.swap(false, Ordering::Relaxed) {
            return;
        }
        let nr = range.filter(|idx| self.take(*idx)).count();
        subpool::uncharge(self.share.as_ref(), nr as u64);
    }

    /// The mapping was moved: what is unmapped next gives no promises up.
    pub fn moved(&self) {
        self.is_moved.store(true, Ordering::Relaxed);
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let nr: u64 = self.bits.get_mut().iter().map(|word| u64::from(word.count_ones())).sum();
        subpool::uncharge(self.share.as_ref(), nr);
    }
}
