//! Dropping clean pages of a file when memory is short; the rules are in [`crate::reclaim`].

use core::sync::atomic::Ordering::{Acquire, Relaxed};

use arrayvec::ArrayVec;
use hal::frame::Frame;

use super::{Mapping, Source, page_flags};
use crate::reclaim;

/// Pages looked at under one hold of the lock.
const STEP: usize = 256;
/// Pages taken out under one hold of the lock.
const CHUNK: usize = 32;

/// Notes that the contents of `frame` were used.
#[inline]
pub(crate) fn note_use(frame: &Frame) {
    let flags = &frame.meta().flags;
    let now = flags.load(Relaxed);
    if now & page_flags::ACTIVE == 0 {
        flags.fetch_or(
            if now & page_flags::USED == 0 { page_flags::USED } else { page_flags::ACTIVE },
            Relaxed,
        );
    }
}

impl Mapping {
    /// Looks at the pages from where it ended last time to the end of the file, and drops up to `wanted` that were not
    /// used lately, are clean, and that nobody else refers to; before them what is being read ahead for nobody. How many went.
    pub(crate) fn shrink(&self, wanted: usize) -> usize {
        let Source::Pages(source) = &self.source else { return 0 };
        let (mut seen, mut freed) = (0, self.age_ahead(source));
        while freed < wanted {
            let mut gone = ArrayVec::<_, CHUNK>::new();
            let mut idle = ArrayVec::<_, CHUNK>::new();
            let (first, mut left, mut next) = (source.hand.load(Relaxed), STEP, None);
            let mut pages = self.pages.lock();
            pages.frames.for_each(first..u64::MAX, |idx, frame| {
                if left == 0 || idle.is_full() || freed + idle.len() >= wanted {
                    next = Some(idx);
                    return false;
                }
                left -= 1;
                seen += 1;
                let flags = &frame.meta().flags;
                let now = flags.load(Acquire);
                if now & page_flags::ACTIVE != 0 {
                    flags.fetch_and(!page_flags::ACTIVE, Relaxed);
                } else if now & page_flags::DIRTY == 0 && frame.ref_count() == 1 {
                    // The cache holds the only reference, and none can be taken without its lock.
                    idle.push(idx);
                }
                true
            });
            gone.extend(idle.iter().filter_map(|idx| pages.frames.remove(*idx)));
            drop(pages);
            freed += gone.len();
            self.count_cached(-(gone.len() as i64));
            source.hand.store(next.unwrap_or(0), Relaxed);
            if next.is_none() {
                break;
            }
        }
        reclaim::SCANNED.add(seen as i64);
        freed
    }
}
