//! Mount options of tmpfs (tmpfs(5)).

use alloc::format;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;

/// What the options say; `None` where they say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Limit in pages; 0 for none.
    pub(crate) max_pages: Option<u64>,
    /// Limit of inodes; 0 for none.
    pub(crate) max_inodes: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

impl Options {
    /// `EINVAL`: an unknown option or a value that is no number.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut options = Self::default();
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "size" => options.max_pages = Some(size_pages(value)?),
                "nr_blocks" => options.max_pages = Some(number(value)?),
                "nr_inodes" => options.max_inodes = Some(number(value)?),
                "mode" => options.mode = Some(octal(value)? & 0o7777),
                "uid" => options.uid = Some(id(value)?),
                "gid" => options.gid = Some(id(value)?),
                // Known to Linux, without meaning here: what they tune does not exist.
                "huge" | "mpol" | "inode32" | "inode64" | "noswap" | "quota" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

fn octal(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8).map_err(|_| Errno::EINVAL)
}

fn id(text: &str) -> Result<u32> {
    text.parse().map_err(|_| Errno::EINVAL)
}

/// A number with an optional k, m, g or t.
fn number(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(Errno::EINVAL),
    };
    let value: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    value.checked_mul(1 << shift).ok_or(Errno::EINVAL)
}

fn size_pages(text: &str) -> Result<u64> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.parse().map_err(|_| Errno::EINVAL)?;
        let total = hal::frame::stats().total as u64;
        return Ok(total.checked_mul(percent).ok_or(Errno::EINVAL)? / 100);
    }
    Ok(number(text)?.div_ceil(PAGE_SIZE as u64))
}

/// Appends options as /proc/mounts shows them.
pub(crate) fn show(options: &Options, out: &mut Vec<u8>) {
    if let Some(pages) = options.max_pages.filter(|&pages| pages != 0) {
        out.extend(format!(",size={}k", pages * (PAGE_SIZE as u64 / 1024)).bytes());
    }
    if let Some(inodes) = options.max_inodes.filter(|&inodes| inodes != 0) {
        out.extend(format!(",nr_inodes={inodes}").bytes());
    }
    if let Some(mode) = options.mode.filter(|&mode| mode != 0o1777) {
        out.extend(format!(",mode={mode:o}").bytes());
    }
    if let Some(uid) = options.uid.filter(|&uid| uid != 0) {
        out.extend(format!(",uid={uid}").bytes());
    }
    if let Some(gid) = options.gid.filter(|&gid| gid != 0) {
        out.extend(format!(",gid={gid}").bytes());
    }
    out.extend_from_slice(b",inode64");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_suffixes_and_round_up_to_pages() {
        let pages = |text: &str| Options::parse(text.as_bytes()).unwrap().max_pages;
        assert_eq!(pages("size=1"), Some(1));
        assert_eq!(pages("size=64k,mode=755"), Some(16));
        assert_eq!(pages("size=1G"), Some(1 << 18));
        assert_eq!(pages("nr_blocks=7"), Some(7));
        assert_eq!(pages(""), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["size=", "size=x", "size=1q", "mode=9", "frob", "uid=-1", "size=99999999999999999999", "uid=é"]
        {
            assert_eq!(Options::parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
