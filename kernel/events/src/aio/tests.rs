//! A context without a process: its places, its events, requests that wait for eventfds.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::aio::IoEvent;
use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use hal::uio::Src;
use security::Cred;
use vfs::File;

use super::Context;
use crate::eventfd::{self, Kind};

fn context(places: u32) -> Arc<Context> {
    Arc::new(Context::new(places, 0).unwrap())
}

fn counter() -> Arc<File> {
    eventfd::create(0, Kind::Counter, OpenFlags::NONBLOCK, &Arc::new(Cred::root())).unwrap()
}

fn signal(file: &File) {
    vfs::rw::write(file, &mut Src::kernel(&1u64.to_ne_bytes()), u64::MAX).unwrap();
}

/// Up to `max` events, at least `min` of them.
fn events(context: &Context, min: usize, max: usize, deadline: Option<u64>) -> Vec<IoEvent> {
    let mut found = Vec::new();
    let count = context.wait(min, max, deadline, &mut |events| {
        found.extend_from_slice(events);
        Ok(())
    });
    assert_eq!(count, Ok(found.len()));
    found
}

fn event(obj: u64, data: u64, res: i64) -> IoEvent {
    IoEvent { data, obj, res, res2: 0 }
}

#[test]
fn a_result_becomes_an_event() {
    let context = context(8);
    context.begin(0x1000, 7).unwrap().finish(Ok(512));
    context.begin(0x2000, 8).unwrap().finish(Err(Errno::EIO));
    context.begin(0x3000, 9).unwrap().finish(Err(Errno::ERESTARTSYS));
    assert_eq!(events(&context, 2, 2, None), [event(0x1000, 7, 512), event(0x2000, 8, -5)]);
    assert_eq!(events(&context, 1, 9, None), [event(0x3000, 9, -4)]);
    assert_eq!(events(&context, 0, 9, Some(0)), []);
}

#[test]
fn who_waits_is_woken_by_enough_events() {
    let context = context(64);
    let wanted = |wanted: u32| super::Waiting::new(&context, wanted);
    let is_wanted = |nr: u32| context.state.lock().wanted == nr;
    let (many, few) = (wanted(8), wanted(3));
    assert!(is_wanted(3));
    drop(few);
    assert!(is_wanted(1), "the rest cannot be told");
    drop(many);
    let again = wanted(5);
    assert!(is_wanted(5));
    drop(again);
    let (waiter, requests) = (context.clone(), [(); 4].map(|()| context.begin(0, 0).unwrap()));
    sched::spawn("test", move || {
        for request in requests {
            let _ = sched::sleep_until(hal::time::now_ns() + 2_000_000, sched::Interruptible::No);
            request.finish(Ok(1));
        }
    })
    .unwrap();
    assert_eq!(events(&waiter, 4, 9, None).len(), 4);
}

#[test]
fn requests_take_places_until_their_events_are_taken() {
    let context = context(8);
    let places = context.max_batch() - 1;
    let open: Vec<_> = (0..places).map(|_| context.begin(0, 0).unwrap()).collect();
    assert_eq!(context.begin(0, 0).err(), Some(Errno::EAGAIN));
    drop(open);
    for n in 0..places {
        context.begin(0, n as u64).unwrap().finish(Ok(0));
    }
    assert_eq!(context.begin(0, 0).err(), Some(Errno::EAGAIN));
    for n in 0..3 * places {
        assert_eq!(events(&context, 1, 1, None).first().map(|event| event.data), Some(n as u64));
        context.begin(0, (n + places) as u64).unwrap().finish(Ok(0));
    }
    assert_eq!(events(&context, places, places + 5, None).len(), places);
}

#[test]
fn events_that_cannot_be_stored_stay() {
    let context = context(8);
    context.begin(1, 1).unwrap().finish(Ok(1));
    assert_eq!(context.wait(1, 1, None, &mut |_| Err(Errno::EFAULT)), Err(Errno::EFAULT));
    assert_eq!(events(&context, 1, 1, None), [event(1, 1, 1)]);
}

#[test]
fn a_poll_ends_when_its_file_is_ready() {
    sched::workqueue::init();
    let context = context(8);
    let (ready, later) = (counter(), counter());
    signal(&ready);
    context.begin(1, 1).unwrap().poll(ready, PollEvents::IN).unwrap();
    context.begin(2, 2).unwrap().poll(later.clone(), PollEvents::IN).unwrap();
    assert_eq!(events(&context, 0, 9, Some(0)), [event(1, 1, 1)]);
    signal(&later);
    assert_eq!(events(&context, 1, 9, None), [event(2, 2, 1)]);
    signal(&later);
    assert_eq!(events(&context, 0, 9, Some(0)), []);
    assert_eq!(Arc::strong_count(&later), 1);
}

#[test]
fn a_poll_can_be_cancelled_once() {
    let context = context(8);
    let file = counter();
    context.begin(0x10, 3).unwrap().poll(file.clone(), PollEvents::IN).unwrap();
    assert_eq!(context.cancel(0x20), Err(Errno::EINVAL));
    assert_eq!(context.cancel(0x10), Ok(()));
    assert_eq!(context.cancel(0x10), Err(Errno::EINVAL));
    assert_eq!(events(&context, 1, 9, None), [event(0x10, 3, 0)]);
    assert_eq!(Arc::strong_count(&file), 1);
}

#[test]
fn the_end_lets_go_of_everything() {
    let context = context(8);
    let file = counter();
    let mut request = context.begin(1, 1).unwrap();
    request.notify(file.clone()).unwrap();
    request.poll(file.clone(), PollEvents::IN).unwrap();
    assert!(context.end());
    assert!(!context.end());
    assert_eq!(context.begin(2, 2).err(), Some(Errno::EINVAL));
    assert_eq!(context.wait(1, 1, None, &mut |_| Ok(())), Ok(1));
    assert_eq!(context.wait(1, 1, None, &mut |_| Ok(())), Err(Errno::EINVAL));
    assert_eq!(Arc::strong_count(&file), 1);
    assert_eq!(Arc::strong_count(&context), 1);
}
