//! What a process's user and time namespaces translate (user_namespaces(7), time_namespaces(7)).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use ns::time::Clock;
use security::{Cap, Extent, IdKind, MAX_EXTENTS};
use vfs::text::{Content, Text, TextFile};
use vfs::{File, FileMode, FileOps, Whence, put};

use super::Subject;

/// Longest text of a map that is read (Linux: less than a page).
const MAX_TEXT: usize = hal::PAGE_SIZE - 1;

/// A map: text to read, and one write that must hold all of it.
struct MapFile {
    subject: Subject,
    kind: IdKind,
    text: Arc<dyn FileOps>,
}

/// The lines of a map.
struct MapText(security::UserNs, IdKind);

impl Content for MapText {
    fn show(&self, out: &mut Text) -> Result<()> {
        let reader = process::try_current().map(|me| me.cred().user_ns.clone()).unwrap_or_default();
        for Extent { first, lower, count } in self.0.show_map(self.1, &reader) {
            put!(out, "{first:10} {lower:10} {count:10}\n");
        }
        Ok(())
    }
}

fn open(subject: &Subject, kind: IdKind) -> Result<Arc<dyn FileOps>> {
    let text = TextFile::open(MapText(subject.task.cred().user_ns.clone(), kind));
    let subject = Subject { task: subject.task.clone(), is_whole: subject.is_whole, ns: subject.ns.clone() };
    Ok(Arc::new(MapFile { subject, kind, text }))
}

/// /proc/PID/uid_map.
pub(super) fn open_users(subject: &Subject) -> Result<Arc<dyn FileOps>> {
    open(subject, IdKind::User)
}

/// /proc/PID/gid_map.
pub(super) fn open_groups(subject: &Subject) -> Result<Arc<dyn FileOps>> {
    open(subject, IdKind::Group)
}

/// /proc/PID/projid_map.
pub(super) fn open_projects(subject: &Subject) -> Result<Arc<dyn FileOps>> {
    open(subject, IdKind::Project)
}

impl FileOps for MapFile {
    fn mode(&self) -> FileMode {
        self.text.mode()
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        self.text.read(file, dst, pos)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        self.text.seek(file, offset, whence)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let len = src.remaining();
        if pos != 0 || len > MAX_TEXT {
            return Err(Errno::EINVAL);
        }
        let mut bytes = alloc::vec![0; len];
        if src.take_bytes(&mut bytes)? < len {
            return Err(Errno::EFAULT);
        }
        let user_ns = self.subject.task.cred().user_ns.clone();
        let writer = process::current().cred();
        let parent = user_ns.parent().ok_or(Errno::EPERM)?;
        if writer.user_ns != user_ns && writer.user_ns != *parent {
            return Err(Errno::EPERM);
        }
        user_ns.write_map(self.kind, parse_map(&bytes)?, &writer, file.cred())?;
        Ok(len)
    }
}

/// Lines of three numbers. `EINVAL`: anything else.
fn parse_map(bytes: &[u8]) -> Result<Vec<Extent>> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut extents = Vec::new();
    for line in text.trim_end_matches(['\n', '\0']).split('\n') {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u32>());
        let mut next = || numbers.next().and_then(|number| number.ok()).ok_or(Errno::EINVAL);
        let extent = Extent { first: next()?, lower: next()?, count: next()? };
        if numbers.next().is_some() || extents.len() >= MAX_EXTENTS {
            return Err(Errno::EINVAL);
        }
        extents.push(extent);
    }
    Ok(extents)
}

/// /proc/PID/setgroups.
pub(super) fn setgroups(subject: &Subject, out: &mut Text) -> Result<()> {
    let allows = subject.task.cred().user_ns.allows_setgroups();
    out.push(if allows { b"allow\n" } else { b"deny\n" });
    Ok(())
}

/// Sets it. `EINVAL`: neither word. `EPERM`: no right, or too late.
pub(super) fn set_setgroups(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let allows = match bytes.trim_ascii_end() {
        b"allow" => true,
        b"deny" => false,
        _ => return Err(Errno::EINVAL),
    };
    let user_ns = subject.task.cred().user_ns.clone();
    if !process::current().with_cred(|cred| cred.ns_capable(&user_ns, Cap::SYS_ADMIN)) {
        return Err(Errno::EPERM);
    }
    user_ns.set_allows_setgroups(allows)
}

/// /proc/PID/timens_offsets: those of children.
pub(super) fn time_offsets(subject: &Subject, out: &mut Text) -> Result<()> {
    const SECOND: i64 = 1_000_000_000;
    let proxy = subject.task.nsproxy().ok_or(Errno::ESRCH)?;
    for (name, which) in [("monotonic", Clock::Monotonic), ("boottime", Clock::Boottime)] {
        let offset = proxy.time_for_children.offset_ns(which);
        put!(out, "{name:<10} {:10} {:9}\n", offset.div_euclid(SECOND), offset.rem_euclid(SECOND));
    }
    Ok(())
}

/// Sets them: lines of a clock's name or number, seconds and nanoseconds.
pub(super) fn set_time_offsets(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let proxy = subject.task.nsproxy().ok_or(Errno::ESRCH)?;
    let ns = &proxy.time_for_children;
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut changes = Vec::new();
    for line in text.trim_end_matches(['\n', '\0']).split('\n') {
        let mut words = line.split_ascii_whitespace();
        let which = match words.next() {
            Some("monotonic" | "1") => Clock::Monotonic,
            Some("boottime" | "7") => Clock::Boottime,
            _ => return Err(Errno::EINVAL),
        };
        let mut next = || words.next().and_then(|word| word.parse::<i64>().ok()).ok_or(Errno::EINVAL);
        let change = (which, next()?, next()?);
        if words.next().is_some() || changes.len() >= 2 {
            return Err(Errno::EINVAL);
        }
        changes.push(change);
    }
    if !process::current().with_cred(|cred| cred.ns_capable(ns.id().owner(), Cap::SYS_TIME)) {
        return Err(Errno::EPERM);
    }
    ns.set_offsets(&changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_lines_of_three_numbers() {
        let one = Extent { first: 0, lower: 1000, count: 1 };
        assert_eq!(parse_map(b"0 1000 1\n"), Ok(Vec::from([one])));
        assert_eq!(parse_map(b"         0       1000          1"), Ok(Vec::from([one])));
        assert_eq!(parse_map(b"0 1000 1\n5 2000 2\n").unwrap().len(), 2);
        for bad in [&b""[..], b"0 1000", b"0 1000 1 1", b"x 0 1", b"-1 0 1", b"0 0 1\n\n0 1 1"] {
            assert_eq!(parse_map(bad), Err(Errno::EINVAL));
        }
    }
}
