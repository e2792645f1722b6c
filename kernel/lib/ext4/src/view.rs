//! Checked views of bytes as on-disk structures.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};

/// The `T` at byte `at`.
pub(crate) fn get<T: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8], at: usize) -> Result<&T> {
    let rest = bytes.get(at..).ok_or(Error::Corrupt("structure beyond its block"))?;
    T::ref_from_prefix(rest).map(|(view, _)| view).map_err(|_| Error::Corrupt("structure beyond its block"))
}

/// The `T` at byte `at`, to be changed.
pub(crate) fn get_mut<T: FromBytes + IntoBytes + KnownLayout + Unaligned>(
    bytes: &mut [u8],
    at: usize,
) -> Result<&mut T> {
    let rest = bytes.get_mut(at..).ok_or(Error::Corrupt("structure beyond its block"))?;
    T::mut_from_prefix(rest).map(|(view, _)| view).map_err(|_| Error::Corrupt("structure beyond its block"))
}

/// The little-endian 16-bit number at byte `at`; 0 beyond the end.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
}

/// The little-endian 32-bit number at byte `at`; 0 beyond the end.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// Stores bytes at `at`, if they fit there.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(value);
    }
}

/// Bytes `at..at + len`.
pub(crate) fn slice(bytes: &[u8], at: usize, len: usize) -> Result<&[u8]> {
    let end = at.checked_add(len).ok_or(Error::Corrupt("range beyond its block"))?;
    bytes.get(at..end).ok_or(Error::Corrupt("range beyond its block"))
}
