//! Mount options (ext4(5)).

use alloc::format;
use alloc::vec::Vec;

use abi::{Errno, Result};

/// What happens when damage is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnError {
    Continue,
    RemountReadOnly,
    Panic,
}

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
}

const COMMIT_SECONDS: u32 = 5;

/// Options that say what is done anyhow.
const DEFAULTS: &[&str] = &[
    "data=ordered",
    "barrier",
    "barrier=1",
    "delalloc",
    "user_xattr",
    "acl",
    "nodiscard",
    "nogrpid",
    "sysvgroups",
    "noquota",
    "nombcache",
    "noinit_itable",
    "block_validity",
    "nodioread_nolock",
    "dioread_nolock",
    "auto_da_alloc",
    "rw",
    "defaults",
    "noprjquota",
    "nojournal_checksum",
    "journal_checksum",
    "i_version",
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
        }
    }

    /// Applies `data`. `EINVAL`: an option that is unknown or not supported.
    pub(crate) fn parse(mut self, data: &[u8]) -> Result<Self> {
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("errors", "continue") => self.on_error = OnError::Continue,
                ("errors", "remount-ro") => self.on_error = OnError::RemountReadOnly,
                ("errors", "panic") => self.on_error = OnError::Panic,
                ("commit", seconds) => {
                    let seconds: u32 = seconds.parse().map_err(|_| Errno::EINVAL)?;
                    self.commit_seconds = if seconds == 0 { COMMIT_SECONDS } else { seconds.min(900) };
                }
                ("noload" | "norecovery", "") => self.no_recovery = true,
                ("discard", "") => self.discard = true,
                _ if DEFAULTS.contains(&option) => {
                    if option == "nodiscard" {
                        self.discard = false;
                    }
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(self)
    }

    /// Appends what differs from the defaults.
    pub(crate) fn show(&self, out: &mut Vec<u8>) {
        if self.on_error != self.default_on_error {
            let name = match self.on_error {
                OnError::Continue => "continue",
                OnError::RemountReadOnly => "remount-ro",
                OnError::Panic => "panic",
            };
            out.extend(format!(",errors={name}").bytes());
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_shown() {
        let options = Options::new(1).parse(b"errors=remount-ro,commit=30,data=ordered").unwrap();
        let mut shown = Vec::new();
        options.show(&mut shown);
        assert_eq!(shown, b",errors=remount-ro,commit=30");
        for text in ["data=journal", "errors=maybe", "commit=x", "frob"] {
            assert_eq!(Options::new(1).parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
