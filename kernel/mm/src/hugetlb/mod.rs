//! Huge pages that programs ask for: hugetlbfs, `MAP_HUGETLB`, `SHM_HUGETLB`, `MFD_HUGETLB`.
//!
//! ```text
//!   pool      how many pages there are; free, promised, surplus            beside the frame allocator
//!   subpool   the share of a mount (size, min_size)
//!   pages     the pages and promises of one file                           behind a `Mapping`
//!   reserve   the promises to one private mapping                          behind its VMAs
//!   fault     page faults          area   everything else about a VMA of huge pages
//!   watched   faults that user space makes good
//!   object    shared memory and anonymous mappings: files without a name
//!   offline   pages that leave the pool because they are about to fail
//!   contig    512 adjacent frames where memory is in pieces
//! ```
//!
//! A page is a [`hal::frame::HugeFrame`] and is always mapped by one entry: every edit of such a VMA begins and ends at
//! a huge page (`EINVAL` otherwise), so hal never has to split the entry. It counts in no RSS, is on no walk of reclaim
//! and goes to no swap; what a process has shows as `HugetlbPages`.
//!
//! Promises are made at mmap(2), so that a fault finds its page: to the file for shared mappings, to the mapping for
//! private ones. Without one (`MAP_NORESERVE`, a child's copy on write) a fault takes a page that nobody was promised, or
//! ends in SIGBUS. Where the owner of a private mapping finds none left for its copy, it takes the page away from
//! those that share it since a fork: they find nothing there later, and perhaps SIGBUS.
//!
//! LINUX: pages are of 2 MiB only; those of 1 GiB are refused as on a machine without them (`EINVAL`).
//!
//! Sources: Documentation/admin-guide/mm/hugetlbpage.rst, Documentation/mm/hugetlbfs_reserv.rst, mmap(2), and the
//! behaviour of Linux 7.2 (`user/tests`, area `hugetlb`).

mod area;
mod contig;
mod fault;
mod object;
mod offline;
mod pages;
mod pool;
mod reserve;
mod subpool;
mod watched;

pub use object::HugeObject;
pub use pages::HugePages;
pub use pool::{PoolStats, SHM_GROUP, set_nr, set_overcommit, stats};
pub use subpool::Subpool;

pub(crate) use area::{end_of_page, is_huge, is_pooled, unpromise, view, watch_writes, whole_pages};
pub(crate) use fault::{copy_pinned, steal};
pub(crate) use offline::{dissolve, move_cached, take_unpromised};
pub(crate) use pool::small_pages;
pub(crate) use reserve::Reserve;
pub(crate) use watched::{check_whole, protect_entry};

/// Bytes of a huge page.
pub const SIZE: u64 = hal::frame::HUGE_SIZE as u64;
/// Its binary logarithm.
pub const SHIFT: u32 = SIZE.trailing_zeros();

/// Rounds `len` up to whole huge pages; `None`: that overflows.
pub fn align_up(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(SIZE)
}
