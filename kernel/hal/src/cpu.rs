//! The CPUs: their numbers, and what one of them can do without help.

use crate::arch;
use crate::preempt::PreemptGuard;

/// Most CPUs that the kernel can use.
pub const MAX_CPUS: usize = 64;

/// The number of a CPU: 0 for the one that booted, then in the order of their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

impl CpuId {
    /// The boot CPU.
    pub const BOOT: CpuId = CpuId(0);

    /// As an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of CPUs (Linux: `cpumask`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CpuMask(pub u64);

impl CpuMask {
    /// No CPU.
    pub const NONE: CpuMask = CpuMask(0);
    /// Every CPU that could exist.
    pub const ALL: CpuMask = CpuMask(u64::MAX);

    /// One CPU.
    #[inline]
    pub const fn single(cpu: CpuId) -> CpuMask {
        CpuMask(1 << cpu.0)
    }

    /// Is `cpu` in it?
    #[inline]
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 >> cpu.0 & 1 != 0
    }

    /// Adds `cpu`.
    pub const fn insert(&mut self, cpu: CpuId) {
        self.0 |= 1 << cpu.0;
    }

    /// Takes `cpu` out.
    #[inline]
    pub const fn remove(&mut self, cpu: CpuId) {
        self.0 &= !(1 << cpu.0);
    }

    /// Is no CPU in it?
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The common CPUs.
    #[inline]
    pub const fn and(self, other: CpuMask) -> CpuMask {
        CpuMask(self.0 & other.0)
    }

    /// How many CPUs are in it.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Its CPUs in ascending order.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let cpu = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            (cpu < u64::BITS).then_some(CpuId(cpu))
        })
    }
}

/// What /proc/cpuinfo and lscpu show about a CPU.
#[derive(Clone, Debug, Default)]
pub struct CpuInfo {
    /// `vendor_id`, as CPUID leaf 0 spells it.
    pub vendor: alloc::string::String,
    /// `model name`.
    pub model_name: alloc::string::String,
    /// Family, model and stepping.
    pub family_model_stepping: (u32, u32, u32),
    /// Clock rate in kHz.
    pub khz: u64,
    /// Local APIC id.
    pub apic_id: u32,
    /// Linux's names of the features it has.
    pub flags: alloc::vec::Vec<&'static str>,
    /// Bits of a physical and of a virtual address.
    pub address_bits: (u8, u8),
    /// Size of the last-level cache in KiB, 0 when not known.
    pub cache_kib: u32,
}

/// CPUID leaf `leaf`, sub-leaf `subleaf`, of the CPU that runs this: EAX, EBX, ECX, EDX. A leaf above the CPU's highest
/// gives another leaf's values; a machine without CPUID gives zeroes.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    arch::cpu::cpuid_registers(leaf, subleaf)
}

/// How many CPUs run.
#[inline]
pub fn nr_cpus() -> usize {
    arch::cpu::nr_online()
}

/// The CPUs that run.
pub fn online() -> CpuMask {
    arch::cpu::online_mask()
}

/// The CPU that runs this code; the guard proves that it cannot change.
#[inline]
pub fn current_id(_pinned: &PreemptGuard) -> CpuId {
    CpuId(arch::cpu::current_id())
}

/// The CPU that runs this code at some moment during the call; a hint for statistics and getcpu(2).
#[inline]
pub fn raw_current_id() -> CpuId {
    CpuId(arch::cpu::current_id())
}

/// Sleeps until an interrupt was handled. Interrupts must be off at the call and are on afterwards, with no
/// gap in which a wake-up could be lost. Returns at once when a reschedule is already wanted.
#[inline]
pub fn idle_wait() {
    if crate::preempt::need_resched() {
        arch::irq::enable();
    } else {
        arch::cpu::idle_wait();
    }
}

/// Hints that this is a spin loop.
#[inline]
pub fn relax() {
    arch::cpu::relax();
}

/// What is known about one CPU, for /proc/cpuinfo.
pub fn info(cpu: CpuId) -> CpuInfo {
    arch::cpu::info(cpu.0)
}

/// The local APIC id of `cpu`.
pub fn apic_id(cpu: CpuId) -> u32 {
    arch::cpu::apic_id(cpu.0)
}
