//! The filters that sockets have for what they receive (socket(7), `SO_ATTACH_FILTER`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use abi::{Errno, Result};
use cbpf::{Filter, Instruction};
use hal::sync::SpinLock;
use hal::{UserAddr, user};

use crate::options::{SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_LOCK_FILTER};

/// Bytes of `struct sock_fprog`.
const PROGRAM_LEN: usize = 16;

/// Reads the filter that a `struct sock_fprog` at `addr` names, which the caller says to have `len` bytes.
///
/// `EINVAL`: it has not, or the program may not run. `EFAULT`, `ENOMEM`. May sleep.
pub fn read(addr: UserAddr, len: usize) -> Result<Arc<Filter>> {
    if len != PROGRAM_LEN {
        return Err(Errno::EINVAL);
    }
    let [nr, at]: [u64; 2] = user::read(addr)?;
    read_program(UserAddr(at), usize::from(nr as u16))
}

/// Reads the `nr` instructions at `at` (`struct sock_filter`). Errors as for [`read`]. May sleep.
pub fn read_program(at: UserAddr, nr: usize) -> Result<Arc<Filter>> {
    if nr == 0 || nr > cbpf::MAX_LEN || at.0 == 0 {
        return Err(Errno::EINVAL);
    }
    let words: Vec<u64> = user::read_vec(at, nr).map_err(|error| match error {
        hal::CStrError::NoMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    })?;
    let mut source = Vec::new();
    source.try_reserve_exact(words.len()).map_err(|_| Errno::ENOMEM)?;
    source.extend(words.into_iter().map(Instruction::from_word));
    Filter::new(source).ok_or(Errno::ENOMEM)?.map(Arc::new).map_err(|_| Errno::EINVAL)
}

/// The place of a socket's filter.
pub struct Slot {
    filter: SpinLock<Option<Arc<Filter>>>,
    /// Changes with `filter` locked.
    is_locked: AtomicBool,
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    /// One without a filter.
    pub fn new() -> Self {
        Self { filter: SpinLock::new("net.filter", None), is_locked: AtomicBool::new(false) }
    }

    /// The filter.
    pub fn get_filter(&self) -> Option<Arc<Filter>> {
        self.filter.lock().clone()
    }

    /// Whether it may not be changed any more.
    pub fn is_locked(&self) -> bool {
        self.is_locked.load(Relaxed)
    }

    /// setsockopt(2) of option `name` with the `len` bytes at `value`.
    ///
    /// `EPERM`: it is locked. `ENOENT`: there is none to take away. Else as for [`read`].
    pub fn set(&self, name: i32, value: UserAddr, len: usize) -> Result<()> {
        if name == SO_LOCK_FILTER {
            let locks = user::read::<i32>(value)? != 0;
            let _filter = self.filter.lock();
            if self.is_locked() && !locks {
                return Err(Errno::EPERM);
            }
            self.is_locked.store(locks, Relaxed);
            return Ok(());
        }
        let new = if name == SO_DETACH_FILTER { None } else { Some(read(value, len)?) };
        let detaches = new.is_none();
        let old = {
            let mut filter = self.filter.lock();
            if self.is_locked() {
                return Err(Errno::EPERM);
            }
            core::mem::replace(&mut *filter, new)
        };
        if detaches && old.is_none() { Err(Errno::ENOENT) } else { Ok(()) }
    }

    /// getsockopt(2) of option `name`. Of the filter, `room` counts instructions, and 0 asks only how many there are.
    ///
    /// `EINVAL`: there are more. `ENOPROTOOPT`: not an option to read. `EFAULT`.
    pub fn get(&self, name: i32, value: UserAddr, len: UserAddr, room: usize) -> Result<()> {
        if name == SO_LOCK_FILTER {
            let bytes = i32::from(self.is_locked()).to_ne_bytes();
            let room = room.min(bytes.len());
            user::write_bytes(value, &bytes[..room])?;
            return Ok(user::write(len, &(room as i32))?);
        }
        if name != SO_ATTACH_FILTER {
            return Err(Errno::ENOPROTOOPT);
        }
        let filter = self.get_filter();
        let source = filter.as_ref().map_or(&[][..], |filter| filter.source());
        if room != 0 && room < source.len() {
            return Err(Errno::EINVAL);
        }
        if room != 0 {
            for (at, one) in source.iter().enumerate() {
                let word = u64::from(one.code)
                    | u64::from(one.jt) << 16
                    | u64::from(one.jf) << 24
                    | u64::from(one.k) << 32;
                user::write(UserAddr(value.0.wrapping_add(at as u64 * 8)), &word)?;
            }
        }
        Ok(user::write(len, &(source.len() as i32))?)
    }
}
