//! Files, names and attributes, written, read again after a remount, and checked.

use std::collections::BTreeMap;

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags};
use ext4_image::extent::RemoveOutcome;
use hal::uio::{Dest, Src};
use vfs::Whence;
use vfs::inode::XattrMode;
use vfs::superblock::SbFlags;

use super::env::{Env, Random, alone, fsck, fsck_after_crash, fsync, image, pattern};

const KINDS: &[&[&str]] = &[
    &["-t", "ext4"],
    &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"],
    &["-t", "ext4", "-b", "2048", "-O", "metadata_csum_seed,orphan_file"],
    &["-t", "ext4", "-b", "1024", "-O", "^has_journal"],
    &["-t", "ext2", "-b", "1024"],
    &["-t", "ext3", "-b", "4096"],
];

fn each_kind(test: impl Fn(Env)) {
    for kind in KINDS {
        if let Some(image) = image(kind, 12 << 20) {
            test(Env::new(&image));
        }
    }
    if let Some(image) = image(&["-t", "ext4"], 12 << 20) {
        test(Env::with_options(&image, SbFlags::empty(), b"commit=900,data=journal").unwrap());
    }
}

#[test]
fn what_is_written_is_read_after_a_remount() {
    let _alone = alone();
    each_kind(|mut env| {
        let contents: Vec<Vec<u8>> =
            [0, 1, 511, 4096, 4097, 70_000, 3_000_000].iter().map(|&len| pattern(len, len as u64)).collect();
        env.mkdir("/dir").unwrap();
        for (nr, bytes) in contents.iter().enumerate() {
            env.put(&format!("/dir/file{nr}"), bytes).unwrap();
            assert!(env.get(&format!("/dir/file{nr}")).unwrap() == *bytes);
        }
        env.symlink("dir/file3", "/short").unwrap();
        env.symlink(&format!("{}dir/file4", "./".repeat(60)), "/long").unwrap();
        env.link("/dir/file1", "/hard").unwrap();
        env.remount();
        for (nr, bytes) in contents.iter().enumerate() {
            assert!(env.get(&format!("/dir/file{nr}")).unwrap() == *bytes, "file{nr}");
        }
        assert!(env.get("/short").unwrap() == contents[3]);
        assert!(env.get("/long").unwrap() == contents[4]);
        assert_eq!(env.stat("/hard").unwrap().st_nlink, 2);
        assert_eq!(env.list("/dir").unwrap().len(), contents.len());
        fsck(&env.unmount());
    });
}

#[test]
fn random_writes_agree_with_an_array() {
    let _alone = alone();
    each_kind(|mut env| {
        let mut random = Random(77);
        let mut model: Vec<u8> = Vec::new();
        env.create("/file").unwrap();
        for step in 0..250 {
            let file = env.open("/file", OpenFlags::RDWR).unwrap();
            let at = random.below(400_000);
            let len = 1 + random.below(if step % 9 == 0 { 60_000 } else { 3000 });
            match random.below(9) {
                0 => {
                    vfs::attr::ftruncate(&file, at as i64, u64::MAX).unwrap();
                    model.resize(at as usize, 0);
                }
                1 => {
                    vfs::attr::fallocate(&file, 3, at as i64, len as i64, u64::MAX).unwrap();
                    let (from, to) = ((at as usize).min(model.len()), ((at + len) as usize).min(model.len()));
                    model[from..to].fill(0);
                }
                2 => {
                    let end = (at + len) as usize;
                    match vfs::attr::fallocate(&file, 0, at as i64, len as i64, u64::MAX) {
                        Ok(()) if end > model.len() => model.resize(end, 0),
                        // Without extents blocks cannot be told from such that were never written.
                        Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                        Err(errno) => panic!("{errno}"),
                    }
                }
                3 => fsync(&file).unwrap(),
                _ => {
                    let bytes = pattern(len as usize, step);
                    assert_eq!(
                        vfs::rw::pwrite(&file, &mut Src::kernel(&bytes), at as i64, u64::MAX),
                        Ok(bytes.len())
                    );
                    let end = (at + len) as usize;
                    if end > model.len() {
                        model.resize(end, 0);
                    }
                    model[at as usize..end].copy_from_slice(&bytes);
                }
            }
            drop(file);
            if step % 50 == 25 {
                env.remount();
            }
            if step % 10 == 0 {
                assert!(env.get("/file").unwrap() == model, "step {step}");
            }
        }
        env.remount();
        assert!(env.get("/file").unwrap() == model);
        fsck(&env.unmount());
    });
}

#[test]
fn names_agree_with_a_model() {
    let _alone = alone();
    each_kind(|mut env| {
        let mut random = Random(31);
        // Path of each file and its number; directories d0 to d3.
        let mut model: BTreeMap<String, u64> = BTreeMap::new();
        for nr in 0..4 {
            env.mkdir(&format!("/d{nr}")).unwrap();
        }
        let name = |random: &mut Random| format!("/d{}/n{}", random.below(4), random.below(40));
        for step in 0..600 {
            let (a, b) = (name(&mut random), name(&mut random));
            match random.below(6) {
                0 | 1 => {
                    env.put(&a, &step.to_string().into_bytes()).unwrap();
                    let linked = model.get(&a).copied();
                    for value in model.values_mut().filter(|value| Some(**value) == linked) {
                        *value = step;
                    }
                    model.insert(a, step);
                }
                2 => {
                    let expected = if model.remove(&a).is_some() { Ok(()) } else { Err(Errno::ENOENT) };
                    assert_eq!(env.unlink(&a), expected);
                }
                3 => match (model.get(&a).copied(), model.get(&b).copied()) {
                    (None, _) => assert_eq!(env.rename(&a, &b, RenameFlags::empty()), Err(Errno::ENOENT)),
                    (Some(value), other) => {
                        env.rename(&a, &b, RenameFlags::empty()).unwrap();
                        // Two names of one file stay both (rename(2)).
                        if Some(value) != other {
                            model.remove(&a);
                            model.insert(b, value);
                        }
                    }
                },
                4 => match (model.get(&a).copied(), model.contains_key(&b)) {
                    (Some(value), false) => {
                        env.link(&a, &b).unwrap();
                        model.insert(b, value);
                    }
                    (None, _) => assert_eq!(env.link(&a, &b), Err(Errno::ENOENT)),
                    _ => assert_eq!(env.link(&a, &b), Err(Errno::EEXIST)),
                },
                _ => {
                    if let (Some(x), Some(y)) = (model.get(&a).copied(), model.get(&b).copied()) {
                        env.rename(&a, &b, RenameFlags::EXCHANGE).unwrap();
                        model.insert(a, y);
                        model.insert(b, x);
                    }
                }
            }
            if step % 150 == 149 {
                env.remount();
            }
        }
        for dir in 0..4 {
            let prefix = format!("/d{dir}/");
            let expected: Vec<_> = model.keys().filter_map(|name| name.strip_prefix(&prefix)).collect();
            let mut expected: Vec<String> = expected.into_iter().map(String::from).collect();
            expected.sort();
            assert_eq!(env.list(&prefix).unwrap(), expected);
        }
        for (name, value) in &model {
            assert_eq!(env.get(name).unwrap(), value.to_string().into_bytes(), "{name}");
        }
        fsck(&env.unmount());
    });
}

#[test]
fn directories_move_with_their_parents_counted() {
    let _alone = alone();
    each_kind(|mut env| {
        for name in ["/a", "/b", "/a/x", "/a/x/deep", "/b/y"] {
            env.mkdir(name).unwrap();
        }
        assert_eq!(env.rmdir("/a"), Err(Errno::ENOTEMPTY));
        env.rename("/a/x", "/b/x", RenameFlags::empty()).unwrap();
        assert_eq!((env.stat("/a").unwrap().st_nlink, env.stat("/b").unwrap().st_nlink), (2, 4));
        env.rename("/b/x", "/a", RenameFlags::EXCHANGE).unwrap();
        env.rename("/b/y", "/b/x", RenameFlags::empty()).unwrap();
        env.put("/file", b"x").unwrap();
        env.rename("/file", "/moved", RenameFlags::WHITEOUT).unwrap();
        assert_eq!(env.stat("/file").unwrap().st_mode & 0o170_000, 0o020_000);
        env.remount();
        assert_eq!(env.list("/").unwrap(), ["a", "b", "file", "lost+found", "moved"]);
        assert_eq!(env.list("/a").unwrap(), ["deep"]);
        fsck(&env.unmount());
    });
}

#[test]
fn attributes_and_times_survive() {
    let _alone = alone();
    each_kind(|mut env| {
        env.put("/file", b"x").unwrap();
        let (path, cred) = (env.walk("/file").unwrap(), security::Cred::root());
        vfs::xattr::set(&path, b"user.one", b"value", XattrMode::Any, &cred).unwrap();
        vfs::xattr::set(&path, b"user.big", &[7; 700], XattrMode::Any, &cred).unwrap();
        assert_eq!(vfs::xattr::set(&path, b"user.one", b"", XattrMode::Create, &cred), Err(Errno::EEXIST));
        vfs::attr::chmod(&path, 0o4711, &cred).unwrap();
        vfs::attr::chown(&path, 70_000, 80_000, &cred).unwrap();
        drop(path);
        let before = env.stat("/file").unwrap();
        env.remount();
        let after = env.stat("/file").unwrap();
        assert_eq!((after.st_mode, after.st_uid, after.st_gid), (0o100_711, 70_000, 80_000));
        assert_eq!((after.st_mtime, after.st_ctime), (before.st_mtime, before.st_ctime));
        assert_eq!(after.st_ctime_nsec, before.st_ctime_nsec);
        let path = env.walk("/file").unwrap();
        assert_eq!(vfs::xattr::get(&path, b"user.one", &cred).unwrap(), b"value");
        assert_eq!(vfs::xattr::get(&path, b"user.big", &cred).unwrap(), [7; 700]);
        vfs::xattr::remove(&path, b"user.big", &cred).unwrap();
        assert_eq!(vfs::xattr::get(&path, b"user.big", &cred), Err(Errno::ENODATA));
        assert_eq!(vfs::xattr::list(&path, &cred).unwrap(), b"user.one\0");
        drop(path);
        fsck(&env.unmount());
    });
}

#[test]
fn files_without_names_go_with_their_last_user() {
    let _alone = alone();
    each_kind(|mut env| {
        let free = env.walk("/").unwrap().dentry.sb().statfs().unwrap().f_bfree;
        let file = env.put("/file", &pattern(200_000, 1)).unwrap();
        fsync(&file).unwrap();
        env.unlink("/file").unwrap();
        let mut byte = [0];
        assert_eq!(vfs::rw::pread(&file, &mut Dest::kernel(&mut byte), 5), Ok(1));
        // A crash here leaves an orphan, which the next mount frees.
        env.sync().unwrap();
        let crashed = env.memory.snapshot();
        drop(file);
        let mut again = Env::new(&crashed);
        again.sync().unwrap();
        assert_eq!(again.walk("/").unwrap().dentry.sb().statfs().unwrap().f_bfree, free);
        fsck(&again.unmount());
        let temporary = env.open("/", OpenFlags::TMPFILE | OpenFlags::RDWR).unwrap();
        vfs::rw::write(&temporary, &mut Src::kernel(b"temporary"), u64::MAX).unwrap();
        drop(temporary);
        env.sync().unwrap();
        fsck(&env.unmount());
    });
}

/// The first transaction of a cut of `file`, which is in too many pieces for one, to `size` bytes.
fn begin_cut(file: &vfs::File, size: u64) {
    let inode = file.inode();
    let node = crate::node::node(inode).unwrap();
    let first = u32::try_from(size.div_ceil(1 << node.fs.layout.block_bits)).unwrap();
    inode.mapping().unwrap().truncate(size);
    let handle = node.fs.begin().unwrap();
    let outcome = handle.run(|layout, txn| node.cut_some(layout, txn, inode, first)).unwrap();
    assert_eq!(outcome, RemoveOutcome::More);
}

#[test]
fn crashes_in_the_middle_of_cuts_leave_no_blocks_behind_the_end() {
    let _alone = alone();
    each_kind(|mut env| {
        let files = ["/one", "/two", "/three"].map(|name| {
            let file = env.create(name).unwrap();
            for at in 0..40 {
                vfs::rw::pwrite(&file, &mut Src::kernel(&[7; 4096]), at * 8192, u64::MAX).unwrap();
            }
            fsync(&file).unwrap();
            file
        });
        for (file, size) in files.iter().zip([2010, 0, 50_000]) {
            begin_cut(file, size);
        }
        env.sync().unwrap();
        let crashed = env.memory.snapshot();
        fsck_after_crash(&crashed);
        let mut again = Env::new(&crashed);
        assert_eq!(["/one", "/two", "/three"].map(|name| again.get(name).unwrap().len()), [2010, 0, 50_000]);
        fsck(&again.unmount());
        // Off the list in another order than they came on it; one goes without having been cut to the end.
        vfs::attr::ftruncate(&files[1], 0, u64::MAX).unwrap();
        env.unlink("/one").unwrap();
        vfs::attr::ftruncate(&files[2], 50_000, u64::MAX).unwrap();
        env.sync().unwrap();
        let listed = env.memory.snapshot();
        fsck_after_crash(&listed);
        drop(files);
        fsck(&env.unmount());
    });
}

#[test]
fn a_cut_to_the_same_size_frees_blocks_behind_it() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 8 << 20) else { return };
    let mut env = Env::new(&image);
    let file = env.put("/file", &pattern(5000, 1)).unwrap();
    fsync(&file).unwrap();
    let before = env.stat("/file").unwrap().st_blocks;
    vfs::attr::fallocate(&file, 1, 0, 100_000, u64::MAX).unwrap();
    assert!(env.stat("/file").unwrap().st_blocks > before);
    vfs::attr::ftruncate(&file, 5000, u64::MAX).unwrap();
    assert_eq!(env.stat("/file").unwrap().st_blocks, before);
    drop(file);
    fsck(&env.unmount());
}

#[test]
fn holes_and_data_are_told_apart() {
    let _alone = alone();
    each_kind(|mut env| {
        let file = env.create("/file").unwrap();
        for at in [0, 1 << 20] {
            vfs::rw::pwrite(&file, &mut Src::kernel(&[1; 5000]), at, u64::MAX).unwrap();
        }
        let seek = |offset, whence| vfs::rw::lseek(&file, offset, whence);
        assert_eq!(seek(0, Whence::Data), Ok(0));
        let hole = seek(0, Whence::Hole).unwrap();
        assert!((5000..=8192).contains(&hole));
        assert_eq!(seek(hole as i64, Whence::Data), Ok(1 << 20));
        assert_eq!(seek(1 << 20, Whence::Hole), Ok((1 << 20) + 5000));
        assert_eq!(seek(2 << 20, Whence::Data), Err(Errno::ENXIO));
        assert!(env.stat("/file").unwrap().st_blocks < 64);
        drop(file);
        fsck(&env.unmount());
    });
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4", "-b", "1024", "-m", "0"], 4 << 20) else { return };
    let mut env = Env::new(&image);
    let mut files = 0;
    let error = loop {
        match env.put(&format!("/file{files}"), &pattern(100_000, files)) {
            Ok(_) => files += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::ENOSPC);
    assert!(files > 10);
    env.remount();
    for nr in 0..files {
        assert!(env.get(&format!("/file{nr}")).unwrap() == pattern(100_000, nr), "file{nr}");
    }
    for nr in 0..=files {
        env.unlink(&format!("/file{nr}")).unwrap();
    }
    env.sync().unwrap();
    for nr in 0..files {
        env.put(&format!("/again{nr}"), &pattern(100_000, nr)).unwrap();
    }
    fsck(&env.unmount());
}

/// Fills the disk with dirty pages that have no blocks yet, has `take` get all that it can, and then everything written.
#[track_caller]
fn check_promises(take: impl Fn(&Env) -> Errno) {
    let Some(image) = image(&["-t", "ext4", "-b", "1024", "-m", "0"], 4 << 20) else { return };
    let mut env = Env::new(&image);
    env.mkdir("/dir").unwrap();
    drop(env.put("/taker", b"x").unwrap());
    env.sync().unwrap();
    let file = env.create("/file").unwrap();
    let mut pages = 0;
    while vfs::rw::write(&file, &mut Src::kernel(&[7; 4096]), u64::MAX).is_ok() {
        pages += 1;
    }
    assert!(pages > 500, "{pages}");
    assert_eq!(take(&env), Errno::ENOSPC);
    fsync(&file).unwrap();
    env.sync().unwrap();
    drop(file);
    env.remount();
    let bytes = env.get("/file").unwrap();
    assert!(bytes.len() == pages * 4096 && bytes.iter().all(|&byte| byte == 7));
    fsck(&env.unmount());
}

#[test]
fn names_leave_the_blocks_that_dirty_pages_were_promised() {
    let _alone = alone();
    check_promises(|env| {
        let link = |nr| env.link("/taker", &format!("/dir/{nr}{}", "n".repeat(240)));
        (0..20_000).find_map(|nr| link(nr).err()).unwrap()
    });
}

#[test]
fn direct_writes_and_attributes_leave_the_blocks_that_dirty_pages_were_promised() {
    let _alone = alone();
    check_promises(|env| {
        let direct = env.open("/taker", OpenFlags::RDWR | OpenFlags::DIRECT).unwrap();
        let write =
            |nr: i64| vfs::rw::pwrite(&direct, &mut Src::kernel(&[1; 4096]), (nr + 1) << 16, u64::MAX);
        (0..5000).find_map(|nr| write(nr).err()).unwrap()
    });
    check_promises(|env| {
        let set = |nr: u32| {
            let file = env.put(&format!("/file{nr}"), b"").unwrap();
            let node = crate::node::node(file.inode()).unwrap();
            crate::xattrs::set(node, file.inode(), b"user.name", Some(&[1; 900]), XattrMode::Any)
        };
        (0..10).find_map(|nr| set(nr).err()).unwrap()
    });
}

#[test]
fn direct_writes_that_find_no_space_leave_nothing_behind_the_end() {
    let _alone = alone();
    for left in [3, 40, 200] {
        let Some(image) = image(&["-t", "ext4", "-b", "1024", "-m", "0"], 4 << 20) else { return };
        let mut env = Env::new(&image);
        let fs = crate::node::node(env.walk("/").unwrap().inode().unwrap()).unwrap().fs.clone();
        let direct = env.create("/direct").unwrap();
        drop(direct);
        let direct = env.open("/direct", OpenFlags::RDWR | OpenFlags::DIRECT).unwrap();
        let filler = env.create("/filler").unwrap();
        while fs.available_to_root().unwrap() > left {
            let bytes = if fs.available_to_root().unwrap() > left + 8 { 4096 } else { 1024 };
            if vfs::rw::write(&filler, &mut Src::kernel(&[7; 4096][..bytes]), u64::MAX).is_err() {
                break;
            }
            fsync(&filler).unwrap();
        }
        drop(fs);
        let bytes = alloc::vec![1; 512 << 10];
        let written = vfs::rw::pwrite(&direct, &mut Src::kernel(&bytes), 0, u64::MAX);
        assert_eq!(written, Err(Errno::ENOSPC));
        drop((direct, filler));
        fsck(&env.unmount());
    }
}

#[test]
fn names_that_find_no_space_write_nothing_in_vain() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4", "-b", "1024", "-m", "0"], 4 << 20) else { return };
    let mut env = Env::new(&image);
    drop(env.put("/taker", b"x").unwrap());
    let mut nr = 0;
    let mut link = |env: &Env| {
        nr += 1;
        env.link("/taker", &format!("/{nr}{}", "n".repeat(240)))
    };
    let fs = crate::node::node(env.walk("/taker").unwrap().inode().unwrap()).unwrap().fs.clone();
    let (mut failures, mut commits) = (0, 0);
    while failures < 10 {
        let before = fs.running();
        if link(&env) == Err(Errno::ENOSPC) {
            commits += u32::from(fs.running() != before);
            failures += 1;
        }
    }
    // One may be that of every few seconds.
    assert!(commits <= 1, "{commits} commits");
    drop(fs);
    fsck(&env.unmount());
}

#[test]
fn handles_find_files_again() {
    use vfs::handle::{Purpose, decode, encode};
    let _alone = alone();
    let Some(original) = image(&["-t", "ext4", "-O", "orphan_file"], 4 << 20) else { return };
    let mut env = Env::new(&original);
    env.mkdir("/a").unwrap();
    env.mkdir("/a/b").unwrap();
    for nr in 0..200 {
        env.mkdir(&format!("/a/b/{nr}")).unwrap();
    }
    env.put("/a/b/file", b"text").unwrap();
    let paths = ["/", "/a", "/a/b/77", "/a/b/file"];
    let handles = paths.map(|path| encode(&env.walk(path).unwrap(), Purpose::Open).unwrap());
    let connected = encode(&env.walk("/a/b/file").unwrap(), Purpose::OpenConnected).unwrap();
    assert_eq!((connected.kind, connected.bytes.len()), (2, 16));
    env.remount();
    for (path, handle) in paths.iter().zip(&handles) {
        assert_eq!((handle.kind, handle.bytes.len()), (1, 8), "{path}");
        let found = decode(&env.walk("/").unwrap(), handle.kind, &handle.bytes).unwrap();
        let ino = env.stat(path).unwrap().st_ino;
        assert_eq!(vfs::attr::stat(&found).unwrap().st_ino, ino, "{path}");
    }
    let stale = |kind, bytes: &[u8]| decode(&env.walk("/").unwrap(), kind, bytes).err();
    let [_, _, dir, file] = &handles;
    assert_eq!(stale(3, &file.bytes), Some(Errno::ESTALE));
    assert_eq!(stale(1, &file.bytes[..4]), Some(Errno::ESTALE));
    for ino in [0u32, 1, 8, 999_999, u32::MAX] {
        let bytes = [ino.to_ne_bytes(), [0; 4]].concat();
        assert_eq!(stale(1, &bytes), Some(Errno::ESTALE), "{ino}");
    }
    let mut other = file.bytes.clone();
    other[4] ^= 1;
    assert_eq!(stale(1, &other), Some(Errno::ESTALE));
    env.rmdir("/a/b/77").unwrap();
    assert_eq!(stale(1, &dir.bytes), Some(Errno::ESTALE));
}

#[test]
fn large_directories_move_to_another_parent() {
    let _alone = alone();
    each_kind(|mut env| {
        env.mkdir("/from").unwrap();
        env.mkdir("/to").unwrap();
        env.mkdir("/from/large").unwrap();
        for nr in 0..300 {
            env.symlink("x", &format!("/from/large/a-rather-long-name-{nr}")).unwrap();
        }
        env.rename("/from/large", "/to/moved", RenameFlags::empty()).unwrap();
        env.remount();
        assert_eq!(env.list("/to/moved").unwrap().len(), 300);
        assert_eq!(env.stat("/to/moved/..").unwrap().st_ino, env.stat("/to").unwrap().st_ino);
        env.rmdir("/from").unwrap();
        fsck(&env.unmount());
    });
}

#[test]
fn swap_goes_to_the_blocks_of_a_file() {
    let _alone = alone();
    each_kind(|mut env| {
        let page = hal::PAGE_SIZE;
        let file = env.create("/swap").unwrap();
        match vfs::attr::fallocate(&file, 0, 0, 40 * page as i64, u64::MAX) {
            // Without extents no blocks can be set aside.
            Err(Errno::EOPNOTSUPP) => return,
            result => result.unwrap(),
        }
        env.put("/beside", &pattern(5000, 1)).unwrap();
        vfs::rw::pwrite(&file, &mut Src::kernel(&pattern(100, 2)), 0, u64::MAX).unwrap();
        let device = file.ops().swap_device(&file).unwrap();
        assert_eq!((device.nr_pages(), device.is_partition()), (40, false));
        assert!(matches!(file.ops().swap_device(&file), Err(Errno::EBUSY)));
        let frames: Vec<_> = (3..30).map(|slot| (slot, hal::frame::Frame::alloc_zeroed().unwrap())).collect();
        frames.iter().for_each(|(slot, frame)| frame.write(0, &pattern(page, *slot)));
        device.write(&frames).unwrap();
        let back = hal::frame::Frame::alloc_zeroed().unwrap();
        let mut bytes = vec![0; page];
        for slot in 3..30 {
            device.read(slot, &back).unwrap();
            back.read(0, &mut bytes);
            assert!(bytes == pattern(page, slot), "slot {slot}");
        }
        device.read(0, &back).unwrap();
        back.read(0, &mut bytes);
        assert!(bytes[..100] == pattern(100, 2)[..]);
        // Meanwhile it stays as it is.
        let write = vfs::rw::pwrite(&file, &mut Src::kernel(b"x"), 0, u64::MAX);
        assert_eq!(write, Err(Errno::ETXTBSY));
        assert_eq!(vfs::attr::ftruncate(&file, 1, u64::MAX), Err(Errno::ETXTBSY));
        assert_eq!(vfs::attr::fallocate(&file, 3, 0, 4096, u64::MAX), Err(Errno::ETXTBSY));
        assert_eq!(env.unlink("/swap"), Err(Errno::EPERM));
        assert!(matches!(env.open("/swap", OpenFlags::WRONLY | OpenFlags::TRUNC), Err(Errno::ETXTBSY)));
        // By the ways of overlayfs and loop devices, too, which pass the VFS's checks by.
        {
            let inode = file.inode();
            let _exclusive = inode.sem.write();
            assert_eq!(file.ops().write(&file, &mut Src::kernel(b"x"), 0), Err(Errno::ETXTBSY));
            assert_eq!(file.ops().fallocate(&file, 3, 0, 4096), Err(Errno::ETXTBSY));
            let cut = vfs::SetAttr { size: Some(0), ..vfs::SetAttr::default() };
            assert_eq!(inode.ops().set_attr(inode, &cut), Err(Errno::ETXTBSY));
        }
        assert_eq!(file.inode().size(), 40 * page as u64);
        drop(device);
        assert_eq!(vfs::rw::pwrite(&file, &mut Src::kernel(b"x"), 0, u64::MAX), Ok(1));
        // A file with a hole, or with nothing in it, is none to swap to.
        vfs::attr::fallocate(&file, 3, 8 * page as i64, page as i64, u64::MAX).unwrap();
        assert!(matches!(file.ops().swap_device(&file), Err(Errno::EINVAL)));
        let empty = env.create("/empty").unwrap();
        assert!(matches!(empty.ops().swap_device(&empty), Err(Errno::EINVAL)));
        drop((file, empty));
        assert!(env.get("/beside").unwrap() == pattern(5000, 1));
        env.unlink("/swap").unwrap();
        fsck(&env.unmount());
    });
}
