//! Mount options (mount(8), "Mount options for fat" and "for vfat").

use alloc::format;
use alloc::vec::Vec;

use abi::Result;
use fat_image::name::Spelling;
use vfs::device_mounts::OnError;
use vfs::params::{self, Param, Takes, Value};

/// What happens to options that are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Owner of all files.
    pub(crate) uid: u32,
    /// Their group.
    pub(crate) gid: u32,
    /// Bits that the modes of files lack.
    pub(crate) fmask: u32,
    /// Bits that the modes of directories lack.
    pub(crate) dmask: u32,
    /// What the owner may not change is ignored instead of refused.
    pub(crate) is_quiet: bool,
    /// Files are flushed when they are closed.
    pub(crate) flushes: bool,
    /// Only names of programs are executable.
    pub(crate) shows_exec: bool,
    /// Directories may be read-only, too.
    pub(crate) has_read_only_dirs: bool,
    pub(crate) spelling: Spelling,
    pub(crate) on_error: OnError,
}

/// The option of msdos alone, those of both, and from [`NR_MSDOS`] on those of vfat alone. Those that [`Options::parse`]
/// does nothing for say what is done anyhow.
const ALL: [Param; 20] = [
    Param::new("nodots", Takes::Nothing),
    Param::new("uid", Takes::Number),
    Param::new("gid", Takes::Number),
    Param::new("umask", Takes::Octal),
    Param::new("fmask", Takes::Octal),
    Param::new("dmask", Takes::Octal),
    Param::new("quiet", Takes::Nothing),
    Param::new("flush", Takes::Nothing),
    Param::new("showexec", Takes::Nothing),
    Param::new("rodir", Takes::Nothing),
    Param::new("codepage", Takes::Word(&["437"])),
    Param::new("check", Takes::Word(&["n", "normal"])),
    Param::new("errors", Takes::Word(OnError::WORDS)),
    Param::new("tz", Takes::Word(&["UTC"])),
    Param::new("rw", Takes::Nothing),
    Param::new("defaults", Takes::Nothing),
    Param::new("iocharset", Takes::Word(&["ascii", "utf8"])),
    Param::new("utf8", Takes::Nothing),
    Param::new("utf8", Takes::Word(&["1", "yes", "true"])),
    Param::new("shortname", Takes::Word(&["lower", "win95", "winnt", "mixed"])),
];

const NR_MSDOS: usize = 16;

/// The options of vfat.
pub(crate) const PARAMS: &[Param] = ALL.split_at(1).1;

/// Those of msdos, which has no long names.
pub(crate) const MSDOS_PARAMS: &[Param] = ALL.split_at(NR_MSDOS).0;

impl Options {
    /// The options without any given, for who mounts.
    pub(crate) fn new(uid: u32, gid: u32, umask: u32, spelling: Spelling) -> Self {
        Self {
            uid,
            gid,
            fmask: umask,
            dmask: umask,
            is_quiet: false,
            flushes: false,
            shows_exec: false,
            has_read_only_dirs: false,
            spelling,
            on_error: OnError::RemountReadOnly,
        }
    }

    /// Whether long names are left out.
    fn is_msdos(&self) -> bool {
        self.spelling == Spelling::Msdos
    }

    /// Applies `data`. `EINVAL`: an option that is unknown or not supported.
    pub(crate) fn parse(mut self, data: &[u8]) -> Result<Self> {
        let params = if self.is_msdos() { MSDOS_PARAMS } else { PARAMS };
        params::each(params, data, |name, value: Value<'_>| {
            match (name, value) {
                ("uid", uid) => self.uid = uid.as_u32()?,
                ("gid", gid) => self.gid = gid.as_u32()?,
                ("umask", mask) => {
                    (self.fmask, self.dmask) = (mask.as_u32()? & 0o777, mask.as_u32()? & 0o777)
                }
                ("fmask", mask) => self.fmask = mask.as_u32()? & 0o777,
                ("dmask", mask) => self.dmask = mask.as_u32()? & 0o777,
                ("quiet", _) => self.is_quiet = true,
                ("flush", _) => self.flushes = true,
                ("showexec", _) => self.shows_exec = true,
                ("rodir", _) => self.has_read_only_dirs = true,
                ("shortname", Value::Text(b"lower")) => self.spelling = Spelling::Lower,
                ("shortname", Value::Text(b"win95")) => self.spelling = Spelling::Win95,
                ("shortname", Value::Text(b"winnt")) => self.spelling = Spelling::WinNt,
                ("shortname", _) => self.spelling = Spelling::Mixed,
                ("errors", word) => self.on_error = OnError::parse(word),
                _ => {}
            }
            Ok(())
        })?;
        Ok(self)
    }

    /// Appends them as /proc/mounts shows them.
    pub(crate) fn show(&self, out: &mut Vec<u8>) {
        for (name, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id != 0 {
                out.extend(format!(",{name}={id}").bytes());
            }
        }
        out.extend(format!(",fmask={:04o},dmask={:04o}", self.fmask, self.dmask).bytes());
        let spelling: &[u8] = match self.spelling {
            Spelling::Lower => b",codepage=437,iocharset=ascii,shortname=lower",
            Spelling::Win95 => b",codepage=437,iocharset=ascii,shortname=win95",
            Spelling::WinNt => b",codepage=437,iocharset=ascii,shortname=winnt",
            Spelling::Mixed => b",codepage=437,iocharset=ascii,shortname=mixed",
            Spelling::Msdos => b",codepage=437",
        };
        out.extend_from_slice(spelling);
        let flags: [(bool, &[u8]); 5] = [
            (!self.is_msdos(), b",utf8"),
            (self.is_quiet, b",quiet"),
            (self.shows_exec, b",showexec"),
            (self.flushes, b",flush"),
            (self.has_read_only_dirs, b",rodir"),
        ];
        for (_, text) in flags.iter().filter(|(is_set, _)| *is_set) {
            out.extend_from_slice(text);
        }
        out.extend(format!(",errors={}", self.on_error.word()).bytes());
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::*;

    #[test]
    fn options_are_read_and_shown() {
        let options = Options::new(0, 7, 0o22, Spelling::Mixed);
        let mut shown = Vec::new();
        options.parse(b"umask=077,dmask=027,shortname=winnt,errors=continue,quiet").unwrap().show(&mut shown);
        let expected = ",gid=7,fmask=0077,dmask=0027,codepage=437,iocharset=ascii,shortname=winnt,utf8,quiet,errors=continue";
        assert_eq!(core::str::from_utf8(&shown), Ok(expected));
        for text in ["umask=9", "shortname=x", "errors=maybe", "uid", "frob"] {
            assert_eq!(options.parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
        let msdos = Options::new(0, 0, 0o22, Spelling::Msdos);
        assert_eq!(msdos.parse(b"shortname=mixed"), Err(Errno::EINVAL));
        shown.clear();
        msdos.show(&mut shown);
        assert_eq!(shown, b",fmask=0022,dmask=0022,codepage=437,errors=remount-ro");
    }
}
