//! Segment descriptors of x86, as values: what a program may do with one, and whether IRET could return to it.
//!
//! Return to user mode must not fault in the kernel. So the kernel asks [`check_return`] first, which goes through the
//! checks of IRET in their order, and tells the program what the instruction would have: the exception and its error
//! code. Everything here is arithmetic; the tables are the machine's (`arch::gdt`, `arch::ldt`).
//!
//! There are no segments of 16 bits. With such a stack segment IRET would restore only the low 16 bits of the stack pointer,
//! and the program would see the kernel's in the others. Linux built without `CONFIG_X86_16BIT` does the same.
//!
//! ```text
//! 63    56 55 54 53 52 51  48 47 46 45 44 43 42 41 40 39    16 15     0
//! base     G  D  L  AVL limit P  DPL   S  X  C  W  A  base     limit
//!                                         |  |  +- data: may be written; code: may be read
//!                                         |  +---- data: grows down; code: conforming
//!                                         +------- code
//! ```
//!
//! Source: Intel SDM vol. 3 ch. 3.4.5 (descriptors), vol. 2 (IRET).

use crate::segment::{Kind, Segment};

/// The bits of a selector that name a privilege.
pub(crate) const PRIVILEGE: u16 = 3;

const ACCESSED: u64 = 1 << 40;
const OPEN: u64 = 1 << 41;
const CONFORMING_OR_DOWN: u64 = 1 << 42;
const CODE: u64 = 1 << 43;
const NOT_SYSTEM: u64 = 1 << 44;
const USER: u64 = 3 << 45;
const PRESENT: u64 = 1 << 47;
const AVAILABLE: u64 = 1 << 52;
const LONG: u64 = 1 << 53;
const IS_32BIT: u64 = 1 << 54;
const IN_PAGES: u64 = 1 << 55;

/// A descriptor; 0 describes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    /// That of `segment`, of 32 bits and with the accessed bit: the CPU need not write it. Conforming code is never present.
    pub(crate) fn of(segment: &Segment) -> Descriptor {
        let bit = |on: bool, bits: u64| if on { bits } else { 0 };
        let kind = match segment.kind {
            Kind::Data => 0,
            Kind::DataDown => CONFORMING_OR_DOWN,
            Kind::Code => CODE,
            Kind::ConformingCode => CODE | CONFORMING_OR_DOWN,
        };
        let (base, limit) = (u64::from(segment.base), u64::from(segment.limit));
        Descriptor(
            limit & 0xffff
                | (base & 0xff_ffff) << 16
                | ACCESSED
                | NOT_SYSTEM
                | USER
                | kind
                | bit(segment.open, OPEN)
                | bit(segment.present && segment.kind != Kind::ConformingCode, PRESENT)
                | (limit >> 16 & 0xf) << 48
                | bit(segment.available, AVAILABLE)
                | IS_32BIT
                | bit(segment.in_pages, IN_PAGES)
                | (base >> 24) << 56,
        )
    }

    /// Whether all of `bits` are set.
    fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    fn is_user_code(self) -> bool {
        self.has(NOT_SYSTEM | USER | CODE)
    }

    /// Data of user privilege that can be written, there or not.
    fn is_user_data(self) -> bool {
        self.has(NOT_SYSTEM | USER | OPEN) && !self.has(CODE)
    }

    /// Whether user code may load it into SS.
    pub(crate) fn is_stack(self) -> bool {
        self.is_user_data() && self.has(PRESENT)
    }

    /// Whether loading it into DS, ES, FS or GS does not fault.
    pub(crate) fn is_loadable(self) -> bool {
        self.has(NOT_SYSTEM | USER | PRESENT) && (!self.has(CODE) || self.has(OPEN))
    }

    /// The last offset in a code segment.
    fn last_offset(self) -> u64 {
        let limit = self.0 & 0xffff | self.0 >> 32 & 0xf_0000;
        if self.has(IN_PAGES) { limit << 12 | 0xfff } else { limit }
    }
}

/// The exception that a return to user mode would end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) vector: u8,
    pub(crate) error_code: u64,
}

const NOT_PRESENT: u8 = 11;
const STACK: u8 = 12;
const GENERAL_PROTECTION: u8 = 13;

impl Refusal {
    /// General protection because of no segment in particular.
    pub(crate) const GENERAL: Refusal = Refusal { vector: GENERAL_PROTECTION, error_code: 0 };

    fn of(vector: u8, selector: u16) -> Refusal {
        Refusal { vector, error_code: u64::from(selector & !PRIVILEGE) }
    }
}

/// Whether `addr` is one that 48-bit hardware has.
#[inline]
pub(crate) fn is_canonical(addr: u64) -> bool {
    (addr << 16) as i64 >> 16 == addr as i64
}

/// Whether IRET could go to user mode at `cs`:`rip` with the stack segment `ss`, whose privilege bits are the user's.
/// `descriptor` looks selectors up.
pub(crate) fn check_return(
    cs: u16,
    ss: u16,
    rip: u64,
    descriptor: impl Fn(u16) -> Descriptor,
) -> Result<(), Refusal> {
    if cs & !PRIVILEGE == 0 {
        return Err(Refusal::GENERAL);
    }
    let code = descriptor(cs);
    if !code.is_user_code() {
        return Err(Refusal::of(GENERAL_PROTECTION, cs));
    }
    if !code.has(PRESENT) {
        return Err(Refusal::of(NOT_PRESENT, cs));
    }
    if ss & !PRIVILEGE == 0 {
        return Err(Refusal::GENERAL);
    }
    let stack = descriptor(ss);
    if !stack.is_user_data() {
        return Err(Refusal::of(GENERAL_PROTECTION, ss));
    }
    if !stack.has(PRESENT) {
        return Err(Refusal::of(STACK, ss));
    }
    let is_inside = if code.has(LONG) { is_canonical(rip) } else { rip <= code.last_offset() };
    if is_inside { Ok(()) } else { Err(Refusal::GENERAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE64: u16 = 0x33;
    const CODE32: u16 = 0x23;
    const DATA: u16 = 0x2b;
    const KERNEL: u16 = 0x13;
    const OWN: fn(u16) -> u16 = |slot| slot << 3 | 7;

    fn segment(kind: Kind) -> Segment {
        Segment { kind, limit: 0xfff, open: true, present: true, ..Segment::default() }
    }

    fn lookup(selector: u16) -> Descriptor {
        let absent = |kind| Segment { present: false, ..segment(kind) };
        match selector {
            CODE64 => Descriptor(0x00af_fb00_0000_ffff),
            CODE32 => Descriptor(0x00cf_fb00_0000_ffff),
            DATA => Descriptor(0x00cf_f300_0000_ffff),
            KERNEL => Descriptor(0x00af_9b00_0000_ffff),
            7 => Descriptor::of(&segment(Kind::Code)),
            15 => Descriptor::of(&segment(Kind::Data)),
            23 => Descriptor::of(&absent(Kind::Code)),
            31 => Descriptor::of(&absent(Kind::Data)),
            39 => Descriptor::of(&Segment { open: false, ..segment(Kind::Data) }),
            47 => Descriptor::of(&segment(Kind::ConformingCode)),
            _ => Descriptor(0),
        }
    }

    #[track_caller]
    fn refused(cs: u16, ss: u16, rip: u64, vector: u8, error_code: u64) {
        assert_eq!(check_return(cs, ss, rip, lookup), Err(Refusal { vector, error_code }));
    }

    #[test]
    fn what_a_program_can_run_in_is_accepted() {
        for cs in [CODE64, CODE32, OWN(0)] {
            for ss in [DATA, OWN(1)] {
                assert_eq!(check_return(cs, ss, 0xfff, lookup), Ok(()));
            }
        }
        assert_eq!(check_return(CODE32, DATA, 0xffff_ffff, lookup), Ok(()));
        assert_eq!(check_return(CODE64, DATA, 0xffff_8000_0000_0000, lookup), Ok(()), "faults in user mode");
    }

    #[test]
    fn everything_else_is_what_iret_would_raise() {
        refused(3, DATA, 0, 13, 0);
        refused(0x1b, DATA, 0, 13, 0x18);
        refused(KERNEL, DATA, 0, 13, 0x10);
        refused(DATA, DATA, 0, 13, 0x28);
        refused(OWN(2), DATA, 0, 11, 0x14);
        refused(OWN(5), DATA, 0, 11, 0x2c);
        refused(CODE64, 3, 0, 13, 0);
        refused(CODE32, OWN(3), 0, 12, 0x1c);
        refused(CODE64, OWN(4), 0, 13, 0x24);
        refused(CODE64, OWN(99), 0, 13, 0x31c);
        refused(CODE64, CODE64, 0, 13, 0x30);
        refused(CODE32, KERNEL, 0, 13, 0x10);
        refused(CODE64, DATA, 1 << 47, 13, 0);
        refused(CODE32, DATA, 1 << 32, 13, 0);
        refused(OWN(0), DATA, 0x1000, 13, 0);
    }

    #[test]
    fn only_what_can_be_read_goes_into_a_data_register() {
        let loadable = |selector| lookup(selector).is_loadable();
        assert!([CODE64, DATA, OWN(0), OWN(1), OWN(4)].into_iter().all(loadable));
        assert!(![KERNEL, OWN(2), OWN(3), OWN(5), OWN(9)].into_iter().any(loadable));
        assert!(!Descriptor::of(&Segment { open: false, ..segment(Kind::Code) }).is_loadable());
        assert!(lookup(OWN(1)).is_stack() && !lookup(OWN(4)).is_stack() && !lookup(CODE64).is_stack());
    }

    #[test]
    fn no_segment_of_a_process_is_of_another_privilege_or_system() {
        for kind in [Kind::Data, Kind::DataDown, Kind::Code, Kind::ConformingCode] {
            let all = Segment {
                base: u32::MAX,
                limit: u32::MAX,
                kind,
                open: true,
                in_pages: true,
                present: true,
                available: true,
            };
            let descriptor = Descriptor::of(&all);
            assert!(descriptor.has(NOT_SYSTEM | USER | ACCESSED | IS_32BIT) && !descriptor.has(LONG));
            assert_eq!(descriptor.has(PRESENT), kind != Kind::ConformingCode);
            assert_eq!(descriptor.last_offset(), 0xffff_ffff);
        }
    }
}
