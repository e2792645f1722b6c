//! The hosted machine: an ordinary process that behaves like a computer, for unit tests.
//!
//! - A CPU is a token ([`cpu`]). A host thread that runs kernel code holds one; threads of a test harness
//!   get one at their first call and give it back when they end, so every test is a machine of one CPU.
//! - A kernel thread is a host thread that waits until a CPU is handed to it ([`thread`]).
//! - Interrupts are events on the token. They are delivered where a real CPU could take them and this one
//!   looks: when interrupts or preemption are switched on, in spin loops, and in the idle loop.
//! - Physical memory is one large allocation of the host ([`mem`]); page tables are ordered maps ([`paging`]).

pub mod boot;
pub mod control;
pub mod cpu;
pub mod io;
pub mod ipi;
pub mod irq;
pub mod mem;
pub mod paging;
pub mod pci;
pub mod pku;
pub mod power;
pub mod rng;
pub mod smp;
pub mod thread;
pub mod time;
pub mod user;
pub mod vdso;
