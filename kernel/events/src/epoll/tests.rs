//! Sets of eventfds and of sets, without processes; waiting with a thread that signals.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::poll::{EpollEvent, PollEvents};
use hal::uio::{Dest, Src};
use sched::PollTable;
use security::Cred;
use vfs::File;

use super::{Ctl, create, ctl, get};
use crate::eventfd::{self, Kind};

const IN: u32 = PollEvents::IN.bits();
const ET: u32 = PollEvents::ET.bits();
const ONESHOT: u32 = PollEvents::ONESHOT.bits();

fn cred() -> Arc<Cred> {
    Arc::new(Cred::root())
}

fn set() -> Arc<File> {
    create(&cred()).unwrap()
}

fn counter() -> Arc<File> {
    eventfd::create(0, Kind::Counter, OpenFlags::NONBLOCK, &cred()).unwrap()
}

fn signal(file: &File) {
    vfs::rw::write(file, &mut Src::kernel(&1u64.to_ne_bytes()), u64::MAX).unwrap();
}

fn consume(file: &File) {
    vfs::rw::read(file, &mut Dest::kernel(&mut [0; 8])).unwrap();
}

fn event(events: u32, data: u64) -> EpollEvent {
    EpollEvent { events, data }
}

fn add(set: &Arc<File>, file: &Arc<File>, events: u32, data: u64) -> abi::Result<()> {
    ctl(set, file, data as i32, Ctl::Add(event(events, data)))
}

/// The values of what is ready within `wait_ms`.
fn ready(set: &File, max: usize, wait_ms: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let deadline = if wait_ms == 0 { 0 } else { hal::time::now_ns() + wait_ms * 1_000_000 };
    let count = get(set).unwrap().wait(max, Some(deadline), &mut |event| {
        found.push(event.data);
        Ok(())
    });
    assert_eq!(count, Ok(found.len()));
    found
}

#[test]
fn level_edge_and_oneshot_differ_in_when_they_tell_again() {
    let (ep, file) = (set(), counter());
    add(&ep, &file, IN, 1).unwrap();
    let (edge, once) = (set(), set());
    add(&edge, &file, IN | ET, 2).unwrap();
    add(&once, &file, IN | ONESHOT, 3).unwrap();
    signal(&file);
    for _ in 0..3 {
        assert_eq!(ready(&ep, 9, 0), [1]);
    }
    assert_eq!((ready(&edge, 9, 0), ready(&edge, 9, 0)), (alloc::vec![2], alloc::vec![]));
    assert_eq!((ready(&once, 9, 0), ready(&once, 9, 0)), (alloc::vec![3], alloc::vec![]));
    signal(&file);
    assert_eq!((ready(&edge, 9, 0), ready(&once, 9, 0)), (alloc::vec![2], alloc::vec![]));
    ctl(&once, &file, 3, Ctl::Mod(event(IN | ONESHOT, 4))).unwrap();
    assert_eq!(ready(&once, 9, 0), [4]);
    consume(&file);
    assert_eq!(ready(&ep, 9, 0), []);
}

#[test]
fn ready_items_take_turns() {
    let ep = set();
    let files: Vec<_> = (0..10).map(|_| counter()).collect();
    for (value, file) in files.iter().enumerate() {
        add(&ep, file, IN, value as u64).unwrap();
        signal(file);
    }
    let mut seen: Vec<u64> = (0..5).flat_map(|_| ready(&ep, 2, 0)).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<u64>>());
}

#[test]
fn the_end_of_a_file_removes_its_items() {
    let (ep, file) = (set(), counter());
    add(&ep, &file, IN, 1).unwrap();
    add(&ep, &file, IN, 2).unwrap();
    assert_eq!(add(&ep, &file, IN, 2), Err(Errno::EEXIST));
    signal(&file);
    assert_eq!(ready(&ep, 9, 0).len(), 2);
    drop(file);
    assert_eq!(ready(&ep, 9, 0), []);
    assert!(get(&ep).unwrap().items.lock().is_empty());
}

#[test]
fn sets_nest_without_loops_and_not_too_deep() {
    let sets: Vec<_> = (0..6).map(|_| set()).collect();
    let file = counter();
    add(&sets[0], &file, IN, 7).unwrap();
    for pair in sets.windows(2).take(4) {
        add(&pair[1], &pair[0], IN, 8).unwrap();
    }
    assert_eq!(add(&sets[5], &sets[4], IN, 8), Err(Errno::ELOOP), "too deep");
    assert_eq!(add(&sets[0], &sets[3], IN, 8), Err(Errno::ELOOP), "a loop");
    assert_eq!(add(&sets[0], &sets[0], IN, 8), Err(Errno::EINVAL));
    assert_eq!(ready(&sets[4], 9, 0), []);
    signal(&file);
    assert_eq!(ready(&sets[4], 9, 0), [8]);
    assert!(sets[4].poll(&mut PollTable::query()).contains(PollEvents::IN));
    consume(&file);
    assert_eq!(ready(&sets[4], 9, 0), []);
    ctl(&sets[1], &sets[0], 8, Ctl::Del).unwrap();
    add(&sets[0], &sets[4], IN, 9).unwrap();
}

#[test]
fn refused_events_stay_ready() {
    let (ep, file) = (set(), counter());
    add(&ep, &file, IN | ET, 1).unwrap();
    signal(&file);
    let refused = get(&ep).unwrap().wait(1, Some(0), &mut |_| Err(Errno::EFAULT));
    assert_eq!(refused, Err(Errno::EFAULT));
    assert_eq!(ready(&ep, 1, 0), [1]);
}

#[test]
fn a_sleeper_is_woken_by_another_thread() {
    let (ep, file) = (set(), counter());
    add(&ep, &file, IN, 5).unwrap();
    let waker = file.clone();
    let nap = hal::time::now_ns() + 30_000_000;
    sched::spawn("test", move || {
        let _ = sched::sleep_until(nap, sched::Interruptible::No);
        signal(&waker);
    })
    .unwrap();
    assert_eq!(ready(&ep, 1, 10_000), [5]);
    consume(&file);
    let before = hal::time::now_ns();
    assert_eq!(ready(&ep, 1, 20), []);
    assert!(hal::time::now_ns() - before >= 20_000_000);
}

/// 16 sets on each of four levels, each in all of the level above: 4,096 ways, which nobody goes one by one.
#[test]
fn many_ways_through_nested_sets_cost_nothing() {
    let levels: Vec<Vec<Arc<File>>> = (0..4).map(|_| (0..16).map(|_| set()).collect()).collect();
    for pair in levels.windows(2) {
        let [above, below] = pair else { continue };
        for outer in above {
            for (idx, inner) in below.iter().enumerate() {
                add(outer, inner, IN, idx as u64).unwrap();
            }
        }
    }
    let (top, bottom) = (&levels[0][0], &levels[3][0]);
    assert_eq!(add(bottom, top, IN, 1000), Err(Errno::ELOOP), "a circle");
    assert_eq!(add(&set(), top, IN, 1000), Ok(()), "as many levels as there may be");
}

#[test]
fn items_count_for_the_user_who_made_the_set() {
    const UID: u32 = 777;
    let cred = Arc::new(Cred::root().setuid(UID).unwrap());
    let user = process::cred::user_of(UID);
    let count = || user.get(limits::UserResource::EpollWatches);
    let (outer, inner) = (create(&cred).unwrap(), counter());
    add(&outer, &inner, IN, 1).unwrap();
    assert_eq!(add(&outer, &inner, IN, 1), Err(Errno::EEXIST));
    add(&outer, &inner, IN, 2).unwrap();
    assert_eq!(count(), 2);
    ctl(&outer, &inner, 1, Ctl::Del).unwrap();
    assert_eq!(count(), 1);
    drop(inner);
    assert_eq!(count(), 0);
}
