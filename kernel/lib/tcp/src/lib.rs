#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod congestion;
mod input;
mod output;
mod receive;
mod rtt;
pub mod segment;
mod send;
pub mod seq;
mod tcb;
#[cfg(test)]
mod tests;
mod timers;

pub use rtt::Rtt;
pub use segment::{Chain, Flags, Payload, Segment};
pub use tcb::{Config, Counters, Events, Failure, Info, State, Tcb};
