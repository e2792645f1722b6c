//! Mutated images: every operation gives an error or a result, never a panic and never an endless loop.

use super::image::{Image, Random};
use crate::extent::{self, Extent, RemoveOutcome};
use crate::inode::{Inode, ROOT_INO, Time};
use crate::{NewInode, alloc_blocks, alloc_inode, dir, free_inode, orphan, xattr};

/// Uses everything in an image, whatever it says.
fn exercise(image: &mut Image) {
    let (layout, disk) = (&image.layout, &mut image.disk);
    let _ = orphan::listed(layout, disk);
    let _ = orphan::filed(layout, disk);
    let mut found = vec![ROOT_INO];
    let mut next = 0;
    while let Some(&ino) = found.get(next) {
        next += 1;
        let Ok(inode) = Inode::load(layout, disk, ino) else { continue };
        let _ = xattr::list(layout, disk, &inode, &mut |_, _| {});
        let _ = crate::inline::file(&inode);
        for logical in [0, 1, 7, 12, 300, 70_000, u32::MAX] {
            let _ = dir::map(layout, disk, &inode, logical);
        }
        if inode.is_dir() && found.len() < 100 {
            let mut rounds = 0;
            let _ = dir::list(layout, disk, &inode, 0, &mut |entry, _| {
                found.push(entry.ino);
                rounds += 1;
                rounds < 1000
            });
            let _ = dir::lookup(layout, disk, &inode, b"file77");
            let _ = dir::is_empty(layout, disk, &inode);
        }
    }
    let Ok(mut root) = Inode::load(layout, disk, ROOT_INO) else { return };
    let time = Time { sec: 1, nsec: 0 };
    let new = NewInode { mode: 0o100_644, uid: 0, gid: 0, nlink: 1, time, generation: 1 };
    if let Ok(mut inode) = alloc_inode(layout, disk, &root, &new) {
        let _ = dir::add(layout, disk, &mut root, b"a name that is new", inode.ino(), 1);
        let _ = xattr::set(layout, disk, &mut inode, 1, b"x", Some(&[1; 100]));
        if let Ok((physical, len)) = alloc_blocks(layout, disk, 0, 20) {
            let extent = Extent { logical: 5, len, physical, is_unwritten: true };
            let _ = extent::insert(layout, disk, &mut inode, extent);
            let _ = extent::mark_written(layout, disk, &mut inode, 7, 2);
        }
        let _ = free_inode(layout, disk, inode);
    }
    for &ino in found.iter().take(60) {
        let Ok(mut inode) = Inode::load(layout, disk, ino) else { continue };
        let _ = orphan::add(layout, disk, &mut inode);
        if inode.is_dir() {
            let _ = dir::add(layout, disk, &mut inode, b"another", 12, 1);
            let _ = dir::remove(layout, disk, &mut inode, b"file3");
        }
        for _ in 0..20 {
            let outcome = dir::unmap(layout, disk, &mut inode, 0, 1 << 32, 50);
            if outcome != Ok(RemoveOutcome::More) {
                break;
            }
        }
        let _ = orphan::remove(layout, disk, &mut inode, None);
    }
}

fn sample(args: &[&str]) -> Option<Vec<u8>> {
    let host = std::env::temp_dir().join(format!("ext4-image-{}-hostile", std::process::id()));
    std::fs::create_dir_all(host.join("dir")).unwrap();
    for nr in 0..120 {
        std::fs::write(host.join(format!("dir/file{nr}")), vec![nr as u8; nr * 30]).unwrap();
    }
    std::os::unix::fs::symlink("y".repeat(80), host.join("dir/link")).unwrap();
    let mut image = Image::make(args, 2 << 20, Some(&host));
    std::fs::remove_dir_all(&host).unwrap();
    let image = image.as_mut()?;
    if image.layout.incompat.contains(crate::superblock::Incompat::EXTENTS) {
        // A file with a deep tree, so that its nodes are mutated, too.
        let ino = image.create(ROOT_INO, "deep", 0o100_644);
        for nr in 0..60 {
            image.fill(ino, nr * 2, &[9; 10]).unwrap();
        }
    }
    image.commit();
    Some(image.disk.bytes.take())
}

/// Bytes that are worth a change: those that are not zero, and their neighbours.
fn targets(bytes: &[u8]) -> Vec<usize> {
    let is_used = |at: usize| bytes[at.saturating_sub(3)..(at + 4).min(bytes.len())].iter().any(|&b| b != 0);
    (0..bytes.len()).filter(|&at| at < 4096 || is_used(at)).collect()
}

#[test]
fn mutated_images_do_no_harm() {
    // Without checksums, so that mutations reach the code behind them.
    let kinds: [&[&str]; 3] = [
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal", "-N", "256"],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal,inline_data", "-N", "256"],
        &["-t", "ext2", "-b", "1024", "-N", "256"],
    ];
    let mut random = Random(2026);
    for kind in kinds {
        let Some(original) = sample(kind) else { return };
        let targets = targets(&original);
        let mut mounted = 0;
        for _ in 0..1500 {
            let mut bytes = original.clone();
            for _ in 0..1 + random.below(12) {
                let at = match random.below(4) {
                    0 => 1024 + random.below(1024) as usize,
                    _ => targets[random.below(targets.len() as u64) as usize],
                };
                bytes[at] = match random.below(3) {
                    0 => 0xff,
                    1 => bytes[at] ^ 1 << random.below(8),
                    _ => random.next() as u8,
                };
            }
            if let Ok(mut image) = Image::open(bytes) {
                mounted += 1;
                exercise(&mut image);
            }
        }
        assert!(mounted > 100, "most mutations should get past the superblock");
    }
}
