//! What can go wrong with an image.

/// Result of this crate.
pub type Result<T> = core::result::Result<T, Error>;

/// Why an operation on an image failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The image contradicts the format; the text says where.
    Corrupt(&'static str),
    /// The image uses a feature that is not supported.
    Unsupported(&'static str),
    /// The contents lie in the inode: there is no map of blocks.
    Inline,
    /// The device failed.
    Io,
    /// No free block, inode, or room in a structure of fixed size.
    NoSpace,
    /// No memory.
    NoMemory,
    /// The name is not there.
    NotFound,
    /// The name is there already.
    Exists,
    /// The directory has entries.
    NotEmpty,
    /// The file would be larger than its block map can tell.
    TooBig,
    /// A link count would be too large.
    TooManyLinks,
}
