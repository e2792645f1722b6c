//! Tests of page tables, memory, timers and several CPUs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hal::addr::{PAGE_SIZE, PageRange, UserAddr};
use hal::cpu::{self, CpuMask, MAX_CPUS};
use hal::frame::{self, Frame};
use hal::io::Ports;
use hal::irq::IrqLine;
use hal::paging::{Entry, ForkMode, PageTable, PteFlags};
use hal::sync::Once;
use hal::{ipi, irq, smp, thread, time, user};

use super::check;

const PAGE: u64 = PAGE_SIZE as u64;
/// Addresses in tables of their own.
const FAR_APART: [u64; 4] = [0x1000, 0x20_0000, 0x4000_0000, 0x7fff_ffff_e000];
/// How often the other CPUs' page is exchanged.
const EXCHANGES: u32 = 300;

/// Timer interrupts seen, and whether they are this module's.
static TIMER_FIRED: AtomicU32 = AtomicU32::new(0);
static TIMER_OURS: AtomicBool = AtomicBool::new(false);
/// The other CPUs are free for other tests.
static RELEASED: AtomicBool = AtomicBool::new(false);

/// The page that one CPU exchanges while the others read it.
static SHARED: Once<Arc<PageTable>> = Once::new();
/// No reader may see less than this.
static NEWEST: AtomicU32 = AtomicU32::new(0);
static STALE_READS: AtomicU32 = AtomicU32::new(0);
static GOOD_READS: AtomicU32 = AtomicU32::new(0);
static READERS_GO: AtomicBool = AtomicBool::new(false);
/// CPUs that have finished a phase, a bit each.
static DONE: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

fn free_frames() -> usize {
    frame::stats().free
}

fn page(addr: u64) -> PageRange {
    PageRange::page_of(UserAddr(addr)).expect("a user page")
}

fn put(table: &PageTable, addr: u64, flags: PteFlags) -> Frame {
    let frame = Frame::alloc_zeroed().expect("a frame");
    table.cursor(page(addr)).map(addr, frame.clone(), flags).expect("memory for page tables");
    frame
}

fn page_tables_map_and_forget() {
    let before = free_frames();
    let table = PageTable::new().expect("a page table");
    let frames: Vec<Frame> = FAR_APART.iter().map(|addr| put(&table, *addr, PteFlags::WRITE)).collect();
    check("each mapping owns a reference", frames.iter().all(|frame| frame.ref_count() == 2));
    check("resident counts mappings", table.resident() == FAR_APART.len());
    let mut cursor = table.cursor(PageRange::all());
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((addr, Entry::Present { frame, flags })) = cursor.next_mapped(at) {
        found.push((addr, frame.pfn(), flags));
        at = addr + PAGE;
    }
    let expected = FAR_APART.iter().zip(&frames).map(|(addr, frame)| (*addr, frame.pfn(), PteFlags::WRITE));
    check("next_mapped finds every page", found.into_iter().eq(expected));
    check("protect changes flags", cursor.protect(FAR_APART[0], PteFlags::EXEC | PteFlags::COW));
    let flags = match cursor.query(FAR_APART[0]) {
        Entry::Present { flags, .. } => flags,
        _ => PteFlags::empty(),
    };
    check("query shows the new flags", flags == PteFlags::EXEC | PteFlags::COW);
    check("a hole cannot be protected", !cursor.protect(0x5000, PteFlags::WRITE));
    check("special values are kept", cursor.set_special(0x5000, 77).is_ok());
    check("special values are found", matches!(cursor.query(0x5000), Entry::Special(77)));
    let hidden = PteFlags::NONE | PteFlags::WRITE;
    check("PROT_NONE keeps the frame", cursor.protect(FAR_APART[1], hidden));
    check(
        "PROT_NONE is shown",
        matches!(cursor.query(FAR_APART[1]), Entry::Present { flags, .. } if flags == hidden),
    );
    let mut seen = 0;
    cursor.unmap_range(PageRange::all(), &mut |_, _| seen += 1);
    drop(cursor);
    check("unmap_range shows what it takes", seen == FAR_APART.len() + 1 && table.resident() == 0);
    check("unmapping drops the references", frames.iter().all(|frame| frame.ref_count() == 1));
    drop((frames, table));
    check("no frame is lost", free_frames() == before);
}

/// Moves pages in tables of their own to places that are aligned to 1 GiB, 2 MiB and a page alike, and back.
fn page_tables_move_ranges() {
    const GIB: u64 = 1 << 30;
    const HOME: u64 = 4 * GIB;
    const LEN: u64 = 3 * GIB;
    const OFFSETS: [u64; 5] = [0, PAGE, 0x20_5000, GIB + 0x7000, LEN - PAGE];
    const PLACES: [u64; 4] = [16 * GIB, 24 * GIB + 0x60_0000, 700 * GIB + 0x3000, HOME];
    let before = free_frames();
    let table = PageTable::new().expect("a page table");
    let frames: Vec<Frame> =
        OFFSETS.iter().map(|offset| put(&table, HOME + offset, PteFlags::WRITE)).collect();
    let area = |start| PageRange::new(start, start + LEN).expect("a user range");
    let mut from = HOME;
    for to in PLACES {
        check("a range moves", table.move_range(area(from), area(to)).is_ok());
        check("nothing stays behind", table.cursor(area(from)).next_mapped(from).is_none());
        let mut cursor = table.cursor(area(to));
        let came = OFFSETS.iter().zip(&frames).all(|(offset, frame)| {
            matches!(cursor.query(to + offset), Entry::Present { frame: found, flags }
                if found.pfn() == frame.pfn() && flags == PteFlags::WRITE)
        });
        check("every page comes to its place", came && table.resident() == OFFSETS.len());
        from = to;
    }
    table.cursor(area(from)).unmap_range(area(from), &mut |_, _| ());
    check("moving takes no reference", frames.iter().all(|frame| frame.ref_count() == 1));
    check("empty tables are freed", free_frames() == before - frames.len() - 1);
    drop((frames, table));
    check("moving loses no frame", free_frames() == before);
}

fn fork_shares_pages() {
    let before = free_frames();
    let parent = PageTable::new().expect("a page table");
    let child = PageTable::new().expect("a page table");
    let frames: Vec<Frame> = FAR_APART.iter().map(|addr| put(&parent, *addr, PteFlags::WRITE)).collect();
    let copied = parent.fork_range(&child, PageRange::all(), ForkMode::Cow);
    check("fork copies", copied.is_ok() && child.resident() == FAR_APART.len());
    let is_cow = |table: &PageTable, addr| matches!(table.cursor(page(addr)).query(addr), Entry::Present { flags, .. } if flags == PteFlags::COW);
    check(
        "both sides are copy-on-write",
        FAR_APART.iter().all(|addr| is_cow(&parent, *addr) && is_cow(&child, *addr)),
    );
    check("fork takes references", frames.iter().all(|frame| frame.ref_count() == 3));
    drop((parent, child, frames));
    check("dropping page tables frees everything", free_frames() == before);
}

/// More than the largest run of frames.
fn large_objects_are_mapped() {
    const BYTES: usize = 10 << 20;
    let mut free = Vec::new();
    let mut kept = true;
    for round in 0..4u8 {
        let mut large = alloc::vec![round; BYTES];
        large.extend_from_slice(&[round; 5000]);
        kept &= large.iter().all(|byte| *byte == round);
        drop(large);
        free.push(free_frames());
    }
    check("large objects keep their bytes", kept);
    check("large objects use their addresses again", free[3] == free[1]);
    let huge: Result<(), _> = Vec::<u8>::new().try_reserve(1 << 40);
    check("an object larger than memory is refused", huge.is_err());
}

/// Transmit interrupts seen.
static SENT: AtomicU32 = AtomicU32::new(0);

/// An empty transmitter of the first serial port interrupts as soon as it may.
fn device_lines_interrupt() {
    const INTERRUPT_ENABLE: u16 = 1;
    const INTERRUPT_ID: u16 = 2;
    const MODEM_CONTROL: u16 = 4;
    const TRANSMITTER_EMPTY: u8 = 2;
    const OUT2_AND_READY: u8 = 0x0b;
    let ports = Arc::new(Ports::claim(0x3f8, 8, "selftest").expect("the first serial port"));
    check("ports have one owner", Ports::claim(0x3ff, 1, "second").is_err());
    check("ports of the DMA controller have none", Ports::claim(0x0, 8, "dma").is_err());
    let in_handler = ports.clone();
    let handler = move || {
        in_handler.read_u8(INTERRUPT_ID);
        in_handler.write_u8(INTERRUPT_ENABLE, 0);
        SENT.fetch_add(1, Ordering::Relaxed);
    };
    let requested = irq::request(IrqLine::Isa(4), "selftest", Box::new(handler));
    check("a device line can be requested", requested.is_ok());
    check("an unknown line cannot", irq::request(IrqLine::Gsi(4000), "none", Box::new(|| ())).is_err());
    ports.write_u8(MODEM_CONTROL, OUT2_AND_READY);
    ports.write_u8(INTERRUPT_ENABLE, TRANSMITTER_EMPTY);
    let end = time::now_ns() + 1_000_000_000;
    while SENT.load(Ordering::Relaxed) == 0 && time::now_ns() < end {
        cpu::relax();
    }
    check("the device's interrupt arrives", SENT.load(Ordering::Relaxed) >= 1);
}

/// The timer interrupt; true if it is for a test of this module.
pub(super) fn timer_fired() -> bool {
    TIMER_FIRED.fetch_add(1, Ordering::Relaxed);
    TIMER_OURS.load(Ordering::Relaxed)
}

/// Sends the other CPUs to `super::other_cpu`.
pub(super) fn release_cpus() {
    RELEASED.store(true, Ordering::Release);
}

fn timer_fires() {
    TIMER_OURS.store(true, Ordering::Relaxed);
    let start = time::now_ns();
    let fired = TIMER_FIRED.load(Ordering::Relaxed);
    irq::without(|| time::set_timer(start + 2_000_000));
    while TIMER_FIRED.load(Ordering::Relaxed) == fired && time::now_ns() < start + 1_000_000_000 {
        cpu::relax();
    }
    let took = time::now_ns() - start;
    TIMER_OURS.store(false, Ordering::Relaxed);
    check(
        "the timer fires once, not early",
        TIMER_FIRED.load(Ordering::Relaxed) == fired + 1 && took >= 2_000_000,
    );
    check("the wall clock is in this century", time::wall_base_ns() > 946_684_800_000_000_000);
}

/// Requests of many sizes; what lies in them must stay.
fn stress_heap() -> bool {
    let mut live: Vec<Vec<u8>> = Vec::new();
    let mut seed = 1 + u64::from(cpu::raw_current_id().0);
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (seed >> 33) as usize;
        if live.len() < 64 && random & 1 == 0 {
            live.push(alloc::vec![random as u8; 1 + (random >> 8) % 3000]);
        } else if !live.is_empty() {
            let gone = live.swap_remove((random >> 8) % live.len());
            if gone.iter().any(|byte| *byte != gone[0]) {
                return false;
            }
        }
    }
    true
}

fn wait_for(mask: u64) -> bool {
    let end = time::now_ns() + 20_000_000_000;
    while DONE.load(Ordering::Acquire) & mask != mask {
        if time::now_ns() > end {
            return false;
        }
        cpu::relax();
    }
    DONE.store(0, Ordering::Release);
    true
}

/// What every other CPU does.
fn other_cpu() -> ! {
    let bit = 1 << cpu::raw_current_id().0;
    irq::enable();
    let sound = stress_heap();
    DONE.fetch_or(if sound { bit } else { 0 }, Ordering::AcqRel);
    while !READERS_GO.load(Ordering::Acquire) {
        cpu::relax();
    }
    thread::current().set_page_table(SHARED.get().cloned());
    while NEWEST.load(Ordering::Acquire) < EXCHANGES {
        let at_least = NEWEST.load(Ordering::Acquire);
        if let Ok(value) = user::load_u32(UserAddr(FAR_APART[0])) {
            let reads = if value < at_least { &STALE_READS } else { &GOOD_READS };
            reads.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread::current().set_page_table(None);
    DONE.fetch_or(bit, Ordering::AcqRel);
    while !RELEASED.load(Ordering::Acquire) {
        cpu::relax();
    }
    super::other_cpu()
}

fn count_call(amount: u64) {
    CALLS.fetch_add(amount, Ordering::Relaxed);
}

fn several_cpus() {
    let cpus = smp::start_all(MAX_CPUS, other_cpu);
    let others = cpu::online().0 & !1;
    check("every CPU that runs is online", cpu::online().count() as usize == cpus);
    check("the heap is sound here", stress_heap());
    check("the heap is sound on the other CPUs", wait_for(others));
    ipi::call(CpuMask::ALL, count_call, 3);
    check("a call runs on each CPU", CALLS.load(Ordering::Relaxed) == 3 * cpus as u64);

    let table = SHARED.call_once(|| Arc::new(PageTable::new().expect("a page table")));
    READERS_GO.store(true, Ordering::Release);
    for value in 1..=EXCHANGES {
        let frame = Frame::alloc().expect("a frame");
        frame.write(0, &value.to_le_bytes());
        let mut cursor = table.cursor(page(FAR_APART[0]));
        if value.is_multiple_of(2) {
            cursor.unmap(FAR_APART[0]);
            cursor.flush();
        }
        cursor.map(FAR_APART[0], frame, PteFlags::empty()).expect("memory for page tables");
        drop(cursor);
        NEWEST.store(value, Ordering::Release);
        // The next flush keeps the readers busy: leave them time with the page.
        time::delay_ns(50_000);
    }
    check("the readers finish", wait_for(others));
    check("no CPU keeps a stale translation", STALE_READS.load(Ordering::Relaxed) == 0);
    check("the readers saw pages", cpus == 1 || GOOD_READS.load(Ordering::Relaxed) > 0);
}

/// Runs all of them.
pub(super) fn run() {
    // What the heap takes for its first objects of a size is no loss.
    drop([16, 32, 48, 64, 96, 128, 192, 256].map(|size| alloc::vec![1u8; size]));
    page_tables_map_and_forget();
    page_tables_move_ranges();
    fork_shares_pages();
    large_objects_are_mapped();
    timer_fires();
    device_lines_interrupt();
    several_cpus();
}
