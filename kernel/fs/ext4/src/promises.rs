//! Pages of a file that were promised blocks ([`Fs::reserve`](crate::fs::Fs::reserve)), and who else counts on that.
//!
//! A page that is about to become dirty counts on the promise that it has already. Write-back, which may have marked the page
//! clean just before, must not take such a promise with it when the page needs more blocks than it has written:
//!
//! ```text
//!   write-back                               write(2), store through a mapping
//!     DIRTY off
//!     give blocks up to the file's end
//!                                              prepare_write: promised already, count on that
//!                                              DIRTY on
//!     take the promise back: not if
//!       somebody counts on it
//!                                              the file grows within the page: needs blocks more
//! ```

use core::ops::Range;

use crate::ranges::Ranges;

/// See the module's front page.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    pages: Ranges,
    /// Those of `pages` that somebody counts on who came later.
    counted_on: Ranges,
}

impl Promises {
    pub(crate) const fn new() -> Self {
        Self { pages: Ranges::new(), counted_on: Ranges::new() }
    }

    /// Number of pages.
    pub(crate) fn len(&self) -> u64 {
        self.pages.iter().map(|range| range.end - range.start).sum()
    }

    pub(crate) fn has(&self, idx: u64) -> bool {
        self.pages.first_in(idx..idx.saturating_add(1)).is_some()
    }

    /// Adds page `idx`; `false`: it was there.
    pub(crate) fn add(&mut self, idx: u64) -> bool {
        self.pages.insert(idx..idx.saturating_add(1)) > 0
    }

    /// Counts on the promise of page `idx`, if there is one.
    pub(crate) fn count_on(&mut self, idx: u64) -> bool {
        let is_there = self.has(idx);
        if is_there {
            self.counted_on.insert(idx..idx.saturating_add(1));
        }
        is_there
    }

    /// Takes out `pages`, which need no more blocks or are gone; gives how many were in.
    pub(crate) fn remove(&mut self, pages: Range<u64>) -> u64 {
        self.counted_on.remove(pages.clone());
        self.pages.remove(pages)
    }

    /// As [`remove`](Self::remove), but leaves those that somebody counts on, who counts no more afterwards.
    pub(crate) fn remove_idle(&mut self, pages: Range<u64>) -> u64 {
        let (mut at, mut gone) = (pages.start, 0);
        while let Some(kept) = self.counted_on.first_in(at..pages.end) {
            gone += self.pages.remove(at..kept.start);
            at = kept.end;
            self.counted_on.remove(kept);
        }
        gone + self.pages.remove(at..pages.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_counts_on_stays_once() {
        let mut promises = Promises::new();
        assert!(!promises.count_on(5));
        for idx in 3..8 {
            assert!(promises.add(idx));
        }
        assert!(!promises.add(5) && promises.count_on(5) && promises.count_on(7));
        assert_eq!(promises.remove_idle(0..8), 3);
        assert!(promises.has(5) && promises.has(7) && promises.len() == 2);
        assert_eq!(promises.remove_idle(0..7), 1);
        assert!(promises.count_on(7));
        assert_eq!((promises.remove(0..u64::MAX), promises.len()), (1, 0));
        // Nobody counts on what comes anew.
        assert!(promises.add(7));
        assert_eq!(promises.remove_idle(7..8), 1);
    }
}
