//! Walks, descriptors and renames that take turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags};
use vfs::FdFlags;

use crate::env::{Env, spawn};

fn twin(env: &Env) -> Env {
    Env { fs: env.fs.clone(), files: env.files.clone(), cred: env.cred.clone() }
}

#[test]
fn a_file_that_only_moves_is_always_somewhere() {
    let env = Env::new();
    for dir in ["/a", "/b", "/a/x", "/b/x"] {
        env.mkdir(dir).unwrap();
    }
    env.create("/a/x/f").unwrap();
    env.mkdir("/b/x/g").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let movers: Vec<_> = (0..2)
        .map(|_| {
            let (env, stop) = (twin(&env), stop.clone());
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    sched::yield_now();
                    // The two trees change places; "/a/x" and "/b/x" exist at every moment.
                    env.rename2("/a/x", "/b/x", RenameFlags::EXCHANGE).unwrap();
                }
            })
        })
        .collect();
    for _ in 0..5_000 {
        sched::yield_now();
        assert!(env.stat("/a/x").is_ok());
        assert!(env.stat("/b/x/.").is_ok());
        // Exactly one side has "f"; each answer alone must be one of the two.
        for name in ["/a/x/f", "/b/x/f"] {
            let found = env.stat(name).map(drop);
            assert!(matches!(found, Ok(()) | Err(Errno::ENOENT)), "{found:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    movers.into_iter().for_each(|thread| thread.join());
}

#[test]
fn made_and_removed_names_are_seen_whole() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let makers: Vec<_> = (0..2)
        .map(|id| {
            let (env, stop) = (twin(&env), stop.clone());
            spawn(move || {
                let name = format!("/d/n{id}");
                while !stop.load(Ordering::Relaxed) {
                    sched::yield_now();
                    env.create(&name).unwrap();
                    assert!(env.stat(&name).is_ok(), "what was made is there");
                    env.unlink(&name).unwrap();
                    assert_eq!(env.stat(&name).unwrap_err(), Errno::ENOENT, "what was removed is gone");
                }
            })
        })
        .collect();
    for round in 0..5_000 {
        sched::yield_now();
        for name in ["/d/n0", "/d/n1"] {
            let opened = env.open(name, OpenFlags::empty(), 0).map(drop);
            assert!(matches!(opened, Ok(()) | Err(Errno::ENOENT)), "{opened:?}");
        }
        if round % 1000 == 0 {
            vfs::shrink_dentries();
        }
    }
    stop.store(true, Ordering::Relaxed);
    makers.into_iter().for_each(|thread| thread.join());
    assert!(env.list("/d").is_empty());
}

#[test]
fn descriptors_are_files_or_nothing() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (table, stop) = (env.files.clone(), stop.clone());
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    sched::yield_now();
                    for fd in 0..80 {
                        if let Ok(file) = table.get(fd) {
                            assert!(file.inode().is_regular());
                        }
                    }
                }
            })
        })
        .collect();
    for _ in 0..200 {
        sched::yield_now();
        for _ in 0..70 {
            env.files.insert(file.clone(), 0, 1000, FdFlags::empty()).unwrap();
        }
        env.files.close_all();
    }
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|thread| thread.join());
    assert_eq!(Arc::strong_count(&file), 1);
}
