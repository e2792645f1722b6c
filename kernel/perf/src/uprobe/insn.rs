//! Machine instructions under probes: how each is carried out when its first byte is a breakpoint.
//!
//! ```text
//! nop, push, jmp, jcc, call     done here, on the registers alone (and one word of the stack)
//! everything else that is safe  copied to a slot and stepped there; then rip, and what was pushed, move back
//!   ... relative to rip         the copy uses another base register, lent to it for the step
//! int, in, out, syscall, ...    no probe can be set: ENOTSUPP
//! ```
//!
//! Sources: Intel SDM vol. 2 ch. 2 (formats), app. A (opcode maps), B.1.4.7 (conditions); which are refused as on Linux 7.2.

use abi::{Errno, Result};
use yaxpeax_x86::amd64::InstDecoder;
use yaxpeax_x86::amd64::{Operand, RegSpec};

/// The longest instruction.
pub(crate) const MAX_LEN: usize = 15;

/// How an instruction is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Nothing happens.
    Nop,
    /// A register, by its number, is pushed.
    Push(u8),
    /// A jump by this much from the instruction's end.
    Jump(i64),
    /// The same under one of the sixteen conditions.
    JumpIf(u8, i64),
    /// The same, with the return address pushed.
    Call(i64),
    /// A copy is stepped.
    Step(Step),
}

/// What a stepped copy needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Afterwards rip is where the instruction said, not beside the copy.
    pub jumps: bool,
    /// It pushes the address behind it.
    pub pushes_rip: bool,
    /// It pushes the flags.
    pub pushes_flags: bool,
    /// It loads the flags.
    pub loads_flags: bool,
    /// The register, by its number, that stands for rip.
    pub lent: Option<u8>,
}

/// An instruction that can be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    /// What is copied and stepped.
    pub copy: [u8; MAX_LEN],
    /// Its length.
    pub len: usize,
    /// The first byte in the file, which the breakpoint replaces.
    pub first: u8,
    /// How it is carried out.
    pub how: How,
}

/// The parts of an instruction that matter here.
struct Parts {
    has_66: bool,
    /// Where the REX prefix is.
    rex: Option<usize>,
    /// Where a VEX or EVEX prefix is.
    vex: Option<usize>,
    /// The opcode map: 1 for one-byte opcodes, 2 for 0F, 3 for the others.
    map: u8,
    opcode: u8,
    /// Where the opcode is; the byte after it is ModRM for those that have one.
    at: usize,
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Splits an instruction. `ENOTSUPP`: it has a prefix that probes do not go with.
fn split(bytes: &[u8]) -> Result<Parts> {
    let (mut at, mut has_66) = (0, false);
    loop {
        match byte(bytes, at) {
            0x66 => has_66 = true,
            0x67 | 0xf2 | 0xf3 | 0x64 | 0x65 => {}
            // Segments that mean nothing, and LOCK.
            0x26 | 0x2e | 0x36 | 0x3e | 0xf0 => return Err(Errno::ENOTSUPP),
            _ => break,
        }
        at += 1;
        if at >= MAX_LEN {
            return Err(Errno::ENOTSUPP);
        }
    }
    let rex = (byte(bytes, at) & 0xf0 == 0x40).then_some(at);
    at += usize::from(rex.is_some());
    let skip = match byte(bytes, at) {
        0xc5 => Some(2),
        0xc4 => Some(3),
        0x62 => Some(4),
        _ => None,
    };
    if let Some(skip) = skip {
        let opcode = byte(bytes, at + skip);
        return Ok(Parts { has_66, rex, vex: Some(at), map: 3, opcode, at: at + skip });
    }
    let (map, skip) = match (byte(bytes, at), byte(bytes, at + 1)) {
        (0x0f, 0x38 | 0x3a) => (3, 2),
        (0x0f, _) => (2, 1),
        _ => (1, 0),
    };
    at += skip;
    Ok(Parts { has_66, rex, vex: None, map, opcode: byte(bytes, at), at })
}

/// Whether an instruction must not be stepped in another place, or not at all by user code.
fn is_refused(parts: &Parts, modrm: u8) -> bool {
    let extension = modrm >> 3 & 7;
    match (parts.map, parts.opcode) {
        // int3, int, iret, int1, hlt, cli, sti, ins, outs, in, out
        (1, 0xcc..=0xcf | 0xf1 | 0xf4 | 0xfa | 0xfb | 0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef) => true,
        // mov ss puts the trap off; far calls and jumps
        (1, 0x8e) => extension == 2,
        (1, 0xff) => matches!(extension, 3 | 5),
        // XOP, which has other opcodes
        (1, 0x8f) => extension != 0,
        // System instructions, syscall, ud2, moves of control registers, MSRs, rsm, ud1, ud0
        (2, 0x00 | 0x01 | 0x05..=0x09 | 0x0b | 0x0e | 0x20..=0x23 | 0x30 | 0x32 | 0x34 | 0x35 | 0x37) => true,
        (2, 0xaa | 0xb9 | 0xff) => true,
        _ => false,
    }
}

/// The signed number of `len` bytes at the end of an instruction.
fn displacement(bytes: &[u8], len: usize) -> i64 {
    match bytes.len().checked_sub(len).and_then(|at| bytes.get(at..)) {
        Some([one]) => i64::from(*one as i8),
        Some([a, b, c, d]) => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
        _ => 0,
    }
}

/// Moves by a displacement mean something else with a size prefix on some CPUs.
fn unless(is_doubtful: bool, how: How) -> Result<Option<How>> {
    if is_doubtful { Err(Errno::ENOTSUPP) } else { Ok(Some(how)) }
}

/// What can be done without the CPU. `ENOTSUPP`.
fn emulated(parts: &Parts, bytes: &[u8]) -> Result<Option<How>> {
    let extended = u8::from(parts.rex.is_some_and(|at| byte(bytes, at) & 1 != 0)) << 3;
    match (parts.map, parts.opcode) {
        (1, 0x90) if extended == 0 && byte(bytes, 0) != 0xf3 => Ok(Some(How::Nop)),
        (2, 0x1f) => Ok(Some(How::Nop)),
        (1, 0x50..=0x57) if !parts.has_66 => Ok(Some(How::Push(parts.opcode & 7 | extended))),
        (1, 0xe8) => unless(parts.has_66, How::Call(displacement(bytes, 4))),
        (1, 0xe9) => unless(parts.has_66, How::Jump(displacement(bytes, 4))),
        (1, 0xeb) => unless(parts.has_66, How::Jump(displacement(bytes, 1))),
        (1, 0x70..=0x7f) => unless(parts.has_66, How::JumpIf(parts.opcode & 15, displacement(bytes, 1))),
        (2, 0x80..=0x8f) => unless(parts.has_66, How::JumpIf(parts.opcode & 15, displacement(bytes, 4))),
        _ => Ok(None),
    }
}

/// What the step of an instruction needs besides.
fn step(parts: &Parts, modrm: u8) -> Step {
    let is = |opcode| parts.map == 1 && parts.opcode == opcode;
    let indirect = |extension| is(0xff) && modrm >> 3 & 7 == extension;
    Step {
        jumps: matches!((parts.map, parts.opcode), (1, 0xc2 | 0xc3 | 0xca | 0xcb))
            || indirect(2)
            || indirect(4),
        pushes_rip: indirect(2),
        pushes_flags: is(0x9c),
        loads_flags: is(0x9d),
        lent: None,
    }
}

/// Makes `copy` use a register in the place of rip; gives its number.
///
/// rsi, rdi and rbx are free unless ModRM or VEX names them: no instruction with a memory operand of this form uses one
/// of the first two besides, and those that use rbx name no other register.
fn lend(copy: &mut [u8], parts: &Parts) -> Option<u8> {
    let modrm_at = parts.at + 1;
    let named = byte(copy, modrm_at) >> 3 & 7;
    let vector = parts.vex.map(|at| match byte(copy, at) {
        0xc5 => !(byte(copy, at + 1) >> 3) & 7,
        _ => !(byte(copy, at + 2) >> 3) & 7,
    });
    let lent = [6, 7, 3].into_iter().find(|reg| named != *reg && vector != Some(*reg))?;
    let modrm = copy.get_mut(modrm_at)?;
    *modrm = *modrm & 0x38 | 0x80 | lent;
    // The bit that would extend the base: REX.B plain, VEX.B and EVEX.B inverted.
    if let Some(rex) = parts.rex.and_then(|at| copy.get_mut(at)) {
        *rex &= !1;
    }
    if let Some(at) = parts.vex
        && byte(copy, at) != 0xc5
        && let Some(extension) = copy.get_mut(at + 1)
    {
        *extension |= 0x20;
    }
    Some(lent)
}

impl Insn {
    /// Takes the instruction at the start of `bytes` apart. `ENOTSUPP`: it is none, or one that cannot be probed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let decoder = InstDecoder::default();
        let decoded = decoder.decode_slice(bytes).map_err(|_| Errno::ENOTSUPP)?;
        let len = usize::try_from(yaxpeax_arch::LengthedInstruction::len(&decoded).to_const())
            .ok()
            .filter(|len| (1..=MAX_LEN).contains(len))
            .ok_or(Errno::ENOTSUPP)?;
        let bytes = bytes.get(..len).ok_or(Errno::ENOTSUPP)?;
        let parts = split(bytes)?;
        let modrm = byte(bytes, parts.at + 1);
        if is_refused(&parts, modrm) {
            return Err(Errno::ENOTSUPP);
        }
        let mut copy = [0; MAX_LEN];
        for (to, from) in copy.iter_mut().zip(bytes) {
            *to = *from;
        }
        let first = byte(bytes, 0);
        if let Some(how) = emulated(&parts, bytes)? {
            return Ok(Self { copy, len, first, how });
        }
        let mut step = step(&parts, modrm);
        let is_rip_relative = (0..decoded.operand_count()).any(|at| match decoded.operand(at) {
            Operand::MemDeref { base }
            | Operand::Disp { base, .. }
            | Operand::MemDerefMasked { base, .. }
            | Operand::DispMasked { base, .. } => base == RegSpec::rip() || base == RegSpec::eip(),
            _ => false,
        });
        if is_rip_relative {
            // Only this form of ModRM says so; a 32-bit base would cut the lent register.
            let is_plain = modrm & 0xc7 == 5 && !bytes.iter().take(parts.at).any(|byte| *byte == 0x67);
            if !is_plain {
                return Err(Errno::ENOTSUPP);
            }
            step.lent = Some(lend(&mut copy, &parts).ok_or(Errno::ENOTSUPP)?);
        }
        Ok(Self { copy, len, first, how: How::Step(step) })
    }
}

/// Whether `condition`, the low half of the opcode of a conditional jump, holds with these flags.
pub(crate) fn holds(condition: u8, rflags: u64) -> bool {
    let bit = |at: u32| rflags >> at & 1 != 0;
    let (carry, parity, zero, sign, overflow) = (bit(0), bit(2), bit(6), bit(7), bit(11));
    let base = match condition >> 1 {
        0 => overflow,
        1 => carry,
        2 => zero,
        3 => carry || zero,
        4 => sign,
        5 => parity,
        6 => sign != overflow,
        _ => zero || sign != overflow,
    };
    base != (condition & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Insn> {
        let mut padded = bytes.to_vec();
        padded.resize(16, 0x90);
        Insn::parse(&padded)
    }

    fn stepped(bytes: &[u8]) -> (Insn, Step) {
        let insn = parse(bytes).unwrap();
        let How::Step(step) = insn.how else { panic!("{insn:?}") };
        (insn, step)
    }

    #[test]
    fn simple_ones_are_emulated() {
        assert_eq!(parse(&[0x90]).unwrap().how, How::Nop);
        assert_eq!(parse(&[0x0f, 0x1f, 0x44, 0, 0]).unwrap(), {
            let mut copy = [0; MAX_LEN];
            copy[..5].copy_from_slice(&[0x0f, 0x1f, 0x44, 0, 0]);
            Insn { copy, len: 5, first: 0x0f, how: How::Nop }
        });
        assert_eq!(parse(&[0x55]).unwrap().how, How::Push(5));
        assert_eq!(parse(&[0x41, 0x57]).unwrap().how, How::Push(15));
        assert_eq!(parse(&[0xeb, 0xfe]).unwrap().how, How::Jump(-2));
        assert_eq!(parse(&[0xe8, 1, 0, 0, 0]).unwrap().how, How::Call(1));
        assert_eq!(parse(&[0x0f, 0x84, 0, 1, 0, 0]).unwrap().how, How::JumpIf(4, 256));
    }

    #[test]
    fn others_are_stepped() {
        assert_eq!(stepped(&[0x48, 0x89, 0xe5]).1, Step::default());
        assert_eq!(stepped(&[0, 0]).0.len, 2);
        assert!(stepped(&[0xc3]).1.jumps);
        let (_, call) = stepped(&[0xff, 0xd0]);
        assert!(call.jumps && call.pushes_rip);
        assert!(stepped(&[0x9d]).1.loads_flags);
        // pause is no nop to be left out
        assert_eq!(stepped(&[0xf3, 0x90]).0.len, 2);
        // endbr64
        assert_eq!(stepped(&[0xf3, 0x0f, 0x1e, 0xfa]).0.len, 4);
    }

    #[test]
    fn a_lent_register_stands_for_rip() {
        // lea rax, [rip + 0x10]
        let (insn, step) = stepped(&[0x48, 0x8d, 0x05, 0x10, 0, 0, 0]);
        assert_eq!(step.lent, Some(6));
        assert_eq!(&insn.copy[..7], &[0x48, 0x8d, 0x86, 0x10, 0, 0, 0]);
        // mov rsi, [rip]: rsi is taken
        let (insn, step) = stepped(&[0x48, 0x8b, 0x35, 0, 0, 0, 0]);
        assert_eq!((step.lent, insn.copy[2]), (Some(7), 0xb7));
        // jmp [rip + 2]
        let (insn, step) = stepped(&[0xff, 0x25, 2, 0, 0, 0]);
        assert!(step.jumps && step.lent == Some(6) && insn.copy[1] == 0xa6);
        // vaddps xmm0, xmm6, [rip]: the vector operand names 6
        let (insn, step) = stepped(&[0xc5, 0xc8, 0x58, 0x05, 0, 0, 0, 0]);
        assert_eq!((step.lent, insn.copy[3]), (Some(7), 0x87));
    }

    #[test]
    fn what_would_leave_or_trap_is_refused() {
        let refused: [&[u8]; 12] = [
            &[0xcc],
            &[0xcd, 0x80],
            &[0x0f, 0x05],
            &[0x0f, 0x0b],
            &[0xf4],
            &[0xe4, 0x10],
            &[0xf0, 0x48, 0xff, 0x00],
            &[0x2e, 0x90],
            &[0x8e, 0xd0],
            &[0x06],
            &[0x0f, 0x30],
            &[0xcf],
        ];
        for bytes in refused {
            assert_eq!(parse(bytes), Err(Errno::ENOTSUPP), "{bytes:x?}");
        }
        assert_eq!(Insn::parse(&[]), Err(Errno::ENOTSUPP));
        assert_eq!(Insn::parse(&[0x48]), Err(Errno::ENOTSUPP));
    }

    #[test]
    fn conditions_follow_the_flags() {
        const ZERO: u64 = 1 << 6;
        const SIGN: u64 = 1 << 7;
        const OVERFLOW: u64 = 1 << 11;
        assert!(holds(4, ZERO) && !holds(5, ZERO));
        assert!(holds(0xc, SIGN) && !holds(0xc, SIGN | OVERFLOW));
        assert!(holds(0xf, 0) && !holds(0xf, ZERO));
        assert!(holds(7, 0) && !holds(7, 1));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200_000 {
            let mut bytes = [0u8; 16];
            for chunk in bytes.chunks_mut(8) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                chunk.copy_from_slice(&seed.to_le_bytes());
            }
            for len in 0..=16 {
                if let Ok(insn) = Insn::parse(&bytes[..len]) {
                    assert!(insn.len <= len && insn.len >= 1);
                }
            }
        }
    }
}
