#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cgroup;
pub mod ipc;
pub mod net;
pub mod time;
pub mod uts;

pub use cgroup::CgroupNs;
pub use ipc::IpcNs;
pub use net::NetNs;
pub use time::TimeNs;
pub use uts::UtsNs;
