//! Reading and checking of `struct perf_event_attr`.

use abi::perf::{ATTR_SIZE_VER0, AttrFlags, PerfEventAttr, ReadFormat, SampleType};
use abi::raw::general;
use abi::{Errno, Result};
use core::sync::atomic::Ordering::Relaxed;
use hal::{PAGE_SIZE, UserAddr, user};
use security::Cred;
use zerocopy::IntoBytes;

use crate::settings;

/// What is measured, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    /// As the program gave it.
    pub raw: PerfEventAttr,
    /// Its flags.
    pub flags: AttrFlags,
    /// What a read gives.
    pub read_format: ReadFormat,
}

impl Attr {
    /// Whether it has all of `flags`.
    pub fn has(&self, flags: AttrFlags) -> bool {
        self.flags.contains(flags)
    }

    /// Whether samples are wanted.
    pub fn is_sampling(&self) -> bool {
        self.raw.sample_period != 0
    }
}

/// Reads the structure at `addr`: as much of it as its own size says.
///
/// `E2BIG`: it is too small or too large, or what this kernel does not know is not 0; the known size is written to it.
/// `EFAULT`.
pub(crate) fn read(addr: UserAddr) -> Result<PerfEventAttr> {
    const SIZE_AT: u64 = 4;
    let size_at = UserAddr(addr.0.wrapping_add(SIZE_AT));
    let size: u32 = user::read(size_at)?;
    let size = if size == 0 { ATTR_SIZE_VER0 } else { size };
    let too_big = || {
        // The address was read a moment ago; if it has become bad, E2BIG says enough.
        let _ = user::write(size_at, &(size_of::<PerfEventAttr>() as u32));
        Errno::E2BIG
    };
    if !(ATTR_SIZE_VER0..=PAGE_SIZE as u32).contains(&size) {
        return Err(too_big());
    }
    let mut attr = PerfEventAttr::default();
    let bytes = attr.as_mut_bytes();
    let known = bytes.len().min(size as usize);
    user::read_bytes(addr, bytes.get_mut(..known).unwrap_or_default())?;
    let mut rest = [0; 64];
    let mut at = known;
    while at < size as usize {
        let len = rest.len().min(size as usize - at);
        let part = rest.get_mut(..len).unwrap_or_default();
        user::read_bytes(UserAddr(addr.0.wrapping_add(at as u64)), part)?;
        if part.iter().any(|byte| *byte != 0) {
            return Err(too_big());
        }
        at += len;
    }
    attr.size = size;
    Ok(attr)
}

/// Checks what does not depend on the caller. `EINVAL`.
pub(crate) fn check(raw: &PerfEventAttr) -> Result<Attr> {
    let flags = AttrFlags::from_bits(raw.flags).ok_or(Errno::EINVAL)?;
    let sample = SampleType::from_bits(raw.sample_type).ok_or(Errno::EINVAL)?;
    let read_format = ReadFormat::from_bits(raw.read_format).ok_or(Errno::EINVAL)?;
    let has = |wanted: AttrFlags| flags.contains(wanted);
    let stack = raw.sample_stack_user;
    let bad = raw.reserved_2 != 0
        || raw.aux_action != 0
        || (sample.contains(SampleType::STACK_USER)
            && (stack > u32::from(u16::MAX) || !stack.is_multiple_of(8) || stack == 0))
        || sample.contains(SampleType::WEIGHT | SampleType::WEIGHT_STRUCT)
        || (!has(AttrFlags::INHERIT) && has(AttrFlags::INHERIT_THREAD))
        || has(AttrFlags::REMOVE_ON_EXEC | AttrFlags::ENABLE_ON_EXEC)
        || (has(AttrFlags::SIGTRAP) && !has(AttrFlags::REMOVE_ON_EXEC))
        // Reads of a family in samples are those of one thread.
        || (has(AttrFlags::INHERIT) && sample.contains(SampleType::READ) && !sample.contains(SampleType::TID))
        || (has(AttrFlags::USE_CLOCKID) && !is_clock(raw.clockid));
    if bad {
        return Err(Errno::EINVAL);
    }
    Ok(Attr { raw: *raw, flags, read_format })
}

/// Whether times can be told by this clock.
fn is_clock(id: i32) -> bool {
    let clocks = [
        general::CLOCK_MONOTONIC,
        general::CLOCK_MONOTONIC_RAW,
        general::CLOCK_REALTIME,
        general::CLOCK_BOOTTIME,
        general::CLOCK_TAI,
    ];
    u32::try_from(id).is_ok_and(|id| clocks.contains(&id))
}

/// Checks what the caller may ask for. `EACCES`: more than `perf_event_paranoid` allows. `EINVAL`: too many samples.
pub(crate) fn check_rights(attr: &Attr, cred: &Cred) -> Result<()> {
    settings::require(cred, settings::ANYTHING)?;
    if !attr.has(AttrFlags::EXCLUDE_KERNEL) {
        settings::require(cred, settings::KERNEL)?;
    }
    if attr.has(AttrFlags::NAMESPACES) && !settings::is_privileged(cred) {
        return Err(Errno::EACCES);
    }
    let too_many = if attr.has(AttrFlags::FREQ) {
        attr.raw.sample_period > u64::from(settings::MAX_SAMPLE_RATE.load(Relaxed))
    } else {
        attr.raw.sample_period >> 63 != 0
    };
    if too_many { Err(Errno::EINVAL) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(flags: AttrFlags) -> PerfEventAttr {
        PerfEventAttr { flags: flags.bits(), ..PerfEventAttr::default() }
    }

    #[test]
    fn unknown_bits_are_refused() {
        assert!(check(&PerfEventAttr { flags: 1 << 60, ..Default::default() }).is_err());
        assert!(check(&PerfEventAttr { read_format: 32, ..Default::default() }).is_err());
        assert!(check(&PerfEventAttr { sample_type: 1 << 25, ..Default::default() }).is_err());
        assert!(check(&with(AttrFlags::DISABLED | AttrFlags::INHERIT)).is_ok());
    }

    #[test]
    fn flags_that_exclude_each_other_are_refused() {
        assert!(check(&with(AttrFlags::INHERIT_THREAD)).is_err());
        assert!(check(&with(AttrFlags::SIGTRAP)).is_err());
        assert!(check(&with(AttrFlags::REMOVE_ON_EXEC | AttrFlags::ENABLE_ON_EXEC)).is_err());
    }

    #[test]
    fn times_are_told_by_clocks_that_run() {
        let with_clock = |clockid| PerfEventAttr { clockid, ..with(AttrFlags::USE_CLOCKID) };
        assert!(check(&with_clock(1)).is_ok());
        assert!(check(&with_clock(2)).is_err()); // CLOCK_PROCESS_CPUTIME_ID
        assert!(check(&with_clock(-1)).is_err());
    }
}
