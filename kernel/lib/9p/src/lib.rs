#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod reply;
mod request;

#[cfg(test)]
mod tests;

pub use reply::{Attributes, Entries, Entry, Qid, Reader, Statfs, reply, xattr_len};
pub use request::{Change, Lock, Request, kind};

/// The protocol's name.
pub const VERSION: &[u8] = b"9P2000.L";
/// The tag of the message that agrees on a version.
pub const NO_TAG: u16 = u16::MAX;
/// A fid that is none.
pub const NO_FID: u32 = u32::MAX;
/// A user id that is none.
pub const NO_ID: u32 = u32::MAX;
/// Names that one walk may go through.
pub const MAX_WALK: usize = 16;
/// Bytes before the data of a read's reply: size, type, tag, count. A reply that is an error has as many.
pub const DATA_AT: usize = 11;
/// Bytes that a read or write takes beside its data at most (`P9_IOHDRSZ`).
pub const IO_HEADER: u32 = 24;
/// The least that can be agreed on for a message's size.
pub const MIN_MSIZE: u32 = 4096;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The server refused, with this errno.
    Refused(u32),
    /// The bytes contradict the protocol.
    Malformed(&'static str),
    /// A request that does not fit its fields, such as a name of 64 KiB.
    TooLong,
    /// No memory.
    NoMemory,
}

/// What the functions of this crate give.
pub type Result<T> = core::result::Result<T, Error>;
