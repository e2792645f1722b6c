#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod buffers;
mod call;
mod completion;
mod context;
mod fixed;
mod job;
mod memory;
mod ops;
mod register;
mod request;
mod ring;
mod roster;
mod rw;
mod submit;
mod timeout;
mod waiting;

pub use call::{Call, CallContext, Calls, Outcome};
pub use register::register;
pub use ring::{Ring, ring_of, setup};
pub use submit::{Enter, file, submit, wait};

use process::CurrentTask;
use process::hooks::TaskWork;

/// What a task does for its rings besides its calls.
struct Work;

impl TaskWork for Work {
    fn run(&self, task: &CurrentTask) {
        if let Some(context) = context::Context::of(task) {
            context.run_ready();
        }
    }

    fn leave(&self, task: &CurrentTask) {
        if let Some(context) = context::Context::of(task) {
            context.leave();
        }
    }
}

/// Registers what other floors ask of this crate, and who makes the system calls that requests ask for. Once, at boot.
pub fn init(calls: &'static dyn Calls) {
    call::register(calls);
    process::hooks::register_work(&Work);
}
