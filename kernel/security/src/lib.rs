#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod caps;
mod capset;
mod cred;
mod exec;

pub use access::{
    Access, Accessor, Ids, ObserveIdentity, inode_permission, may_delete_sticky, may_kill, may_observe,
    owner_or_capable,
};
pub use caps::{Cap, CapSet};
pub use capset::SecureBits;
pub use cred::{Cred, KEEP_ID};
pub use exec::{ExecFile, ExecOutcome, ExecUnsafe};

/// Whether `cred` has `cap` in its effective set.
#[inline]
pub fn capable(cred: &Cred, cap: Cap) -> bool {
    cred.effective.contains(cap)
}
