#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod header;
mod image;
mod pages;

pub use header::{Header, Kind};
pub use image::{Image, Segment, StackFlags};
pub use pages::{Piece, pieces};
