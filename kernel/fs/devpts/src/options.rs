//! Mount options of devpts.

use alloc::format;
use alloc::vec::Vec;

use abi::{Errno, Result};

/// What the options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Owner of slaves; else that of the process that opened the master.
    pub(crate) uid: Option<u32>,
    /// Group of slaves; else that of the process that opened the master.
    pub(crate) gid: Option<u32>,
    /// Permissions of slaves.
    pub(crate) mode: u32,
    /// Permissions of `ptmx`.
    pub(crate) ptmx_mode: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { uid: None, gid: None, mode: 0o600, ptmx_mode: 0 }
    }
}

impl Options {
    /// `EINVAL`: an unknown option or a value that is no number.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut options = Self::default();
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let octal = || u32::from_str_radix(value, 8).map(|n| n & 0o777).map_err(|_| Errno::EINVAL);
            let decimal = || value.parse::<u32>().map_err(|_| Errno::EINVAL);
            match key {
                "uid" => options.uid = Some(decimal()?),
                "gid" => options.gid = Some(decimal()?),
                "mode" => options.mode = octal()?,
                "ptmxmode" => options.ptmx_mode = octal()?,
                // There is one instance, with room for as many as there can be.
                "newinstance" => {}
                "max" => drop(decimal()?),
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }

    /// Appends the options as /proc/mounts shows them.
    pub(crate) fn show(&self, out: &mut Vec<u8>) {
        for (key, value) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(value) = value {
                out.extend(format!(",{key}={value}").bytes());
            }
        }
        out.extend(format!(",mode={:03o},ptmxmode={:03o}", self.mode, self.ptmx_mode).bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_show_as_they_were_given() {
        let shown = |text: &str| {
            let mut out = Vec::new();
            Options::parse(text.as_bytes()).unwrap().show(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(""), ",mode=600,ptmxmode=000");
        assert_eq!(shown("gid=5,mode=620,ptmxmode=666"), ",gid=5,mode=620,ptmxmode=666");
        assert_eq!(Options::parse(b"mode=9"), Err(Errno::EINVAL));
        assert_eq!(Options::parse(b"frob"), Err(Errno::EINVAL));
    }
}
