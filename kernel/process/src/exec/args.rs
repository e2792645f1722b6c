//! Arguments and environment: collected from the old program, before anything of it is given up.
//!
//! Sources: execve(2), "Limits on size of arguments and environment".

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::{PAGE_SIZE, UserAddr, user};

/// Longest single string with its NUL (`MAX_ARG_STRLEN`).
const MAX_STRING: usize = 32 * PAGE_SIZE;
/// What is always allowed in total (`ARG_MAX`).
const MIN_TOTAL: u64 = 128 * 1024;
/// What is never exceeded: three quarters of the default stack.
const MAX_TOTAL: u64 = 6 << 20;
/// Most pointers in one array (`MAX_ARG_STRINGS`).
const MAX_STRINGS: usize = 0x7fff_ffff;

/// A list of strings, each with its NUL, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Strings {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Strings {
    /// Appends `string`. `ENOMEM`.
    pub(super) fn push(&mut self, string: &[u8]) -> Result<()> {
        self.bytes.try_reserve(string.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    /// Replaces the first string by `new` (a script's call becomes one of its interpreter).
    pub(super) fn replace_first(&mut self, new: &[&[u8]]) -> Result<()> {
        let rest = self.bytes.iter().position(|byte| *byte == 0).map_or(self.bytes.len(), |nul| nul + 1);
        let mut changed = Self::default();
        for string in new {
            changed.push(string)?;
        }
        let rest = self.bytes.get(rest..).unwrap_or_default();
        changed.bytes.try_reserve(rest.len()).map_err(|_| Errno::ENOMEM)?;
        changed.bytes.extend_from_slice(rest);
        changed.count += self.count.saturating_sub(1);
        *self = changed;
        Ok(())
    }

    /// Puts `new` before all others.
    pub(super) fn push_front(&mut self, new: &[&[u8]]) -> Result<()> {
        let mut changed = Self::default();
        for string in new {
            changed.push(string)?;
        }
        changed.bytes.try_reserve(self.bytes.len()).map_err(|_| Errno::ENOMEM)?;
        changed.bytes.extend_from_slice(&self.bytes);
        changed.count += self.count;
        *self = changed;
        Ok(())
    }

    /// Reads the NULL-terminated array of strings at `array`; NULL itself is an empty one.
    ///
    /// `E2BIG`: a string of more than [`MAX_STRING`], or more than `room` bytes in all, eight for each pointer included.
    pub(super) fn read(array: UserAddr, room: &mut u64) -> Result<Self> {
        let mut strings = Self::default();
        if array.is_null() {
            return Ok(strings);
        }
        loop {
            let at = UserAddr(array.0.wrapping_add(strings.count as u64 * 8));
            let string: u64 = user::read(at)?;
            if string == 0 {
                return Ok(strings);
            }
            if strings.count >= MAX_STRINGS {
                return Err(Errno::E2BIG);
            }
            let before = strings.bytes.len();
            append(&mut strings.bytes, UserAddr(string), *room)?;
            strings.count += 1;
            let used = (strings.bytes.len() - before + 8) as u64;
            *room = room.checked_sub(used).ok_or(Errno::E2BIG)?;
        }
    }
}

/// Appends the string at `from` with its NUL to `bytes`. `E2BIG`: it is longer than a string may be, or than `room`.
fn append(bytes: &mut Vec<u8>, from: UserAddr, room: u64) -> Result<()> {
    let mut chunk = [0; 256];
    let mut len = 0;
    while len < MAX_STRING && len as u64 <= room {
        let at = UserAddr(from.0.wrapping_add(len as u64));
        // Not beyond the page: the string may end just before one that cannot be read.
        let wanted = chunk.len().min(PAGE_SIZE - at.page_offset()).min(MAX_STRING - len);
        let part = chunk.get_mut(..wanted).ok_or(Errno::EFAULT)?;
        let got = user::read_partial(at, part);
        let part = part.get(..got).unwrap_or_default();
        let nul = part.iter().position(|byte| *byte == 0);
        let part = nul.and_then(|nul| part.get(..=nul)).unwrap_or(part);
        bytes.try_reserve(part.len()).map_err(|_| Errno::ENOMEM)?;
        bytes.extend_from_slice(part);
        if nul.is_some() {
            return Ok(());
        }
        if got < wanted {
            return Err(Errno::EFAULT);
        }
        len += got;
    }
    Err(Errno::E2BIG)
}

/// How many bytes arguments, environment and their pointers may take under a stack limit.
pub(super) fn room(stack_limit: u64) -> u64 {
    (stack_limit / 4).clamp(MIN_TOTAL, MAX_TOTAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_call_becomes_a_call_of_its_interpreter() {
        let mut args = Strings::default();
        for string in [&b"name"[..], b"x", b""] {
            args.push(string).unwrap();
        }
        args.replace_first(&[b"/bin/sh", b"-e", b"./script"]).unwrap();
        assert_eq!(args.bytes, b"/bin/sh\0-e\0./script\0x\0\0");
        assert_eq!(args.count, 5);
        args.push_front(&[b"a", b"b"]).unwrap();
        assert_eq!((&args.bytes[..12], args.count), (&b"a\0b\0/bin/sh\0"[..], 7));
    }

    #[test]
    fn the_stack_limit_bounds_the_arguments() {
        assert_eq!(room(8 << 20), 2 << 20);
        assert_eq!(room(u64::MAX), MAX_TOTAL);
        assert_eq!(room(0), MIN_TOTAL);
    }
}
