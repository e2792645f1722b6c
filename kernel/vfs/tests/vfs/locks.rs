//! flock, POSIX and OFD locks between threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::fs::Flock;
use vfs::File;
use vfs::lock::{FlockOp, LockKind, RecordOwner, fcntl_getlk, fcntl_setlk};
use vfs::pipe::Blocking;

use crate::env::{Env, pause_ms, spawn};

fn flock(l_type: i16, start: i64, len: i64) -> Flock {
    Flock { l_type, l_start: start, l_len: len, ..Flock::default() }
}

const WRITE: i16 = 1;
const UNLOCK: i16 = 2;

fn process(id: u64) -> RecordOwner {
    RecordOwner::Process { table: id, pid: id as i32 }
}

fn set(file: &File, owner: RecordOwner, lock: Flock) -> abi::Result<()> {
    fcntl_setlk(file, owner, &lock, Blocking::No)
}

#[test]
fn record_locks_exclude_other_processes_only() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    set(&file, process(1), flock(WRITE, 10, 10)).unwrap();
    set(&file, process(1), flock(WRITE, 15, 10)).unwrap();
    assert_eq!(set(&file, process(2), flock(WRITE, 24, 1)), Err(Errno::EAGAIN));
    set(&file, process(2), flock(WRITE, 25, 0)).unwrap();
    let mut asked = flock(WRITE, 0, 0);
    fcntl_getlk(&file, process(3), &mut asked).unwrap();
    assert_eq!((asked.l_type, asked.l_start, asked.l_len, asked.l_pid), (WRITE, 10, 15, 1));
    assert_eq!(set(&file, RecordOwner::File, flock(WRITE, 0, 0)), Err(Errno::EAGAIN));
    set(&file, process(1), flock(UNLOCK, 0, 0)).unwrap();
    file.inode().locks().table_closed(2);
    set(&file, RecordOwner::File, flock(WRITE, 0, 0)).unwrap();
    assert_eq!(set(&file, process(1), flock(WRITE, -1, 1)), Err(Errno::EINVAL));
    assert_eq!(set(&file, process(1), flock(7, 0, 1)), Err(Errno::EINVAL));
    let read_only = env.open("/f", abi::fs::OpenFlags::empty(), 0).unwrap();
    assert_eq!(set(&read_only, process(1), flock(WRITE, 0, 1)), Err(Errno::EBADF));
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_free() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    set(&file, process(11), flock(WRITE, 0, 1)).unwrap();
    let other: Arc<File> = file.clone();
    let waiter = spawn(move || fcntl_setlk(&other, process(12), &flock(WRITE, 0, 1), Blocking::Yes));
    pause_ms(20);
    set(&file, process(11), flock(UNLOCK, 0, 1)).unwrap();
    waiter.join().unwrap();
    assert_eq!(set(&file, process(11), flock(WRITE, 0, 1)), Err(Errno::EAGAIN));
}

#[test]
fn a_circle_of_waiters_is_a_deadlock() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    set(&file, process(21), flock(WRITE, 1, 1)).unwrap();
    set(&file, process(22), flock(WRITE, 2, 1)).unwrap();
    // Who closes the circle is refused and gives way, so that the other one gets its lock.
    let ask = |file: &File, me: u64, own: i64, wanted: i64| {
        let result = fcntl_setlk(file, process(me), &flock(WRITE, wanted, 1), Blocking::Yes);
        if result.is_err() {
            set(file, process(me), flock(UNLOCK, own, 1)).unwrap();
        }
        result
    };
    let other: Arc<File> = file.clone();
    let refused = Arc::new(AtomicU32::new(0));
    let theirs = refused.clone();
    let waiter = spawn(move || {
        let result = ask(&other, 21, 1, 2);
        theirs.fetch_add(u32::from(result == Err(Errno::EDEADLK)), Ordering::SeqCst);
    });
    pause_ms(20);
    let result = ask(&file, 22, 2, 1);
    waiter.join();
    let refused = refused.load(Ordering::SeqCst) + u32::from(result == Err(Errno::EDEADLK));
    assert_eq!(refused, 1, "one of the two");
}

#[test]
fn flocks_belong_to_descriptions() {
    let env = Env::new();
    let a = env.create("/f").unwrap();
    let b = env.open("/f", abi::fs::OpenFlags::RDWR, 0).unwrap();
    let lock =
        |file: &File, kind| file.inode().locks().flock(file.id(), FlockOp::Lock(kind), Blocking::No, 1);
    lock(&a, LockKind::Read).unwrap();
    lock(&b, LockKind::Read).unwrap();
    assert_eq!(lock(&b, LockKind::Write), Err(Errno::EAGAIN));
    // The failed conversion gave b's lock up.
    lock(&a, LockKind::Write).unwrap();
    set(&b, process(31), flock(WRITE, 0, 0)).unwrap();
    drop(a);
    lock(&b, LockKind::Write).unwrap();
}
