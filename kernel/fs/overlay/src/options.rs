//! Mount options (Documentation/filesystems/overlayfs.rst).

use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::params::{self, Param, Takes, Value};

/// What is done about directories that are renamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RedirectDir {
    /// Redirects are made and followed.
    On,
    /// They are followed, not made.
    #[default]
    Follow,
    /// Neither.
    NoFollow,
}

/// Whether numbers of inodes tell the file systems of the layers apart, as `xino` asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Xino {
    #[default]
    Off,
    Auto,
    On,
}

/// The options, checked for what can be checked without a file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Paths of the lower directories, the topmost first.
    pub(crate) lower: Vec<Vec<u8>>,
    pub(crate) upper: Option<Vec<u8>>,
    pub(crate) work: Option<Vec<u8>>,
    pub(crate) redirect_dir: RedirectDir,
    /// A change of attributes copies no data up.
    pub(crate) metacopy: bool,
    /// The marks are `user.` attributes.
    pub(crate) userxattr: bool,
    /// The names of a lower file stay together when it is copied up.
    pub(crate) index: bool,
    /// What was asked for about numbers of inodes. They are made of a layer's number and that of its file system in any case.
    pub(crate) xino: Xino,
    /// Nothing is written out: what is there after a crash is of no use.
    pub(crate) volatile: bool,
}

/// Options that were named, whatever for.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    /// `metacopy=on`.
    metacopy: bool,
    redirect_dir: bool,
}

/// All options. Those that name what is so in any case change nothing.
pub(crate) const PARAMS: &[Param] = &[
    Param::new("lowerdir", Takes::Text),
    Param::new("lowerdir+", Takes::Text),
    Param::new("upperdir", Takes::Text),
    Param::new("workdir", Takes::Text),
    Param::new("redirect_dir", Takes::Word(&["on", "off", "follow", "nofollow"])),
    Param::new("userxattr", Takes::Nothing),
    Param::new("volatile", Takes::Nothing),
    Param::new("index", Takes::Word(&["on", "off"])),
    Param::new("nfs_export", Takes::Word(&["off"])),
    Param::new("metacopy", Takes::Word(&["on", "off"])),
    Param::new("xino", Takes::Word(&["on", "off", "auto"])),
    Param::new("uuid", Takes::Word(&["on", "off", "auto", "null"])),
    Param::new("default_permissions", Takes::Nothing),
];

/// The most lower directories (Linux: `OVL_MAX_STACK`).
const MAX_LOWER: usize = 500;

impl Options {
    /// Decodes `data`. `EINVAL`: an unknown option, a value that is none, no lower directory, or an upper directory
    /// without a work directory.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut options = Self::default();
        let mut given = Given::default();
        for option in split(data, b',') {
            if option.is_empty() {
                continue;
            }
            let (key, value) = params::split(option);
            let (name, value) = params::read(PARAMS, key, value).map_err(|_| Errno::EINVAL)?;
            options.set(name, value)?;
            given.metacopy |= name == "metacopy" && options.metacopy;
            given.redirect_dir |= name == "redirect_dir";
        }
        options.reconcile(given)?;
        if options.lower.is_empty() || options.lower.len() > MAX_LOWER {
            return Err(Errno::EINVAL);
        }
        if options.upper.is_some() != options.work.is_some() && options.upper.is_some() {
            return Err(Errno::EINVAL);
        }
        Ok(options)
    }

    /// Has options that need or exclude each other agree. `EINVAL`: those that were given cannot.
    fn reconcile(&mut self, given: Given) -> Result<()> {
        if self.metacopy && self.redirect_dir != RedirectDir::On {
            if given.redirect_dir {
                return Err(Errno::EINVAL);
            }
            self.redirect_dir = RedirectDir::On;
        }
        if self.userxattr {
            if given.metacopy || given.redirect_dir && self.redirect_dir != RedirectDir::NoFollow {
                return Err(Errno::EINVAL);
            }
            self.redirect_dir = RedirectDir::NoFollow;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value<'_>) -> Result<()> {
        match (name, value) {
            ("lowerdir", Value::Text(value)) => self.lower = lower_list(value)?,
            ("lowerdir+", Value::Text(value)) => self.lower.push(unescape(value)),
            ("upperdir", Value::Text(value)) => self.upper = Some(unescape(value)),
            ("workdir", Value::Text(value)) => self.work = Some(unescape(value)),
            ("redirect_dir", Value::Text(b"on")) => self.redirect_dir = RedirectDir::On,
            ("redirect_dir", Value::Text(b"nofollow")) => self.redirect_dir = RedirectDir::NoFollow,
            ("redirect_dir", _) => self.redirect_dir = RedirectDir::Follow,
            ("metacopy", Value::Text(value)) => self.metacopy = value == b"on",
            ("index", Value::Text(value)) => self.index = value == b"on",
            ("xino", Value::Text(b"on")) => self.xino = Xino::On,
            ("xino", Value::Text(b"auto")) => self.xino = Xino::Auto,
            ("xino", _) => self.xino = Xino::Off,
            ("userxattr", _) => self.userxattr = true,
            ("volatile", _) => self.volatile = true,
            _ => {}
        }
        Ok(())
    }

    /// Appends the options as /proc/mounts shows them.
    pub(crate) fn show(&self, out: &mut Vec<u8>) {
        let mut separator: &[u8] = b",lowerdir=";
        for path in &self.lower {
            out.extend_from_slice(separator);
            escape(path, out);
            separator = b":";
        }
        for (key, path) in [(&b",upperdir="[..], &self.upper), (b",workdir=", &self.work)] {
            if let Some(path) = path {
                out.extend_from_slice(key);
                escape(path, out);
            }
        }
        match self.redirect_dir {
            RedirectDir::On => out.extend_from_slice(b",redirect_dir=on"),
            RedirectDir::Follow => {}
            RedirectDir::NoFollow => out.extend_from_slice(b",redirect_dir=nofollow"),
        }
        if self.index {
            out.extend_from_slice(b",index=on");
        }
        match self.xino {
            Xino::Off => {}
            Xino::Auto => out.extend_from_slice(b",xino=auto"),
            Xino::On => out.extend_from_slice(b",xino=on"),
        }
        if self.metacopy {
            out.extend_from_slice(b",metacopy=on");
        }
        if self.volatile {
            out.extend_from_slice(b",volatile");
        }
        if self.userxattr {
            out.extend_from_slice(b",userxattr");
        }
    }
}

/// Cuts at each `separator` that no backslash precedes.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            byte if byte == separator => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&text[start.min(text.len())..]);
    parts
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let byte = if byte == b'\\' { bytes.next().copied().unwrap_or(byte) } else { byte };
        out.push(byte);
    }
    out
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        if matches!(byte, b':' | b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

/// `EINVAL`: an empty path. Two colons begin layers that only hold data, which there are none of.
fn lower_list(value: &[u8]) -> Result<Vec<Vec<u8>>> {
    let parts = split(value, b':');
    if parts.iter().any(|part| part.is_empty()) {
        return Err(Errno::EINVAL);
    }
    Ok(parts.into_iter().map(unescape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_at_bare_separators_only() {
        let options = Options::parse(br"lowerdir=/a\:b:/c\,d,upperdir=/u\\v,workdir=/w,volatile").unwrap();
        assert_eq!(options.lower, [b"/a:b".to_vec(), b"/c,d".to_vec()]);
        assert_eq!(options.upper.as_deref(), Some(&br"/u\v"[..]));
        let mut shown = Vec::new();
        options.show(&mut shown);
        assert_eq!(shown, br",lowerdir=/a\:b:/c\,d,upperdir=/u\\v,workdir=/w,volatile");
    }

    #[test]
    fn copies_of_attributes_need_redirects() {
        let options = Options::parse(b"lowerdir=/a,metacopy=on").unwrap();
        assert!(options.metacopy && options.redirect_dir == RedirectDir::On);
        let mut shown = Vec::new();
        options.show(&mut shown);
        assert_eq!(shown, b",lowerdir=/a,redirect_dir=on,metacopy=on");
        assert!(!Options::parse(b"lowerdir=/a,metacopy=on,metacopy=off").unwrap().metacopy);
    }

    #[test]
    fn index_and_xino_are_shown() {
        let options = Options::parse(b"lowerdir=/a,upperdir=/u,workdir=/w,xino=auto,index=on").unwrap();
        let mut shown = Vec::new();
        options.show(&mut shown);
        assert_eq!(shown, b",lowerdir=/a,upperdir=/u,workdir=/w,index=on,xino=auto");
        assert_eq!(Options::parse(b"lowerdir=/a,index=maybe"), Err(Errno::EINVAL));
    }

    #[test]
    fn layers_may_be_given_one_by_one() {
        let options = Options::parse(b"lowerdir+=/a,lowerdir+=/b").unwrap();
        assert_eq!(options.lower, [b"/a".to_vec(), b"/b".to_vec()]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "",
            "upperdir=/u,workdir=/w",
            "lowerdir=",
            "lowerdir=/a::/b",
            "lowerdir=/a,upperdir=/u",
            "lowerdir=/a,metacopy=on,redirect_dir=follow",
            "lowerdir=/a,metacopy=on,userxattr",
            "lowerdir=/a,metacopy=maybe",
            "lowerdir=/a,frob",
        ] {
            assert_eq!(Options::parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
