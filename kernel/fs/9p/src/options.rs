//! Mount options (Documentation/filesystems/9p.rst of Linux 7.2).

use alloc::format;
use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::params::{self, Param, Takes, Value};

use crate::fid::copy;

/// The size of messages that is asked for without `msize`; not shown then.
const DEFAULT_MSIZE: u32 = 128 * 1024;
/// `dfltuid` and `dfltgid` when nothing else is said: -2.
const NOBODY: u32 = u32::MAX - 1;
const DEFAULT_UNAME: &[u8] = b"nobody";

/// What is kept of files, in the bits of Linux's `cache=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cache(u32);

impl Cache {
    const FILE: u32 = 1;
    const META: u32 = 2;
    const WRITEBACK: u32 = 4;
    const LOOSE: u32 = 8;

    /// The mode called `text`, or a number of bits. `EINVAL`: a word that is none, or a cache on a disk.
    fn parse(text: &[u8]) -> Result<Self> {
        let bits = match text {
            b"none" => 0,
            b"readahead" => Self::FILE,
            b"mmap" => Self::FILE | Self::WRITEBACK,
            b"loose" => Self::FILE | Self::META | Self::WRITEBACK | Self::LOOSE,
            _ => {
                let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
                let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
                u32::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)?
            }
        };
        if bits > 0xf { Err(Errno::EINVAL) } else { Ok(Self(bits)) }
    }

    /// Are pages of files kept from one read to the next?
    pub(crate) fn keeps_pages(self) -> bool {
        self.0 & (Self::FILE | Self::LOOSE) != 0
    }

    /// Are writes kept for a while?
    pub(crate) fn keeps_writes(self) -> bool {
        self.0 & (Self::WRITEBACK | Self::LOOSE) != 0
    }

    /// Are names and attributes believed without asking the server?
    pub(crate) fn keeps_names(self) -> bool {
        self.0 & (Self::META | Self::LOOSE) != 0
    }
}

/// Whose files they are to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Each user's, as the modes say.
    User,
    /// The same.
    Client,
    /// Everybody's.
    Any,
    /// One user's; others have no access.
    Single(u32),
}

/// What the options say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) msize: u32,
    pub(crate) cache: Cache,
    pub(crate) access: Access,
    pub(crate) uname: Vec<u8>,
    pub(crate) aname: Vec<u8>,
    uid: u32,
    gid: u32,
    afid: u32,
    debug: u32,
    /// Reads and writes go past the page cache.
    pub(crate) is_direct: bool,
    pub(crate) has_no_xattrs: bool,
    ignores_versions: bool,
    maps_no_devices: bool,
}

pub(crate) const PARAMS: &[Param] = &[
    Param::new("debug", Takes::Number),
    Param::new("dfltuid", Takes::Number),
    Param::new("dfltgid", Takes::Number),
    Param::new("afid", Takes::Number),
    Param::new("uname", Takes::Text),
    Param::new("aname", Takes::Text),
    Param::new("nodevmap", Takes::Nothing),
    Param::new("noxattr", Takes::Nothing),
    Param::new("directio", Takes::Nothing),
    Param::new("ignoreqv", Takes::Nothing),
    Param::new("cache", Takes::Text),
    Param::new("access", Takes::Text),
    Param::new("posixacl", Takes::Nothing),
    Param::new("locktimeout", Takes::Number),
    Param::new("msize", Takes::Number),
    // The one protocol and the one transport that there are.
    Param::new("version", Takes::Word(&["9p2000.L"])),
    Param::new("trans", Takes::Word(&["virtio"])),
];

impl Options {
    /// `EINVAL`: an option that is unknown or not supported, or messages below 4 KiB.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut options = Self {
            msize: DEFAULT_MSIZE,
            cache: Cache(0),
            access: Access::Client,
            uname: copy(DEFAULT_UNAME)?,
            aname: Vec::new(),
            uid: NOBODY,
            gid: NOBODY,
            afid: p9_wire::NO_FID,
            debug: 0,
            is_direct: false,
            has_no_xattrs: false,
            ignores_versions: false,
            maps_no_devices: false,
        };
        params::each(PARAMS, data, |name, value| options.set(name, value))?;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: Value<'_>) -> Result<()> {
        match (name, value) {
            ("debug", number) => self.debug = number.as_u32()?,
            ("dfltuid", number) => self.uid = number.as_u32()?,
            ("dfltgid", number) => self.gid = number.as_u32()?,
            ("afid", number) => self.afid = number.as_u32()?,
            ("uname", Value::Text(text)) => self.uname = copy(text)?,
            ("aname", Value::Text(text)) => self.aname = copy(text)?,
            ("nodevmap", _) => self.maps_no_devices = true,
            ("noxattr", _) => self.has_no_xattrs = true,
            ("directio", _) => self.is_direct = true,
            ("ignoreqv", _) => self.ignores_versions = true,
            ("cache", Value::Text(text)) => self.cache = Cache::parse(text)?,
            ("access", Value::Text(text)) => self.access = parse_access(text)?,
            ("posixacl", _) => {
                log::warn!("9p: without access-control lists the option posixacl means nothing")
            }
            ("msize", number) => {
                self.msize = number.as_u32()?;
                if self.msize < p9_wire::MIN_MSIZE {
                    return Err(Errno::EINVAL);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Appends them as /proc/mounts shows them; `msize` is what was agreed on.
    pub(crate) fn show(&self, msize: u32, out: &mut Vec<u8>) {
        let mut number = |name: &str, value: u32, default: u32| {
            if value != default {
                out.extend(format!(",{name}={value}").bytes());
            }
        };
        number("debug", self.debug, 0);
        number("dfltuid", self.uid, NOBODY);
        number("dfltgid", self.gid, NOBODY);
        number("afid", self.afid, p9_wire::NO_FID);
        for (name, text, default) in [(",uname=", &self.uname, DEFAULT_UNAME), (",aname=", &self.aname, b"")]
        {
            if text != default {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(text);
            }
        }
        let mut flag = |is_set: bool, text: &str| {
            if is_set {
                out.extend_from_slice(text.as_bytes());
            }
        };
        flag(self.maps_no_devices, ",nodevmap");
        flag(self.cache.0 != 0, &format!(",cache={:x}", self.cache.0));
        match self.access {
            Access::User => flag(true, ",access=user"),
            Access::Client => flag(true, ",access=client"),
            Access::Any => flag(true, ",access=any"),
            Access::Single(uid) => flag(true, &format!(",access={uid}")),
        }
        flag(self.ignores_versions, ",ignoreqv");
        flag(self.is_direct, ",directio");
        flag(self.has_no_xattrs, ",noxattr");
        flag(msize != DEFAULT_MSIZE, &format!(",msize={msize}"));
        flag(true, ",trans=virtio");
    }
}

fn parse_access(text: &[u8]) -> Result<Access> {
    match text {
        b"user" => Ok(Access::User),
        b"client" => Ok(Access::Client),
        b"any" => Ok(Access::Any),
        _ => {
            let number = core::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            number.filter(|uid| *uid != p9_wire::NO_ID).map(Access::Single).ok_or(Errno::EINVAL)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let options = Options::parse(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        options.show(options.msize, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn options_are_read_and_shown() {
        assert_eq!(shown("trans=virtio,version=9p2000.L"), ",access=client,trans=virtio");
        let text = "trans=virtio,version=9p2000.L,msize=262144,cache=loose,access=any,uname=me,aname=/x";
        assert_eq!(shown(text), ",uname=me,aname=/x,cache=f,access=any,msize=262144,trans=virtio");
        assert_eq!(shown("cache=mmap,access=7,noxattr"), ",cache=5,access=7,noxattr,trans=virtio");
        assert_eq!(shown("cache=0x1"), ",cache=1,access=client,trans=virtio");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in
            ["cache=fscache", "cache=16", "access=me", "msize=4095", "trans=tcp", "version=9p2000", "x"]
        {
            assert_eq!(Options::parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
