//! Addresses as types: physical ones, and numbers that user space alleges to be addresses.

use core::fmt;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page and in a [`crate::frame::Frame`].
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// First address beyond user space (Linux: `TASK_SIZE_MAX`, the lower half less a guard page).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// A physical address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysAddr(pub u64);

impl PhysAddr {
    /// The number of the frame that contains the address.
    pub const fn pfn(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys:{:#x}", self.0)
    }
}

/// A number that user space alleges to be an address. Nothing is known about it: each access checks it.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(transparent)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// Address 0, which system calls read as "not given".
    pub const NULL: UserAddr = UserAddr(0);

    /// Is this address 0?
    #[inline]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The number itself.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The address `n` bytes further; wraps, since the access will check.
    pub const fn add(self, n: u64) -> UserAddr {
        UserAddr(self.0.wrapping_add(n))
    }

    /// The start of the page that holds the address.
    pub const fn page(self) -> UserAddr {
        UserAddr(self.0 & !(PAGE_SIZE as u64 - 1))
    }

    /// The offset in its page.
    #[inline]
    pub const fn page_offset(self) -> usize {
        (self.0 & (PAGE_SIZE as u64 - 1)) as usize
    }

    /// Do `len` bytes from here lie in user space (Linux: `access_ok`)?
    #[inline]
    pub const fn range_ok(self, len: usize) -> bool {
        len as u64 <= USER_END && self.0 <= USER_END - len as u64
    }
}

impl fmt::Debug for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user:{:#x}", self.0)
    }
}

/// A run of pages in user space; both ends are page-aligned and at most [`USER_END`], `end` is exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// The range `start..end`, or `None` when an end is not aligned, they are swapped, or it leaves user space.
    #[inline]
    pub const fn new(start: u64, end: u64) -> Option<PageRange> {
        let mask = PAGE_SIZE as u64 - 1;
        if start & mask == 0 && end & mask == 0 && start <= end && end <= USER_END {
            Some(PageRange { start, end })
        } else {
            None
        }
    }

    /// `len` bytes from `addr`, which must be page-aligned; the end is rounded up.
    ///
    /// `None` when `addr` is not aligned, or the range is empty, wraps or leaves user space.
    #[inline]
    pub fn from_user(addr: UserAddr, len: usize) -> Option<PageRange> {
        let len = (len as u64).checked_add(PAGE_SIZE as u64 - 1)? & !(PAGE_SIZE as u64 - 1);
        if len == 0 {
            return None;
        }
        PageRange::new(addr.0, addr.0.checked_add(len)?)
    }

    /// The page that contains `addr`, or `None` beyond user space.
    #[inline]
    pub const fn page_of(addr: UserAddr) -> Option<PageRange> {
        let start = addr.page().0;
        if start >= USER_END { None } else { PageRange::new(start, start + PAGE_SIZE as u64) }
    }

    /// All of user space.
    pub const fn all() -> PageRange {
        PageRange { start: 0, end: USER_END }
    }

    /// First address.
    #[inline]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// First address beyond.
    #[inline]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Does it hold no page?
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Number of pages.
    pub const fn nr_pages(&self) -> u64 {
        self.len() >> PAGE_SHIFT
    }

    /// Is `addr` inside?
    pub const fn contains(&self, addr: u64) -> bool {
        self.start <= addr && addr < self.end
    }

    /// The common part, if any.
    pub fn intersect(&self, other: &PageRange) -> Option<PageRange> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(PageRange { start, end })
    }

    /// The addresses of its pages, in order.
    #[inline]
    pub fn pages(&self) -> impl DoubleEndedIterator<Item = u64> + use<> {
        (self.start >> PAGE_SHIFT..self.end >> PAGE_SHIFT).map(|page| page << PAGE_SHIFT)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}
