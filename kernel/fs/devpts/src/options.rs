//! Mount options of devpts.

use alloc::format;
use alloc::vec::Vec;

use abi::Result;
use vfs::params::{self, Param, Takes};

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

/// All options.
pub(crate) const PARAMS: &[Param] = &[
    Param::new("uid", Takes::Number),
    Param::new("gid", Takes::Number),
    Param::new("mode", Takes::Octal),
    Param::new("ptmxmode", Takes::Octal),
    // There is one instance, with room for as many as there can be.
    Param::new("newinstance", Takes::Nothing),
    Param::new("max", Takes::Number),
];

impl Options {
    /// `EINVAL`: an unknown option or a value that is no number.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut options = Self::default();
        params::each(PARAMS, data, |name, value| {
            match name {
                "uid" => options.uid = Some(value.as_u32()?),
                "gid" => options.gid = Some(value.as_u32()?),
                "mode" => options.mode = value.as_u32()? & 0o777,
                "ptmxmode" => options.ptmx_mode = value.as_u32()? & 0o777,
                _ => {}
            }
            Ok(())
        })?;
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
    use abi::Errno;

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
