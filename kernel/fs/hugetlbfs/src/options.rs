//! Mount options (Documentation/admin-guide/mm/hugetlbpage.rst).

use alloc::format;
use alloc::vec::Vec;

use abi::{Errno, Result};
use mm::hugetlb::SIZE;
use vfs::params::{self, Param, Takes, Value};

/// An amount: bytes, or percent of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Bytes(u64),
    Percent(u64),
}

impl Amount {
    /// In huge pages, of a pool of `nr` pages.
    pub(crate) fn pages(self, nr: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes / SIZE,
            Self::Percent(percent) => (u128::from(nr) * u128::from(percent) / 100) as u64,
        }
    }

    fn of(value: Value<'_>) -> Result<Self> {
        match value {
            Value::Number(bytes) => Ok(Self::Bytes(bytes)),
            Value::Percent(percent) => Ok(Self::Percent(percent)),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What the options say; `None` where they say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) size: Option<Amount>,
    pub(crate) min_size: Option<Amount>,
    pub(crate) max_inodes: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// All options.
pub(crate) const PARAMS: &[Param] = &[
    Param::new("size", Takes::Share),
    Param::new("min_size", Takes::Share),
    Param::new("nr_inodes", Takes::Size),
    Param::new("mode", Takes::Octal),
    Param::new("uid", Takes::Number),
    Param::new("gid", Takes::Number),
    Param::new("pagesize", Takes::Size),
];

impl Options {
    /// `EINVAL`: an unknown option, a value that is no number, or a size of pages that there is not.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut options = Self::default();
        params::each(PARAMS, data, |name, value| options.set(name, value))?;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: Value<'_>) -> Result<()> {
        match (name, value) {
            ("size", size) => self.size = Some(Amount::of(size)?),
            ("min_size", size) => self.min_size = Some(Amount::of(size)?),
            ("nr_inodes", Value::Number(inodes)) => self.max_inodes = Some(inodes),
            ("mode", mode) => self.mode = Some(mode.as_u32()? & 0o1777),
            ("uid", uid) => self.uid = Some(uid.as_u32()?),
            ("gid", gid) => self.gid = Some(gid.as_u32()?),
            ("pagesize", Value::Number(SIZE)) => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// What /proc/mounts shows: the owner and mode, and in huge pages' bytes the limits `max` and `min`.
pub(crate) fn show(options: &Options, max: Option<u64>, min: u64, out: &mut Vec<u8>) {
    if let Some(uid) = options.uid.filter(|&uid| uid != 0) {
        out.extend(format!(",uid={uid}").bytes());
    }
    if let Some(gid) = options.gid.filter(|&gid| gid != 0) {
        out.extend(format!(",gid={gid}").bytes());
    }
    if let Some(mode) = options.mode.filter(|&mode| mode != 0o755) {
        out.extend(format!(",mode={mode:o}").bytes());
    }
    if let Some(inodes) = options.max_inodes {
        out.extend(format!(",nr_inodes={inodes}").bytes());
    }
    out.extend(format!(",pagesize={}M", SIZE >> 20).bytes());
    if let Some(max) = max {
        out.extend(format!(",size={}", max * SIZE).bytes());
    }
    if min > 0 {
        out.extend(format!(",min_size={}", min * SIZE).bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_parts_of_the_pool() {
        let size = |text: &str| Options::parse(text.as_bytes()).unwrap().size.map(|size| size.pages(10));
        assert_eq!(size("size=4M,uid=3"), Some(2));
        assert_eq!(size("size=5M"), Some(2));
        assert_eq!(size("size=50%"), Some(5));
        assert_eq!(size("pagesize=2M,mode=700"), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["size=", "size=x", "mode=9", "frob=1", "uid=-1", "pagesize=1G", "pagesize=4k", "size"] {
            assert_eq!(Options::parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }

    #[test]
    fn what_is_unusual_is_shown() {
        let options = Options::parse(b"uid=5,mode=0700,nr_inodes=8").unwrap();
        let mut out = Vec::new();
        show(&options, Some(2), 1, &mut out);
        assert_eq!(out, b",uid=5,mode=700,nr_inodes=8,pagesize=2M,size=4194304,min_size=2097152");
    }
}
