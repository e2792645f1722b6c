//! What is written to the files of a group, but for those that move tasks.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use cgroup::{Cgroup, Controllers, EventFile, NO_LIMIT, Node, pids};
use process::membership;

use crate::file::Opened;
use crate::part::Part;
use crate::table;

/// A number as kstrtol of Linux reads it: decimal, octal or hexadecimal, with a sign. `EINVAL`; `ERANGE`: too large.
pub(crate) fn number(bytes: &[u8]) -> Result<i64> {
    let text = core::str::from_utf8(bytes.trim_ascii()).map_err(|_| Errno::EINVAL)?;
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..).unwrap_or_default()),
        [b'+', ..] => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let (digits, base) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (digits.get(2..).unwrap_or_default(), 16),
        [b'0', _, ..] => (digits.get(1..).unwrap_or_default(), 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(Errno::EINVAL);
    }
    let value = i64::from_str_radix(digits, base).map_err(|_| Errno::ERANGE)?;
    Ok(if is_negative { -value } else { value })
}

/// The same within 32 bits.
pub(crate) fn number32(bytes: &[u8]) -> Result<i32> {
    i32::try_from(number(bytes)?).map_err(|_| Errno::ERANGE)
}

/// "max", or a number that is not negative. `ERANGE`: it is.
fn limit(bytes: &[u8]) -> Result<u32> {
    if bytes.trim_ascii() == b"max" {
        return Ok(NO_LIMIT);
    }
    u32::try_from(number32(bytes)?).map_err(|_| Errno::ERANGE)
}

fn store_limit(opened: &Opened, place: fn(&Cgroup) -> &AtomicU32, bytes: &[u8]) -> Result<()> {
    let limit = limit(bytes)?;
    let _held = cgroup::lock();
    place(&opened.group).store(limit, Relaxed);
    Ok(())
}

pub(crate) fn max_descendants(opened: &Opened, bytes: &[u8]) -> Result<()> {
    store_limit(opened, Cgroup::max_descendants, bytes)
}

pub(crate) fn max_depth(opened: &Opened, bytes: &[u8]) -> Result<()> {
    store_limit(opened, Cgroup::max_depth, bytes)
}

/// cgroup.type: a group can only become threaded. `EINVAL`: anything else.
pub(crate) fn kind(opened: &Opened, bytes: &[u8]) -> Result<()> {
    if bytes.trim_ascii() != b"threaded" {
        return Err(Errno::EINVAL);
    }
    let held = cgroup::lock();
    check_alive(&opened.group, Errno::ENOENT)?;
    opened.group.make_threaded(&held)
}

fn check_alive(group: &Cgroup, error: Errno) -> Result<()> {
    if group.is_dead() { Err(error) } else { Ok(()) }
}

/// Which controllers a text turns on and off; the last word about each counts.
fn changes(bytes: &[u8]) -> Result<(Controllers, Controllers)> {
    let (mut on, mut off) = (Controllers::empty(), Controllers::empty());
    let words = bytes.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    for word in words {
        let (sign, name) = word.split_first().ok_or(Errno::EINVAL)?;
        let one = table::controller(name)?;
        match sign {
            b'+' => (on, off) = (on | one, off - one),
            b'-' => (on, off) = (on - one, off | one),
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok((on, off))
}

pub(crate) fn subtree_control(opened: &Opened, bytes: &[u8]) -> Result<()> {
    let (on, off) = changes(bytes)?;
    let group = &opened.group;
    let held = cgroup::lock();
    check_alive(group, Errno::ENODEV)?;
    group.set_subtree_control(on, off, &held)?;
    let me = process::current().cred();
    for child in group.children()? {
        let part = Part::of(&child);
        part.forget(|name| !table::named(name.as_bytes()).is_some_and(|entry| entry.is_in(&child)));
        // New files belong to who turned the controller on.
        for entry in table::of_controllers(on).filter(|entry| entry.is_in(&child)) {
            part.file_of(entry, Some((me.fsuid, me.fsgid)))?;
        }
    }
    Ok(())
}

/// `ERANGE`: neither 0 nor 1.
pub(crate) fn freeze(opened: &Opened, bytes: &[u8]) -> Result<()> {
    let freeze = number32(bytes)?;
    if !(0..=1).contains(&freeze) {
        return Err(Errno::ERANGE);
    }
    let (group, freeze) = (&opened.group, freeze == 1);
    let held = cgroup::lock();
    check_alive(group, Errno::ENOENT)?;
    if group.own_freeze() == freeze {
        return Ok(());
    }
    let before = group.freezes();
    membership::set_freeze(group, freeze, &held)?;
    if group.freezes() == before {
        // A group above decides: who waits for a change is told that there is nothing to wait for.
        Part::of(group).changed(EventFile::Group);
    }
    Ok(())
}

/// `ERANGE`: not 1. `EOPNOTSUPP`: the group is threaded, and processes are not in it as a whole.
pub(crate) fn kill(opened: &Opened, bytes: &[u8]) -> Result<()> {
    if number32(bytes)? != 1 {
        return Err(Errno::ERANGE);
    }
    let held = cgroup::lock();
    check_alive(&opened.group, Errno::ENOENT)?;
    if opened.group.is_threaded() {
        return Err(Errno::EOPNOTSUPP);
    }
    membership::kill_all(&opened.group, &held)
}

/// `EINVAL`: negative, or more than there are ids. `ENODEV`: the controller is off.
pub(crate) fn pids_max(opened: &Opened, bytes: &[u8]) -> Result<()> {
    let max = match bytes.trim_ascii() {
        b"max" => pids::NO_LIMIT,
        text => u64::try_from(number(text)?).ok().filter(|max| *max <= pids::MOST).ok_or(Errno::EINVAL)?,
    };
    // The controller is not turned off between: a limit that no file shows would stay.
    let _held = cgroup::lock();
    opened.check()?;
    opened.group.set_max_pids(max);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_c() {
        let all =
            [number(b"10\n"), number(b" 0x1f"), number(b"010"), number(b"-5"), number(b"+7"), number(b"0")];
        assert_eq!(all, [Ok(10), Ok(31), Ok(8), Ok(-5), Ok(7), Ok(0)]);
        for bad in [&b""[..], b"x", b"1 2", b"0x", b"--1", b"08", b"1.5"] {
            assert_eq!(number(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(number(b"99999999999999999999"), Err(Errno::ERANGE));
        assert_eq!(number32(b"2147483648"), Err(Errno::ERANGE));
    }

    #[test]
    fn limits_are_numbers_or_max() {
        assert_eq!((limit(b"max\n"), limit(b"3")), (Ok(NO_LIMIT), Ok(3)));
        assert_eq!((limit(b"-1"), limit(b"maximum")), (Err(Errno::ERANGE), Err(Errno::EINVAL)));
    }

    #[test]
    fn the_last_word_about_a_controller_counts() {
        let (pids, none) = (Controllers::PIDS, Controllers::empty());
        assert_eq!(changes(b"+pids\n"), Ok((pids, none)));
        assert_eq!(changes(b"+pids -pids"), Ok((none, pids)));
        assert_eq!(changes(b" "), Ok((none, none)));
        for bad in [&b"pids"[..], b"+nothing", b"+", b"*pids"] {
            assert_eq!(changes(bad), Err(Errno::EINVAL));
        }
    }
}
