//! Terminals: the line discipline, terminal devices, job control and pseudo-terminals.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod flags;
pub mod ldisc;
