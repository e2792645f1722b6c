//! The journal against its own recovery and e2fsck's.

use std::cell::RefCell;
use std::sync::Arc;

use super::each_kind;
use super::image::{self, Image, Random};
use crate::block::{Block, BlockRef, Blocks};
use crate::extent::Mapping;
use crate::journal::{Log, commit_block, records, recover};
use crate::{Error, dir};

/// Device blocks of the journal's blocks.
fn journal_map(image: &Image) -> Vec<u64> {
    let inode = image.inode(image.layout.journal_ino);
    let nr = inode.size() / image.layout.block_size as u64;
    let map = |logical| match dir::map(&image.layout, &image.disk, &inode, logical).unwrap() {
        Mapping::Extent(extent) => extent.physical,
        Mapping::Hole(_) => panic!("hole in the journal"),
    };
    (0..nr as u32).map(map).collect()
}

fn block(image: &Image, nr: u64) -> Vec<u8> {
    let at = nr as usize * image.layout.block_size;
    image.disk.bytes.borrow()[at..at + image.layout.block_size].to_vec()
}

fn put(image: &Image, nr: u64, bytes: &[u8]) {
    let at = nr as usize * image.layout.block_size;
    image.disk.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
}

fn set_recover(image: &Image) {
    let mut bytes = image.disk.bytes.borrow_mut();
    bytes[1024 + 0x60] |= 4;
    if image.layout.has_csums() {
        let crc = crate::crc32c(!0, &bytes[1024..1024 + 0x3fc]);
        bytes[1024 + 0x3fc..2048].copy_from_slice(&crc.to_le_bytes());
    }
}

struct Writer {
    log: Log,
    map: Vec<u64>,
    at: u32,
    sequence: u32,
}

impl Writer {
    fn open(image: &Image) -> Self {
        let map = journal_map(image);
        let mut sb = block(image, map[0]);
        let mut log = Log::parse(&sb, &image.layout, map.len() as u64).unwrap();
        assert_eq!(log.start(), 0);
        log.set_features(&mut sb, &image.layout).unwrap();
        let (at, sequence) = (log.len() - 20, log.sequence());
        // Near the end, so that transactions go around it.
        log.set_tail(&mut sb, sequence, at).unwrap();
        put(image, map[0], &sb);
        set_recover(image);
        Self { log, map, at, sequence }
    }

    fn write(&mut self, image: &Image, changed: &[(u64, BlockRef)], revoked: &[u64], is_committed: bool) {
        let mut list = records(&self.log, self.sequence, changed, revoked).unwrap();
        assert!(list.len() < self.log.nr_records(changed.len(), revoked.len()));
        if is_committed {
            list.push(commit_block(&self.log, self.sequence, 1_700_000_000, 0).unwrap());
        }
        for record in list {
            put(image, self.map[self.at as usize], record.bytes());
            self.at = self.log.next(self.at);
        }
        self.sequence += 1;
    }
}

fn replay(image: &Image) -> crate::Result<crate::journal::Recovered> {
    let map = journal_map(image);
    let log = Log::parse(&block(image, map[0]), &image.layout, map.len() as u64)?;
    recover(
        &log,
        &mut |at, bytes| {
            bytes.copy_from_slice(&block(image, map[at as usize]));
            Ok(())
        },
        &mut |nr, bytes| {
            if !image.layout.is_file_range(nr, 1) && nr >= image.layout.blocks_count {
                return Err(Error::Corrupt("journal leads out of the file system"));
            }
            put(image, nr, bytes);
            Ok(())
        },
    )
}

#[test]
fn committed_transactions_are_replayed_by_us_and_by_e2fsck() {
    each_kind(|mut image| {
        if image.layout.journal_ino == 0 {
            return;
        }
        let (bs, mut random) = (image.layout.block_size, Random(5));
        let ino = image.create(crate::inode::ROOT_INO, "file", 0o100_644);
        image.fill(ino, 0, &vec![1; 60 * bs]).unwrap();
        image.commit();
        let inode = image.inode(ino);
        let home: Vec<u64> = (0..60)
            .map(|at| match dir::map(&image.layout, &image.disk, &inode, at).unwrap() {
                Mapping::Extent(extent) => extent.physical,
                Mapping::Hole(_) => unreachable!(),
            })
            .collect();
        let mut writer = Writer::open(&image);
        let mut expected = vec![vec![1u8; bs]; 60];
        for step in 0..6 {
            let mut changed = Vec::new();
            for nth in 0..60usize {
                if random.below(3) > 0 {
                    continue;
                }
                let mut bytes = vec![(step * 60 + nth) as u8; bs];
                if nth % 7 == 0 {
                    bytes[..4].copy_from_slice(&0xc03b_3998u32.to_be_bytes());
                }
                changed.push((home[nth], Arc::new(Block::new(bytes.clone().into()))));
                if step < 5 {
                    expected[nth] = bytes;
                }
            }
            // Blocks 3 and 4 are revoked by the fourth transaction and keep what the fifth says.
            if step == 3 {
                changed.retain(|(nr, _)| *nr != home[3] && *nr != home[4]);
                writer.write(&image, &changed, &[home[3], home[4]], true);
                for nth in [3, 4] {
                    expected[nth] = vec![1; bs];
                }
            } else {
                writer.write(&image, &changed, &[], step < 5);
            }
        }
        let before = image.disk.bytes.borrow().clone();
        let done = replay(&image).unwrap();
        assert_eq!(done.nr_transactions, 5);
        for (nth, expected) in expected.iter().enumerate() {
            assert!(block(&image, home[nth]) == *expected, "block {nth}");
        }
        let ours = std::mem::replace(&mut *image.disk.bytes.borrow_mut(), before);
        // e2fsck replays the same log and finds the same.
        let theirs = image::replayed(&image.disk.bytes.borrow());
        for &nr in &home {
            let at = nr as usize * bs;
            assert!(ours[at..at + bs] == theirs[at..at + bs], "block {nr}");
        }
    });
}

#[test]
fn a_damaged_block_is_found_by_its_checksum() {
    let Some(mut image) = Image::make(&["-t", "ext4"], 16 << 20, None) else { return };
    let ino = image.create(crate::inode::ROOT_INO, "file", 0o100_644);
    image.fill(ino, 0, &vec![1; image.layout.block_size]).unwrap();
    image.commit();
    let Mapping::Extent(extent) = dir::map(&image.layout, &image.disk, &image.inode(ino), 0).unwrap() else {
        unreachable!()
    };
    let mut writer = Writer::open(&image);
    let at = writer.at;
    let changed = [(extent.physical, image.disk.read(extent.physical).unwrap())];
    writer.write(&image, &changed, &[], true);
    let nr = writer.map[writer.log.next(at) as usize];
    let mut bytes = block(&image, nr);
    bytes[100] ^= 1;
    put(&image, nr, &bytes);
    assert_eq!(replay(&image), Err(Error::Corrupt("block in the journal")));
}

#[test]
fn mutated_logs_end_recovery_without_harm() {
    let Some(image) = Image::make(&["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"], 8 << 20, None)
    else {
        return;
    };
    let mut writer = Writer::open(&image);
    let start = writer.at;
    for nr in 0..4u64 {
        let changed: Vec<_> =
            (0..9).map(|at| (5000 + at + nr, image.disk.read(5000 + at).unwrap())).collect();
        writer.write(&image, &changed, &[6000 + nr, 5001], true);
    }
    let (mut random, original) = (Random(3), RefCell::new(image.disk.bytes.borrow().clone()));
    for _ in 0..3000 {
        for _ in 0..1 + random.below(4) {
            let mut at = start;
            for _ in 0..random.below(50) {
                at = writer.log.next(at);
            }
            let at = if random.below(8) == 0 { writer.map[0] } else { writer.map[at as usize] };
            let byte = if random.below(3) == 0 { random.below(1024) } else { random.below(64) };
            image.disk.bytes.borrow_mut()[at as usize * 1024 + byte as usize] = random.next() as u8;
        }
        let _ = replay(&image);
        image.disk.bytes.borrow_mut().copy_from_slice(&original.borrow());
    }
}
