//! The limit on the number of VMAs (`vm.max_map_count`), the one place that knows its rules.
//!
//! With C the count and N the limit (read once per check by the caller, who holds the set for writing):
//!
//! ```text
//! operation          picture of the worst case                          refused when
//! Map                ......  ->  .A....   +1, so C may reach N+1        C > N
//! Split              AAAA    ->  AABB     +1                            C >= N
//! CutMiddle          AAAAAA  ->  AA..AA   +1 (inside the call N+1)      C >= N
//! MremapEntry        AAAAAA  ->  AA..AA   target cleared: +2
//!                    BBBBBB  ->  BB..BB   copy +1, source cut +2 -1     C + 4 > N
//! MremapEntryKeep    the source stays besides (MREMAP_DONTUNMAP)        C + 5 > N
//! MremapMove         the move itself: copy +1, source cut +1            C + 2 > N
//! MremapMoveKeep     a locked source that stays: unlocking cuts, too    C + 3 > N
//! ```
//!
//! Trimming an end of a VMA and removing whole ones never asks. Sources: mremap(2), munmap(2), sysctl vm.

/// An operation that is measured against the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountRule {
    /// mmap(2) and brk(2), checked on entry even if the new area would merge.
    Map,
    /// One split in mprotect, mlock, madvise and others.
    Split,
    /// munmap out of the middle of one VMA.
    CutMiddle,
    /// mremap(2) before anything is changed.
    MremapEntry,
    /// mremap(2) with `MREMAP_DONTUNMAP` before anything is changed.
    MremapEntryKeep,
    /// The move inside mremap(2).
    MremapMove,
    /// The move of a locked VMA with `MREMAP_DONTUNMAP`.
    MremapMoveKeep,
}

/// Whether `rule` allows the operation with `count` VMAs under `limit`.
#[inline]
pub fn fits(rule: CountRule, count: usize, limit: usize) -> bool {
    match rule {
        CountRule::Map => count <= limit,
        CountRule::Split | CountRule::CutMiddle => count < limit,
        CountRule::MremapEntry => count.saturating_add(4) <= limit,
        CountRule::MremapEntryKeep => count.saturating_add(5) <= limit,
        CountRule::MremapMove => count.saturating_add(2) <= limit,
        CountRule::MremapMoveKeep => count.saturating_add(3) <= limit,
    }
}
