//! How CPUs are joined, and the caches that they share, as CPUID tells.
//!
//! All CPUs are taken to be of the kind of the one that asks: only their APIC ids differ, whose upper bits name what a CPU is
//! a part of.
//!
//! ```text
//! APIC id   package | core in it | thread of it        a cache for n threads: the id without its lowest log2(n) bits
//! ```
//!
//! Sources: Intel SDM vol. 2, CPUID (leaves 4 and 0BH); AMD64 Architecture Programmer's Manual vol. 3, app. E (leaves
//! 8000_0005h, 8000_0006h, 8000_0008h, 8000_001Dh); Documentation/ABI/testing/sysfs-devices-system-cpu.

use alloc::vec::Vec;

use hal::cpu::{CpuId, CpuMask};

/// CPUID: leaf and sub-leaf to EAX, EBX, ECX, EDX.
type Cpuid<'a> = &'a dyn Fn(u32, u32) -> [u32; 4];

/// Most caches that are looked for.
const MAX_CACHES: u32 = 16;

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Instruction,
    Unified,
}

impl Kind {
    /// Its name in `type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Data => "Data",
            Self::Instruction => "Instruction",
            Self::Unified => "Unified",
        }
    }
}

/// A cache of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cache {
    pub(crate) level: u32,
    pub(crate) kind: Kind,
    pub(crate) line_bytes: u32,
    pub(crate) partitions: u32,
    pub(crate) ways: u32,
    pub(crate) sets: u32,
    /// Lowest bits of the APIC id in which the CPUs that share it differ.
    shift: u32,
}

impl Cache {
    /// Its size in KiB.
    pub(crate) fn kib(&self) -> u64 {
        let lines = u64::from(self.ways) * u64::from(self.sets);
        lines * u64::from(self.line_bytes) * u64::from(self.partitions) / 1024
    }

    /// Its number among those of its level, for a CPU with this APIC id.
    pub(crate) fn id(&self, apic_id: u32) -> u32 {
        apic_id >> self.shift
    }
}

/// Bits that tell `count` things apart.
fn bits_for(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// The caches of the CPU, in the order of CPUID; none when it does not tell.
pub(crate) fn caches(cpuid: Cpuid<'_>) -> Vec<Cache> {
    let highest = cpuid(0, 0)[0];
    let highest_extended = cpuid(0x8000_0000, 0)[0];
    if highest_extended >= 0x8000_001d && cpuid(0x8000_0001, 0)[2] >> 22 & 1 != 0 {
        return listed(cpuid, 0x8000_001d);
    }
    if highest >= 4 && !listed(cpuid, 4).is_empty() {
        return listed(cpuid, 4);
    }
    if (0x8000_0006..0x9000_0000).contains(&highest_extended) { described(cpuid) } else { Vec::new() }
}

/// Caches from a leaf with a sub-leaf for each.
fn listed(cpuid: Cpuid<'_>, leaf: u32) -> Vec<Cache> {
    let mut found = Vec::new();
    for index in 0..MAX_CACHES {
        let [eax, ebx, ecx, _] = cpuid(leaf, index);
        let kind = match eax & 0x1f {
            1 => Kind::Data,
            2 => Kind::Instruction,
            3 => Kind::Unified,
            _ => break,
        };
        found.push(Cache {
            level: eax >> 5 & 7,
            kind,
            line_bytes: (ebx & 0xfff) + 1,
            partitions: (ebx >> 12 & 0x3ff) + 1,
            ways: (ebx >> 22) + 1,
            sets: ecx.saturating_add(1),
            shift: bits_for((eax >> 14 & 0xfff) + 1),
        });
    }
    found
}

/// Caches from the older leaves of AMD, which give sizes: the last level belongs to the package, the others to one core.
fn described(cpuid: Cpuid<'_>) -> Vec<Cache> {
    let [_, _, l1_data, l1_code] = cpuid(0x8000_0005, 0);
    let [_, _, l2, l3] = cpuid(0x8000_0006, 0);
    let layout = layout(cpuid);
    let small = |register: u32| (register >> 24, register >> 16 & 0xff, register & 0xff);
    let large = |register: u32, kib: u32| (kib, ways_of(register >> 12 & 0xf), register & 0xff);
    let all = [
        (1, Kind::Data, small(l1_data), layout.core_shift),
        (1, Kind::Instruction, small(l1_code), layout.core_shift),
        (2, Kind::Unified, large(l2, l2 >> 16), layout.core_shift),
        (3, Kind::Unified, large(l3, (l3 >> 18) * 512), layout.package_shift),
    ];
    let mut found = Vec::new();
    for (level, kind, (kib, ways, line_bytes), shift) in all {
        if kib == 0 || line_bytes == 0 || ways == 0 {
            continue;
        }
        let lines = kib * 1024 / line_bytes;
        // All bits set: any line may be anywhere.
        let ways = if ways == u32::MAX || (level == 1 && ways == 0xff) { lines } else { ways };
        let sets = lines / ways;
        found.push(Cache { level, kind, line_bytes, partitions: 1, ways, sets, shift });
    }
    found
}

/// The number of ways for a code of leaf 8000_0006h; 0: none, all ones: as many as lines.
fn ways_of(code: u32) -> u32 {
    match code {
        1 | 2 => code,
        3 => 3,
        4 => 4,
        5 => 6,
        6 => 8,
        8 => 16,
        10 => 32,
        11 => 48,
        12 => 64,
        13 => 96,
        14 => 128,
        15 => u32::MAX,
        _ => 0,
    }
}

/// Where the parts of an APIC id begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// From this bit on it names the core.
    core_shift: u32,
    /// From this bit on it names the package.
    package_shift: u32,
}

/// A shift that leaves nothing of an APIC id.
const ONE_PACKAGE: u32 = 31;

/// The parts of APIC ids; without an answer each is a core of the one package.
pub(crate) fn layout(cpuid: Cpuid<'_>) -> Layout {
    const EXTENDED: u32 = 0xb;
    let highest = cpuid(0, 0)[0];
    if highest >= EXTENDED && cpuid(EXTENDED, 0)[1] != 0 {
        let mut layout = Layout { core_shift: 0, package_shift: 0 };
        for level in 0..MAX_CACHES {
            let [eax, _, ecx, _] = cpuid(EXTENDED, level);
            let shift = eax & 0x1f;
            match ecx >> 8 & 0xff {
                0 => break,
                1 => layout.core_shift = shift,
                _ => {}
            }
            layout.package_shift = layout.package_shift.max(shift);
        }
        return layout;
    }
    let highest_extended = cpuid(0x8000_0000, 0)[0];
    let package_shift = if (0x8000_0008..0x9000_0000).contains(&highest_extended) {
        let ecx = cpuid(0x8000_0008, 0)[2];
        match ecx >> 12 & 0xf {
            0 => bits_for((ecx & 0xff) + 1),
            shift => shift,
        }
    } else {
        ONE_PACKAGE
    };
    Layout { core_shift: 0, package_shift }
}

impl Layout {
    /// The number of the package.
    pub(crate) fn package(self, apic_id: u32) -> u32 {
        apic_id.checked_shr(self.package_shift).unwrap_or(0)
    }

    /// The number of the core in its package.
    pub(crate) fn core(self, apic_id: u32) -> u32 {
        let in_package = apic_id & 1u32.checked_shl(self.package_shift).map_or(u32::MAX, |bit| bit - 1);
        in_package >> self.core_shift.min(31)
    }
}

/// The CPUs for which `part` of the APIC id is what it is for `cpu`.
pub(crate) fn sharing(cpu: CpuId, part: impl Fn(u32) -> (u32, u32)) -> CpuMask {
    let wanted = part(apic_id(cpu));
    let mut mask = CpuMask::NONE;
    for other in hal::cpu::online().iter().filter(|other| part(apic_id(*other)) == wanted) {
        mask.insert(other);
    }
    mask
}

/// The APIC id of `cpu`.
pub(crate) fn apic_id(cpu: CpuId) -> u32 {
    hal::cpu::apic_id(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two cores with two threads each, as Intel describes them.
    fn intel(leaf: u32, subleaf: u32) -> [u32; 4] {
        match (leaf, subleaf) {
            (0, _) => [0xb, 0, 0, 0],
            (4, 0) => [1 << 26 | 1 << 14 | 1 << 5 | 1, 7 << 22 | 63, 63, 0],
            (4, 1) => [1 << 26 | 3 << 14 | 3 << 5 | 3, 15 << 22 | 63, 8191, 0],
            (0xb, 0) => [1, 2, 1 << 8, 0],
            (0xb, 1) => [2, 4, 2 << 8 | 1, 0],
            _ => [0; 4],
        }
    }

    /// QEMU's plainest CPU.
    fn amd(leaf: u32, _subleaf: u32) -> [u32; 4] {
        match leaf {
            0 => [1, 0, 0, 0],
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0005 => [0, 0, 64 << 24 | 2 << 16 | 1 << 8 | 64, 64 << 24 | 2 << 16 | 1 << 8 | 64],
            0x8000_0006 => [0, 0, 512 << 16 | 8 << 12 | 64, 32 << 18 | 8 << 12 | 64],
            0x8000_0008 => [0, 0, 1 << 12 | 1, 0],
            _ => [0; 4],
        }
    }

    #[test]
    fn caches_of_both_makers() {
        let found = caches(&intel);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kib(), found[0].ways, found[0].kind), (32, 8, Kind::Data));
        assert_eq!((found[0].id(2), found[0].id(3), found[0].id(1)), (1, 1, 0));
        assert_eq!((found[1].level, found[1].kib(), found[1].id(3)), (3, 8192, 0));
        let found = caches(&amd);
        let sizes: Vec<_> = found.iter().map(|cache| (cache.level, cache.kib(), cache.ways)).collect();
        assert_eq!(sizes, [(1, 64, 2), (1, 64, 2), (2, 512, 16), (3, 16384, 16)]);
        assert_eq!((found[3].sets, found[3].id(1), found[0].id(1)), (16384, 0, 1));
    }

    #[test]
    fn parts_of_an_apic_id() {
        let id = 0b1_10;
        let whole = layout(&intel);
        assert_eq!((whole.package(id), whole.core(id)), (1, 1));
        let plain = layout(&amd);
        assert_eq!((plain.package(1), plain.core(1), plain.package(2)), (0, 1, 1));
    }

    #[test]
    fn a_cpu_that_tells_nothing() {
        let silent = |_: u32, _: u32| [0; 4];
        assert_eq!(caches(&silent), []);
        assert_eq!((layout(&silent).package(3), layout(&silent).core(3)), (0, 3));
    }
}
