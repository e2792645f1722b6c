#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod advise;
pub mod commit;
pub mod compact;
pub mod counters;
pub mod failure;
pub mod fault;
mod fork;
pub mod hugetlb;
pub mod ksm;
pub mod layout;
mod map;
pub mod mapping;
mod migrate;
pub mod offline;
pub mod oom;
mod parts;
mod pin;
mod pkey;
pub mod policy;
pub mod probe;
mod protect;
pub mod reclaim;
pub mod registry;
mod remap;
mod remote;
mod seal;
pub mod selftest;
mod show;
mod space;
mod supply;
pub mod swap;
mod sync;
pub mod sysctl;
#[cfg(test)]
mod tests;
pub mod thp;
mod transfer;
mod vma;
mod walk;
pub mod watch;

pub use fault::{FaultError, FaultKind};
pub use layout::{Layout, Randomness};
pub use map::MapRequest;
pub use mapping::{Huge, Mapping, PagePart, PageSource, Reading, Shmem, ShmemObject};
pub use pin::PinnedPage;
pub use policy::Policy;
pub use protect::OnFault;
pub use remap::RemapRequest;
pub use remote::Rights;
pub use show::{ClearRefs, PageState, PageStats, PageView, VmaInfo};
pub use space::{Counters, Limits, Mm, Prefs};
pub use supply::{Holes, Protect, Supply};
pub use transfer::{Lend, LentMemory, lend, register_current};
pub use vma::{Backing, FileId, Mappable, MappedFile, STACK_GUARD_GAP, ShownFile, VmFlags, Vma, VmaAttr};
