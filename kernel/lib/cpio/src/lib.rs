//! Reader of cpio archives in the "newc" format, as the initramfs uses them.
//!
//! [`Archive`] pulls members out of an [`Input`], which gives its bytes chunk by chunk. It holds no member in
//! memory: data is handed on in the pieces in which it arrives, and whole pages may change hands
//! ([`PageInput::take_page`]) so that an uncompressed archive need not be copied at all.
//!
//! ```text
//! initramfs := segment* NUL*
//! segment   := archive | gzip(archive*) | zstd(archive*)        each padded with NULs at will
//! archive   := (header name NUL* pad4 data pad4)* header "TRAILER!!!"
//! header    := "070701" (newc) or "070702" (crc: the sum of the data bytes is checked)
//!              ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//!              each 8 hexadecimal digits
//! ```
//!
//! A packer may lengthen a name with NULs so that the data starts on a page boundary.
//!
//! What is not here: where members go. Names are bytes as found; the unpacker decides what they mean, and links
//! members with equal [`Header::link_key`] to one file until [`Item::Trailer`] ends an archive.
//!
//! # Invariants
//!
//! - C1: no input makes it panic, loop or allocate more than a name (4 KiB) and a decoder's window.
//! - C2: after an error every further call gives an error.
//!
//! Sources: Documentation/driver-api/early-userspace/buffer-format.rst (Linux 7.2), cpio(5), RFC 1952 (gzip),
//! RFC 8878 (zstd).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod archive;
mod crc32;
mod decode;
mod input;

pub use archive::{Archive, Header, Item, LinkKey, NAME_MAX_LEN};
pub use decode::Decoder;
pub use input::{Input, PageInput, SliceInput};

/// Why an archive cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The input ends inside a member or a compressed stream.
    Truncated,
    /// Neither a header, a known compression nor padding stands at this offset of the segment.
    Garbage {
        /// Offset in bytes from the start of the segment.
        offset: u64,
    },
    /// A header field is not hexadecimal.
    BadHeader {
        /// Offset in bytes of the header from the start of the segment.
        offset: u64,
    },
    /// The data of a "crc" member does not add up to its check field.
    BadChecksum,
    /// A compressed stream is damaged.
    Corrupt(&'static str),
    /// The segment is compressed in a way that this reader does not know.
    Unsupported(&'static str),
    /// No memory for the decoder.
    NoMemory,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Truncated => f.write_str("the archive is truncated"),
            Error::Garbage { offset } => write!(f, "no archive member at offset {offset:#x}"),
            Error::BadHeader { offset } => write!(f, "bad member header at offset {offset:#x}"),
            Error::BadChecksum => f.write_str("checksum mismatch in a member"),
            Error::Corrupt(what) => write!(f, "damaged {what} data"),
            Error::Unsupported(what) => write!(f, "{what} compression is not supported"),
            Error::NoMemory => f.write_str("out of memory"),
        }
    }
}
