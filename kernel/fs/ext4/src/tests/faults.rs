//! Devices that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::fs::OpenFlags;
use block::Op;

use super::env::{Env, alone, fsync, image, pattern};

#[test]
fn a_write_error_is_told_once_to_each_open_file() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 8 << 20) else { return };
    let mut env = Env::new(&image);
    let file = env.put("/file", &pattern(50_000, 1)).unwrap();
    let other = env.open("/file", abi::fs::OpenFlags::RDWR).unwrap();
    fsync(&file).unwrap();
    env.put("/file2", b"").unwrap();
    vfs::rw::pwrite(&file, &mut hal::uio::Src::kernel(&[9; 10]), 0, u64::MAX).unwrap();
    env.memory.set_fault(|op, _, _| if op == Op::Write { Err(Errno::EIO) } else { Ok(()) });
    let written = file.inode().mapping().unwrap().write_back(0..u64::MAX);
    assert_eq!(written, Err(Errno::EIO));
    env.memory.clear_fault();
    assert_eq!(fsync(&file), Err(Errno::EIO));
    assert_eq!(fsync(&file), Ok(()));
    assert_eq!(fsync(&other), Err(Errno::EIO));
    drop((file, other));
    env.unmount();
}

#[test]
fn a_failing_journal_stops_writing_and_keeps_the_disk_sound() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 8 << 20) else { return };
    for limit in (0..60).step_by(3) {
        let env = Env::new(&image);
        let count = Arc::new(AtomicU64::new(0));
        let counter = count.clone();
        env.memory.set_fault(move |op, _, _| {
            let is_over = op == Op::Write && counter.fetch_add(1, Ordering::Relaxed) >= limit;
            if is_over { Err(Errno::EIO) } else { Ok(()) }
        });
        let mut last = Ok(());
        for nr in 0..40 {
            last = env.put(&format!("/file{nr}"), &pattern(3000, nr)).and_then(|file| fsync(&file));
            if last.is_err() {
                break;
            }
        }
        assert!(matches!(last, Err(Errno::EIO | Errno::EROFS)), "{last:?}");
        assert!(env.mkdir("/more").is_err());
        env.memory.clear_fault();
        let image = env.memory.snapshot();
        drop(env);
        super::env::fsck(&image);
        let mut again = Env::new(&image);
        super::env::fsck(&again.unmount());
    }
}

#[test]
fn metadata_that_cannot_be_read_is_handled_as_the_options_say() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4", "-b", "1024"], 8 << 20) else { return };
    let mut env = Env::new(&image);
    for nr in 0..200 {
        env.put(&format!("/file{nr}"), b"x").unwrap();
    }
    let image = env.unmount();
    for (options, is_writable) in [(&b"errors=continue"[..], true), (b"errors=remount-ro", false)] {
        let mut env = Env::with_options(&image, vfs::superblock::SbFlags::empty(), options).unwrap();
        env.memory.set_fault(|op, _, _| if op == Op::Read { Err(Errno::EIO) } else { Ok(()) });
        assert_eq!(env.stat("/file150").map(drop), Err(Errno::EIO), "{options:?}");
        env.memory.clear_fault();
        assert_eq!(env.mkdir("/more").is_ok(), is_writable, "{options:?}");
        if is_writable {
            let image = env.unmount();
            let state = u16::from_le_bytes([image[1024 + 58], image[1024 + 59]]);
            assert_eq!(state, 3, "clean, with errors");
        }
    }
}

#[test]
fn blocks_that_could_not_be_written_show_nothing_of_what_they_held() {
    let _alone = alone();
    for kind in ["ext4", "ext3"] {
        let Some(image) = image(&["-t", kind, "-b", "1024"], 8 << 20) else { return };
        for direct in [OpenFlags::empty(), OpenFlags::DIRECT] {
            let mut env = Env::new(&image);
            // Blocks that held something, and are free now.
            drop(env.put("/old", &[0xee; 3 << 20]).unwrap());
            env.unlink("/old").unwrap();
            env.sync().unwrap();
            let file = env.put("/file", &[1; 4096]).unwrap();
            fsync(&file).unwrap();
            drop(file);
            let file = env.open("/file", OpenFlags::RDWR | direct).unwrap();
            // Nothing but the blocks of the file: they are written in runs of many sectors.
            env.memory.set_fault(
                |op, _, len| {
                    if op == Op::Write && len >= 64 { Err(Errno::EIO) } else { Ok(()) }
                },
            );
            let bytes = [2; 256 << 10];
            let written = vfs::rw::pwrite(&file, &mut hal::uio::Src::kernel(&bytes), 64 << 10, u64::MAX);
            match direct.is_empty() {
                true => assert_eq!(file.inode().mapping().unwrap().write_back(0..u64::MAX), Err(Errno::EIO)),
                false => assert_eq!(written, Err(Errno::EIO)),
            }
            env.memory.clear_fault();
            drop(file);
            let file = env.open("/file", OpenFlags::RDWR).unwrap();
            vfs::attr::ftruncate(&file, 512 << 10, u64::MAX).unwrap();
            drop(file);
            let image = env.unmount();
            super::env::fsck(&image);
            let env = Env::new(&image);
            let bytes = env.get("/file").unwrap();
            assert_eq!(bytes.len(), 512 << 10);
            assert!(bytes[..4096].iter().all(|&byte| byte == 1));
            assert!(bytes[4096..].iter().all(|&byte| byte != 0xee), "{kind} {direct:?}");
        }
    }
}

#[test]
fn nothing_is_written_past_the_cache_after_writing_has_stopped() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 8 << 20) else { return };
    let env = Env::new(&image);
    let file = env.put("/file", &[1; 8192]).unwrap();
    fsync(&file).unwrap();
    let direct = env.open("/file", OpenFlags::RDWR | OpenFlags::DIRECT).unwrap();
    let write = |byte| vfs::rw::pwrite(&direct, &mut hal::uio::Src::kernel(&[byte; 4096]), 4096, u64::MAX);
    assert_eq!(write(2), Ok(4096));
    crate::node::node(file.inode()).unwrap().fs.abort(Errno::EIO);
    assert_eq!(write(3), Err(Errno::EROFS));
    let bytes = env.get("/file").unwrap();
    assert!(bytes[4096..].iter().all(|&byte| byte == 2));
}

#[test]
fn new_blocks_show_nothing_before_they_are_written() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4", "-b", "1024"], 8 << 20) else { return };
    let mut env = Env::new(&image);
    let file = env.put("/file", &[1; 256 << 10]).unwrap();
    let node = crate::node::node(file.inode()).unwrap().clone();
    let seen = Arc::new(AtomicU64::new(u64::MAX));
    let (looker, result) = (node.clone(), seen.clone());
    env.memory.set_fault(move |op, _, len| {
        if op == Op::Write && len >= 64 {
            let pieces = looker.written_pieces(0, 256).unwrap().unwrap_or_default();
            result.store(pieces.iter().map(|piece| piece.len).sum(), Ordering::Relaxed);
        }
        Ok(())
    });
    file.inode().mapping().unwrap().write_back(0..u64::MAX).unwrap();
    env.memory.clear_fault();
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    let pieces = node.written_pieces(0, 256).unwrap().unwrap();
    assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), 256);
    drop((file, node));
    super::env::fsck(&env.unmount());
}

#[test]
fn a_device_that_is_gone_is_no_damage_and_keeps_nothing() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4", "-b", "1024"], 8 << 20) else { return };
    let mut env = Env::new(&image);
    for nr in 0..200 {
        drop(env.put(&format!("/file{nr}"), b"x").unwrap());
    }
    let image = env.unmount();
    let env = Env::with_options(&image, vfs::superblock::SbFlags::empty(), b"errors=panic").unwrap();
    let file = env.put("/file0", b"dirty").unwrap();
    let fs = crate::node::node(file.inode()).unwrap().fs.clone();
    assert!(!fs.dirty.lock().is_empty());
    env.memory.set_fault(|_, _, _| Err(Errno::EIO));
    file.inode().sb().ops().shutdown(file.inode().sb());
    assert!(fs.dirty.lock().is_empty());
    // Not at hand: with errors=panic this would be the end of a machine.
    assert_eq!(env.stat("/file150").map(drop), Err(Errno::EIO));
    file.inode().touch_mtime();
    crate::node::node(file.inode()).unwrap().mark_dirty(file.inode());
    assert!(fs.dirty.lock().is_empty());
}
