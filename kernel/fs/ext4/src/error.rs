//! Errors of the format as errno values, and back.

use abi::Errno;
use ext4_image::Error;

/// What a program sees.
pub(crate) fn errno(error: Error) -> Errno {
    match error {
        Error::Corrupt(_) | Error::Inline => Errno::EUCLEAN,
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::Io => Errno::EIO,
        Error::NoSpace => Errno::ENOSPC,
        Error::NoMemory => Errno::ENOMEM,
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::TooBig => Errno::EFBIG,
        Error::TooManyLinks => Errno::EMLINK,
    }
}

/// An error of the device.
pub(crate) fn from_device(errno: Errno) -> Error {
    if errno == Errno::ENOMEM { Error::NoMemory } else { Error::Io }
}
