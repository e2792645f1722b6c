//! The x86-64 machine.

pub(crate) mod boot;
pub(crate) mod console;
pub(crate) mod cpu;
pub(crate) mod instr;
pub(crate) mod layout;
pub(crate) mod paging;
pub(crate) mod power;
pub(crate) mod rng;
