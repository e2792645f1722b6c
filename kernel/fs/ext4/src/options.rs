//! Mount options (ext4(5)).

use alloc::format;
use alloc::vec::Vec;

use abi::Result;
use vfs::device_mounts::OnError;
use vfs::params::{self, Param, Takes, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) on_error: OnError,
    /// What `on_error` is without an option: the superblock's.
    pub(crate) default_on_error: OnError,
    /// Seconds between commits.
    pub(crate) commit_seconds: u32,
    /// Do not replay the journal ("noload"); for read-only mounts.
    pub(crate) no_recovery: bool,
    /// Tell the device about freed blocks.
    pub(crate) discard: bool,
    /// How data gets to the disk; fixed when the file system is mounted.
    pub(crate) data: DataMode,
    /// Blocks are not allocated as late as they can be ("nodelalloc"), so that files may have their data journaled.
    ///
    /// LINUX: they are allocated as late all the same; programs see the flag `+j` heeded.
    pub(crate) no_delay: bool,
}

/// What of a file's data is on disk when the transaction commits that leads to it (ext4(5), `data=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataMode {
    /// It is in the journal.
    Journal,
    /// It is where it belongs.
    Ordered,
    /// Nothing is promised; it is where it belongs all the same.
    WriteBack,
}

const COMMIT_SECONDS: u32 = 5;

/// All options. Those that [`Options::parse`] does nothing for say what is done anyhow.
pub(crate) const PARAMS: &[Param] = &[
    Param::new("errors", Takes::Word(OnError::WORDS)),
    Param::new("commit", Takes::Number),
    Param::new("noload", Takes::Nothing),
    Param::new("norecovery", Takes::Nothing),
    Param::new("discard", Takes::Nothing),
    Param::new("nodiscard", Takes::Nothing),
    Param::new("data", Takes::Word(&["journal", "ordered", "writeback"])),
    Param::new("barrier", Takes::Nothing),
    Param::new("barrier", Takes::Word(&["1"])),
    Param::new("delalloc", Takes::Nothing),
    Param::new("nodelalloc", Takes::Nothing),
    Param::new("user_xattr", Takes::Nothing),
    Param::new("acl", Takes::Nothing),
    Param::new("nogrpid", Takes::Nothing),
    Param::new("sysvgroups", Takes::Nothing),
    Param::new("noquota", Takes::Nothing),
    Param::new("nombcache", Takes::Nothing),
    Param::new("noinit_itable", Takes::Nothing),
    Param::new("block_validity", Takes::Nothing),
    Param::new("nodioread_nolock", Takes::Nothing),
    Param::new("dioread_nolock", Takes::Nothing),
    Param::new("auto_da_alloc", Takes::Nothing),
    Param::new("rw", Takes::Nothing),
    Param::new("defaults", Takes::Nothing),
    Param::new("noprjquota", Takes::Nothing),
    Param::new("nojournal_checksum", Takes::Nothing),
    Param::new("journal_checksum", Takes::Nothing),
    Param::new("i_version", Takes::Nothing),
];

impl Options {
    /// The options without any given, as the superblock's `s_errors` has it.
    pub(crate) fn new(errors: u16) -> Self {
        let on_error = match errors {
            2 => OnError::RemountReadOnly,
            3 => OnError::Panic,
            _ => OnError::Continue,
        };
        Self {
            on_error,
            default_on_error: on_error,
            commit_seconds: COMMIT_SECONDS,
            no_recovery: false,
            discard: false,
            data: DataMode::Ordered,
            no_delay: false,
        }
    }

    /// Applies `data`. `EINVAL`: an option that is unknown or not supported.
    pub(crate) fn parse(mut self, data: &[u8]) -> Result<Self> {
        params::each(PARAMS, data, |name, value| {
            match (name, value) {
                ("errors", word) => self.on_error = OnError::parse(word),
                ("commit", seconds) => {
                    let seconds = seconds.as_u32()?;
                    self.commit_seconds = if seconds == 0 { COMMIT_SECONDS } else { seconds.min(900) };
                }
                ("noload" | "norecovery", _) => self.no_recovery = true,
                ("discard", _) => self.discard = true,
                ("nodiscard", _) => self.discard = false,
                ("nodelalloc", _) => self.no_delay = true,
                ("delalloc", _) => self.no_delay = false,
                ("data", Value::Text(b"journal")) => self.data = DataMode::Journal,
                ("data", Value::Text(b"writeback")) => self.data = DataMode::WriteBack,
                ("data", _) => self.data = DataMode::Ordered,
                _ => {}
            }
            Ok(())
        })?;
        Ok(self)
    }

    /// Appends what differs from the defaults.
    pub(crate) fn show(&self, out: &mut Vec<u8>) {
        if self.on_error != self.default_on_error {
            out.extend(format!(",errors={}", self.on_error.word()).bytes());
        }
        if self.commit_seconds != COMMIT_SECONDS {
            out.extend(format!(",commit={}", self.commit_seconds).bytes());
        }
        if self.no_recovery {
            out.extend_from_slice(b",norecovery");
        }
        if self.discard {
            out.extend_from_slice(b",discard");
        }
        if self.no_delay || self.data == DataMode::Journal {
            out.extend_from_slice(b",nodelalloc");
        }
        match self.data {
            DataMode::Journal => out.extend_from_slice(b",data=journal"),
            DataMode::WriteBack => out.extend_from_slice(b",data=writeback"),
            DataMode::Ordered => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::*;

    #[test]
    fn options_are_read_and_shown() {
        let options = Options::new(1).parse(b"errors=remount-ro,commit=30,data=journal").unwrap();
        let mut shown = Vec::new();
        options.show(&mut shown);
        assert_eq!(shown, b",errors=remount-ro,commit=30,nodelalloc,data=journal");
        for text in ["data=some", "errors=maybe", "commit=x", "frob"] {
            assert_eq!(Options::new(1).parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
