//! What this CPU can do, and switching it on.
//!
//! Each CPU runs [`enable_paging_features`] before it loads the kernel's page tables and [`enable_features`] after.
//!
//! Sources: Intel SDM vol. 2 (CPUID), vol. 3 ch. 2.5 (control registers), AMD APM vol. 3 app. E.

use super::instr::{self, IA32_EFER, cpuid};

pub(crate) use super::cpulocal::{
    current_id, current_thread, preempt_dec, preempt_fold_resched, preempt_inc, preempt_load,
};

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
    pub(crate) const ERMS: Feature = Feature(7, 0, 1, 9);
    pub(crate) const RDSEED: Feature = Feature(7, 0, 1, 18);
    pub(crate) const SMAP: Feature = Feature(7, 0, 1, 20);
    pub(crate) const UMIP: Feature = Feature(7, 0, 2, 2);
    pub(crate) const FSRM: Feature = Feature(7, 0, 3, 4);
    pub(crate) const NX: Feature = Feature(0x8000_0001, 0, 3, 20);
    pub(crate) const GIB_PAGES: Feature = Feature(0x8000_0001, 0, 3, 26);
    pub(crate) const INVARIANT_TSC: Feature = Feature(0x8000_0007, 0, 3, 8);

    /// Whether this CPU has the feature. CPUID is slow under a hypervisor: keep the answer where it is asked often.
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

/// Switches on what this CPU has of PGE, SMEP, SMAP, UMIP, FSGSBASE and the FPU's instructions.
pub(crate) fn enable_features() {
    let mut cr4 = instr::read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT;
    let optional = [
        (Feature::PGE, CR4_PGE),
        (Feature::SMEP, CR4_SMEP),
        (Feature::SMAP, CR4_SMAP),
        (Feature::UMIP, CR4_UMIP),
        (Feature::FSGSBASE, CR4_FSGSBASE),
        (Feature::XSAVE, CR4_OSXSAVE),
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
