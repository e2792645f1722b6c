//! Physical page frames: owned, reference-counted 4 KiB pages and their metadata.
//!
//! Contents are only touched by copying: no reference into a frame ever exists, so sharing it with user
//! space is sound.
//!
//! ```text
//! Frame::alloc ── per-CPU list ── (empty: BATCH at once) ── buddy ── machine's memory
//! last drop    ── per-CPU list ── (full:  BATCH at once) ──┘
//! ```
//!
//! Usable in interrupt context; nothing here sleeps. The lock is `hal.frame.buddy`.

mod buddy;
mod huge;
pub mod inject;
mod isolate;
mod run;

use core::cell::UnsafeCell;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, UserAddr};
use crate::arch;
use crate::cells::CpuCells;
use crate::cpu::MAX_CPUS;
use crate::sync::IrqLock;

use buddy::{Buddy, MetaMap};

pub(crate) use buddy::MAX_ORDER;
pub use huge::{HUGE_FRAMES, HUGE_ORDER, HUGE_SIZE, HugeFrame, set_keeper};
pub use isolate::{free_together, take_free, take_one_free};
pub use run::{FrameRun, FrameSpan};

/// The metadata of one frame, 32 bytes. `flags`, `index` and `owner` are mm's to use while it holds a reference.
#[derive(Debug, Default)]
#[repr(C)]
pub struct FrameMeta {
    refs: AtomicU32,
    /// Of the first frame of a huge one: how many references there are to the whole (H1 and H3 of `huge`).
    maps: AtomicU32,
    /// mm's flags.
    pub flags: AtomicU32,
    /// The allocators': B1 of `buddy`, H2 of `huge`, or what the heap keeps about a frame of its own.
    state: AtomicU32,
    /// mm's position of the page in its owner; list links while the frame is free.
    pub index: AtomicU64,
    /// mm's identification of the owner.
    pub owner: AtomicU64,
}

const _: () = assert!(size_of::<FrameMeta>() == 32);

/// One owned reference to a physical page; `clone` takes another, the last drop frees the page.
///
/// # Invariants
///
/// - F1: the frame is managed by the allocator, is in no free list, and its `refs` counts this value, or counts nothing any
///   more ([`MAX_COUNT`]).
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pfn: NonZeroU32,
}

/// Numbers about physical memory, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameStats {
    /// Pages that the allocator manages.
    pub total: usize,
    /// Free pages.
    pub free: usize,
}

/// The metadata of this machine.
struct Machine;

impl MetaMap for Machine {
    #[inline]
    fn meta(&self, pfn: u32) -> &FrameMeta {
        arch::mem::meta(u64::from(pfn))
    }
}

/// Frames that move between a per-CPU list and the buddy at once.
const BATCH: usize = 32;
/// Frames that a per-CPU list holds at most.
const LOCAL_MAX: usize = 2 * BATCH;

/// Free frames of one CPU: a stack, so that the frame freed last, whose lines are still cached, goes out first.
struct Local {
    frames: [u32; LOCAL_MAX],
    count: usize,
}

impl Local {
    const fn new() -> Local {
        Local { frames: [0; LOCAL_MAX], count: 0 }
    }

    /// Takes up to [`BATCH`] frames from the buddy, which keeps `reserve` of them.
    #[cold]
    fn refill(&mut self, reserve: usize) {
        let mut buddy = BUDDY.lock();
        while self.count < BATCH
            && buddy.nr_free() > reserve
            && let Some(pfn) = buddy.alloc(&Machine, 0)
        {
            self.frames[self.count] = pfn;
            self.count += 1;
        }
        // They ascend, and so do they go out: pages that are made one after another then lie side by side for a device.
        self.frames[..self.count].reverse();
        BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
    }

    /// Gives the oldest half to the buddy: it is the coldest.
    #[cold]
    fn spill(&mut self) {
        let mut buddy = BUDDY.lock();
        for &pfn in &self.frames[..BATCH] {
            buddy.free(&Machine, pfn, 0);
        }
        self.frames.copy_within(BATCH.., 0);
        self.count = LOCAL_MAX - BATCH;
        BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
    }
}

static BUDDY: IrqLock<Buddy> = IrqLock::new("hal.frame.buddy", Buddy::new());
static LOCALS: CpuCells<Local> = CpuCells::new([const { UnsafeCell::new(Local::new()) }; MAX_CPUS]);
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// Free frames in the buddy; kept beside it so that readers need no lock.
static BUDDY_FREE: AtomicUsize = AtomicUsize::new(0);
/// Frames that [`Frame::alloc_user`] leaves for the kernel.
static RESERVE: AtomicUsize = AtomicUsize::new(0);
/// Free frames in the per-CPU lists, counted when batches move and corrected by readers.
static LOCAL_FREE: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// Gives the frames `start..end` to the allocator.
///
/// # Safety
///
/// 1. They are memory that nobody else uses, now or later, and `arch::mem` finds their contents.
/// 2. `arch::mem` finds zeroed metadata for each frame of every block of order [`MAX_ORDER`] they touch.
pub(crate) unsafe fn add_range(start: u64, end: u64) {
    let (start, end) = (start.max(1), end.min(u64::from(u32::MAX)));
    if start < end {
        let mut buddy = BUDDY.lock();
        buddy.add_range(&Machine, start as u32, end as u32);
        BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
        TOTAL.fetch_add((end - start) as usize, Ordering::Relaxed);
    }
}

/// Makes frame `pfn`, which was never managed, a managed one with its first owner and its contents kept.
///
/// # Safety
///
/// 1. As [`add_range`] for this one frame.
#[cfg_attr(
    not(target_os = "none"),
    expect(dead_code, reason = "the hosted machine has no memory of its own")
)]
pub(crate) unsafe fn claim(pfn: NonZeroU32) -> Frame {
    TOTAL.fetch_add(1, Ordering::Relaxed);
    Frame::adopt(pfn)
}

/// A run of `2^order` frames with arbitrary contents and no references, aligned to its size.
pub(crate) fn alloc_run(order: u32) -> Option<u32> {
    if order == 0 {
        return alloc_one(0);
    }
    if order > MAX_ORDER {
        return None;
    }
    arch::mem::ensure_ready();
    let mut buddy = BUDDY.lock();
    let pfn = buddy.alloc(&Machine, order);
    BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
    pfn
}

/// Takes back a run.
///
/// # Safety
///
/// 1. The run came from [`alloc_run`] with the same order (or is a part of such a run), and nobody uses it.
pub(crate) unsafe fn free_run(pfn: u32, order: u32) {
    if order == 0 {
        return free_one(pfn);
    }
    let mut buddy = BUDDY.lock();
    buddy.free(&Machine, pfn, order);
    BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
}

/// One frame; the buddy keeps `reserve` frames when it has to give some.
fn alloc_one(reserve: usize) -> Option<u32> {
    arch::mem::ensure_ready();
    // SAFETY: nothing below allocates or frees a frame through this list.
    unsafe {
        LOCALS.with(|local| {
            if local.count == 0 {
                local.refill(reserve);
            }
            let at = local.count.checked_sub(1)?;
            local.count = at;
            LOCAL_FREE[arch::cpu::current_id() as usize % MAX_CPUS].store(at, Ordering::Relaxed);
            local.frames.get(at).copied()
        })
    }
}

fn free_one(pfn: u32) {
    // SAFETY: as in `alloc_one`.
    unsafe {
        LOCALS.with(|local| {
            if local.count >= LOCAL_MAX {
                local.spill();
            }
            let at = local.count;
            local.frames[at] = pfn;
            local.count = at + 1;
            LOCAL_FREE[arch::cpu::current_id() as usize % MAX_CPUS].store(at + 1, Ordering::Relaxed);
        });
    }
}

impl Frame {
    /// A frame with arbitrary contents; `None` when there is none.
    pub fn alloc() -> Option<Frame> {
        if inject::fails() {
            return None;
        }
        let pfn = NonZeroU32::new(alloc_one(0)?)?;
        Some(Frame::adopt(pfn))
    }

    /// As [`alloc`](Self::alloc) for memory that user space decides about, of which there may be any amount: leaves
    /// what [`set_reserve`] says to the kernel, which needs memory to make memory free.
    pub fn alloc_user() -> Option<Frame> {
        if inject::fails() {
            return None;
        }
        let pfn = NonZeroU32::new(alloc_one(RESERVE.load(Ordering::Relaxed))?)?;
        Some(Frame::adopt(pfn))
    }

    /// As [`alloc_user`](Self::alloc_user), full of zeroes.
    pub fn alloc_user_zeroed() -> Option<Frame> {
        let frame = Frame::alloc_user()?;
        frame.zero(0..PAGE_SIZE);
        Some(frame)
    }

    /// The first reference to a frame fresh from the allocator.
    #[inline]
    fn adopt(pfn: NonZeroU32) -> Frame {
        let frame = Frame { pfn };
        let meta = frame.meta();
        meta.maps.store(0, Ordering::Relaxed);
        meta.flags.store(0, Ordering::Relaxed);
        meta.index.store(0, Ordering::Relaxed);
        meta.owner.store(0, Ordering::Relaxed);
        meta.refs.store(1, Ordering::Relaxed);
        frame
    }

    /// A frame full of zeroes.
    pub fn alloc_zeroed() -> Option<Frame> {
        let frame = Frame::alloc()?;
        frame.zero(0..PAGE_SIZE);
        Some(frame)
    }

    /// Gives the reference up for its number, to be kept in a page table.
    #[cfg_attr(
        not(target_os = "none"),
        expect(dead_code, reason = "hosted page tables hold `Frame`s themselves")
    )]
    pub(crate) fn into_pfn(self) -> u64 {
        let pfn = self.pfn();
        core::mem::forget(self);
        pfn
    }

    /// Takes a reference back.
    ///
    /// # Safety
    ///
    /// 1. `pfn` came from [`Frame::into_pfn`], and this is the only value made from that reference.
    pub(crate) unsafe fn from_pfn(pfn: u64) -> Frame {
        debug_assert!(pfn != 0 && pfn <= u64::from(u32::MAX));
        // SAFETY: 1: numbers of frames are not 0.
        Frame { pfn: unsafe { NonZeroU32::new_unchecked(pfn as u32) } }
    }

    /// Its physical address.
    #[inline]
    pub fn paddr(&self) -> PhysAddr {
        PhysAddr(self.pfn() << PAGE_SHIFT)
    }

    /// Its number.
    #[inline]
    pub fn pfn(&self) -> u64 {
        u64::from(self.pfn.get())
    }

    /// How many references there are, those to a huge frame that it is a part of included.
    pub fn ref_count(&self) -> u32 {
        let meta = self.meta();
        let refs = meta.refs.load(Ordering::Acquire);
        if huge::is_part(meta.state.load(Ordering::Relaxed)) {
            refs.saturating_add(huge::extra_refs(self.pfn.get()))
        } else {
            refs
        }
    }

    /// Is it a part of a huge frame that some entry maps whole?
    #[inline]
    pub fn is_in_huge(&self) -> bool {
        huge::is_part(self.meta().state.load(Ordering::Relaxed))
    }

    /// Its metadata.
    #[inline]
    pub fn meta(&self) -> &FrameMeta {
        arch::mem::meta(self.pfn())
    }

    #[inline]
    fn ptr(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "access outside of the frame");
        arch::mem::frame_ptr(self.pfn()).wrapping_add(offset)
    }

    /// Copies bytes from `offset` on out of the frame.
    #[inline]
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        let from = self.ptr(offset, buf.len());
        // SAFETY: inside the frame, which we hold a reference to (F1); `buf` is no frame.
        unsafe { core::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
    }

    /// Copies bytes into the frame at `offset`.
    #[inline]
    pub fn write(&self, offset: usize, buf: &[u8]) {
        let to = self.ptr(offset, buf.len());
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) }
    }

    /// Zeroes a range of its bytes.
    pub fn zero(&self, range: core::ops::Range<usize>) {
        let len = range.end.saturating_sub(range.start);
        let to = self.ptr(range.start, len);
        // SAFETY: as in `read`.
        unsafe { core::ptr::write_bytes(to, 0, len) }
    }

    /// Copies `len` bytes of `from` at `from_offset` to `offset`.
    pub fn copy_part(&self, offset: usize, from: &Frame, from_offset: usize, len: usize) {
        // SAFETY: inside of two frames that we hold references to; `copy` allows them to be the same.
        unsafe { core::ptr::copy(from.ptr(from_offset, len), self.ptr(offset, len), len) }
    }

    /// Copies the whole of `from`.
    pub fn copy_from(&self, from: &Frame) {
        // SAFETY: two whole frames that we hold references to; `copy` allows them to be the same.
        unsafe { core::ptr::copy(from.ptr(0, PAGE_SIZE), self.ptr(0, PAGE_SIZE), PAGE_SIZE) }
    }

    /// Copies bytes of the frame to user memory; returns how many could be. May sleep.
    pub fn copy_to_user(&self, offset: usize, to: UserAddr, len: usize) -> usize {
        let from = self.ptr(offset, len);
        if !to.range_ok(len) {
            return 0;
        }
        crate::sync::might_sleep();
        // SAFETY: inside the frame, which we hold a reference to (F1).
        unsafe { arch::user::copy_out_raw(to.0, from, len) }
    }

    /// Copies bytes of user memory into the frame; returns how many could be. May sleep.
    pub fn copy_from_user(&self, offset: usize, from: UserAddr, len: usize) -> usize {
        let to = self.ptr(offset, len);
        if !from.range_ok(len) {
            return 0;
        }
        crate::sync::might_sleep();
        // SAFETY: as in `copy_to_user`.
        unsafe { arch::user::copy_in_raw(from.0, to, len) }
    }
}

/// Where a count is put that has passed [`MAX_COUNT`], as far from that as from an overflow.
const LOST_COUNT: u32 = 3 << 30;
/// The largest count that is kept. Page tables that show one page so often take 16 GiB, which user space can have: from
/// there on the page is not counted any more, and stays for ever. Going on would end in a use after free.
const MAX_COUNT: u32 = 1 << 31;

/// Counts a reference more.
#[inline]
fn count_up(count: &AtomicU32) {
    if count.fetch_add(1, Ordering::Relaxed) >= MAX_COUNT {
        lose_count(count);
    }
}

/// Counts a reference less; was it the last?
#[inline]
fn count_down(count: &AtomicU32) -> bool {
    // AcqRel: what other holders did with the frame comes before its next owner.
    let old = count.fetch_sub(1, Ordering::AcqRel);
    if old > MAX_COUNT {
        lose_count(count);
    }
    old == 1
}

#[cold]
fn lose_count(count: &AtomicU32) {
    count.store(LOST_COUNT, Ordering::Relaxed);
}

impl Clone for Frame {
    #[inline]
    fn clone(&self) -> Frame {
        count_up(&self.meta().refs);
        Frame { pfn: self.pfn }
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        if count_down(&self.meta().refs) {
            huge::gone(self.pfn.get());
        }
    }
}

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameUse {
    /// Nothing: the buddy has it.
    Free,
    /// The kernel: its image, its heap, page tables; or a CPU has it at hand.
    Kernel,
    /// A page that somebody refers to.
    Page,
    /// The first part of a huge frame.
    HugeHead,
    /// Another part.
    HugeTail,
}

/// A look at a frame, which may be another's a moment later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameView {
    /// What it is used for.
    pub used_for: FrameUse,
    /// References to it.
    pub refs: u32,
    /// mm's flags of a page.
    pub flags: u32,
}

/// The number after the last frame's.
pub fn end_pfn() -> u64 {
    arch::mem::end_pfn()
}

/// Looks at frame `pfn`; `None` where there is no memory.
pub fn look(pfn: u64) -> Option<FrameView> {
    arch::mem::ensure_ready();
    if !arch::mem::has_meta(pfn) {
        return None;
    }
    let meta = arch::mem::meta(pfn);
    let (refs, state) = (meta.refs.load(Ordering::Relaxed), meta.state.load(Ordering::Relaxed));
    if refs == 0 {
        let used_for = if is_in_free_run(pfn) { FrameUse::Free } else { FrameUse::Kernel };
        return Some(FrameView { used_for, refs, flags: 0 });
    }
    let is_part = huge::is_part(state);
    let used_for = match is_part {
        true if pfn.is_multiple_of(HUGE_FRAMES as u64) => FrameUse::HugeHead,
        true => FrameUse::HugeTail,
        false => FrameUse::Page,
    };
    let extra = if is_part { huge::extra_refs(pfn as u32) } else { 0 };
    let flags = meta.flags.load(Ordering::Relaxed);
    Some(FrameView { used_for, refs: refs.saturating_add(extra), flags })
}

/// Whether a run that begins at or before `pfn` in its block is free and reaches it (B1 of `buddy`).
fn is_in_free_run(pfn: u64) -> bool {
    (0..=MAX_ORDER).any(|order| {
        let head = pfn >> order << order;
        let state =
            if arch::mem::has_meta(head) { arch::mem::meta(head).state.load(Ordering::Relaxed) } else { 0 };
        buddy::free_order(state).is_some_and(|free| free >= order)
    })
}

/// Sets how many free frames [`Frame::alloc_user`] leaves alone; 0 at boot. What a CPU has at hand does not count.
pub fn set_reserve(nr_frames: usize) {
    RESERVE.store(nr_frames, Ordering::Relaxed);
}

/// Gives the free frames that CPUs have at hand to the buddy, so that they join their neighbours. Waits for the other CPUs:
/// interrupts must be on.
pub fn gather() {
    let spill = |_| {
        // SAFETY: as in `alloc_one`.
        unsafe {
            LOCALS.with(|local| {
                let mut buddy = BUDDY.lock();
                for &pfn in local.frames.iter().take(local.count) {
                    buddy.free(&Machine, pfn, 0);
                }
                local.count = 0;
                BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
            });
        }
        LOCAL_FREE[arch::cpu::current_id() as usize % MAX_CPUS].store(0, Ordering::Relaxed);
    };
    crate::ipi::call(crate::cpu::online(), spill, 0);
}

/// Free runs by order, up to the largest (/proc/buddyinfo).
pub fn free_runs() -> [usize; 11] {
    BUDDY.lock().counts()
}

/// How many frames [`Frame::alloc_user`] could take from the buddy, beside what CPUs have at hand.
pub fn nr_above_reserve() -> usize {
    arch::mem::ensure_ready();
    BUDDY_FREE.load(Ordering::Relaxed).saturating_sub(RESERVE.load(Ordering::Relaxed))
}

/// Numbers about physical memory.
pub fn stats() -> FrameStats {
    arch::mem::ensure_ready();
    let local: usize = LOCAL_FREE.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    FrameStats { total: TOTAL.load(Ordering::Relaxed), free: BUDDY_FREE.load(Ordering::Relaxed) + local }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reference_frees_the_page() {
        let frame = Frame::alloc_zeroed().unwrap();
        let again = frame.clone();
        assert_eq!(frame.ref_count(), 2);
        drop(frame);
        again.write(4090, b"abcdef");
        let mut bytes = [0; 6];
        again.read(4090, &mut bytes);
        assert_eq!(&bytes, b"abcdef");
        assert_eq!(again.ref_count(), 1);
    }

    #[test]
    fn a_page_with_too_many_references_stays() {
        let frame = Frame::alloc_zeroed().unwrap();
        let count = || frame.meta().refs.load(Ordering::Relaxed);
        frame.meta().refs.store(MAX_COUNT - 1, Ordering::Relaxed);
        let at_most = frame.clone();
        assert_eq!(count(), MAX_COUNT);
        drop(at_most);
        assert_eq!(count(), MAX_COUNT - 1, "up to there it is exact");
        let many = [frame.clone(), frame.clone(), frame.clone()];
        assert_eq!(count(), LOST_COUNT);
        drop(many);
        assert_eq!(count(), LOST_COUNT);
        frame.meta().refs.store(1, Ordering::Relaxed);
    }

    #[test]
    fn a_look_tells_pages_from_free_frames() {
        let frame = Frame::alloc().unwrap();
        frame.meta().flags.store(5, Ordering::Relaxed);
        let seen = look(frame.pfn()).unwrap();
        assert_eq!(seen, FrameView { used_for: FrameUse::Page, refs: 1, flags: 5 });
        assert!(look(end_pfn()).is_none() && look(u64::MAX).is_none());
        assert!((1..end_pfn()).any(|pfn| look(pfn).is_some_and(|seen| seen.used_for == FrameUse::Free)));
    }
}
