//! Blocks promised to dirty pages: none of these is without, and none keeps more than it needs when others find no space.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use abi::Result;
use abi::fs::OpenFlags;
use block::Op;
use hal::uio::Src;
use vfs::File;
use vfs::inode::XattrMode;

use super::env::{Env, alone, fsck, image};
use super::inline::inline_image;
use crate::node::{Node, node};
use crate::superops::Pages;

/// `fallocate(2)`: the size stays.
const KEEP_SIZE: u32 = 1;
/// As this, with a hole made.
const PUNCH: u32 = 3;
/// Files, or pages, whose blocks are more than those kept for trees, which hide what is missing.
const MANY: usize = 100;

fn small_blocks() -> Option<Env> {
    Some(Env::new(&image(&["-t", "ext4", "-b", "1024", "-m", "0"], 4 << 20)?))
}

fn pwrite(file: &File, bytes: &[u8], pos: usize) -> Result<usize> {
    vfs::rw::pwrite(file, &mut Src::kernel(bytes), pos as i64, u64::MAX)
}

fn of(file: &File) -> &Arc<Node> {
    node(file.inode()).unwrap()
}

fn allocate(file: &File, mode: u32, pos: u64, len: u64) -> Result<()> {
    vfs::attr::fallocate(file, mode, pos as i64, len as i64, u64::MAX)
}

/// Has a file take all blocks but `left` that nobody was promised; no dirty page is written meanwhile.
fn fill(env: &Env, left: u64) -> Arc<File> {
    let filler = env.create("/filler").unwrap();
    let fs = &of(&filler).fs;
    fs.commit(fs.running()).unwrap();
    let mut end = 0;
    while let Some(more) = fs.available_to_root().unwrap().checked_sub(left).filter(|more| *more > 0) {
        allocate(&filler, KEEP_SIZE, end << 10, more << 10).unwrap();
        end += more;
    }
    filler
}

/// All of `files`, written back, have `len` bytes that `is_right`.
#[track_caller]
fn check_written(mut env: Env, files: Vec<Arc<File>>, is_right: impl Fn(usize, u8) -> bool) {
    for (nr, file) in files.iter().enumerate() {
        assert_eq!(file.inode().mapping().unwrap().write_back(0..u64::MAX), Ok(()), "{nr}");
    }
    drop(files);
    env.remount();
    for name in env.list("/").unwrap().iter().filter(|name| name.starts_with("file")) {
        let bytes = env.get(&format!("/{name}")).unwrap();
        let wrong = bytes.iter().enumerate().find(|&(at, &byte)| !is_right(at, byte));
        assert_eq!(wrong, None, "{name}");
    }
    fsck(&env.unmount());
}

#[test]
fn a_page_that_is_cut_and_grows_again_has_its_blocks() {
    let _alone = alone();
    let Some(env) = small_blocks() else { return };
    let put = |nr| env.put(&format!("/file{nr}"), &[1; 4096]).unwrap();
    let files: Vec<_> = (0..MANY).map(put).collect();
    env.sync().unwrap();
    for file in &files {
        vfs::attr::ftruncate(file, 100, u64::MAX).unwrap();
        vfs::attr::ftruncate(file, 4096, u64::MAX).unwrap();
    }
    let filler = fill(&env, 8);
    for file in &files {
        assert_eq!(pwrite(file, &[2; 3000], 1000), Ok(3000));
    }
    drop(filler);
    check_written(env, files, |at, byte| {
        byte == if at < 100 { 1 } else { 2 * u8::from((1000..4000).contains(&at)) }
    });
}

#[test]
fn pages_with_holes_made_in_them_have_their_blocks() {
    let _alone = alone();
    let Some(env) = small_blocks() else { return };
    let file = env.put("/file", &[1; MANY * 4096]).unwrap();
    env.sync().unwrap();
    for nr in 0..MANY {
        allocate(&file, PUNCH, nr as u64 * 4096 + 1024, 2048).unwrap();
    }
    let filler = fill(&env, 8);
    for nr in 0..MANY {
        assert_eq!(pwrite(&file, &[2; 2048], nr * 4096 + 1024), Ok(2048));
    }
    drop(filler);
    check_written(env, vec![file], |at, byte| byte == 1 + u8::from((1024..3072).contains(&(at % 4096))));
}

#[test]
fn a_page_that_becomes_dirty_while_it_is_written_has_blocks_to_grow() {
    let _alone = alone();
    let Some(env) = small_blocks() else { return };
    let files: Vec<_> = (0..MANY).map(|nr| env.put(&format!("/file{nr}"), &[1; 100]).unwrap()).collect();
    for file in &files {
        let writer = Mutex::new(Some(file.clone()));
        env.memory.set_fault(move |op, _, _| {
            if op == Op::Write
                && let Some(file) = writer.lock().unwrap().take()
            {
                // Another thread: this one has locks.
                let write = move || assert_eq!(pwrite(&file, &[2; 50], 0), Ok(50));
                std::thread::spawn(write).join().unwrap();
            }
            Ok(())
        });
        file.inode().mapping().unwrap().write_back(0..u64::MAX).unwrap();
        env.memory.clear_fault();
        assert_eq!(file.inode().mapping().unwrap().nr_dirty(), 1);
    }
    let filler = fill(&env, 8);
    for file in &files {
        assert_eq!(pwrite(file, &[1; 4046], 50), Ok(4046));
    }
    drop(filler);
    check_written(env, files, |at, byte| byte == 1 + u8::from(at < 50));
}

/// A disk where dirty pages keep all blocks that are left, of which they need a quarter; `/taker` has `len` bytes.
fn kept_full(env: &Env, len: usize) -> (Vec<Arc<File>>, Arc<File>) {
    let taker = env.put("/taker", &vec![1; len]).unwrap();
    let files: Vec<_> = (0..10).map(|nr| env.create(&format!("/file{nr}")).unwrap()).collect();
    env.sync().unwrap();
    drop(fill(env, 40));
    let fs = &of(&taker).fs;
    env.sync().unwrap();
    for file in &files {
        if fs.available_to_root().unwrap() < 4 {
            break;
        }
        assert_eq!(pwrite(file, &[3; 300], 0), Ok(300));
    }
    let left = fs.available_to_root().unwrap();
    assert!(left < 4, "{left}");
    // The last ones, which are no page's worth.
    let last = env.open("/file0", OpenFlags::RDWR | OpenFlags::CREAT).unwrap();
    if left > 0 {
        allocate(&last, KEEP_SIZE, 1 << 20, left << 10).unwrap();
    }
    assert!(fs.available_to_root().unwrap() == 0);
    (files, taker)
}

/// `take`, which needs a few blocks, gets them.
#[track_caller]
fn check_taken(env: Option<Env>, len: usize, take: impl FnOnce(&Env, &Arc<File>) -> Result<()>) {
    let Some(mut env) = env else { return };
    let (files, taker) = kept_full(&env, len);
    assert_eq!(take(&env, &taker), Ok(()));
    drop((files, taker));
    fsck(&env.unmount());
}

#[test]
fn promises_of_too_much_leave_room_for_others() {
    let _alone = alone();
    check_taken(small_blocks(), 1, |_, taker| pwrite(taker, &[4; 4096], 8192).map(drop));
    check_taken(small_blocks(), 1, |_, taker| {
        crate::xattrs::set(of(taker), taker.inode(), b"user.name", Some(&[1; 900]), XattrMode::Any)
    });
    check_taken(small_blocks(), 1, |_, taker| allocate(taker, 0, 8192, 8192));
    check_taken(small_blocks(), 1, |env, _| {
        let direct = env.open("/taker", OpenFlags::RDWR | OpenFlags::DIRECT)?;
        pwrite(&direct, &[4; 4096], 8192).map(drop)
    });
}

#[test]
fn promises_of_too_much_let_files_leave_their_inodes() {
    let _alone = alone();
    let env = || inline_image("1024", "inline_data").map(|image| Env::new(&image));
    check_taken(env(), 90, |_, taker| vfs::attr::ftruncate(taker, 200, u64::MAX));
    check_taken(env(), 90, |_, taker| allocate(taker, KEEP_SIZE, 0, 1));
    check_taken(env(), 90, |env, _| {
        let direct = env.open("/taker", OpenFlags::RDWR | OpenFlags::DIRECT)?;
        pwrite(&direct, &[4; 1024], 1024).map(drop)
    });
}

#[test]
fn who_syncs_meets_what_others_are_writing() {
    let _alone = alone();
    let Some(mut env) = small_blocks() else { return };
    let file = env.put("/file", &[1; 4096]).unwrap();
    let fs = of(&file).fs.clone();
    let (writer, seen) = (fs.clone(), Arc::new(AtomicU32::new(0)));
    let (ino, tell) = (of(&file).ino, seen.clone());
    env.memory.set_fault(move |op, _, _| {
        if op == Op::Write && writer.dirty.lock().contains_key(&ino) {
            tell.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    fs.write_inodes(Pages::Write).unwrap();
    env.memory.clear_fault();
    assert!(seen.load(Ordering::SeqCst) > 0);
    assert!(!fs.dirty.lock().contains_key(&ino));
    drop((file, fs));
    fsck(&env.unmount());
}
