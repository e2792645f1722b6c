//! The static part: a tree of tables.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::fs::S_IFREG;
use abi::{Errno, Result};
use security::{Access, Cred};
use vfs::inode::{Link, SetAttr};
use vfs::listing::{DirFile, Each, Listing};
use vfs::put;
use vfs::text::{Content, Text, TextFile};
use vfs::{FileOps, Inode, InodeFlags, InodeOps, OpenRequest};

use crate::dir::{DIR, Fresh, LINK};

/// Makes the text of a file.
pub(crate) type Show = fn(&mut Text) -> Result<()>;
/// Takes what is written to a file.
pub(crate) type Store = fn(&[u8]) -> Result<()>;

/// A name in a static directory.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// What is behind the name.
pub(crate) enum Kind {
    /// A directory.
    Dir(&'static [Entry]),
    /// A symbolic link.
    Link(&'static str),
    /// Text for all to read.
    Text(Show),
    /// Text with these permissions.
    Mode(u32, Show),
    /// A file that is no text, for root only.
    Private(fn() -> Result<Arc<dyn FileOps>>),
    /// A tunable that only shows, with a fixed value.
    Fixed(&'static str),
    /// A tunable that only shows.
    Shown(Show),
    /// A tunable.
    Tunable(Show, Store),
    /// A tunable that is only written.
    Trigger(Store),
    /// A tunable number of another crate and the values that it takes.
    Number32(&'static AtomicU32, RangeInclusive<u32>),
    /// As `Number32`, wider.
    Number64(&'static AtomicU64, RangeInclusive<u64>),
}

impl Kind {
    fn mode(&self) -> u32 {
        match self {
            Kind::Dir(_) => DIR,
            Kind::Link(_) => LINK,
            Kind::Text(_) | Kind::Fixed(_) | Kind::Shown(_) => S_IFREG | 0o444,
            Kind::Mode(mode, _) => S_IFREG | mode,
            Kind::Private(_) => S_IFREG | 0o400,
            Kind::Trigger(_) => S_IFREG | 0o200,
            Kind::Tunable(..) | Kind::Number32(..) | Kind::Number64(..) => S_IFREG | 0o644,
        }
    }

    fn is_tunable(&self) -> bool {
        !matches!(self, Kind::Dir(_) | Kind::Link(_) | Kind::Text(_) | Kind::Mode(..) | Kind::Private(_))
    }
}

/// A text entry.
pub(crate) const fn text(name: &'static str, show: Show) -> Entry {
    Entry { name, kind: Kind::Text(show) }
}

/// A directory entry.
pub(crate) const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, kind: Kind::Dir(entries) }
}

/// A tunable whose value never changes.
pub(crate) const fn fixed(name: &'static str, value: &'static str) -> Entry {
    Entry { name, kind: Kind::Fixed(value) }
}

/// Finds `name` in a table.
pub(crate) fn find(entries: &'static [Entry], name: &[u8]) -> Option<&'static Entry> {
    entries.iter().find(|entry| entry.name.as_bytes() == name)
}

/// Makes the inode of a table's entry.
pub(crate) fn make(dir: &Inode, entry: &'static Entry) -> Arc<Inode> {
    let mut new = Fresh::root_owned(dir, entry.name.as_bytes(), entry.kind.mode());
    if entry.kind.is_tunable() {
        new.flags = InodeFlags::OWN_PERMISSION;
    }
    new.make(Box::new(Static(&entry.kind)))
}

/// Lists a table; gives `false` when the listener has had enough.
pub(crate) fn list(entries: &'static [Entry], from: u64, each: &mut Each<'_>) -> bool {
    let start = usize::try_from(from).unwrap_or(usize::MAX);
    for (at, entry) in entries.iter().enumerate().skip(start) {
        if !each(entry.name.as_bytes(), entry.kind.mode(), at as u64 + 1) {
            return false;
        }
    }
    true
}

struct Table(&'static [Entry]);

impl Listing for Table {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        list(self.0, from, each);
        Ok(())
    }
}

/// The operations of an entry's inode.
struct Static(&'static Kind);

impl InodeOps for Static {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let Kind::Dir(entries) = self.0 else { return Err(Errno::ENOTDIR) };
        // An error and not a negative entry: what cannot be made is not there, also for open(2) with O_CREAT.
        find(entries, name).map(|entry| Some(make(dir, entry))).ok_or(Errno::ENOENT)
    }

    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        match self.0 {
            Kind::Link(target) => Ok(Link::Target(target.as_bytes().to_vec())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(match self.0 {
            Kind::Dir(entries) => Arc::new(DirFile(Table(entries))),
            Kind::Text(show) | Kind::Mode(_, show) => TextFile::open(*show),
            Kind::Private(open) => open()?,
            _ => TextFile::open(Tunable(self.0)),
        })
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        // Truncating is no error, so that a shell's `>` works. Tunables keep their owner and mode.
        if self.0.is_tunable() && (change.mode.is_some() || change.uid.is_some() || change.gid.is_some()) {
            return Err(Errno::EPERM);
        }
        inode.apply(change);
        Ok(())
    }

    /// For tunables: root and its group have the rights that the mode gives them, whatever capabilities the caller has.
    fn permission(&self, inode: &Inode, cred: &Cred, wanted: Access) -> Result<()> {
        let shift = match cred {
            cred if cred.euid == 0 => 6,
            cred if cred.in_egroup(0) => 3,
            _ => 0,
        };
        let granted = inode.mode() >> shift;
        if wanted.bits() & !granted == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }
}

/// The content of a tunable.
struct Tunable(&'static Kind);

impl Content for Tunable {
    fn show(&self, out: &mut Text) -> Result<()> {
        match self.0 {
            Kind::Fixed(value) => put!(out, "{value}\n"),
            Kind::Shown(show) | Kind::Tunable(show, _) => show(out)?,
            Kind::Number32(value, _) => put!(out, "{}\n", value.load(Relaxed)),
            Kind::Number64(value, _) => put!(out, "{}\n", value.load(Relaxed)),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        match self.0 {
            Kind::Tunable(_, store) | Kind::Trigger(store) => store(bytes)?,
            Kind::Number32(value, range) => {
                let new = u32::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)?;
                value.store(within(new, range)?, Relaxed);
            }
            Kind::Number64(value, range) => {
                let new = u64::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)?;
                value.store(within(new, range)?, Relaxed);
            }
            _ => return Err(Errno::EPERM),
        }
        Ok(())
    }
}

fn within<T: PartialOrd + Copy>(value: T, range: &RangeInclusive<T>) -> Result<T> {
    if range.contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

/// A decimal number with white space around it. `EINVAL`: anything else.
pub(crate) fn parse(bytes: &[u8]) -> Result<i64> {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or(&[]);
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    text.trim().parse().map_err(|_| Errno::EINVAL)
}

/// What was written, up to its first newline or NUL.
pub(crate) fn line(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == b'\n' || byte == 0).next().unwrap_or(&[])
}

/// Appends `bytes` up to the first NUL.
pub(crate) fn push_c_string(out: &mut Text, bytes: &[u8]) {
    out.push(bytes.split(|&byte| byte == 0).next().unwrap_or(&[]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_white_space_and_nothing_else() {
        assert_eq!(parse(b" 12\n"), Ok(12));
        assert_eq!(parse(b"-1000"), Ok(-1000));
        assert_eq!(parse(b"5\0junk"), Ok(5));
        for bad in [&b""[..], b"words", b"1 2", b"0x10", b"99999999999999999999"] {
            assert_eq!(parse(bad), Err(Errno::EINVAL));
        }
        assert_eq!(line(b"keel\nrest"), b"keel");
    }

    #[test]
    fn tunables_refuse_what_is_out_of_range() {
        static VALUE: AtomicU32 = AtomicU32::new(1);
        static KIND: Kind = Kind::Number32(&VALUE, 0..=2);
        assert_eq!(Tunable(&KIND).store(b"2\n"), Ok(()));
        assert_eq!(Tunable(&KIND).store(b"3"), Err(Errno::EINVAL));
        assert_eq!(VALUE.load(Relaxed), 2);
    }
}
