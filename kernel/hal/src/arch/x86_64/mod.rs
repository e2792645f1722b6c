//! The x86-64 machine.

pub(crate) mod boot;
pub(crate) mod console;
pub(crate) mod cpu;
pub(crate) mod cpulocal;
mod entry;
mod exception;
mod fpu;
mod gdt;
mod idt;
pub(crate) mod instr;
pub(crate) mod layout;
pub(crate) mod paging;
pub(crate) mod power;
pub(crate) mod rng;
mod symbols;
pub(crate) mod thread;
pub(crate) mod traps;
mod unwind;
pub(crate) mod user;
mod usercopy;
pub(crate) mod vdso;
