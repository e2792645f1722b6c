#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod dir;
mod layout;
pub mod name;
mod record;
mod table;
pub mod time;

#[cfg(test)]
mod tests;

pub use layout::{BOOT_LEN, Layout, Width};
pub use record::{Attributes, Record};
pub use table::{Table, chain, free_chain};

/// Why something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The volume contradicts itself.
    Corrupt(&'static str),
    /// A volume of another kind.
    Unsupported(&'static str),
    /// The device failed.
    Io,
    /// No cluster is free, or the directory is full.
    NoSpace,
    /// No memory.
    NoMemory,
    /// A name of nothing but dots.
    NoName,
    /// A name that cannot be stored.
    BadName,
    /// A name of more than 255 units of UTF-16.
    NameTooLong,
}

/// What the functions of this crate give.
pub type Result<T> = core::result::Result<T, Error>;

/// The bytes of a volume. Whoever has one takes care of concurrency.
pub trait Volume {
    /// Fills `buf` with the bytes at `pos`. `Io`.
    fn read(&self, pos: u64, buf: &mut [u8]) -> Result<()>;

    /// Stores `bytes` at `pos`. `Io`, `NoMemory`.
    fn write(&self, pos: u64, bytes: &[u8]) -> Result<()>;

    /// The `len` bytes at `pos` are free: what was written there need not reach the device, and must not any more once
    /// they are of a file.
    fn forget(&self, pos: u64, len: u32) {
        let _ = (pos, len);
    }
}

/// The little-endian 16 bits at `at`; 0 beyond the end.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
}

/// The little-endian 32 bits at `at`; 0 beyond the end.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}
