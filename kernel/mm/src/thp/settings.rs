//! Who gets huge pages, and large ones of other sizes: what /sys/kernel/mm/transparent_hugepage says.
//!
//! ```text
//! enabled                  always | madvise | never
//! hugepages-SIZEkB/enabled always | inherit (what `enabled` says) | madvise | never
//! ```
//!
//! `shmem_enabled` is the same for shared anonymous memory. LINUX: it says so for memory files and System V memory, too,
//! and tmpfs has a mount option; these have small pages here.
//!
//! Page faults read one number that is computed from all of them when one changes: the orders (binary logarithms of the
//! number of pages) that all memory gets in its lower half, those that memory gets which asked for them in its upper half.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::frame::HUGE_ORDER;

use super::khugepaged;
use crate::counters::Counter;
use crate::mapping::Huge;

/// LINUX: machines with less memory, in pages (512 MiB), begin without huge pages.
const SMALL_MACHINE: usize = 512 << (20 - hal::PAGE_SHIFT);

/// A setting with one of several named values.
#[derive(Debug)]
pub struct Choice {
    value: AtomicU8,
    names: &'static [&'static str],
}

impl Choice {
    const fn new(names: &'static [&'static str], first: u8) -> Self {
        Self { value: AtomicU8::new(first), names }
    }

    fn get(&self) -> u8 {
        self.value.load(Relaxed)
    }

    /// The names, in the order in which Linux lists them, each with whether it is in force.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let now = usize::from(self.get());
        self.names.iter().enumerate().map(move |(at, name)| (*name, at == now))
    }

    /// Chooses the value called `name`. `EINVAL`: there is none.
    pub fn set(&self, name: &str) -> Result<()> {
        let found = self.names.iter().position(|known| *known == name).ok_or(Errno::EINVAL)?;
        self.value.store(u8::try_from(found).map_err(|_| Errno::EINVAL)?, Relaxed);
        changed();
        Ok(())
    }
}

const ALWAYS: u8 = 0;
const MADVISE: u8 = 1;
const NEVER: u8 = 2;
const SIZE_ALWAYS: u8 = 0;
const SIZE_INHERIT: u8 = 1;
const SIZE_MADVISE: u8 = 2;
const SIZE_NEVER: u8 = 3;

/// `enabled`.
static ENABLED: Choice = Choice::new(&["always", "madvise", "never"], ALWAYS);

/// `defrag`: whether who finds no huge page has memory made free, and waits for that.
///
/// LINUX: a page fault waits, too; here it holds the address space, and has memory made free for later ones.
static DEFRAG: Choice = Choice::new(&["always", "defer", "defer+madvise", "madvise", "never"], 3);

const SIZE_NAMES: &[&str] = &["always", "inherit", "madvise", "never"];

/// `hugepages-SIZEkB/enabled`, by order; the first two are not used: smaller than any large page.
static SIZES: [Choice; ORDERS] = {
    let mut sizes = [const { Choice::new(SIZE_NAMES, SIZE_NEVER) }; ORDERS];
    sizes[HUGE_ORDER as usize] = Choice::new(SIZE_NAMES, SIZE_INHERIT);
    sizes
};

/// `shmem_enabled`. The last two overrule the settings of the sizes.
static SHMEM: Choice = Choice::new(&["always", "within_size", "advise", "never", "deny", "force"], 3);

const SHMEM_SIZE_NAMES: &[&str] = &["always", "inherit", "within_size", "advise", "never"];

/// `hugepages-SIZEkB/shmem_enabled`, by order.
static SHMEM_SIZES: [Choice; ORDERS] = {
    let mut sizes = [const { Choice::new(SHMEM_SIZE_NAMES, 4) }; ORDERS];
    sizes[HUGE_ORDER as usize] = Choice::new(SHMEM_SIZE_NAMES, 1);
    sizes
};

/// Orders from 0 to that of a huge page.
const ORDERS: usize = HUGE_ORDER as usize + 1;
/// The smallest large page of private memory: 4 pages.
pub const FIRST_ORDER: u32 = 2;
/// The smallest large page of shared memory.
pub const FIRST_SHMEM_ORDER: u32 = 1;

/// `use_zero_page`: whether reads of untouched memory see a huge page of zeroes.
pub static USE_ZERO_PAGE: AtomicBool = AtomicBool::new(true);

/// What the background thread does; named as the files in `khugepaged`.
#[derive(Debug)]
#[expect(missing_docs, reason = "named as in transhuge.rst")]
pub struct Background {
    pub defrag: AtomicU64,
    pub pages_to_scan: AtomicU64,
    pub scan_sleep_millisecs: AtomicU64,
    pub alloc_sleep_millisecs: AtomicU64,
    pub max_ptes_none: AtomicU64,
    pub max_ptes_swap: AtomicU64,
    pub max_ptes_shared: AtomicU64,
}

/// The settings of the background thread, with Linux's defaults.
pub static BACKGROUND: Background = Background {
    defrag: AtomicU64::new(1),
    pages_to_scan: AtomicU64::new(8 * PAGES),
    scan_sleep_millisecs: AtomicU64::new(10_000),
    alloc_sleep_millisecs: AtomicU64::new(60_000),
    max_ptes_none: AtomicU64::new(PAGES - 1),
    max_ptes_swap: AtomicU64::new(PAGES / 8),
    max_ptes_shared: AtomicU64::new(PAGES / 2),
};

/// Pages of a huge one.
const PAGES: u64 = hal::frame::HUGE_FRAMES as u64;

/// What happened to large pages of one size since boot.
#[derive(Debug)]
pub struct SizeStats {
    /// Page faults that got one.
    pub fault_alloc: Counter,
    /// Page faults that wanted one, and there was none.
    pub fault_fallback: Counter,
    /// Large pages of shared memory.
    pub shmem_alloc: Counter,
    /// Wanted ones, of which there were none.
    pub shmem_fallback: Counter,
}

impl SizeStats {
    const fn new() -> Self {
        Self {
            fault_alloc: Counter::new(),
            fault_fallback: Counter::new(),
            shmem_alloc: Counter::new(),
            shmem_fallback: Counter::new(),
        }
    }
}

static STATS: [SizeStats; ORDERS] = [const { SizeStats::new() }; ORDERS];

/// `enabled`, for those who show or change it.
pub fn enabled() -> &'static Choice {
    orders();
    &ENABLED
}

/// `defrag`.
pub fn defrag() -> &'static Choice {
    &DEFRAG
}

/// `hugepages-SIZEkB/enabled` for pages of `order`, from [`FIRST_ORDER`] to that of huge pages.
pub fn of_size(order: u32) -> Option<&'static Choice> {
    if order < FIRST_ORDER { None } else { SIZES.get(order as usize) }
}

/// `shmem_enabled`.
pub fn shmem() -> &'static Choice {
    &SHMEM
}

/// `hugepages-SIZEkB/shmem_enabled` for pages of `order`, from [`FIRST_SHMEM_ORDER`] on.
pub fn shmem_of_size(order: u32) -> Option<&'static Choice> {
    if order < FIRST_SHMEM_ORDER { None } else { SHMEM_SIZES.get(order as usize) }
}

/// The counters of pages of `order`.
pub fn stats(order: u32) -> Option<&'static SizeStats> {
    STATS.get(order as usize)
}

/// What page faults read; see the head of the file.
static IN_FORCE: AtomicU32 = AtomicU32::new(UNSET);
/// Nobody asked yet.
const UNSET: u32 = u32::MAX;

/// The same for shared anonymous memory.
static SHMEM_IN_FORCE: AtomicU32 = AtomicU32::new(0);

/// The orders that shared anonymous memory gets.
#[inline]
pub(crate) fn shmem_orders(advised: bool) -> u32 {
    let orders = SHMEM_IN_FORCE.load(Relaxed);
    if advised { orders >> 16 } else { orders & 0xffff }
}

/// The orders that memory of a tmpfs with `policy` gets; that of memfds is what `shmem_enabled` says.
pub(crate) fn tmpfs_orders(policy: Huge, advised: bool) -> u32 {
    const HUGE: u32 = 1 << HUGE_ORDER;
    let whole = SHMEM.get();
    let wanted = match (whole, policy) {
        (4, _) => false,
        (5, _) => true,
        (0 | 1, Huge::Internal) | (_, Huge::Always | Huge::WithinSize) => true,
        (2, Huge::Internal) | (_, Huge::Advise) => advised,
        _ => false,
    };
    if wanted { HUGE } else { 0 }
}

/// Whether `shmem_enabled` is "deny": then nothing gives shared memory huge pages.
pub(crate) fn is_shmem_denied() -> bool {
    SHMEM.get() == 4
}

/// The orders that memory gets: of all memory in the lower half, of memory that asked in the upper.
#[inline]
pub(super) fn orders() -> u32 {
    let orders = IN_FORCE.load(Relaxed);
    if orders == UNSET { first_orders() } else { orders }
}

#[cold]
fn first_orders() -> u32 {
    if hal::frame::stats().total < SMALL_MACHINE {
        let _ = ENABLED.value.compare_exchange(ALWAYS, NEVER, Relaxed, Relaxed);
    }
    changed();
    IN_FORCE.load(Relaxed)
}

/// Computes anew what page faults read.
fn changed() {
    let (mut all, mut asked) = (0, 0);
    let whole = ENABLED.get();
    for (order, size) in SIZES.iter().enumerate() {
        let (for_all, for_asked) = match size.get() {
            SIZE_ALWAYS => (true, true),
            SIZE_INHERIT => (whole == ALWAYS, whole <= MADVISE),
            SIZE_MADVISE => (false, true),
            _ => (false, false),
        };
        all |= u32::from(for_all) << order;
        asked |= u32::from(for_asked) << order;
    }
    IN_FORCE.store(all | asked << 16, Relaxed);
    SHMEM_IN_FORCE.store(shmem_in_force(), Relaxed);
    khugepaged::wake();
}

/// As `IN_FORCE`. Runs always lie within the size of the memory, so `within_size` says no more than `always`.
fn shmem_in_force() -> u32 {
    let (mut all, mut asked) = (0, 0);
    let whole = SHMEM.get();
    let (denied, forced) = (whole == 4, whole == 5);
    for (order, size) in SHMEM_SIZES.iter().enumerate() {
        let (for_all, for_asked) = match size.get() {
            _ if denied => (false, false),
            _ if forced && order == HUGE_ORDER as usize => (true, true),
            0 | 2 => (true, true),
            1 => (whole <= 1, whole <= 2),
            3 => (false, true),
            _ => (false, false),
        };
        all |= u32::from(for_all) << order;
        asked |= u32::from(for_asked) << order;
    }
    all | asked << 16
}

/// What who finds no huge page does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// It takes what is there.
    None,
    /// Memory is made free in the background.
    Defer,
    /// It waits once.
    Wait,
}

/// What `defrag` says for memory that asked for huge pages, or not.
pub(super) fn effort(advised: bool) -> Effort {
    match (DEFRAG.get(), advised) {
        (0, _) | (2 | 3, true) => Effort::Wait,
        (1, _) | (2, false) => Effort::Defer,
        _ => Effort::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_has_settings_of_its_own() {
        let _alone = crate::tests::alone();
        let huge = 1 << HUGE_ORDER;
        assert_eq!((shmem_orders(false), shmem_orders(true)), (0, 0));
        shmem().set("advise").unwrap();
        assert_eq!((shmem_orders(false), shmem_orders(true)), (0, huge));
        shmem_of_size(1).unwrap().set("always").unwrap();
        assert_eq!((shmem_orders(false), shmem_orders(true)), (2, huge | 2));
        shmem().set("deny").unwrap();
        assert_eq!((shmem_orders(false), shmem_orders(true)), (0, 0));
        shmem().set("force").unwrap();
        assert_eq!(shmem_orders(false), huge | 2);
        shmem_of_size(1).unwrap().set("never").unwrap();
        shmem().set("never").unwrap();
        assert_eq!((shmem_orders(false), shmem_orders(true)), (0, 0));
    }

    #[test]
    fn a_size_follows_its_own_setting_or_the_one_for_all() {
        let _alone = crate::tests::alone();
        let huge = 1 << HUGE_ORDER;
        let before: std::vec::Vec<u8> = SIZES.iter().map(Choice::get).collect();
        enabled().set("madvise").unwrap();
        assert_eq!(orders(), huge << 16);
        of_size(4).unwrap().set("always").unwrap();
        assert_eq!(orders(), 1 << 4 | (huge | 1 << 4) << 16);
        of_size(HUGE_ORDER).unwrap().set("never").unwrap();
        assert_eq!(orders(), 1 << 4 | 1 << 20);
        assert_eq!(of_size(4).unwrap().set("on"), Err(Errno::EINVAL));
        assert!(of_size(1).is_none() && of_size(10).is_none());
        SIZES.iter().zip(before).for_each(|(size, value)| size.value.store(value, Relaxed));
        enabled().set("always").unwrap();
        assert_eq!(orders(), huge | huge << 16);
    }
}
