//! Directories, inodes and attributes.

use std::collections::BTreeMap;

use super::each_kind;
use super::image::{Image, Random};
use crate::inode::ROOT_INO;
use crate::{Error, dir, inode, xattr};

const FILE: u32 = 0o100_644;
const DIR: u32 = 0o040_755;

fn list(image: &Image, ino: u32, chunk: usize) -> Vec<(String, u32)> {
    let dir = image.inode(ino);
    let (mut pos, mut all) = (0, Vec::new());
    loop {
        let mut room = chunk;
        let before = all.len();
        pos = dir::list(&image.layout, &image.disk, &dir, pos, &mut |entry, _| {
            if room == 0 {
                return false;
            }
            room -= 1;
            all.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.ino));
            true
        })
        .unwrap();
        if all.len() == before {
            return all;
        }
    }
}

#[test]
fn a_tree_made_by_mke2fs_is_read() {
    let host = std::env::temp_dir().join(format!("ext4-image-{}-tree", std::process::id()));
    std::fs::create_dir_all(host.join("a/many")).unwrap();
    std::fs::write(host.join("a/small"), b"hello").unwrap();
    let big: Vec<u8> = (0..700_000u32).map(|i| (i * 7 / 3) as u8).collect();
    std::fs::write(host.join("a/big"), &big).unwrap();
    for nr in 0..600 {
        std::fs::write(host.join(format!("a/many/file-with-a-longer-name-{nr}")), format!("{nr}")).unwrap();
    }
    std::os::unix::fs::symlink("short", host.join("link")).unwrap();
    std::os::unix::fs::symlink("x/".repeat(50), host.join("long")).unwrap();
    let inline = ["-t", "ext4", "-O", "inline_data"];
    let kinds: [&[&str]; 4] = [&["-t", "ext4"], &["-t", "ext4", "-b", "1024"], &["-t", "ext2"], &inline];
    for kind in kinds {
        let Some(image) = Image::make(kind, 16 << 20, Some(&host)) else { continue };
        assert_eq!(image.read_file(image.path("/a/small")), b"hello", "{kind:?}");
        assert!(image.read_file(image.path("/a/big")) == big, "{kind:?}");
        let link = image.inode(image.path("/link"));
        assert!(link.is_short_link(&image.layout) || link.has_flags(inode::flags::INLINE_DATA));
        assert_eq!(&link.map()[..5], b"short");
        let long = image.inode(image.path("/long"));
        assert_eq!((long.is_symlink(), long.is_short_link(&image.layout), long.size()), (true, false, 100));
        assert_eq!(image.read_file(image.path("/long")), "x/".repeat(50).as_bytes());
        let many = image.path("/a/many");
        for nr in 0..600 {
            let file = image.lookup(many, &format!("file-with-a-longer-name-{nr}")).unwrap();
            assert_eq!(image.read_file(file), format!("{nr}").as_bytes());
        }
        assert_eq!(image.lookup(many, "file"), None);
        for chunk in [7, 1000] {
            let mut names = list(&image, many, chunk);
            assert_eq!(names.len(), 600);
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 600, "no name came twice");
        }
    }
    std::fs::remove_dir_all(&host).unwrap();
}

#[test]
fn many_names_grow_an_index_and_go_again() {
    each_kind(|mut image| {
        let dir = image.create(ROOT_INO, "dir", DIR);
        let mut model = BTreeMap::new();
        let mut random = Random(7);
        for nr in 0..1500u32 {
            let len = 1 + random.below(if nr % 50 == 0 { 200 } else { 40 }) as usize;
            let name = format!("{nr}-{}", "abcdefg\u{e4}".repeat(len).chars().take(len).collect::<String>());
            let ino = image.create(dir, &name, FILE);
            model.insert(name, ino);
        }
        assert!(image.inode(dir).has_flags(inode::flags::INDEX));
        image.fsck();
        for (name, ino) in &model {
            assert_eq!(image.lookup(dir, name), Some(*ino));
        }
        let mut seen = list(&image, dir, 33);
        seen.sort();
        assert_eq!(seen, model.clone().into_iter().collect::<Vec<_>>());
        while let Some((name, _)) = model.pop_first() {
            image.unlink(dir, &name);
            assert_eq!(image.lookup(dir, &name), None);
            if model.len() % 500 == 0 {
                image.fsck();
            }
        }
        image.unlink(ROOT_INO, "dir");
        image.fsck();
    });
}

#[test]
fn a_listing_that_goes_on_while_names_come_and_go_shows_the_others_once() {
    each_kind(|mut image| {
        let dir = image.create(ROOT_INO, "dir", DIR);
        for nr in 0..100 {
            image.create(dir, &format!("stays-{nr}"), FILE);
        }
        let (mut pos, mut seen) = (0, Vec::new());
        for round in 0.. {
            let inode = image.inode(dir);
            let mut room = 5;
            let before = pos;
            pos = dir::list(&image.layout, &image.disk, &inode, pos, &mut |entry, _| {
                room -= 1;
                if room >= 0 && entry.name.starts_with(b"stays") {
                    seen.push(entry.name.to_vec());
                }
                room >= 0
            })
            .unwrap();
            if pos == before {
                break;
            }
            for nr in 0..if round < 40 { 20 } else { 0 } {
                image.create(dir, &format!("comes-{round}-{nr}"), FILE);
            }
        }
        let total = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!((total, seen.len()), (100, 100));
    });
}

#[test]
fn directories_spread_and_their_inodes_are_freed() {
    each_kind(|mut image| {
        let free = crate::nr_free_inodes(&image.layout, &image.disk).unwrap();
        for nr in 0..40 {
            let dir = image.create(ROOT_INO, &format!("d{nr}"), DIR);
            image.create(dir, "file", FILE);
            image.create(dir, "sub", DIR);
        }
        image.fsck();
        for nr in 0..40 {
            let dir = image.path(&format!("/d{nr}"));
            image.unlink(dir, "file");
            image.unlink(dir, "sub");
            image.unlink(ROOT_INO, &format!("d{nr}"));
        }
        image.fsck();
        assert_eq!(crate::nr_free_inodes(&image.layout, &image.disk).unwrap(), free);
    });
}

#[test]
fn attributes_live_in_the_inode_and_in_a_block() {
    each_kind(|mut image| {
        let ino = image.create(ROOT_INO, "file", FILE);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut random = Random(99);
        for step in 0..300 {
            let name = format!("name{}", random.below(12)).into_bytes();
            let mut inode = image.inode(ino);
            let is_set = random.below(3) > 0;
            let value = vec![step as u8; random.below(120) as usize];
            let change = is_set.then_some(&value[..]);
            match xattr::set(&image.layout, &mut image.disk, &mut inode, 1, &name, change) {
                Ok(()) if is_set => drop(model.insert(name, value)),
                Ok(()) => assert!(model.remove(&name).is_some()),
                Err(Error::NotFound) => assert!(!is_set && !model.contains_key(&name)),
                Err(error) => assert_eq!((error, is_set), (Error::TooBig, true)),
            }
            for (name, value) in &model {
                let inode = image.inode(ino);
                let found = xattr::get(&image.layout, &image.disk, &inode, 1, name).unwrap();
                assert_eq!(found.as_ref(), Some(value));
            }
            if step % 60 == 0 {
                image.fsck();
            }
        }
        image.unlink(ROOT_INO, "file");
        image.fsck();
    });
}

#[test]
fn a_full_file_system_refuses_and_stays_sound() {
    let Some(mut image) = Image::make(&["-t", "ext4", "-b", "1024", "-O", "^has_journal"], 1 << 20, None)
    else {
        return;
    };
    let mut nr = 0;
    let error = loop {
        match image.try_create(ROOT_INO, &format!("directory{nr}"), DIR) {
            Ok(_) => nr += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::NoSpace);
    assert!(nr > 50);
}
