//! The few ways in which the machine refuses.

/// A user address that could not be accessed; user space sees `EFAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// No physical memory was left; user space sees `ENOMEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Why no NUL-terminated string could be read from user memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CStrError {
    /// The memory is not accessible (`EFAULT`).
    Fault,
    /// No NUL byte within the limit (`ENAMETOOLONG` or `E2BIG`, as the caller decides).
    TooLong,
    /// The buffer could not be allocated (`ENOMEM`).
    NoMemory,
}

impl From<Fault> for CStrError {
    #[inline]
    fn from(_: Fault) -> Self {
        CStrError::Fault
    }
}

impl From<Fault> for abi::Errno {
    #[inline]
    fn from(_: Fault) -> Self {
        abi::Errno::EFAULT
    }
}

impl From<NoMemory> for abi::Errno {
    #[inline]
    fn from(_: NoMemory) -> Self {
        abi::Errno::ENOMEM
    }
}
