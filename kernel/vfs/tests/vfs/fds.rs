//! Descriptor tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::Errno;
use vfs::{FdFlags, FdTable, File};

use crate::env::Env;

#[test]
fn random_operations_agree_with_a_map() {
    let env = Env::new();
    let file: Arc<File> = env.create("/f").unwrap();
    let table = FdTable::new().unwrap();
    let mut model: BTreeMap<i32, bool> = BTreeMap::new();
    let mut seed = 5u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..30_000 {
        let fd = random(300) as i32;
        match random(5) {
            0 | 1 => {
                let cloexec = random(2) == 0;
                let flags = if cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() };
                let want = (fd..).find(|fd| !model.contains_key(fd)).unwrap();
                let got = table.insert(file.clone(), fd as usize, 250, flags);
                if want < 250 {
                    assert_eq!(got, Ok(want));
                    model.insert(want, cloexec);
                } else {
                    assert_eq!(got, Err(Errno::EMFILE));
                }
            }
            2 => assert_eq!(table.close(fd).is_ok(), model.remove(&fd).is_some()),
            3 if fd < 250 => {
                table.replace(fd, file.clone(), 250, FdFlags::empty()).unwrap();
                model.insert(fd, false);
            }
            _ => {
                assert_eq!(table.get(fd).is_ok(), model.contains_key(&fd));
                let flags = table.fd_flags(fd).map(|flags| flags.contains(FdFlags::CLOEXEC));
                assert_eq!(flags.ok(), model.get(&fd).copied());
            }
        }
    }
    assert_eq!(table.fds(), model.keys().copied().collect::<Vec<_>>());
    let copy = table.fork().unwrap();
    copy.close_on_exec();
    let kept: Vec<i32> = model.iter().filter(|(_, cloexec)| !**cloexec).map(|(fd, _)| *fd).collect();
    assert_eq!(copy.fds(), kept);
    table.close_all();
    assert!(table.fds().is_empty());
    assert_eq!(table.get(-1).unwrap_err(), Errno::EBADF);
    drop(copy);
    assert_eq!(Arc::strong_count(&file), 1, "close drops at once");
}

#[test]
fn reservations_are_given_back_or_filled() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    let table = FdTable::new().unwrap();
    let first = table.reserve(0, 10, FdFlags::empty()).unwrap();
    assert_eq!(first.fd(), 0);
    assert_eq!(table.get(0).unwrap_err(), Errno::EBADF);
    assert_eq!(table.replace(0, file.clone(), 10, FdFlags::empty()), Err(Errno::EBUSY));
    drop(first);
    let again = table.reserve(0, 10, FdFlags::CLOEXEC).unwrap();
    assert_eq!(again.install(file), 0);
    assert_eq!(table.fd_flags(0), Ok(FdFlags::CLOEXEC));
}
