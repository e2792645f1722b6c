//! Tests on the hosted machine: real faults, real copies, frames counted.

mod model;
mod paths;

use abi::mman::{MapFlags, Prot};
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard};

use crate::vma::{Backing, Mappable};
use crate::{MapRequest, Mapping, Shmem, VmFlags};

pub(super) const PAGE: u64 = hal::PAGE_SIZE as u64;

/// Frames are counted machine-wide, so one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Holds the machine for one test and checks at its end that every frame came back.
pub(super) struct Alone {
    free: usize,
    committed: u64,
    cached: u64,
    _one: MutexGuard<'static, ()>,
}

pub(super) fn alone() -> Alone {
    let one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    // The page of zeroes stays for ever: make it first.
    crate::fault::zero_frame();
    Alone {
        free: hal::frame::stats().free,
        committed: crate::counters::COMMITTED.get(),
        cached: crate::counters::CACHED.get(),
        _one: one,
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(hal::frame::stats().free, self.free, "frames were lost");
            assert_eq!(crate::counters::COMMITTED.get(), self.committed, "commit charge was lost");
            assert_eq!(crate::counters::CACHED.get(), self.cached, "page-cache count");
        }
    }
}

/// A file in memory.
pub(super) struct TestFile(pub Arc<Mapping>);

impl TestFile {
    pub fn new(size: u64) -> Arc<Self> {
        let mapping = Mapping::new_shmem(Arc::new(Shmem::new(u64::MAX)));
        mapping.set_size(size);
        Arc::new(Self(Arc::new(mapping)))
    }
}

impl Mappable for TestFile {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        Some(&self.0)
    }
    fn name(&self) -> Vec<u8> {
        b"/test".to_vec()
    }
}

pub(super) fn rw() -> Prot {
    Prot::READ | Prot::WRITE
}

/// A request for `nr` pages at page `at`, replacing what is there.
pub(super) fn fixed(
    at: u64,
    nr: u64,
    prot: Prot,
    kind: MapFlags,
    backing: Backing,
    offset: u64,
) -> MapRequest {
    MapRequest {
        addr: at * PAGE,
        len: nr * PAGE,
        prot,
        flags: kind | MapFlags::FIXED,
        backing,
        offset: offset * PAGE,
        may: VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC,
        extra: VmFlags::empty(),
    }
}
