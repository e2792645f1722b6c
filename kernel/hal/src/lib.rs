#![doc = include_str!("../README.md")]
#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(not(target_os = "none"))]
#[path = "arch/hosted/mod.rs"]
mod arch;
#[cfg(target_os = "none")]
#[path = "arch/x86_64/mod.rs"]
mod arch;

pub mod addr;
pub mod boot;
mod cells;
#[cfg_attr(
    not(any(target_os = "none", test)),
    expect(dead_code, reason = "the hosted machine has one clock; only tests use it")
)]
mod clock;
pub mod cpu;
#[cfg_attr(
    not(any(target_os = "none", test)),
    expect(dead_code, reason = "the hosted machine has no segments; only tests use it")
)]
mod descriptor;
pub mod dma;
mod error;
pub mod frame;
pub mod heap;
pub mod in_place;
pub mod io;
pub mod ipi;
pub mod irq;
pub mod klog;
pub mod paging;
pub mod pci;
pub mod percpu;
pub mod pkey;
pub mod ports;
pub mod power;
pub mod preempt;
pub mod rcu;
pub mod rng;
pub mod segment;
pub mod smp;
pub mod sync;
pub mod thread;
pub mod time;
pub mod trap;
pub mod uio;
pub mod user;
pub mod vdso;

/// Controls of the hosted machine for unit tests: its test clock and simulated CPUs.
#[cfg(not(target_os = "none"))]
pub use arch::control as hosted;

pub use addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, PhysAddr, USER_END, UserAddr};
pub use error::{CStrError, Fault, NoMemory};
