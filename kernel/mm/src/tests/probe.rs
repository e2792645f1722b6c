//! Breakpoints in code, and the walks that set and clear them.

use super::{PAGE, TestFile, alone, fixed};
use crate::registry;
use crate::vma::Backing;
use crate::watch::{WatchEvent, WatchEvents, WatchModes, WatchedFault, Watcher};
use crate::{FaultError, Mm, Protect};
use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use hal::USER_END;
use hal::uio::Dest;
use std::any::Any;
use std::sync::Arc;
use std::vec::Vec;

const BREAKPOINT: u8 = 0xcc;
const CODE: u64 = 0x200;

/// An address space that shows a file as code.
fn program() -> (Arc<Mm>, Arc<TestFile>) {
    let (mm, file) = (Mm::new().unwrap(), TestFile::new(2 * PAGE));
    let backing = Backing::file(file.clone());
    mm.map(fixed(CODE, 2, Prot::READ | Prot::EXEC, MapFlags::PRIVATE, backing, 0)).unwrap();
    (mm, file)
}

#[test]
fn a_breakpoint_is_in_a_copy_and_is_found_when_it_can_be_written() {
    let _alone = alone();
    let (mm, file) = program();
    let at = CODE * PAGE + 5;
    let places = |mm: &Mm, unwritable| mm.code_places(&file.0, 5, 0..USER_END, unwritable);
    assert_eq!(places(&mm, true), Ok(vec![at]));
    assert_eq!(mm.read_code(at), Ok(0));
    assert!(!mm.has_private_copy(at));
    mm.write_code(at, BREAKPOINT).unwrap();
    assert!(mm.has_private_copy(at));
    assert_eq!(mm.read_code(at), Ok(BREAKPOINT));
    let mut bytes = [1; 8];
    file.0.read(0, &mut Dest::kernel(&mut bytes)).unwrap();
    assert_eq!(bytes, [0; 8], "the file itself");

    mm.protect(CODE * PAGE, PAGE, Prot::READ | Prot::WRITE | Prot::EXEC, None).unwrap();
    assert_eq!(places(&mm, true), Ok(vec![]));
    assert_eq!(places(&mm, false), Ok(vec![at]));

    let child = mm.fork().unwrap();
    assert!(!child.has_probes());
    assert_eq!(child.read_code(at), Ok(BREAKPOINT));
    child.write_code(at, 0).unwrap();
    assert_eq!((child.read_code(at), mm.read_code(at)), (Ok(0), Ok(BREAKPOINT)));
    mm.expect_probes();
    assert!(mm.fork().unwrap().has_probes());
    mm.check_invariants();
    child.check_invariants();
}

#[test]
fn code_is_told_by_its_file() {
    let _alone = alone();
    let (mm, file) = program();
    let in_range = |from: u64, to: u64| mm.code_in(from * PAGE..to * PAGE, |_| true).unwrap().len();
    assert_eq!((in_range(0, CODE), in_range(CODE, CODE + 1), in_range(CODE + 2, 2 * CODE)), (0, 1, 0));
    let other = TestFile::new(PAGE);
    let of = |wanted: &TestFile| {
        let found = mm.code_in(0..USER_END, |mapping| Arc::ptr_eq(mapping, &wanted.0));
        found.unwrap().len()
    };
    assert_eq!((of(&file), of(&other)), (1, 0));
}

#[test]
fn walks_meet_parents_before_their_children() {
    let _alone = alone();
    let (first, parent) = (Mm::new().unwrap(), Mm::new().unwrap());
    // Its place in the list is free for the child.
    drop(first);
    let child = parent.fork().unwrap();
    let mut grandchild = None;
    let mut seen = Vec::new();
    registry::for_each_by_age(|mm| {
        if mm.id() == child.id() {
            grandchild = Some(mm.fork().unwrap());
        }
        seen.push(mm.id());
    });
    let grandchild = grandchild.unwrap();
    let ours = [parent.id(), child.id(), grandchild.id()];
    seen.retain(|id| ours.contains(id));
    assert_eq!(seen, ours);
}

/// A watcher that must not be asked.
pub(super) struct Silent;

impl Watcher for Silent {
    fn fault(
        &self,
        fault: &WatchedFault,
        _still: &mut dyn FnMut() -> bool,
    ) -> core::result::Result<(), FaultError> {
        panic!("{fault:?}");
    }
    fn events(&self) -> WatchEvents {
        WatchEvents::empty()
    }
    fn expect(&self) {}
    fn tell(&self, _event: WatchEvent) {}
    fn for_child(&self) -> Result<Arc<dyn Watcher>> {
        Err(Errno::ENOMEM)
    }
    fn attach(&self, _mm: &Arc<Mm>) {}
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

#[test]
fn nobody_waits_for_a_watcher_of_code() {
    let _alone = alone();
    let (mm, file) = program();
    let watcher: Arc<dyn Watcher> = Arc::new(Silent);
    let range = CODE * PAGE..(CODE + 1) * PAGE;
    assert_eq!(mm.read_code(range.start), Ok(0));
    mm.watch(range.clone(), &watcher, WatchModes::WP).unwrap();
    mm.write_protect(range.clone(), Protect::Yes, &watcher).unwrap();
    assert_eq!(mm.read_code(range.start), Ok(0));
    assert_eq!(mm.write_code(range.start, BREAKPOINT), Err(Errno::EFAULT));
    assert_eq!(mm.write_code(range.end, BREAKPOINT), Ok(()), "the page behind it");

    let again = CODE + 0x100;
    let backing = Backing::file(file);
    mm.map(fixed(again, 1, Prot::READ | Prot::EXEC, MapFlags::PRIVATE, backing, 0)).unwrap();
    mm.watch(again * PAGE..(again + 1) * PAGE, &watcher, WatchModes::MINOR).unwrap();
    assert_eq!(mm.read_code(again * PAGE), Err(Errno::EFAULT));
}
