//! Files and directories that lie in their inodes, as mke2fs makes them; e2fsck judges what becomes of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags};
use hal::uio::Src;

use super::env::{Env, Random, alone, debugfs, fsck, image, pattern};

const NR_FILES: usize = 24;

/// The length of file `nr`: nothing, a part of the block map, all of it, and some of the attribute.
fn len(nr: usize) -> usize {
    [0, 1, 59, 60, 61, 100, 130, 5000][nr % 8]
}

/// An image with files and folders in their inodes, made with `features`.
pub fn inline_image(block: &str, features: &str) -> Option<Vec<u8>> {
    let host: PathBuf =
        std::env::temp_dir().join(format!("ext4-inline-{}-{block}-{features}", std::process::id()));
    let _ = std::fs::remove_dir_all(&host);
    for nr in 0..NR_FILES {
        let dir = host.join(format!("dir{}", nr % 3));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{nr}")), pattern(len(nr), nr as u64)).unwrap();
    }
    let made = image(
        &["-t", "ext4", "-b", block, "-I", "256", "-O", features, "-N", "600", "-d", host.to_str()?],
        8 << 20,
    );
    std::fs::remove_dir_all(&host).unwrap();
    made
}

fn name(nr: usize) -> String {
    format!("/dir{}/f{nr}", nr % 3)
}

#[test]
fn files_leave_their_inodes() {
    let _alone = alone();
    for block in ["4096", "1024"] {
        let Some(image) = inline_image(block, "inline_data") else { return };
        let mut env = Env::new(&image);
        let mut model: Vec<Vec<u8>> = (0..NR_FILES).map(|nr| pattern(len(nr), nr as u64)).collect();
        for (nr, bytes) in model.iter_mut().enumerate() {
            assert_eq!(env.get(&name(nr)).unwrap(), *bytes, "{nr}");
            let file = env.open(&name(nr), OpenFlags::RDWR).unwrap();
            let mut change = |pos: usize, new: &[u8]| {
                vfs::rw::pwrite(&file, &mut Src::kernel(new), pos as i64, u64::MAX).unwrap();
                bytes.resize(bytes.len().max(pos + new.len()), 0);
                bytes[pos..pos + new.len()].copy_from_slice(new);
            };
            match nr / 8 {
                0 => change(len(nr), b"appended"),
                1 => change(7000, b"behind a hole"),
                _ => {
                    let size = [0, 30, 200][nr % 3];
                    vfs::attr::ftruncate(&file, size, u64::MAX).unwrap();
                    bytes.resize(size as usize, 0);
                }
            }
            assert_eq!(env.get(&name(nr)).unwrap(), *bytes, "{nr}");
        }
        for _ in 0..2 {
            let bytes = env.unmount();
            fsck(&bytes);
            env = Env::new(&bytes);
            for (nr, bytes) in model.iter().enumerate() {
                assert_eq!(env.get(&name(nr)).unwrap(), *bytes, "{nr}");
            }
        }
        fsck(&env.unmount());
    }
}

#[test]
fn orphans_with_names_are_cut_in_their_inodes() {
    let _alone = alone();
    let Some(image) = inline_image("1024", "inline_data") else { return };
    // As a crash leaves files that were being cut: the size is the new one. They have 130 bytes, more than 60.
    let cuts = [(6, 61), (14, 60), (22, 7)];
    let mut env = Env::new(&image);
    let inos = cuts.map(|(nr, _)| env.stat(&name(nr)).unwrap().st_ino);
    let mut script = format!("set_super_value last_orphan {}\n", inos[0]);
    for (at, (nr, size)) in cuts.iter().enumerate() {
        let next = inos.get(at + 1).copied().unwrap_or(0);
        let file = name(*nr);
        script += &format!("set_inode_field {file} size {size}\nset_inode_field {file} dtime @{next}\n");
    }
    let Some(image) = debugfs(&env.unmount(), &script) else { return };
    let mut env = Env::new(&image);
    for nr in 0..NR_FILES {
        let size = cuts.iter().find(|(cut, _)| *cut == nr).map_or(len(nr), |(_, size)| *size);
        assert_eq!(env.get(&name(nr)).unwrap(), pattern(len(nr), nr as u64)[..size], "{nr}");
    }
    let bytes = env.unmount();
    assert_eq!(bytes[1024 + 0xe8..][..4], [0; 4], "the list of orphans");
    fsck(&bytes);
}

#[test]
fn folders_grow_in_their_inodes_and_leave_them() {
    let _alone = alone();
    let Some(image) = inline_image("1024", "inline_data") else { return };
    let mut env = Env::new(&image);
    let mut random = Random(5);
    let mut model: BTreeMap<String, bool> = (0..NR_FILES)
        .map(|nr| (name(nr), false))
        .chain((0..3).map(|nr| (format!("/dir{nr}"), true)))
        .collect();
    let dirs = ["/dir0", "/dir1", "/dir2", "/new0", "/new1"];
    for dir in &dirs[3..] {
        env.mkdir(dir).unwrap();
        model.insert((*dir).to_owned(), true);
    }
    for step in 0..600 {
        // Few names first, so that entries come and go in inodes; then so many that they move.
        let nr_names = if step < 300 { 5 } else { 40 };
        let path =
            format!("{}/{}", dirs[random.below(5) as usize], "n".repeat(1 + random.below(nr_names) as usize));
        match (model.get(&path).copied(), random.below(3)) {
            (None, 0) => {
                env.mkdir(&path).unwrap();
                model.insert(path, true);
            }
            (None, _) => {
                env.put(&path, b"x").unwrap();
                model.insert(path, false);
            }
            (Some(is_dir), 0) => {
                let to = format!("{}/moved{step}", dirs[random.below(5) as usize]);
                env.rename(&path, &to, RenameFlags::empty()).unwrap();
                model.remove(&path);
                model.insert(to, is_dir);
            }
            (Some(true), _) => {
                env.rmdir(&path).unwrap();
                model.remove(&path);
            }
            (Some(false), _) => {
                env.unlink(&path).unwrap();
                model.remove(&path);
            }
        }
        if step % 150 == 149 {
            let bytes = env.unmount();
            fsck(&bytes);
            env = Env::new(&bytes);
            for dir in dirs {
                let mut names = env.list(dir).unwrap();
                names.retain(|name| name != "." && name != "..");
                names.sort();
                let mut expected: Vec<String> = model
                    .keys()
                    .filter_map(|path| path.strip_prefix(dir)?.strip_prefix('/').map(str::to_owned))
                    .collect();
                expected.sort();
                assert_eq!(names, expected, "{dir}, step {step}");
            }
        }
    }
    fsck(&env.unmount());
}

/// Sectors that the file has on the disk.
fn sectors(env: &Env, name: &str) -> i64 {
    env.stat(name).unwrap().st_blocks
}

#[test]
fn new_small_files_lie_in_their_inodes() {
    let _alone = alone();
    for block in ["4096", "1024"] {
        let Some(image) = inline_image(block, "inline_data") else { return };
        let mut env = Env::new(&image);
        let name = |nr: usize| format!("/dir0/new{nr}");
        let mut model: Vec<Vec<u8>> = (0..32).map(|nr| pattern(len(nr), 100 + nr as u64)).collect();
        for (nr, bytes) in model.iter().enumerate() {
            env.put(&name(nr), bytes).unwrap();
        }
        env.sync().unwrap();
        for nr in 0..model.len() {
            // 60 bytes, and what 96 have left beside the attribute's entry.
            assert_eq!(sectors(&env, &name(nr)) == 0, len(nr) < 128, "{nr}");
        }
        for (nr, bytes) in model.iter_mut().enumerate() {
            let file = env.open(&name(nr), OpenFlags::RDWR).unwrap();
            let mut change = |pos: usize, new: &[u8]| {
                vfs::rw::pwrite(&file, &mut Src::kernel(new), pos as i64, u64::MAX).unwrap();
                bytes.resize(bytes.len().max(pos + new.len()), 0);
                bytes[pos..pos + new.len()].copy_from_slice(new);
            };
            match nr / 8 {
                // It stays, and does when it was loaded anew.
                0 => change(0, b"z"),
                // It stays or goes.
                1 => change(len(nr), b"appended, and not so little"),
                // Past the cache, and in part by way of it: the bytes that wait must not go the other way.
                2 => {
                    change(3, b"waits");
                    let direct = env.open(&name(nr), OpenFlags::RDWR | OpenFlags::DIRECT).unwrap();
                    vfs::rw::pwrite(&direct, &mut Src::kernel(&[7; 4096]), 4096, u64::MAX).unwrap();
                    bytes.resize(8192, 0);
                    bytes[4096..].fill(7);
                }
                _ => {
                    change(3, b"waits");
                    match nr % 4 {
                        0 => vfs::attr::ftruncate(&file, 20, u64::MAX).unwrap(),
                        1 => vfs::attr::ftruncate(&file, 3000, u64::MAX).unwrap(),
                        2 => vfs::attr::fallocate(&file, 0, 0, 20_000, u64::MAX).unwrap(),
                        _ => vfs::attr::fallocate(&file, 1, 0, 20_000, u64::MAX).unwrap(),
                    }
                    let size = [20, 3000, bytes.len().max(20_000), bytes.len()][nr % 4];
                    bytes.resize(size, 0);
                }
            }
            assert_eq!(env.get(&name(nr)).unwrap(), *bytes, "{nr}");
        }
        for _ in 0..2 {
            let bytes = env.unmount();
            fsck(&bytes);
            env = Env::new(&bytes);
            for (nr, bytes) in model.iter().enumerate() {
                assert_eq!(env.get(&name(nr)).unwrap(), *bytes, "{nr}");
            }
        }
        assert_eq!(sectors(&env, &name(2)), 0, "overwritten in place");
        for nr in 0..model.len() {
            env.unlink(&name(nr)).unwrap();
        }
        fsck(&env.unmount());
    }
}

#[test]
fn files_that_go_into_their_inodes_are_not_taken_for_maps_of_blocks() {
    let _alone = alone();
    let Some(image) = inline_image("1024", "inline_data") else { return };
    let mut env = Env::new(&image);
    // Read as numbers of blocks these would be some of the device, or none of it.
    for (nr, bytes) in [&[3; 60][..], &[0xff; 60], &[0; 60], b"hello"].into_iter().enumerate() {
        let name = format!("/new{nr}");
        let file = env.put(&name, bytes).unwrap();
        let seek = |whence, to| vfs::rw::lseek(&file, to, whence);
        assert_eq!(seek(vfs::Whence::Data, 2), Ok(2), "{nr}");
        assert_eq!(sectors(&env, &name), 0, "{nr}");
        assert_eq!(seek(vfs::Whence::Hole, 2), Ok(bytes.len() as u64), "{nr}");
        let node = crate::node::node(file.inode()).unwrap();
        // As who asked for the flags before the file went there.
        assert!(node.written_pieces(0, 1).unwrap().is_none());
        assert_eq!(node.pieces_before(1).map(drop), Err(Errno::EINVAL));
        node.leave_journal(file.inode()).unwrap();
        assert!(!node.fs.is_aborted.load(std::sync::atomic::Ordering::Relaxed), "{nr}");
        assert_eq!(env.get(&name).unwrap(), bytes, "{nr}");
    }
    fsck(&env.unmount());
}
