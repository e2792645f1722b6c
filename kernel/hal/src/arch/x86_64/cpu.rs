//! What this CPU can do, and switching it on.
//!
//! Each CPU runs [`enable_paging_features`] before it loads the kernel's page tables and [`enable_features`] after.
//!
//! Sources: Intel SDM vol. 2 (CPUID), vol. 3 ch. 2.5 (control registers), AMD APM vol. 3 app. E.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::instr::{self, IA32_EFER, cpuid};
use super::{apic, time};
use crate::cpu::{CpuInfo, CpuMask};

pub(crate) use super::cpulocal::{
    current_id, current_thread, preempt_dec, preempt_fold_resched, preempt_inc, preempt_load,
};

/// The lock checker asks.
#[cfg(debug_assertions)]
pub(crate) use super::cpulocal::in_interrupt;

/// The CPUs that run; the boot CPU from the start.
static ONLINE: AtomicU64 = AtomicU64::new(1);

const EFER_SCE: u64 = 1 << 0;
const EFER_NXE: u64 = 1 << 11;

const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;

const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const CR4_PKE: u64 = 1 << 22;

/// One feature flag of CPUID: leaf, sub-leaf, register (0 = EAX … 3 = EDX), bit.
#[derive(Clone, Copy)]
pub(crate) struct Feature(u32, u32, u8, u8);

impl Feature {
    pub(crate) const XSAVE: Feature = Feature(1, 0, 2, 26);
    pub(crate) const X2APIC: Feature = Feature(1, 0, 2, 21);
    pub(crate) const TSC_DEADLINE: Feature = Feature(1, 0, 2, 24);
    pub(crate) const RDRAND: Feature = Feature(1, 0, 2, 30);
    pub(crate) const HYPERVISOR: Feature = Feature(1, 0, 2, 31);
    pub(crate) const PGE: Feature = Feature(1, 0, 3, 13);
    pub(crate) const FSGSBASE: Feature = Feature(7, 0, 1, 0);
    pub(crate) const SMEP: Feature = Feature(7, 0, 1, 7);
    pub(crate) const RDSEED: Feature = Feature(7, 0, 1, 18);
    pub(crate) const SMAP: Feature = Feature(7, 0, 1, 20);
    pub(crate) const UMIP: Feature = Feature(7, 0, 2, 2);
    pub(crate) const PKU: Feature = Feature(7, 0, 2, 3);
    pub(crate) const NX: Feature = Feature(0x8000_0001, 0, 3, 20);
    pub(crate) const GIB_PAGES: Feature = Feature(0x8000_0001, 0, 3, 26);
    pub(crate) const INVARIANT_TSC: Feature = Feature(0x8000_0007, 0, 3, 8);

    /// Whether this CPU has the feature. CPUID is slow under a hypervisor: keep the answer where it is asked often.
    #[inline]
    pub(crate) fn present(self) -> bool {
        let Feature(leaf, subleaf, register, bit) = self;
        if cpuid(leaf & 0x8000_0000, 0).eax < leaf {
            return false;
        }
        let values = cpuid(leaf, subleaf);
        let value = [values.eax, values.ebx, values.ecx, values.edx][usize::from(register)];
        value & 1 << bit != 0
    }
}

/// Whether page tables may hold 1 GiB pages.
#[inline]
pub(crate) fn has_gib_pages() -> bool {
    Feature::GIB_PAGES.present()
}

/// Switches on no-execute, SYSCALL, and write protection for the kernel itself: what the page tables rely on.
pub(crate) fn enable_paging_features() {
    // SAFETY: 1. every x86-64 CPU has IA32_EFER; SCE exists in long mode, and NXE is set only when present.
    // 2. no entry loaded so far has bit 63 set.
    unsafe {
        let nx = if Feature::NX.present() { EFER_NXE } else { 0 };
        instr::wrmsr(IA32_EFER, instr::rdmsr(IA32_EFER) | EFER_SCE | nx);
    }
    let cr0 = instr::read_cr0() & !(CR0_EM | CR0_TS | CR0_NW | CR0_CD);
    // SAFETY: paging and protection stay on; the caches are switched on, FPU errors are native.
    unsafe { instr::write_cr0(cr0 | CR0_MP | CR0_NE | CR0_WP | CR0_AM) };
}

/// Switches on what this CPU has of PGE, SMEP, SMAP, UMIP, FSGSBASE, protection keys and the FPU's instructions.
pub(crate) fn enable_features() {
    let mut cr4 = instr::read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT;
    let optional = [
        (Feature::PGE, CR4_PGE),
        (Feature::SMEP, CR4_SMEP),
        (Feature::SMAP, CR4_SMAP),
        (Feature::UMIP, CR4_UMIP),
        (Feature::FSGSBASE, CR4_FSGSBASE),
        (Feature::XSAVE, CR4_OSXSAVE),
        (Feature::PKU, CR4_PKE),
    ];
    for (feature, bit) in optional {
        if feature.present() {
            cr4 |= bit;
        }
    }
    // SAFETY: 1. each optional bit was asked for; OSFXSR and OSXMMEXCPT come with SSE, which x86-64 includes.
    // 2. the kernel's tables are the same for every setting: user pages are used only by the user-copy functions.
    unsafe { instr::write_cr4(cr4) };
}

/// Counts `cpu` among those that run.
pub(super) fn set_online(cpu: u32) {
    // Release pairs with the acquire of the CPU that waits for us: we are set up.
    ONLINE.fetch_or(1 << cpu, Ordering::Release);
}

/// The CPUs that run.
pub(crate) fn online_mask() -> CpuMask {
    CpuMask(ONLINE.load(Ordering::Acquire))
}

/// How many CPUs run.
pub(crate) fn nr_online() -> usize {
    online_mask().count() as usize
}

/// A hint for spin loops.
#[inline]
pub(crate) fn relax() {
    instr::pause();
}

/// Sleeps until an interrupt; called with interrupts off, returns with them on.
#[inline]
pub(crate) fn idle_wait() {
    // SAFETY: the idle loop runs with everything set up, and holds no guard.
    unsafe { instr::sti_hlt() };
}

/// CPUID's feature flags by the names that Linux gives them: leaf, sub-leaf, register, names from bit 0 on (`-`: none).
const FLAG_NAMES: [(u32, u32, u8, &str); 10] = [
    (
        1,
        0,
        3,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse \
         sse2 ss ht tm ia64 pbe",
    ),
    (
        0x8000_0001,
        0,
        3,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    (
        1,
        0,
        2,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 \
         sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor",
    ),
    (
        0x8000_0001,
        0,
        2,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp \
         fma4 tce - nodeid_msr - tbm topoext",
    ),
    (
        7,
        0,
        1,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed \
         adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    (0xd, 1, 0, "xsaveopt xsavec xgetbv1 xsaves"),
    (
        7,
        0,
        2,
        "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme \
         avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b",
    ),
    (0x8000_0007, 0, 3, "- - - - - - - - constant_tsc"),
    (0x8000_0007, 0, 3, "- - - - - - - - nonstop_tsc"),
    (7, 0, 3, "- - - - fsrm - - - avx512_vp2intersect - md_clear - - - serialize"),
];

fn flags() -> Vec<&'static str> {
    let mut found = Vec::new();
    for (leaf, subleaf, register, names) in FLAG_NAMES {
        for (name, bit) in names.split_ascii_whitespace().zip(0..) {
            if name != "-" && Feature(leaf, subleaf, register, bit).present() {
                found.push(name);
            }
        }
    }
    found
}

/// Text from CPUID registers: up to the first NUL, without spaces around it.
fn text(registers: &[u32]) -> String {
    let bytes: Vec<u8> = registers.iter().flat_map(|register| register.to_le_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from(String::from_utf8_lossy(&bytes[..end]).trim())
}

/// The local APIC id of `cpu`; 0 when there is no such CPU.
pub(crate) fn apic_id(cpu: u32) -> u32 {
    if (cpu as usize) < crate::cpu::MAX_CPUS { apic::id_of(cpu) } else { 0 }
}

/// The registers of CPUID.
pub(crate) fn cpuid_registers(leaf: u32, subleaf: u32) -> [u32; 4] {
    let values = cpuid(leaf, subleaf);
    [values.eax, values.ebx, values.ecx, values.edx]
}

/// What is known about `cpu`. All CPUs are taken to be of the kind of the one that runs this.
pub(crate) fn info(cpu: u32) -> CpuInfo {
    let vendor = cpuid(0, 0);
    let version = cpuid(1, 0).eax;
    let (base_family, base_model) = (version >> 8 & 0xf, version >> 4 & 0xf);
    let family = base_family + if base_family == 0xf { version >> 20 & 0xff } else { 0 };
    let model = base_model + if matches!(base_family, 6 | 0xf) { version >> 12 & 0xf0 } else { 0 };
    let max_extended = cpuid(0x8000_0000, 0).eax;
    let mut model_name = String::new();
    if max_extended >= 0x8000_0004 {
        let parts = [0x8000_0002, 0x8000_0003, 0x8000_0004].map(|leaf| cpuid(leaf, 0));
        model_name = text(&parts.map(|part| [part.eax, part.ebx, part.ecx, part.edx]).concat());
    }
    let sizes = if max_extended >= 0x8000_0008 { cpuid(0x8000_0008, 0).eax } else { 48 << 8 | 36 };
    let cache = if max_extended >= 0x8000_0006 { cpuid(0x8000_0006, 0) } else { cpuid(0, 0) };
    let (l2_kib, l3_kib) = (cache.ecx >> 16, (cache.edx >> 18) * 512);
    CpuInfo {
        vendor: text(&[vendor.ebx, vendor.edx, vendor.ecx]),
        model_name,
        family_model_stepping: (family, model, version & 0xf),
        khz: time::tsc_khz(),
        apic_id: apic::id_of(cpu),
        flags: flags(),
        address_bits: (sizes as u8, (sizes >> 8) as u8),
        cache_kib: if max_extended < 0x8000_0006 {
            0
        } else if l3_kib != 0 {
            l3_kib
        } else {
            l2_kib
        },
    }
}
