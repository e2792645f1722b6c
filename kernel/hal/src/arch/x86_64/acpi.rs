//! The ACPI tables that a PC needs to find its interrupt controllers, CPUs, timers and power switch.
//!
//! Tables are copied out of firmware memory, their checksum and length are checked, and every field is read through
//! a bounds-checked accessor: garbage yields `None`, never a wild access. There is no AML interpreter: the one AML
//! value needed, the sleep type for power-off, is found by its byte pattern.
//!
//! Source: ACPI 6.5, ch. 5.2 (tables), 5.2.12 (MADT), 5.2.9 (FADT), 7.4.2.5 (\_S5); IA-PC HPET 1.0a, ch. 3.2.4.

use alloc::vec::Vec;

use super::phys;
use crate::sync::Once;

/// Longest table believed.
const MAX_TABLE: usize = 1 << 20;
const HEADER: usize = 36;
/// Where PCs have their first I/O APIC.
const DEFAULT_IO_APIC: u64 = 0xfec0_0000;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoApic {
    /// Physical address of its registers.
    pub(crate) address: u64,
    /// The first global system interrupt that it serves.
    pub(crate) gsi_base: u32,
}

/// Where an ISA interrupt arrives, if not at the line of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// The ISA line.
    pub(crate) isa: u8,
    /// The global system interrupt.
    pub(crate) gsi: u32,
    /// Active low rather than high.
    pub(crate) active_low: bool,
    /// Level-triggered rather than by edge.
    pub(crate) level: bool,
}

/// Memory-mapped PCI configuration space of segment 0 (PCI Firmware Specification 3.3, ch. 4.1.2: MCFG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ecam {
    /// Where bus 0 would be.
    pub(crate) base: u64,
    /// The buses that it covers, both ends included.
    pub(crate) buses: (u8, u8),
}

/// A register in I/O ports (Generic Address Structure, system I/O space).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRegister {
    /// First port.
    pub(crate) port: u16,
}

/// Everything read at boot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Platform {
    /// Local APIC ids of the CPUs that can be started, in the firmware's order.
    pub(crate) apic_ids: Vec<u32>,
    /// Physical address of the local APICs.
    pub(crate) local_apic: u64,
    /// The I/O APICs.
    pub(crate) io_apics: Vec<IoApic>,
    /// ISA lines that arrive elsewhere.
    pub(crate) overrides: Vec<Override>,
    /// Physical address of the HPET.
    pub(crate) hpet: Option<u64>,
    /// The power-management timer's port.
    pub(crate) pm_timer: Option<u16>,
    /// The power-management control ports.
    pub(crate) pm1_control: (u16, u16),
    /// The reset register and the value that resets.
    pub(crate) reset: Option<(PortRegister, u8)>,
    /// PCI's memory-mapped configuration space.
    pub(crate) ecam: Option<Ecam>,
    /// Physical address of the DSDT, which names the sleep types.
    pub(crate) dsdt: u64,
}

static PLATFORM: Once<Platform> = Once::new();

/// What [`init`] found; all empty when there were no tables.
pub(crate) fn platform() -> &'static Platform {
    PLATFORM.call_once(Platform::default)
}

/// Reads the tables that the root pointer at `rsdp` leads to.
pub(crate) fn init(rsdp: Option<u64>) {
    let found = rsdp.or_else(find_rsdp).and_then(read_platform);
    PLATFORM.call_once(|| {
        let mut platform = found.unwrap_or_default();
        if platform.io_apics.is_empty() {
            log::warn!("ACPI: no MADT; taking an I/O APIC at its usual place");
            push(&mut platform.io_apics, IoApic { address: DEFAULT_IO_APIC, gsi_base: 0 });
        }
        platform
    });
}

fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Looks for the root pointer where a BIOS leaves it, for loaders that do not tell.
fn find_rsdp() -> Option<u64> {
    const START: u64 = 0xe_0000;
    let area = phys::read_vec(START, 0x2_0000)?;
    let at = area.chunks_exact(16).position(|chunk| chunk.starts_with(b"RSD PTR "))? * 16;
    sums_to_zero(area.get(at..at + 20)?).then_some(START + at as u64)
}

/// Copies the table at `paddr`, if its checksum is right.
fn read_table(paddr: u64) -> Option<Vec<u8>> {
    let mut header = [0; HEADER];
    phys::read(paddr, &mut header)?;
    let len = u32_at(&header, 4)? as usize;
    if !(HEADER..=MAX_TABLE).contains(&len) {
        return None;
    }
    let table = phys::read_vec(paddr, len)?;
    sums_to_zero(&table).then_some(table)
}

fn read_platform(rsdp: u64) -> Option<Platform> {
    let mut root = [0; 36];
    phys::read(rsdp, &mut root)?;
    if !root.starts_with(b"RSD PTR ") || !sums_to_zero(&root[..20]) {
        return None;
    }
    let extended = (u8_at(&root, 15)? >= 2).then(|| u64_at(&root, 24)).flatten().filter(|xsdt| *xsdt != 0);
    let (table, width) = match extended {
        Some(xsdt) => (read_table(xsdt)?, 8),
        None => (read_table(u64::from(u32_at(&root, 16)?))?, 4),
    };
    let mut platform = Platform::default();
    for entry in table.get(HEADER..)?.chunks_exact(width) {
        let paddr = if width == 8 { u64_at(entry, 0)? } else { u64::from(u32_at(entry, 0)?) };
        let mut signature = [0; 4];
        phys::read(paddr, &mut signature)?;
        let parse: fn(&[u8], &mut Platform) -> Option<()> = match &signature {
            b"APIC" => parse_madt,
            b"FACP" => parse_fadt,
            b"HPET" => parse_hpet,
            b"MCFG" => parse_mcfg,
            _ => continue,
        };
        match read_table(paddr) {
            Some(table) => drop(parse(&table, &mut platform)),
            None => log::warn!("ACPI: bad table at {paddr:#x}"),
        }
    }
    Some(platform)
}

fn parse_madt(table: &[u8], platform: &mut Platform) -> Option<()> {
    const ENABLED: u32 = 1;
    platform.local_apic = u64::from(u32_at(table, 36)?);
    let mut at = 44;
    while let (Some(kind), Some(len)) = (u8_at(table, at), u8_at(table, at + 1)) {
        let entry = table.get(at..at + usize::from(len))?;
        match kind {
            0 if u32_at(entry, 4)? & ENABLED != 0 => {
                push(&mut platform.apic_ids, u32::from(u8_at(entry, 3)?))
            }
            1 => push(
                &mut platform.io_apics,
                IoApic { address: u64::from(u32_at(entry, 4)?), gsi_base: u32_at(entry, 8)? },
            ),
            2 => {
                let flags = u16_at(entry, 8)?;
                let line = Override {
                    isa: u8_at(entry, 3)?,
                    gsi: u32_at(entry, 4)?,
                    active_low: flags & 3 == 3,
                    level: flags >> 2 & 3 == 3,
                };
                push(&mut platform.overrides, line);
            }
            5 => platform.local_apic = u64_at(entry, 4)?,
            9 if u32_at(entry, 8)? & ENABLED != 0 => push(&mut platform.apic_ids, u32_at(entry, 4)?),
            _ => {}
        }
        // A length below 2 would not advance.
        at += usize::from(len.max(2));
    }
    Some(())
}

fn push<T>(list: &mut Vec<T>, value: T) {
    if list.try_reserve(1).is_ok() {
        list.push(value);
    }
}

fn parse_hpet(table: &[u8], platform: &mut Platform) -> Option<()> {
    const SYSTEM_MEMORY: u8 = 0;
    if u8_at(table, 40)? == SYSTEM_MEMORY {
        platform.hpet = u64_at(table, 44).filter(|address| *address != 0);
    }
    Some(())
}

fn parse_mcfg(table: &[u8], platform: &mut Platform) -> Option<()> {
    const ENTRY: usize = 16;
    let mut at = HEADER + 8;
    while let Some(base) = u64_at(table, at) {
        let buses = (u8_at(table, at + 10)?, u8_at(table, at + 11)?);
        if u16_at(table, at + 8)? == 0 && base != 0 && buses.0 <= buses.1 {
            platform.ecam = Some(Ecam { base, buses });
        }
        at += ENTRY;
    }
    Some(())
}

fn parse_fadt(table: &[u8], platform: &mut Platform) -> Option<()> {
    const RESET_SUPPORTED: u32 = 1 << 10;
    const SYSTEM_IO: u8 = 1;
    platform.dsdt = u64::from(u32_at(table, 40)?);
    if platform.dsdt == 0 {
        platform.dsdt = u64_at(table, 140)?;
    }
    platform.pm1_control = (u32_at(table, 64)? as u16, u32_at(table, 68)? as u16);
    platform.pm_timer = Some(u32_at(table, 76)? as u16).filter(|port| *port != 0);
    let flags = u32_at(table, 112)?;
    if flags & RESET_SUPPORTED != 0 && u8_at(table, 116)? == SYSTEM_IO {
        let register = PortRegister { port: u16::try_from(u64_at(table, 120)?).ok()? };
        platform.reset = Some((register, u8_at(table, 128)?));
    }
    Some(())
}

/// The sleep types (PM1a, PM1b) of the soft-off state.
///
/// The DSDT says `Name (_S5, Package () {a, b, ...})`, which is the bytes
/// `08 [5c] "_S5_" 12 length count a b`, with small numbers as `00`, `01` or `0a n`.
pub(crate) fn soft_off_types() -> Option<(u8, u8)> {
    find_soft_off(&read_table(platform().dsdt)?)
}

fn find_soft_off(dsdt: &[u8]) -> Option<(u8, u8)> {
    const PACKAGE: u8 = 0x12;
    let name = dsdt.windows(5).position(|window| window.starts_with(b"_S5_") && window[4] == PACKAGE)?;
    let package = dsdt.get(name + 5..)?;
    // The package length has one to four bytes; the top bits of the first say how many follow.
    let length_bytes = 1 + usize::from(package.first()? >> 6);
    let elements = package.get(length_bytes + 1..)?;
    let (first, rest) = small_number(elements)?;
    let second = small_number(rest).map_or(first, |(value, _)| value);
    Some((first, second))
}

fn small_number(aml: &[u8]) -> Option<(u8, &[u8])> {
    match aml {
        [value @ 0..=1, rest @ ..] => Some((*value, rest)),
        [0x0a, value, rest @ ..] => Some((*value, rest)),
        _ => None,
    }
}
