//! The bytes of requests (VIRTIO 1.2, ch. 5.2.6).

use abi::{Errno, Result};
use block::{BioFlags, Op, Request};
use virtio::Piece;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;
/// A range to be zeroed may be unmapped.
const MAY_UNMAP: u32 = 1;

const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;

/// Bytes of an answer to "get id".
pub const ID_LEN: usize = 20;

/// A header, with the range of a discard or zeroing behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; 32],
    len: usize,
}

impl Header {
    fn new(kind: u32, sector: u64) -> Header {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        Header { bytes, len: 16 }
    }

    fn with_range(kind: u32, sector: u64, nr_sectors: u64, flags: u32) -> Header {
        let mut header = Header::new(kind, 0);
        header.bytes[16..24].copy_from_slice(&sector.to_le_bytes());
        header.bytes[24..28].copy_from_slice(&(nr_sectors as u32).to_le_bytes());
        header.bytes[28..32].copy_from_slice(&flags.to_le_bytes());
        header.len = 32;
        header
    }

    /// The header for a request. `may_unmap`: zeroing may unmap, as the device's configuration says.
    pub fn of(request: &Request, may_unmap: bool) -> Header {
        let (sector, nr_sectors) = (request.sector(), request.nr_sectors());
        match request.op() {
            Op::Read => Header::new(TYPE_IN, sector),
            Op::Write => Header::new(TYPE_OUT, sector),
            Op::Flush => Header::new(TYPE_FLUSH, 0),
            Op::Discard => Header::with_range(TYPE_DISCARD, sector, nr_sectors, 0),
            Op::WriteZeroes => {
                let unmap = may_unmap && !request.flags().contains(BioFlags::NO_UNMAP);
                let flags = if unmap { MAY_UNMAP } else { 0 };
                Header::with_range(TYPE_WRITE_ZEROES, sector, nr_sectors, flags)
            }
        }
    }

    /// The header that asks for the serial number.
    pub fn get_id() -> Header {
        Header::new(TYPE_GET_ID, 0)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Where the data of `request` is.
pub fn pieces(request: &Request) -> impl Iterator<Item = Piece> + Clone {
    let is_written = request.op() == Op::Read;
    request.segments().map(move |segment| Piece { paddr: segment.paddr(), len: segment.len(), is_written })
}

/// What the status byte means. `EOPNOTSUPP`, `EIO`.
pub fn result_of(status: u8) -> Result<()> {
    match status {
        STATUS_OK => Ok(()),
        STATUS_UNSUPPORTED => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_specification_says() {
        assert_eq!(Header::new(TYPE_OUT, 0x0102).bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let range = Header::with_range(TYPE_DISCARD, 5, 7, 1);
        assert_eq!(range.bytes()[..16], Header::new(TYPE_DISCARD, 0).bytes()[..]);
        assert_eq!(range.bytes()[16..], [5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn unknown_statuses_are_errors() {
        assert_eq!(result_of(0), Ok(()));
        assert_eq!(result_of(2), Err(Errno::EOPNOTSUPP));
        assert_eq!(result_of(1), Err(Errno::EIO));
        assert_eq!(result_of(255), Err(Errno::EIO));
    }
}
