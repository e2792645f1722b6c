//! The machine.

use crate::SCRATCH;
use crate::packet::{Ancillary, Size};

/// What a filter looks at: `struct seccomp_data`, as 32-bit words.
///
/// ```text
/// word 0 number  1 architecture  2, 3 instruction pointer  4 to 15 six arguments, low half first
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// Number of the system call.
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Where the call was made.
    pub instruction_pointer: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

impl Data {
    /// 32-bit word `idx`; 0 beyond the end.
    #[inline]
    pub(crate) fn word(&self, idx: u32) -> u32 {
        let half = |value: u64| if idx & 1 == 0 { value as u32 } else { (value >> 32) as u32 };
        match idx {
            0 => self.nr,
            1 => self.arch,
            2 | 3 => half(self.instruction_pointer),
            _ => self.args.get((idx as usize - 4) / 2).map_or(0, |&arg| half(arg)),
        }
    }
}

/// What a program reads. What one kind of program cannot ask for has no answer by default.
pub(crate) trait Source {
    /// 32-bit word `idx` of a system call's data; `None` ends the program without an answer.
    #[inline]
    fn word(&self, _idx: u32) -> Option<u32> {
        None
    }

    /// The number of `size` bytes at `offset` of a packet; `None`: it has no such bytes, which ends the program.
    #[inline]
    fn load(&self, _size: Size, _offset: u32) -> Option<u32> {
        None
    }

    /// Length of the packet.
    #[inline]
    fn len(&self) -> u32 {
        0
    }

    /// What is known about a packet besides its bytes, with both registers.
    #[inline]
    fn ancillary(&self, _which: Ancillary, _a: u32, _x: u32) -> Option<u32> {
        None
    }
}

/// The words of a system call's data, by a closure.
pub(crate) struct Words<F>(pub(crate) F);

impl<F: Fn(u32) -> Option<u32>> Source for Words<F> {
    #[inline]
    fn word(&self, idx: u32) -> Option<u32> {
        self.0(idx)
    }
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    K(u32),
    X,
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Or,
    And,
    Lsh,
    Rsh,
    Xor,
}

/// Conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

/// A decoded instruction. Jumps hold the index they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// `A` = word of the data.
    Load(u32),
    /// `A` = bytes of the packet at this offset.
    LoadAt(Size, u32),
    /// `A` = bytes of the packet at this offset from `X`.
    LoadFrom(Size, u32),
    /// `A` = what is known besides.
    LoadAncillary(Ancillary),
    /// `A` = length of the packet.
    LoadLen,
    /// `X` = length of the packet.
    LoadLenX,
    /// `X` = four times the low half of the packet's byte at this offset: a length of a header of IP.
    LoadHeaderX(u32),
    /// `A` = constant.
    Imm(u32),
    /// `X` = constant.
    ImmX(u32),
    /// `A` = scratch word.
    LoadScratch(u8),
    /// `X` = scratch word.
    LoadScratchX(u8),
    /// Scratch word = `A`.
    Store(u8),
    /// Scratch word = `X`.
    StoreX(u8),
    /// `A` = `A` op operand.
    Alu(Alu, Operand),
    /// `A` = -`A`.
    Neg,
    /// `X` = `A`.
    Tax,
    /// `A` = `X`.
    Txa,
    /// Goes on elsewhere.
    Jump(u16),
    /// Goes on at the first place if the condition holds, else at the second.
    If(Test, Operand, u16, u16),
    /// Ends with a constant.
    Return(u32),
    /// Ends with `A`.
    ReturnA,
}

/// Runs `ops` on `source`; `None` when that has no answer to something.
#[inline]
pub(crate) fn run(ops: &[Op], source: &impl Source) -> Option<u32> {
    let (mut a, mut x) = (0u32, 0u32);
    let mut scratch = [0u32; SCRATCH];
    let mut at = 0usize;
    // B1 and B2: the index only grows and the last instruction returns, so this ends inside the list.
    while let Some(&op) = ops.get(at) {
        at += 1;
        match op {
            Op::Load(word) => a = source.word(word)?,
            Op::LoadAt(size, offset) => a = source.load(size, offset)?,
            Op::LoadFrom(size, offset) => a = source.load(size, x.wrapping_add(offset))?,
            Op::LoadAncillary(which) => a = source.ancillary(which, a, x)?,
            Op::LoadLen => a = source.len(),
            Op::LoadLenX => x = source.len(),
            Op::LoadHeaderX(offset) => x = (source.load(Size::Byte, offset)? & 0xf) << 2,
            Op::Imm(k) => a = k,
            Op::ImmX(k) => x = k,
            Op::LoadScratch(idx) => a = scratch[usize::from(idx) % SCRATCH],
            Op::LoadScratchX(idx) => x = scratch[usize::from(idx) % SCRATCH],
            Op::Store(idx) => scratch[usize::from(idx) % SCRATCH] = a,
            Op::StoreX(idx) => scratch[usize::from(idx) % SCRATCH] = x,
            Op::Alu(alu, operand) => match compute(alu, a, value(operand, x)) {
                Some(result) => a = result,
                None => return Some(0), // division by 0 ends the program
            },
            Op::Neg => a = a.wrapping_neg(),
            Op::Tax => x = a,
            Op::Txa => a = x,
            Op::Jump(to) => at = usize::from(to),
            Op::If(test, operand, yes, no) => {
                at = usize::from(if holds(test, a, value(operand, x)) { yes } else { no });
            }
            Op::Return(k) => return Some(k),
            Op::ReturnA => return Some(a),
        }
    }
    Some(0)
}

#[inline]
fn value(operand: Operand, x: u32) -> u32 {
    match operand {
        Operand::K(k) => k,
        Operand::X => x,
    }
}

#[inline]
fn compute(alu: Alu, a: u32, b: u32) -> Option<u32> {
    Some(match alu {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => return a.checked_div(b),
        Alu::Mod => return a.checked_rem(b),
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::Lsh => a.wrapping_shl(b),
        Alu::Rsh => a.wrapping_shr(b),
        Alu::Xor => a ^ b,
    })
}

#[inline]
fn holds(test: Test, a: u32, b: u32) -> bool {
    match test {
        Test::Equal => a == b,
        Test::Greater => a > b,
        Test::GreaterOrEqual => a >= b,
        Test::AnyBit => a & b != 0,
    }
}
