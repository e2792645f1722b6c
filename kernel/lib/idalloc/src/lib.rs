#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cyclic;
mod map;

pub use cyclic::Cyclic;
pub use map::{IdMap, NoId};
