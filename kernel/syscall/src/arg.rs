//! Argument types of system calls: each decodes and checks itself from one register.

use abi::Errno;
use bitflags::Flags;
use hal::addr::UserAddr;

use crate::Result;

/// How much of a system call Keel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All that Linux 7.2 has.
    Full,
    /// Some of it; the text says what is missing and what that returns.
    Partial(&'static str),
    /// `ENOSYS`.
    Absent,
}

/// A value that one argument register decodes to.
pub trait Arg: Sized {
    /// Decodes `register`. The error is what the system call returns.
    fn decode(register: u64) -> Result<Self>;
}

macro_rules! plain_args {
    ($($ty:ty),*) => {
        $(impl Arg for $ty {
            /// Takes the low bits of the register, as the C ABI does for a narrow integer.
            #[inline]
            fn decode(register: u64) -> Result<Self> {
                Ok(register as $ty)
            }
        })*
    };
}

plain_args!(i32, u32, i64, u64, usize, u16);

impl Arg for UserAddr {
    /// An address as user space alleges it: checked when it is used.
    #[inline]
    fn decode(register: u64) -> Result<Self> {
        Ok(UserAddr(register))
    }
}

/// A 32-bit flag argument of which Linux refuses unknown bits with `EINVAL`.
#[derive(Clone, Copy, Debug)]
pub struct Strict<F>(pub F);

impl<F: Flags<Bits = u32>> Arg for Strict<F> {
    #[inline]
    fn decode(register: u64) -> Result<Self> {
        F::from_bits(register as u32).map(Strict).ok_or(Errno::EINVAL)
    }
}

/// A 32-bit flag argument of which Linux ignores unknown bits.
#[derive(Clone, Copy, Debug)]
pub struct Lenient<F>(pub F);

impl<F: Flags<Bits = u32>> Arg for Lenient<F> {
    #[inline]
    fn decode(register: u64) -> Result<Self> {
        Ok(Lenient(F::from_bits_truncate(register as u32)))
    }
}
