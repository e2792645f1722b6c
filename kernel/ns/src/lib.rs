#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ipc;
pub mod time;
pub mod uts;

pub use ipc::IpcNs;
pub use time::TimeNs;
pub use uts::UtsNs;
