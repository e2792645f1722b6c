//! From the loader to the binary's `main`: entry, address-space slide, memory, page tables.
//!
//! ```text
//! entry     32-bit to 64-bit, at the link address
//! early     slide (KASLR), then the order of everything below
//! pvh       the loader's boot information, read into `crate::boot::Info`
//! memory    which physical memory is free; hands it out until the frame allocator takes over
//! ```

pub(crate) mod early;
pub(crate) mod entry;
pub(crate) mod memory;
pub(crate) mod pvh;

pub(crate) use super::layout::KERNEL_PHYS;

use alloc::vec::Vec;

use self::memory::{BootMemory, Kind, MemoryMap};
use self::pvh::StartInfo;
use super::console::{self, Console};
use super::cpulocal::CpuLocal;
use super::{acpi, apic, cpu, ioapic, layout, time};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::boot::{MemoryKind, MemoryRange};
use crate::frame::Frame;
use crate::sync::{Once, SpinLock};

/// The `mem=` parameter in bytes, or no limit.
pub(crate) fn memory_limit(cmdline: &[u8]) -> u64 {
    let words = cmdline.split(|byte| *byte == b' ');
    words.filter_map(|word| parse_bytes(word.strip_prefix(b"mem=")?)).next_back().unwrap_or(u64::MAX)
}

/// Reads a decimal number with an optional K, M, G or T (Linux: memparse()).
fn parse_bytes(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number: u64 = core::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    let shift = match text[digits..].first().map(u8::to_ascii_lowercase) {
        None => 0,
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        Some(b't') => 40,
        Some(_) => return None,
    };
    number.checked_mul(1 << shift)
}

/// What the loader told, for the life of the kernel.
struct Info {
    cmdline: Vec<u8>,
    map: MemoryMap,
    /// First byte and length of the initramfs.
    initrd: (u64, usize),
    /// See `StartInfo`.
    initrd_usable_end: u64,
}

static INFO: Once<Info> = Once::new();
/// Bytes at the start of the initramfs whose pages were given away.
static INITRD_RELEASED: SpinLock<usize> = SpinLock::new("hal.boot.initrd", 0);
/// The area of the boot CPU.
static BOOT_CPU: CpuLocal = CpuLocal::new(0);

/// The kernel command line.
pub(crate) fn cmdline() -> &'static [u8] {
    INFO.get().map_or(&[], |info| &info.cmdline)
}

/// The firmware's memory map, as the front shows it.
pub(crate) fn memory_map() -> Vec<MemoryRange> {
    let convert = |region: &memory::Region| MemoryRange {
        start: PhysAddr(region.start),
        len: region.end - region.start,
        kind: match region.kind {
            Kind::Usable => MemoryKind::Ram,
            Kind::Reserved => MemoryKind::Reserved,
            Kind::AcpiTables => MemoryKind::AcpiReclaimable,
            Kind::AcpiNvs => MemoryKind::AcpiNvs,
        },
    };
    firmware_map().iter().map(convert).collect()
}

/// Copies bytes of the firmware's at `paddr`; `None` without memory for the window.
pub(crate) fn read_firmware(paddr: PhysAddr, buf: &mut [u8]) -> Option<()> {
    super::phys::read(paddr.0, buf)
}

/// The firmware's memory map.
pub(crate) fn firmware_map() -> &'static MemoryMap {
    static EMPTY: MemoryMap = MemoryMap::new();
    INFO.get().map_or(&EMPTY, |info| &info.map)
}

/// Length of the initramfs, 0 once it was given away.
pub(crate) fn initrd_len() -> usize {
    let len = INFO.get().map_or(0, |info| info.initrd.1);
    if *INITRD_RELEASED.lock() >= len { 0 } else { len }
}

/// Copies bytes of the initramfs from `pos` on; how many.
pub(crate) fn initrd_read(pos: usize, buf: &mut [u8]) -> usize {
    let Some(info) = INFO.get() else { return 0 };
    let released = INITRD_RELEASED.lock();
    let (start, len) = info.initrd;
    if pos >= len || pos < *released {
        return 0;
    }
    let count = buf.len().min(len - pos);
    let from = (layout::DIRECT_MAP + start) as usize + pos;
    // SAFETY: `on_tables` made sure that the range is memory, which the direct map covers; it is reserved until
    // `initrd_release`, which the lock keeps away.
    unsafe { core::ptr::copy_nonoverlapping(from as *const u8, buf.as_mut_ptr(), count) };
    count
}

/// Gives away the whole pages of the initramfs below offset `end`; with `end` at its end, all of them.
pub(crate) fn initrd_release(end: usize) {
    release_below(end, &mut INITRD_RELEASED.lock());
}

fn release_below(end: usize, released: &mut usize) {
    let Some(info) = INFO.get() else { return };
    let (start, len) = info.initrd;
    let page = PAGE_SIZE as u64;
    let first = if *released == 0 { start & !(page - 1) } else { (start + *released as u64) & !(page - 1) };
    let last = if end >= len {
        (start + len as u64).next_multiple_of(page)
    } else {
        (start + end as u64) & !(page - 1)
    };
    if *released >= len || first >= last {
        return;
    }
    // What the firmware reserved stays reserved: it may be read by the firmware itself.
    let usable = last.min(info.initrd_usable_end & !(page - 1));
    if first < usable {
        // SAFETY: `on_tables` reserved these pages for the initramfs; nobody reads below `released` any more.
        unsafe { super::mem::release(first, usable) };
    }
    *released = if end >= len { len } else { (last - start) as usize };
}

/// Gives away the whole page of the initramfs at offset `pos` as a frame, and those below it.
pub(crate) fn initrd_take(pos: usize) -> Option<Frame> {
    let info = INFO.get()?;
    let (start, len) = info.initrd;
    let mut released = INITRD_RELEASED.lock();
    if pos < *released || len.saturating_sub(pos) < PAGE_SIZE {
        return None;
    }
    let at = start + pos as u64;
    // What the firmware reserved stays reserved.
    if !at.is_multiple_of(PAGE_SIZE as u64) || at + PAGE_SIZE as u64 > info.initrd_usable_end {
        return None;
    }
    release_below(pos, &mut released);
    // SAFETY: as in `release_below`: the page at `pos` is not below `released` yet, and is from here on.
    let frame = unsafe { super::mem::claim(at) }?;
    *released = pos + PAGE_SIZE;
    Some(frame)
}

/// The name of and offset in the function at `addr`.
pub(crate) fn symbolize(addr: usize) -> Option<(&'static str, usize)> {
    super::traps::symbolize(addr)
}

/// Address and name of function `idx`.
pub(crate) fn symbol(idx: usize) -> Option<(usize, &'static str)> {
    super::traps::symbol(idx)
}

/// Shows a log record before any console is registered.
pub(crate) fn early_console(time_ns: u64, text: &[u8]) {
    use core::fmt::Write;
    let _ok = write!(Console, "[{:5}.{:06}] ", time_ns / 1_000_000_000, time_ns / 1000 % 1_000_000);
    console::write_bytes(text);
    console::write_bytes(b"\n");
}

/// Goes on with the final page tables: brings up what the front promises, then the binary's `main`.
fn on_tables(start: StartInfo, memory: BootMemory, root: PhysAddr) -> ! {
    // SAFETY: 1. the boot CPU, once, interrupts off. 2. the static is its own.
    unsafe { super::traps::init_cpu(&BOOT_CPU) };
    cpu::enable_features();
    let mut ram = [(0, 0); 64];
    let mut count = 0;
    let limit = memory_limit(&start.cmdline[..start.cmdline_len]);
    for region in start.map.iter().filter(|region| region.kind == Kind::Usable && region.start < limit) {
        ram[count] = (region.start, region.end.min(limit));
        count += 1;
    }
    // SAFETY: 1. once, with these tables just loaded. 2. what is in `memory` is usable and in the direct map.
    if unsafe { super::mem::init(memory, root.0, cpu::has_gib_pages(), &ram[..count]) }.is_none() {
        console::write_bytes(b"keel: not enough memory\n");
        super::power::halt_forever()
    }
    keep_info(&start);
    crate::klog::init();
    super::traps::init_thread();
    acpi::init(start.rsdp.map(|paddr| paddr.0));
    if apic::init(acpi::platform().local_apic).is_none() {
        console::write_bytes(b"keel: no memory to map the local APIC\n");
        super::power::halt_forever()
    }
    apic::init_cpu(0);
    ioapic::init();
    time::init();
    cpu::preempt_dec();
    // SAFETY: `hal::boot::entry!` defines the symbol as this function.
    unsafe { keel_main() }
}

unsafe extern "C" {
    fn keel_main() -> !;
}

/// Copies what is needed later out of the loader's information.
fn keep_info(start: &StartInfo) {
    let is_memory = |from: u64, to: u64| {
        start.map.iter().any(|region| region.kind == Kind::Usable && region.start <= from && to <= region.end)
    };
    let initrd = start.initrd.and_then(|(paddr, len)| {
        let end = paddr.0.checked_add(len)?.checked_next_multiple_of(PAGE_SIZE as u64)?;
        is_memory(paddr.0, end).then_some((paddr.0, usize::try_from(len).ok()?))
    });
    let cmdline = start.cmdline[..start.cmdline_len].to_vec();
    let initrd_usable_end = start.initrd_usable_end;
    INFO.call_once(|| Info { cmdline, map: start.map, initrd: initrd.unwrap_or((0, 0)), initrd_usable_end });
}
