#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod events;
mod rlimit;
mod user;

pub use abi::process::{RLIM_INFINITY, Rlimit};
pub use rlimit::{NR_OPEN, Resource, Rlimits};
pub use user::{Charge, UserCounts, UserResource, Users};
