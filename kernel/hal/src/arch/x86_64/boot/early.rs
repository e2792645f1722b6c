//! The boot CPU alone, with interrupts off: from the first Rust instruction to a machine with memory.
//!
//! ```text
//! start        at the link address, boot tables: choose the slide, correct the image, go on at the slid address
//! relocated    read the boot information; build the final page tables (direct map, W^X image); load them
//! on_tables    frame metadata, frame allocator; the rest of the machine; the binary's main
//! ```

use super::memory::BootMemory;
use super::pvh::{self, StartInfo};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::arch::paging::kernel::{Mapper, Tables};
use crate::arch::paging::pte::{self, ENTRIES, GLOBAL, NO_EXEC, WRITABLE};
use crate::arch::{console, cpu, instr, layout};

/// Physical memory that the boot tables map.
const BOOT_MAPPED: u64 = 1 << 30;
/// One slot of the slide.
const SLIDE_STEP: u64 = 2 << 20;
/// End of the area in which the image may lie, less its link address.
const SLIDE_AREA: u64 = 1 << 30;
/// Physical page of the code that starts the other CPUs; SIPI wants it below 1 MiB.
pub(crate) const TRAMPOLINE: u64 = 0x8000;
/// That page and three for its tables.
pub(crate) const TRAMPOLINE_BYTES: u64 = 4 * PAGE_SIZE as u64;

macro_rules! linker_symbols {
    ($($name:ident = $symbol:ident;)*) => {
        unsafe extern "C" { $(static $symbol: u8;)* }
        $(
            /// Address of the linker symbol of this name.
            pub(crate) fn $name() -> u64 {
                (&raw const $symbol) as u64
            }
        )*
    };
}

linker_symbols! {
    image_start = __image_start;
    image_end = __image_end;
    text_start = __text_start;
    text_end = __text_end;
    rodata_start = __rodata_start;
    rodata_end = __rodata_end;
    relro_start = __relro_start;
    relro_end = __relro_end;
    data_start = __data_start;
    data_end = __data_end;
    rela_start = __rela_start;
    rela_end = __rela_end;
    boot_pd_high = keel_boot_pd_high;
}

unsafe extern "C" {
    fn keel_slide_and_call(target: u64, slide: u64, kind: u64, info: u64) -> !;
}

/// First Rust code; see `entry`.
pub(super) extern "C" fn start(kind: u64, info: u64) -> ! {
    console::init();
    // Taken before the relocation, which may or may not change what the next line would read.
    let target = core::hint::black_box(relocated as extern "C" fn(u64, u64) -> ! as usize as u64);
    let slide = if pvh::has_nokaslr(info) { 0 } else { choose_slide() };
    if slide != 0 {
        map_slid_image(slide);
        relocate(slide);
    }
    // SAFETY: the image is mapped at its link address plus `slide` by the same physical pages, so the stack, moved
    // by `slide`, is the same stack, and `target + slide` is `relocated`.
    unsafe { keel_slide_and_call(target + slide, slide, kind, info) }
}

/// A random multiple of 2 MiB that keeps the image in its area and away from where it is now; 0 if there is none.
fn choose_slide() -> u64 {
    let image = (image_end() - image_start()).next_multiple_of(SLIDE_STEP);
    let free = SLIDE_AREA - layout::KERNEL_PHYS - image;
    let slots = (free.saturating_sub(image)) / SLIDE_STEP;
    let random = crate::arch::rng::boot_entropy();
    if slots == 0 { 0 } else { image + (random % slots) * SLIDE_STEP }
}

/// Adds the image at its slid address to the boot tables.
fn map_slid_image(slide: u64) {
    let table = boot_pd_high() as *mut [u64; ENTRIES];
    let image = (image_end() - image_start()).next_multiple_of(SLIDE_STEP);
    for done in (0..image).step_by(SLIDE_STEP as usize) {
        let idx = ((layout::KERNEL_PHYS + slide + done) / SLIDE_STEP) as usize;
        let entry = (layout::KERNEL_PHYS + done) | pte::PRESENT | WRITABLE | pte::LARGE;
        // SAFETY: the boot page directory is ours alone, and `choose_slide` keeps `idx` below ENTRIES and outside
        // the entries that map the running image.
        unsafe { (&raw mut (*table)[idx]).write_volatile(entry) }
    }
}

/// Adds `slide` to every address that the image holds, by its list of R_X86_64_RELATIVE relocations (System V ABI,
/// AMD64 supplement, table 4.9). The link editor makes no other kind for this image.
fn relocate(slide: u64) {
    const ENTRY_BYTES: usize = 24;
    for entry in (rela_start()..rela_end()).step_by(ENTRY_BYTES) {
        let entry = entry as *const u64;
        // SAFETY: `.rela.dyn` holds whole entries of (offset, info, addend), and each offset is the link address of
        // eight bytes of the image, which the boot tables map writable.
        unsafe {
            let (place, addend) = (entry.read(), entry.add(2).read());
            (place as *mut u64).write_unaligned(addend.wrapping_add(slide));
        }
    }
}

/// Table memory while the boot tables are loaded: below 1 GiB, reached through the identity map.
struct BootTables<'a>(&'a mut BootMemory);

impl Tables for BootTables<'_> {
    fn alloc(&mut self) -> Option<u64> {
        let page = self.0.alloc(PAGE_SIZE as u64, PAGE_SIZE as u64, BOOT_MAPPED)?;
        // SAFETY: the page is free memory below 1 GiB, which the boot tables map at its own address.
        unsafe { core::ptr::write_bytes(page as *mut u8, 0, PAGE_SIZE) };
        Some(page)
    }

    fn access(&self, paddr: u64) -> *mut [u64; ENTRIES] {
        paddr as *mut [u64; ENTRIES]
    }
}

/// Goes on at the slid address.
extern "C" fn relocated(_kind: u64, info: u64) -> ! {
    cpu::enable_paging_features();
    let Some(start) = pvh::read(info) else {
        console::write_bytes(b"keel: no PVH start info: boot this image with a PVH loader\n");
        super::super::power::halt_forever()
    };
    let mut memory = BootMemory::new(&start.map, super::memory_limit(&start.cmdline[..start.cmdline_len]));
    // Page 0 stays free of use: physical 0 means "none". The image, the initramfs and the trampoline have owners.
    memory.reserve(0, PAGE_SIZE as u64);
    memory.reserve(TRAMPOLINE, TRAMPOLINE + TRAMPOLINE_BYTES);
    memory.reserve(layout::KERNEL_PHYS, layout::KERNEL_PHYS + (image_end() - image_start()));
    if let Some((paddr, len)) = start.initrd {
        memory.reserve(paddr.0, paddr.0.saturating_add(len));
    }
    let Some(root) = build_tables(&mut memory, &start) else {
        console::write_bytes(b"keel: not enough memory for the kernel's page tables\n");
        super::super::power::halt_forever()
    };
    // SAFETY: 1. the new tables map the running image, its stack and all memory. 2. they are never freed.
    unsafe { instr::write_cr3(root) };
    super::on_tables(start, memory, PhysAddr(root))
}

/// Builds the kernel's half: direct map of all memory, the image with W^X, empty top entries for the other areas.
fn build_tables(memory: &mut BootMemory, start: &StartInfo) -> Option<u64> {
    let mut ram = [(0, 0); 64];
    let mut count = 0;
    // Usable memory and ACPI tables, with their holes: what is reserved stays unmapped.
    for region in start.map.iter().filter(|region| region.kind == super::memory::Kind::Usable) {
        let (from, to) =
            (region.start.next_multiple_of(PAGE_SIZE as u64), region.end & !(PAGE_SIZE as u64 - 1));
        if from < to && count < ram.len() {
            ram[count] = (from, to);
            count += 1;
        }
    }
    let mut tables = BootTables(memory);
    let root = tables.alloc()?;
    // SAFETY: 1. and 2. all tables come from `tables` and are ours alone until CR3 is loaded. 3. as asked.
    let mut mapper = unsafe { Mapper::new(root, &mut tables, cpu::has_gib_pages()) };
    let rw = WRITABLE | NO_EXEC | GLOBAL;
    let image_phys = layout::KERNEL_PHYS;
    let read_only_end = image_phys + (rodata_end() - image_start());
    for &(from, to) in &ram[..count] {
        // The image's text and constants are read-only here as well, or W^X would have a back door.
        let parts = [
            (from, to.min(image_phys), rw),
            (from.max(image_phys), to.min(read_only_end), NO_EXEC | GLOBAL),
            (from.max(read_only_end), to, rw),
        ];
        for (low, high, flags) in parts.into_iter().filter(|part| part.0 < part.1) {
            mapper.map(layout::DIRECT_MAP + low, low, high - low, flags)?;
        }
    }
    let sections = [
        (text_start(), text_end(), GLOBAL),
        (rodata_start(), rodata_end(), NO_EXEC | GLOBAL),
        (relro_start(), relro_end(), NO_EXEC | GLOBAL),
        // The page below the boot stack held a boot table; without it, an overflow of the stack faults.
        (data_start(), boot_pd_high(), rw),
        (boot_pd_high() + PAGE_SIZE as u64, data_end(), rw),
    ];
    for (from, to, flags) in sections {
        mapper.map(from, image_phys + (from - image_start()), to - from, flags)?;
    }
    mapper.fill_top(layout::VMAP)?;
    mapper.fill_top(layout::FRAME_META)?;
    Some(root)
}
