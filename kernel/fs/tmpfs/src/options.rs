//! Mount options of tmpfs (tmpfs(5)).

use alloc::format;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use mm::Huge;
use vfs::params::{self, Param, Takes, Value};

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
    /// Whether pages stay out of swap.
    pub(crate) no_swap: bool,
    /// When pages are huge ones.
    pub(crate) huge: Option<Huge>,
}

/// Values of `huge`, in the order of [`HUGE`].
const HUGE_NAMES: &[&str] = &["never", "always", "within_size", "advise"];
const HUGE: [Huge; 4] = [Huge::Never, Huge::Always, Huge::WithinSize, Huge::Advise];

/// All options.
pub const PARAMS: &[Param] = &[
    Param::new("size", Takes::Share),
    Param::new("nr_blocks", Takes::Size),
    Param::new("nr_inodes", Takes::Size),
    Param::new("mode", Takes::Octal),
    Param::new("uid", Takes::Number),
    Param::new("gid", Takes::Number),
    Param::new("huge", Takes::Word(HUGE_NAMES)),
    // Without meaning here: what they tune does not exist.
    Param::new("mpol", Takes::Text),
    Param::new("inode32", Takes::Nothing),
    Param::new("inode64", Takes::Nothing),
    Param::new("noswap", Takes::Nothing),
    Param::new("quota", Takes::Nothing),
];

impl Options {
    /// `EINVAL`: an unknown option or a value that is no number.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut options = Self::default();
        params::each(PARAMS, data, |name, value| options.set(name, value))?;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: Value<'_>) -> Result<()> {
        match (name, value) {
            ("size", Value::Number(bytes)) => self.max_pages = Some(bytes.div_ceil(PAGE_SIZE as u64)),
            ("size", Value::Percent(percent)) => {
                let total = hal::frame::stats().total as u64;
                self.max_pages = Some(total.checked_mul(percent).ok_or(Errno::EINVAL)? / 100);
            }
            ("nr_blocks", Value::Number(pages)) => self.max_pages = Some(pages),
            ("nr_inodes", Value::Number(inodes)) => self.max_inodes = Some(inodes),
            ("mode", mode) => self.mode = Some(mode.as_u32()? & 0o7777),
            ("uid", uid) => self.uid = Some(uid.as_u32()?),
            ("gid", gid) => self.gid = Some(gid.as_u32()?),
            ("noswap", _) => self.no_swap = true,
            ("huge", Value::Text(word)) => {
                let named = HUGE_NAMES.iter().zip(HUGE).find(|(name, _)| name.as_bytes() == word);
                self.huge = Some(named.ok_or(Errno::EINVAL)?.1);
            }
            _ => {}
        }
        Ok(())
    }
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
    if let Some(at) = HUGE.iter().position(|huge| Some(*huge) == options.huge).filter(|&at| at > 0) {
        out.extend(format!(",huge={}", HUGE_NAMES.get(at).unwrap_or(&"")).bytes());
    }
    if options.no_swap {
        out.extend_from_slice(b",noswap");
    }
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
    fn noswap_is_shown_last() {
        let options = Options::parse(b"noswap,huge=advise,uid=7").unwrap();
        let mut shown = Vec::new();
        show(&options, &mut shown);
        assert_eq!(shown, b",uid=7,inode64,huge=advise,noswap");
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
