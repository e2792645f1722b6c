//! Extent trees and the older block map.

use super::each_kind;
use super::image::{Image, Random};
use crate::extent::{self, Extent, Mapping, Shift};
use crate::inode::{ROOT_INO, flags};
use crate::{Error, alloc_blocks, dir, nr_free_blocks, orphan};

const FILE: u32 = 0o100_644;

#[test]
fn random_edits_agree_with_an_array() {
    each_kind(|mut image| {
        let free = nr_free_blocks(&image.layout, &image.disk).unwrap();
        let ino = image.create(ROOT_INO, "file", FILE);
        // Per block of the file: where it is, and whether it was written.
        let mut model: Vec<Option<(u64, bool)>> = vec![None; 3000];
        let mut random = Random(4711);
        for step in 0..1500 {
            let at = random.below(3000) as u32;
            let len = 1 + random.below(if step % 10 == 0 { 300 } else { 6 }) as u32;
            let end = (at + len).min(3000);
            let mut inode = image.inode(ino);
            let has_extents = inode.has_flags(flags::EXTENTS);
            match random.below(5) {
                1 if !has_extents => {}
                0 if has_extents && random.below(4) == 0 => {
                    shift(&mut image, ino, at, end, &mut model, random.below(2) == 0)
                }
                0 => {
                    image.cut(&mut inode, at, end.into());
                    model[at as usize..end as usize].fill(None);
                }
                1 => {
                    match extent::mark_written(&image.layout, &mut image.disk, &mut inode, at, end - at) {
                        Ok(()) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                    for (_, is_written) in model[at as usize..end as usize].iter_mut().flatten() {
                        *is_written = true;
                    }
                }
                _ => {
                    let mut at = at;
                    while at < end {
                        if model[at as usize].is_some() {
                            at += 1;
                            continue;
                        }
                        let hole = (at..end).take_while(|&b| model[b as usize].is_none()).count() as u32;
                        let hole = hole.min(dir::room(&image.layout, &inode, at));
                        let got = alloc_blocks(&image.layout, &mut image.disk, random.below(16000), hole);
                        let Ok((physical, len)) = got else { break };
                        let extent = Extent {
                            logical: at,
                            len,
                            physical,
                            is_unwritten: has_extents && random.below(2) == 0,
                        };
                        dir::insert_run(&image.layout, &mut image.disk, &mut inode, extent).unwrap();
                        for nth in 0..len {
                            model[(at + nth) as usize] =
                                Some((physical + u64::from(nth), !extent.is_unwritten));
                        }
                        at += len;
                    }
                }
            }
            if step % 100 == 0 {
                // As if a transaction had ended: freed blocks may be used again.
                image.commit();
                compare(&image, ino, &model);
            }
        }
        let mut inode = image.inode(ino);
        inode.set_size(3000 * image.layout.block_size as u64);
        inode.store(&image.layout, &mut image.disk).unwrap();
        image.fsck();
        compare(&image, ino, &model);
        image.unlink(ROOT_INO, "file");
        image.fsck();
        assert_eq!(nr_free_blocks(&image.layout, &image.disk).unwrap(), free);
    });
}

/// Takes blocks `at..end` out of the file, or makes room for as many at `at`; the model keeps its length.
fn shift(image: &mut Image, ino: u32, at: u32, end: u32, model: &mut Vec<Option<(u64, bool)>>, is_up: bool) {
    let by = end - at;
    let mut inode = image.inode(ino);
    let (how, from) = if is_up {
        image.cut(&mut inode, 3000 - by, 1 << 32);
        extent::split_at(&image.layout, &mut image.disk, &mut inode, at).unwrap();
        model.truncate((3000 - by) as usize);
        model.splice(at as usize..at as usize, vec![None; by as usize]);
        (Shift::Up(by), 1 << 32)
    } else {
        image.cut(&mut inode, at, end.into());
        model.drain(at as usize..end as usize);
        model.resize(3000, None);
        (Shift::Down(by), u64::from(end))
    };
    let mut next = Some(from);
    while let Some(from) = next {
        let mut inode = image.inode(ino);
        let first = if is_up { at } else { end };
        next = extent::shift(&image.layout, &mut image.disk, &mut inode, first, from, how, 3).unwrap();
    }
}

#[track_caller]
fn compare(image: &Image, ino: u32, model: &[Option<(u64, bool)>]) {
    let inode = image.inode(ino);
    for (at, expected) in model.iter().enumerate() {
        let found = match dir::map(&image.layout, &image.disk, &inode, at as u32).unwrap() {
            Mapping::Extent(extent) => Some((extent.physical, !extent.is_unwritten)),
            Mapping::Hole(_) => None,
        };
        assert_eq!(found, *expected, "block {at}");
    }
}

#[test]
fn files_of_ext2_are_cut_and_freed() {
    let host = std::env::temp_dir().join(format!("ext4-image-{}-ext2", std::process::id()));
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("big"), vec![7; 3_000_000]).unwrap();
    if let Some(mut image) = Image::make(&["-t", "ext2", "-b", "1024"], 16 << 20, Some(&host)) {
        let ino = image.path("/big");
        for size in [2_999_000u64, 1_000_000, 270_000, 12_000, 3000] {
            let mut inode = image.inode(ino);
            image.cut(&mut inode, size.div_ceil(1024) as u32, 1 << 32);
            let mut inode = image.inode(ino);
            inode.set_size(size);
            inode.store(&image.layout, &mut image.disk).unwrap();
            image.fsck();
            assert!(image.read_file(ino) == vec![7; size as usize]);
        }
        image.unlink(ROOT_INO, "big");
        image.fsck();
    }
    std::fs::remove_dir_all(&host).unwrap();
}

#[test]
fn contents_written_here_are_read_by_debugfs() {
    let Some(mut image) = Image::make(&["-t", "ext4"], 16 << 20, None) else { return };
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let ino = image.create(ROOT_INO, "data", FILE);
    image.fill(ino, 0, &data).unwrap();
    image.fsck();
    let path = std::env::temp_dir().join(format!("ext4-image-{}-debugfs", std::process::id()));
    std::fs::write(&path, &*image.disk.bytes.borrow()).unwrap();
    let output =
        std::process::Command::new("/usr/sbin/debugfs").args(["-R", "cat /data"]).arg(&path).output();
    std::fs::remove_file(&path).unwrap();
    assert!(output.unwrap().stdout == data);
}

#[test]
fn the_list_of_orphans_loses_members_anywhere() {
    each_kind(|mut image| {
        let inos: Vec<u32> = (0..5).map(|nr| image.create(ROOT_INO, &format!("f{nr}"), FILE)).collect();
        for (nr, &ino) in inos.iter().enumerate() {
            let mut parent = image.inode(ROOT_INO);
            dir::remove(&image.layout, &mut image.disk, &mut parent, format!("f{nr}").as_bytes()).unwrap();
            let mut inode = image.inode(ino);
            inode.set_nlink(0);
            orphan::add(&image.layout, &mut image.disk, &mut inode).unwrap();
        }
        let listed = |image: &Image| orphan::listed(&image.layout, &image.disk).unwrap();
        assert_eq!(listed(&image), inos.iter().rev().copied().collect::<Vec<_>>());
        for &ino in [inos[2], inos[4], inos[0], inos[1], inos[3]].iter() {
            let mut inode = image.inode(ino);
            orphan::remove(&image.layout, &mut image.disk, &mut inode, None).unwrap();
            assert!(!listed(&image).contains(&ino));
            let again = orphan::remove(&image.layout, &mut image.disk, &mut inode, None);
            assert_eq!(again, Err(Error::NotFound));
            image.delete(ino);
        }
        image.fsck();
    });
}
