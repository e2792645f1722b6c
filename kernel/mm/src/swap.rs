//! Swap: private and shared pages that were not used for a while move to a block device.
//!
//! ```text
//!   page table entry: frame  ── swap out ──>  special value: area and slot  ── fault ──>  a new frame
//!   slot's count:     0                       1, and 1 for each fork                       one less
//! ```
//!
//! A private page goes out when one page table is its only holder; pages that forks share wait until they are not shared.
//! What comes in is read into a page of the reader's own, so a slot's contents never change and processes that share it
//! need not know of each other; others come along (`read`). A slot is free when no entry names it. Shared memory has its entries in the page cache
//! instead ([`crate::mapping::swapped`]).
//!
//! ```text
//!   bits of an entry   0-1 TAG   2-6 area   7 writes are watched (userfaultfd(2))   8-57 slot
//! ```
//!
//! While a page is being written, and for ever when that fails, `HELD` has its frame: who faults then copies that.
//!
//! # Locks
//!
//! `SWAPPING` (sleeps; one batch at a time) > `AREAS`; an area's `slots` > `HELD` > the cache of `read`: taken under page-table cursors too.

mod read;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::paging::{Entry, PteFlags};
use hal::sync::SpinLock;
use hal::{PAGE_SIZE, PageRange, UserAddr};

use crate::counters::Counter;
use crate::fault::{FaultError, pte_flags};
use crate::mapping::swapped;
use crate::space::{Mm, RssDelta};
use crate::sync::Mutex;
use crate::vma::Vma;
use crate::{oom, registry};

pub use read::{AHEAD, BY_ADDRESS, HITS, PAGE_CLUSTER, nr_cached};
pub(crate) use read::{Near, Origin, Pinned, shrink as shrink_cache};

/// Where swapped pages live.
pub trait SwapDevice: Send + Sync {
    /// How many pages it holds, the header's included.
    fn nr_pages(&self) -> u64;
    /// Reads page `slot`. May sleep.
    fn read(&self, slot: u64, frame: &Frame) -> Result<()>;
    /// Reads pages, sorted by their slots. On failure none is known to be read. May sleep.
    fn read_many(&self, pages: &[(u64, Frame)]) -> Result<()> {
        pages.iter().try_for_each(|(slot, frame)| self.read(*slot, frame))
    }
    /// Writes pages with their slots, and has them on the device when it returns. May sleep.
    fn write(&self, pages: &[(u64, Frame)]) -> Result<()>;
    /// Whether it is a partition (or disk), or else a file.
    fn is_partition(&self) -> bool;
}

/// Most areas at once.
const MAX_AREAS: usize = 8;
/// Pages written at once.
pub(crate) const BATCH: usize = 32;
/// Largest number of slots of an area: their counts take 2 bytes each.
const MAX_SLOTS: u64 = 1 << 32;
/// The two low bits of a swap entry; a guard marker has other ones.
const TAG: u64 = 2;
/// An entry of a page table whose writes are watched. It names the same page as without the bit.
const WATCHED: u64 = 1 << 7;
/// The bits of an area's number, from bit 2 on.
const AREA_MASK: u64 = 0x1f;

struct Slots {
    /// Entries that name each slot; slot 0 is the header's. What does not fit stays for ever.
    counts: Vec<u16>,
    hand: usize,
    nr_used: u64,
}

struct Area {
    id: u64,
    priority: i32,
    path: Vec<u8>,
    device: Arc<dyn SwapDevice>,
    slots: SpinLock<Slots>,
    /// No page goes there: it is being switched off, or a write failed.
    is_closed: AtomicBool,
    /// What has to live as long, such as the open file.
    _keep: Box<dyn Any + Send + Sync>,
}

/// An area as /proc/swaps shows it; sizes in pages.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of proc_swaps(5)")]
pub struct AreaInfo {
    pub path: Vec<u8>,
    pub is_partition: bool,
    pub size: u64,
    pub used: u64,
    pub priority: i32,
}

static AREAS: SpinLock<[Option<Arc<Area>>; MAX_AREAS]> =
    SpinLock::new("mm.swap.areas", [const { None }; MAX_AREAS]);
static HELD: SpinLock<Vec<(u64, Frame)>> = SpinLock::new("mm.swap.held", Vec::new());
static SWAPPING: Mutex<()> = Mutex::new("mm.swap.batch", ());
static NEXT_PRIORITY: AtomicI64 = AtomicI64::new(-2);
/// Pages of all areas.
pub static TOTAL: Counter = Counter::new();
/// Of them in use.
pub static USED: Counter = Counter::new();
/// Pages read (`pswpin`).
pub static PSWPIN: Counter = Counter::new();
/// Pages written (`pswpout`).
pub static PSWPOUT: Counter = Counter::new();

/// Whether the value of a special page-table entry names a swapped page.
#[inline]
pub(crate) fn is_swap(value: u64) -> bool {
    value & 3 == TAG
}

/// The entry `value` with or without the mark of watched writes.
#[inline]
pub(crate) fn with_mark(value: u64, is_watched: bool) -> u64 {
    if is_watched { value | WATCHED } else { value & !WATCHED }
}

/// Whether writes to the page of the entry are watched.
#[inline]
pub(crate) fn is_watched(value: u64) -> bool {
    is_swap(value) && value & WATCHED != 0
}

/// How many entries name the page; at least 1.
pub(crate) fn nr_users(value: u64) -> u64 {
    let count = |area: Arc<Area>| area.slots.lock().counts.get(slot_of(value)).copied();
    area_of(value).and_then(count).map_or(1, |count| u64::from(count).max(1))
}

/// Number of the area that the entry names.
fn area_id(value: u64) -> u64 {
    value >> 2 & AREA_MASK
}

fn value_of(id: u64, slot: u64) -> u64 {
    slot << 8 | id << 2 | TAG
}

fn area_of(value: u64) -> Option<Arc<Area>> {
    AREAS.lock().get(area_id(value) as usize)?.clone()
}

fn slot_of(value: u64) -> usize {
    usize::try_from(value >> 8).unwrap_or(usize::MAX)
}

/// Type and offset of a swap entry as /proc/PID/pagemap shows them: bits 0-4 and 5-54.
pub(crate) fn place_of(value: u64) -> u64 {
    value >> 8 << 5 | area_id(value)
}

/// Whether pages can go out.
pub(crate) fn has_room() -> bool {
    USED.get() < TOTAL.get()
}

impl Slots {
    /// Takes a free slot, behind the last one that was taken when that is free: neighbours are written together.
    fn take(&mut self) -> Option<usize> {
        let len = self.counts.len();
        if self.nr_used + 1 >= len as u64 {
            return None;
        }
        let behind =
            self.counts.get(self.hand..)?.iter().position(|count| *count == 0).map(|i| i + self.hand);
        let slot = behind.or_else(|| self.counts.iter().position(|count| *count == 0))?;
        *self.counts.get_mut(slot)? = 1;
        self.hand = if slot + 1 < len { slot + 1 } else { 0 };
        self.nr_used += 1;
        Some(slot)
    }

    fn dup(&mut self, slot: usize) {
        if let Some(count) = self.counts.get_mut(slot) {
            *count = count.saturating_add(1);
        }
    }

    /// Counts one entry less; whether the slot is free now.
    fn put(&mut self, slot: usize) -> bool {
        match self.counts.get_mut(slot) {
            Some(count) if *count > 0 && *count < u16::MAX => {
                *count -= 1;
                let is_free = *count == 0;
                self.nr_used -= u64::from(is_free);
                is_free
            }
            _ => false,
        }
    }
}

/// Takes a slot for `frame` of the area with the highest priority that has one. From then on `HELD` has the page.
fn take_slot(frame: &Frame) -> Option<u64> {
    let mut areas: ArrayVec<Arc<Area>, MAX_AREAS> = AREAS.lock().iter().flatten().cloned().collect();
    areas.sort_unstable_by_key(|area| (core::cmp::Reverse(area.priority), area.id));
    let value = areas.iter().find_map(|area| {
        let mut slots = area.slots.lock();
        // Under the lock: swapoff(2) looks at what is in use once it has closed the area.
        let is_closed = area.is_closed.load(Ordering::Relaxed);
        let slot = if is_closed { None } else { slots.take() }?;
        let value = value_of(area.id, slot as u64);
        // Under the lock, too: who finds a slot in use finds the page in one of the two places.
        let mut held = HELD.lock();
        if held.try_reserve(1).is_err() {
            drop(held);
            slots.put(slot);
            return None;
        }
        held.push((value, frame.clone()));
        Some(value)
    })?;
    USED.add(1);
    Some(value)
}

/// One more entry names the page.
pub(crate) fn dup(value: u64) {
    if let Some(area) = area_of(value) {
        area.slots.lock().dup(slot_of(value));
    }
}

/// An entry that named the page is gone.
pub(crate) fn put(value: u64) {
    let Some(area) = area_of(value) else { return };
    let mut slots = area.slots.lock();
    if slots.put(slot_of(value)) {
        let slot = with_mark(value, false);
        // Before the slot can be taken again: what is held then is another page.
        let mut held = HELD.lock();
        let gone = held.iter().position(|(known, _)| *known == slot).map(|at| held.swap_remove(at));
        drop(held);
        let cached = read::take_cached(slot);
        drop(slots);
        USED.add(-1);
        drop((gone, cached));
    }
}

/// Pages on their way out.
#[derive(Default)]
pub(crate) struct Batch {
    pages: ArrayVec<(u64, Frame), BATCH>,
}

impl Area {
    /// Writes `pages`, and leaves those in there that were written: the others stay in `HELD`, so nothing is lost.
    ///
    /// Nothing more goes to a device that fails. That memory was short, which is when pages are written, says nothing of the
    /// device: a page alone needs less.
    fn write_out(&self, pages: &mut ArrayVec<(u64, Frame), BATCH>) {
        let is_written = |part: &[(u64, Frame)]| {
            let result = self.device.write(part);
            if result.is_err_and(|e| e != Errno::ENOMEM) {
                self.is_closed.store(true, Ordering::Relaxed);
            }
            result.is_ok()
        };
        if !is_written(pages) {
            let is_closed = || self.is_closed.load(Ordering::Relaxed);
            pages.retain(|page| !is_closed() && is_written(core::slice::from_ref(page)));
        }
    }
}

impl Area {
    /// `pages` were written: `HELD` has them no more.
    #[inline(never)]
    fn let_go(&self, pages: &[(u64, Frame)]) {
        let mut gone = ArrayVec::<Frame, BATCH>::new();
        let mut held = HELD.lock();
        for (slot, _) in pages {
            let value = value_of(self.id, *slot);
            if let Some(at) = held.iter().position(|(known, _)| *known == value) {
                gone.push(held.swap_remove(at).1);
            }
        }
        drop(held);
        drop(gone);
    }
}

impl Batch {
    /// How many more come in before it must be written.
    pub fn room(&self) -> usize {
        self.pages.remaining_capacity()
    }

    /// Whether it must be written before more comes in.
    pub fn is_full(&self) -> bool {
        self.pages.is_full()
    }

    /// Takes the page in, and gives the entry that is to name it; `None` when there is no room. What the entry is to go
    /// into is locked.
    pub fn add(&mut self, frame: &Frame) -> Option<u64> {
        if self.is_full() {
            return None;
        }
        {
            // Room first: nothing may fail once the entry is set.
            let mut held = HELD.lock();
            held.try_reserve(1).ok()?;
        }
        let value = take_slot(frame)?;
        // Ours, until it is written.
        dup(value);
        self.pages.push((value, frame.clone()));
        Some(value)
    }

    /// Writes what is in it, and frees it; how many pages. Sleeps.
    pub fn write(&mut self) -> usize {
        let _one = SWAPPING.lock();
        let mut done = 0;
        for area in (0..MAX_AREAS).filter_map(|at| AREAS.lock().get(at).cloned().flatten()) {
            let of_area = |value: u64| area_id(value) == area.id;
            let own = self.pages.iter().filter(|(value, _)| of_area(*value));
            let mut pages: ArrayVec<(u64, Frame), BATCH> =
                own.map(|(value, frame)| (value >> 8, frame.clone())).collect();
            if pages.is_empty() {
                continue;
            }
            pages.sort_unstable_by_key(|(slot, _)| *slot);
            area.write_out(&mut pages);
            done += pages.len();
            area.let_go(&pages);
        }
        for (value, frame) in self.pages.drain(..) {
            drop(frame);
            put(value);
        }
        PSWPOUT.add(done as i64);
        done
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        debug_assert!(self.pages.is_empty(), "pages that nobody writes");
    }
}

impl Mm {
    /// Maps what was read for the entry at `addr`, if that still is there.
    pub(crate) fn swap_in(&self, addr: u64, page: Pinned, frame: Frame) -> Result<(), FaultError> {
        let space = self.space.read();
        let Some(range) = PageRange::page_of(UserAddr(addr)) else { return Ok(()) };
        let Some(vma) = space.set.at(addr) else { return Ok(()) };
        let mut cursor = self.page_table().cursor(range);
        if !matches!(cursor.query(range.start()), Entry::Special(now) if now == page.value()) {
            return Ok(());
        }
        // The level-1 table is there: it held the entry.
        let mut flags = pte_flags(&vma.attr, false);
        flags.set(PteFlags::WATCHED, is_watched(page.value()));
        cursor.map(range.start(), frame, flags).map_err(|_| FaultError::Oom)?;
        drop(cursor);
        put(page.value());
        self.rss.apply(RssDelta { anon: 1, swap: -1, ..RssDelta::default() });
        Ok(())
    }

    /// Calls `visit` for the swapped pages of `range`, with the page table locked.
    pub(crate) fn for_each_swapped(&self, range: PageRange, mut visit: impl FnMut(u64, u64)) {
        if !self.has_swapped.load(Ordering::Relaxed) {
            return;
        }
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            if let Entry::Special(value) = entry
                && is_swap(value)
            {
                visit(addr, value);
            }
        }
    }

    /// Counts the swapped pages that a fork copied into this new address space.
    pub(crate) fn adopt_swapped(&self, range: PageRange) {
        self.has_swapped.store(true, Ordering::Relaxed);
        let mut nr = 0;
        self.for_each_swapped(range, |_, value| {
            dup(value);
            nr += 1;
        });
        self.rss.apply(RssDelta { swap: nr, ..RssDelta::default() });
    }

    /// Reads one page of `area` in; `false` when there is none.
    fn take_back(&self, area: &Area) -> Result<bool> {
        let found = {
            let space = self.space.read();
            let mut vmas = space.set.iter();
            vmas.find_map(|vma| self.find_swapped(vma, area))
        };
        let Some((addr, page)) = found else { return Ok(false) };
        let (frame, _) = page.read(Near::Nothing)?;
        self.swap_in(addr, page, frame)?;
        Ok(true)
    }

    fn find_swapped(&self, vma: &Vma, area: &Area) -> Option<(u64, Pinned)> {
        let mut found = None;
        self.for_each_swapped(PageRange::new(vma.start, vma.end)?, |addr, value| {
            if found.is_none() && area_id(value) == area.id {
                found = Some((addr, Pinned::new(value)));
            }
        });
        found
    }
}

/// swapon(2): takes `device` into use. `path` names it; `keep` lives as long.
///
/// `priority`: `None` for one below all that were chosen so. `EPERM`: too many areas. `EINVAL`: no swap header, or one
/// for a larger device. `ENOMEM`: no memory for the counts. May sleep.
pub fn swap_on(
    device: Arc<dyn SwapDevice>,
    path: Vec<u8>,
    priority: Option<i32>,
    keep: Box<dyn Any + Send + Sync>,
) -> Result<()> {
    let nr_slots = read_header(&*device)?;
    let len = usize::try_from(nr_slots).map_err(|_| Errno::EINVAL)?;
    let mut counts = Vec::new();
    counts.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    counts.resize(len, 0);
    if let Some(header) = counts.first_mut() {
        *header = u16::MAX;
    }
    let slots = SpinLock::new("mm.swap.slots", Slots { counts, hand: 1, nr_used: 0 });
    let priority = match priority {
        Some(priority) => priority,
        None => i32::try_from(NEXT_PRIORITY.fetch_sub(1, Ordering::Relaxed)).unwrap_or(i32::MIN),
    };
    let mut areas = AREAS.lock();
    let id = areas.iter().position(Option::is_none).ok_or(Errno::EPERM)?;
    let is_closed = AtomicBool::new(false);
    let area = Area { id: id as u64, priority, path, device, slots, is_closed, _keep: keep };
    if let Some(place) = areas.get_mut(id) {
        *place = Some(Arc::new(area));
    }
    drop(areas);
    TOTAL.add(nr_slots as i64 - 1);
    Ok(())
}

/// The number of slots that the header tells (mkswap(8), version 1). `EINVAL`: there is no such header.
fn read_header(device: &dyn SwapDevice) -> Result<u64> {
    const MAGIC: &[u8; 10] = b"SWAPSPACE2";
    const INFO: usize = 1024;
    let frame = oom::alloc_zeroed()?;
    device.read(0, &frame)?;
    let (mut magic, mut info) = ([0; 10], [0; 12]);
    frame.read(PAGE_SIZE - MAGIC.len(), &mut magic);
    frame.read(INFO, &mut info);
    let word = |at: usize| info.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let (version, last, nr_bad) = (word(0), u64::from(word(4)), word(8));
    // LINUX: bad pages of the list are left out; such devices are refused here.
    if &magic != MAGIC || version != 1 || nr_bad != 0 || last == 0 {
        return Err(Errno::EINVAL);
    }
    if last >= device.nr_pages() || last >= MAX_SLOTS {
        return Err(Errno::EINVAL);
    }
    Ok(last + 1)
}

/// swapoff(2): reads back all that is in the area `path` names, and forgets it. May sleep.
///
/// `EINVAL`: there is no such area. `ENOMEM`: no memory for its pages; it stays.
pub fn swap_off(path: &[u8]) -> Result<()> {
    let found = AREAS.lock().iter().flatten().find(|area| area.path == path).cloned();
    let area = found.ok_or(Errno::EINVAL)?;
    let was_closed = {
        // Who takes a slot has it by now, or finds the area closed.
        let _slots = area.slots.lock();
        area.is_closed.swap(true, Ordering::Relaxed)
    };
    let result = empty(&area);
    if result.is_err() {
        area.is_closed.store(was_closed, Ordering::Relaxed);
        return result;
    }
    let gone = AREAS.lock().get_mut(area.id as usize).and_then(Option::take);
    // Another swapoff(2) may have been faster.
    let gone = gone.ok_or(Errno::EINVAL)?;
    drop(area);
    // Who looks at it now holds a spinlock, under which the file must not be closed.
    while Arc::strong_count(&gone) > 1 {
        sched::yield_now();
    }
    TOTAL.add(1 - gone.slots.lock().counts.len() as i64);
    Ok(())
}

/// Reads the pages of a closed area back.
fn empty(area: &Area) -> Result<()> {
    // An address space that is made meanwhile by fork may be missed by one walk.
    while area.slots.lock().nr_used > 0 {
        let mut result = Ok(());
        registry::for_each(|mm| {
            while result.is_ok() {
                match mm.take_back(area) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => result = Err(error),
                }
            }
        });
        result?;
        swapped::take_back(|value| area_id(value) == area.id)?;
        if sched::current().is_interrupted(sched::Interruptible::Yes) {
            return Err(Errno::EINTR);
        }
        sched::yield_now();
    }
    Ok(())
}

/// The areas in use, for /proc/swaps.
pub fn areas() -> Vec<AreaInfo> {
    let areas: ArrayVec<Arc<Area>, MAX_AREAS> = AREAS.lock().iter().flatten().cloned().collect();
    let info = |area: &Arc<Area>| {
        let slots = area.slots.lock();
        let (size, used) = (slots.counts.len() as u64 - 1, slots.nr_used);
        AreaInfo {
            path: Vec::new(),
            is_partition: area.device.is_partition(),
            size,
            used,
            priority: area.priority,
        }
    };
    let with_path = |area: &Arc<Area>| AreaInfo { path: area.path.clone(), ..info(area) };
    areas.iter().map(with_path).collect()
}
