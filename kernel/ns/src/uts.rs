//! The names of the system: what uname(2) shows and sethostname(2) changes (uts_namespaces(7)).
//!
//! Locks: one spinning lock around the two names; nothing nests in it.

use alloc::sync::Arc;

use abi::system::Utsname;
use abi::{Errno, Result};
use hal::sync::{LazyLock, SpinLock};
use security::{NsId, NsKind, UserNs};

/// The version of Linux whose ABI this is, and ours (`uname -r`).
pub const RELEASE: &str = concat!("7.2.0-", env!("CARGO_PKG_VERSION"), "-keel");
/// What `uname -v` shows.
pub const VERSION: &str = "#1 SMP PREEMPT Keel";
/// Longest host and domain name in bytes (Linux: `__NEW_UTS_LEN`).
pub const NAME_LEN: usize = 64;

/// Which of the two changeable names is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The host name.
    Host,
    /// The NIS domain name.
    Domain,
}

type Text = [u8; NAME_LEN + 1];

/// A UTS namespace.
pub struct UtsNs {
    id: NsId,
    names: SpinLock<[Text; 2]>,
}

static INITIAL: LazyLock<Arc<UtsNs>> =
    LazyLock::new(|| Arc::new(UtsNs::with(NsId::initial(NsKind::Uts), [padded("(none)"); 2])));

const fn padded(text: &str) -> Text {
    let mut out = [0; NAME_LEN + 1];
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() && i < NAME_LEN {
        out[i] = bytes[i];
        i += 1;
    }
    out
}

impl UtsNs {
    fn with(id: NsId, names: [Text; 2]) -> Self {
        Self { id, names: SpinLock::new("ns.uts", names) }
    }

    /// The first one.
    pub fn initial() -> &'static Arc<Self> {
        &INITIAL
    }

    /// A new one with the same names (`CLONE_NEWUTS`). `ENOSPC`: too many.
    pub fn copy(&self, owner: &UserNs) -> Result<Arc<Self>> {
        let names = *self.names.lock();
        Ok(Arc::new(Self::with(NsId::new(NsKind::Uts, owner)?, names)))
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }

    /// A name, NUL-padded; at least its last byte is NUL.
    pub fn name(&self, which: Name) -> Text {
        self.names.lock()[which as usize]
    }

    /// Changes a name. `EINVAL`: longer than [`NAME_LEN`] bytes.
    pub fn set_name(&self, which: Name, new: &[u8]) -> Result<()> {
        if new.len() > NAME_LEN {
            return Err(Errno::EINVAL);
        }
        let mut text = [0; NAME_LEN + 1];
        text[..new.len()].copy_from_slice(new);
        self.names.lock()[which as usize] = text;
        Ok(())
    }

    /// What uname(2) answers.
    pub fn utsname(&self) -> Utsname {
        let [nodename, domainname] = *self.names.lock();
        Utsname {
            sysname: padded("Linux"),
            nodename,
            release: padded(RELEASE),
            version: padded(VERSION),
            machine: padded("x86_64"),
            domainname,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_limit_and_show_in_uname() {
        let ns = UtsNs::initial();
        assert_eq!(ns.set_name(Name::Host, &[b'x'; 65]), Err(Errno::EINVAL));
        ns.set_name(Name::Host, b"keel").unwrap();
        assert!(ns.utsname().nodename.starts_with(b"keel\0"));
        assert!(ns.utsname().release.starts_with(b"7.2"));
        let copy = ns.copy(&UserNs::INITIAL).unwrap();
        copy.set_name(Name::Host, b"other").unwrap();
        assert!(ns.name(Name::Host).starts_with(b"keel\0"));
    }
}
