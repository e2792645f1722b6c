#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod packet;
mod run;

use alloc::vec::Vec;

pub use packet::{Ancillary, Packet, Size};
pub use run::Data;

use crate::check::For;
use crate::run::Words;

/// Most instructions of a program (`BPF_MAXINSNS`).
pub const MAX_LEN: usize = 4096;
/// Bytes of the data that a program reads (`struct seccomp_data`).
pub const DATA_LEN: u32 = 64;
/// Words of scratch memory.
pub(crate) const SCRATCH: usize = 16;

/// An instruction as user space writes it (`struct sock_filter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and operand.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Constant.
    pub k: u32,
}

impl Instruction {
    /// The instruction that user space keeps in the eight bytes `word`.
    pub fn from_word(word: u64) -> Instruction {
        Instruction {
            code: word as u16,
            jt: (word >> 16) as u8,
            jf: (word >> 24) as u8,
            k: (word >> 32) as u32,
        }
    }
}

/// The program is not one that may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// A program for system calls that was found to be safe.
///
/// # Invariants
///
/// - B1: `ops` has as many elements as `source`, and each jump leads to a later one.
/// - B2: the last element returns.
#[derive(Debug)]
pub struct Program {
    ops: Vec<run::Op>,
    source: Vec<Instruction>,
}

impl Program {
    /// Checks `source`. `Err`: it may not run. Memory for a copy must be there; `None` if it is not.
    pub fn new(source: Vec<Instruction>) -> Option<Result<Program, Invalid>> {
        Some(check::decode(&source, For::SystemCalls)?.map(|ops| Program { ops, source }))
    }

    /// The instructions as they were given.
    pub fn source(&self) -> &[Instruction] {
        &self.source
    }

    /// What the program returns for `data`.
    #[inline]
    pub fn run(&self, data: &Data) -> u32 {
        run::run(&self.ops, &Words(|word| Some(data.word(word)))).unwrap_or(0)
    }

    /// What the program returns for every data with the system call `nr` of architecture `arch`; `None` when that
    /// depends on arguments or the place of the call.
    pub fn constant(&self, nr: u32, arch: u32) -> Option<u32> {
        run::run(
            &self.ops,
            &Words(|word| match word {
                0 => Some(nr),
                1 => Some(arch),
                _ => None,
            }),
        )
    }
}

/// A program for packets that was found to be safe (socket(7), `SO_ATTACH_FILTER`).
#[derive(Debug)]
pub struct Filter(Program);

impl Filter {
    /// Checks `source`. `Err`: it may not run. `None`: no memory.
    pub fn new(source: Vec<Instruction>) -> Option<Result<Filter, Invalid>> {
        Some(check::decode(&source, For::Packets)?.map(|ops| Filter(Program { ops, source })))
    }

    /// The instructions as they were given.
    pub fn source(&self) -> &[Instruction] {
        self.0.source()
    }

    /// What the program returns for `packet`: how many bytes of it are wanted. 0 also where it read what is not there.
    pub fn run(&self, packet: &impl Packet) -> u32 {
        run::run(&self.0.ops, &packet::Reader::new(packet)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
