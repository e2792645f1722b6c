#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod acl;
mod caps;
mod capset;
mod cred;
mod exec;
mod filecaps;
mod ns;
mod userns;

pub use access::{
    Access, Accessor, Ids, ObserveIdentity, inode_permission, may_delete_sticky, may_kill, may_observe,
    owner_or_capable,
};
pub use acl::{Acl, Extent as AclExtent, Whose, acl_permission};
pub use caps::{Cap, CapSet};
pub use capset::SecureBits;
pub use cred::{Cred, KEEP_ID};
pub use exec::{ExecFile, ExecOutcome, ExecUnsafe};
pub use filecaps::{FileCaps, shown_file_caps, stored_file_caps};
pub use ns::{MAX as MAX_NAMESPACES, NR_KINDS as NR_NS_KINDS, NsId, NsKind};
pub use userns::{Extent, IdKind, MAX_EXTENTS, OVERFLOW_ID, UserNs};

/// Whether `cred` has `cap` for the whole machine; see [`Cred::ns_capable`] for what a user namespace owns.
#[inline]
pub fn capable(cred: &Cred, cap: Cap) -> bool {
    cred.capable(cap)
}
