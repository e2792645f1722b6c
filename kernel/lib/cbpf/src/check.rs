//! What may run.

use alloc::vec::Vec;

use crate::packet::{ANCILLARY, Ancillary, Size};
use crate::run::{Alu, Op, Operand, Test};
use crate::{DATA_LEN, Instruction, Invalid, MAX_LEN, SCRATCH};

/// What a program is for, which decides what it may read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The data of system calls.
    SystemCalls,
    /// Packets.
    Packets,
}

// The fields of an instruction's code.
const CLASS: u16 = 0x07;
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const HALF: u16 = 0x08;
const BYTE: u16 = 0x10;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MSH: u16 = 0xa0;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const SOURCE_X: u16 = 0x08;
const RET_A: u16 = 0x10;
const NEG: u16 = 0x80;
const TXA: u16 = 0x80;

/// Checks and decodes a whole program. `None`: no memory.
pub(crate) fn decode(source: &[Instruction], what: For) -> Option<Result<Vec<Op>, Invalid>> {
    if source.is_empty() || source.len() > MAX_LEN {
        return Some(Err(Invalid));
    }
    let mut ops = Vec::new();
    ops.try_reserve_exact(source.len()).ok()?;
    for (at, instruction) in source.iter().enumerate() {
        match decode_one(instruction, at, source.len(), what) {
            Some(op) => ops.push(op),
            None => return Some(Err(Invalid)),
        }
    }
    if !matches!(ops.last(), Some(Op::Return(_) | Op::ReturnA)) {
        return Some(Err(Invalid));
    }
    if !reads_only_what_was_written(&ops)? {
        return Some(Err(Invalid));
    }
    Some(Ok(ops))
}

/// The instruction at place `at` of `len`; `None` when it is not allowed.
fn decode_one(instruction: &Instruction, at: usize, len: usize, what: For) -> Option<Op> {
    let &Instruction { code, jt, jf, k } = instruction;
    if what == For::Packets
        && let Some(op) = decode_load(code, k)
    {
        return op;
    }
    let scratch = || u8::try_from(k).ok().filter(|&idx| usize::from(idx) < SCRATCH);
    Some(match code & CLASS {
        LD | LDX if code & !CLASS == MEM => {
            if code & CLASS == LD {
                Op::LoadScratch(scratch()?)
            } else {
                Op::LoadScratchX(scratch()?)
            }
        }
        LD if what == For::SystemCalls && code == LD | ABS && k < DATA_LEN && k.is_multiple_of(4) => {
            Op::Load(k / 4)
        }
        LD if code == LD => Op::Imm(k),
        LD if code == LD | LEN => Op::Imm(DATA_LEN),
        LDX if code == LDX => Op::ImmX(k),
        LDX if code == LDX | LEN => Op::ImmX(DATA_LEN),
        ST if code == ST => Op::Store(scratch()?),
        STX if code == STX => Op::StoreX(scratch()?),
        ALU => decode_alu(code, k, what)?,
        JMP => decode_jump(code, jt, jf, k, at, len)?,
        RET if code == RET => Op::Return(k),
        RET if code == RET | RET_A => Op::ReturnA,
        MISC if code == MISC => Op::Tax,
        MISC if code == MISC | TXA => Op::Txa,
        _ => return None,
    })
}

/// A load that only packets know: `None` if `code` is none, `Some(None)` if it is one that is not allowed.
fn decode_load(code: u16, k: u32) -> Option<Option<Op>> {
    const SIZES: u16 = HALF | BYTE;
    let size = match code & SIZES {
        0 => Size::Word,
        HALF => Size::Half,
        BYTE => Size::Byte,
        _ => return None,
    };
    Some(match code & !SIZES {
        code if code == LD | ABS && k >= ANCILLARY => Ancillary::at(k - ANCILLARY).map(Op::LoadAncillary),
        code if code == LD | ABS => Some(Op::LoadAt(size, k)),
        code if code == LD | IND => Some(Op::LoadFrom(size, k)),
        _ if code == LD | LEN => Some(Op::LoadLen),
        _ if code == LDX | LEN => Some(Op::LoadLenX),
        _ if code == LDX | MSH | BYTE => Some(Op::LoadHeaderX(k)),
        _ => return None,
    })
}

fn operand(code: u16, k: u32) -> Operand {
    if code & SOURCE_X == 0 { Operand::K(k) } else { Operand::X }
}

fn decode_alu(code: u16, k: u32, what: For) -> Option<Op> {
    if code == ALU | NEG {
        return Some(Op::Neg);
    }
    let alu = match code & !(CLASS | SOURCE_X) {
        0x00 => Alu::Add,
        0x10 => Alu::Sub,
        0x20 => Alu::Mul,
        0x30 => Alu::Div,
        0x40 => Alu::Or,
        0x50 => Alu::And,
        0x60 => Alu::Lsh,
        0x70 => Alu::Rsh,
        // seccomp knows it not.
        0x90 if what == For::Packets => Alu::Mod,
        0xa0 => Alu::Xor,
        _ => return None,
    };
    let operand = operand(code, k);
    match (alu, operand) {
        (Alu::Div | Alu::Mod, Operand::K(0)) | (Alu::Lsh | Alu::Rsh, Operand::K(32..)) => None,
        _ => Some(Op::Alu(alu, operand)),
    }
}

fn decode_jump(code: u16, jt: u8, jf: u8, k: u32, at: usize, len: usize) -> Option<Op> {
    // A place after this one and inside the program; MAX_LEN fits in 16 bits.
    let place = |skip: u32| {
        let to = (at + 1).checked_add(usize::try_from(skip).ok()?)?;
        if to < len { u16::try_from(to).ok() } else { None }
    };
    let test = match code & !(CLASS | SOURCE_X) {
        0x00 if code == JMP => return Some(Op::Jump(place(k)?)),
        0x10 => Test::Equal,
        0x20 => Test::Greater,
        0x30 => Test::GreaterOrEqual,
        0x40 => Test::AnyBit,
        _ => return None,
    };
    Some(Op::If(test, operand(code, k), place(jt.into())?, place(jf.into())?))
}

/// Whether every path writes a scratch word before it reads it. `None`: no memory.
///
/// Jumps go forward, so one pass is enough: what is known at a place is what all ways to it have in common.
fn reads_only_what_was_written(ops: &[Op]) -> Option<bool> {
    const ALL: u16 = u16::MAX;
    let mut known = Vec::new();
    known.try_reserve_exact(ops.len()).ok()?;
    known.resize(ops.len(), ALL);
    // What falls through from the instruction before; the first one has nothing.
    let mut falls = 0u16;
    for (at, &op) in ops.iter().enumerate() {
        let here = known.get(at).copied().unwrap_or(ALL) & falls;
        falls = here;
        let mut meet = |to: u16| {
            if let Some(there) = known.get_mut(usize::from(to)) {
                *there &= here;
            }
        };
        match op {
            Op::Store(idx) | Op::StoreX(idx) => falls = here | 1 << idx,
            Op::LoadScratch(idx) | Op::LoadScratchX(idx) if here >> idx & 1 == 0 => return Some(false),
            Op::Jump(to) => {
                meet(to);
                falls = ALL;
            }
            Op::If(_, _, yes, no) => {
                meet(yes);
                meet(no);
                falls = ALL;
            }
            // Linux takes a return for one that falls through; a program can tell by being refused.
            _ => {}
        }
    }
    Some(true)
}
