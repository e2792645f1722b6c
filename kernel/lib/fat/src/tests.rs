//! Images that mkfs.fat made are changed here; fsck.fat judges them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::dir::{self, Dir};
use crate::*;

struct Image(RefCell<Vec<u8>>);

impl Volume for Image {
    fn read(&self, pos: u64, buf: &mut [u8]) -> Result<()> {
        let (at, bytes) = (usize::try_from(pos).map_err(|_| Error::Io)?, self.0.borrow());
        let end = at.checked_add(buf.len()).ok_or(Error::Io)?;
        buf.copy_from_slice(bytes.get(at..end).ok_or(Error::Io)?);
        Ok(())
    }

    fn write(&self, pos: u64, new: &[u8]) -> Result<()> {
        let (at, mut bytes) = (usize::try_from(pos).map_err(|_| Error::Io)?, self.0.borrow_mut());
        let end = at.checked_add(new.len()).ok_or(Error::Io)?;
        bytes.get_mut(at..end).ok_or(Error::Io)?.copy_from_slice(new);
        Ok(())
    }
}

fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nr = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("fat-image-{}-{nr}", std::process::id()))
}

/// An empty volume of 40 MiB; `None`, with a message, where mkfs.fat is not installed.
fn make(args: &[&str]) -> Option<Image> {
    let path = scratch();
    std::fs::File::create(&path).unwrap().set_len(40 << 20).unwrap();
    let output = Command::new("/usr/sbin/mkfs.fat").args(["-i", "12345678"]).args(args).arg(&path).output();
    let Ok(output) = output else {
        eprintln!("skipped: mkfs.fat (package dosfstools) cannot run");
        let _ = std::fs::remove_file(&path);
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Some(Image(RefCell::new(bytes)))
}

/// fsck.fat must find nothing.
#[track_caller]
fn check(image: &Image) {
    let path = scratch();
    std::fs::write(&path, &*image.0.borrow()).unwrap();
    let output = Command::new("/usr/sbin/fsck.fat").args(["-n", "-v"]).arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn open(image: &Image) -> Result<(Layout, Table)> {
    let mut boot = [0; BOOT_LEN];
    image.read(0, &mut boot)?;
    let layout = Layout::parse(&boot, image.0.borrow().len() as u64)?;
    let table = Table::open(&layout, image)?;
    Ok((layout, table))
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 9) % end
    }
}

#[test]
fn names_agree_with_a_model() {
    for args in [
        &["-F", "32", "-s", "1"][..],
        &["-F", "32", "-s", "1", "-f", "1"],
        &["-F", "32", "-s", "1", "-S", "512", "-R", "64"],
        &["-F", "16", "-s", "4", "-r", "4096"],
        &["-F", "12", "-s", "32", "-r", "4096"],
    ] {
        let Some(image) = make(args) else { return };
        let (layout, mut table) = open(&image).unwrap();
        let free = table.nr_free();
        let mut model: BTreeMap<String, u32> = BTreeMap::new();
        let mut random = Random(77);
        for step in 0..1200 {
            let mut chain = table::chain(&layout, &image, layout.root, dir::MAX_LEN).unwrap();
            let nr = random.below(300);
            let name = match nr % 4 {
                0 => format!("FILE{nr}.TXT"),
                1 => format!("a rather long name with number {nr}.tar.gz"),
                2 => format!("ümlaut-{nr}-{}", "x".repeat(nr as usize % 90)),
                _ => format!(".dot{nr}"),
            };
            if let Some(cluster) = model.remove(&name) {
                let dir = Dir { layout: &layout, volume: &image, chain: &chain };
                let entry = dir.find(name.to_ascii_uppercase().as_bytes()).unwrap().unwrap();
                assert_eq!((&entry.name, entry.record.cluster(&layout)), (&name, cluster));
                dir.remove(&entry).unwrap();
                let mut list = table::chain(&layout, &image, cluster, u32::MAX).unwrap();
                free_chain(&layout, &image, &mut table, &mut list, 0).unwrap();
            } else {
                let mut list = Vec::new();
                for _ in 0..1 + random.below(3) {
                    table.append(&layout, &image, &mut list).unwrap();
                }
                let mut record = Record { attributes: Attributes::ARCHIVE, ..Record::empty() };
                record.set_cluster(list[0]);
                record.size.set(list.len() as u32 * layout.cluster_size);
                record.mdate.set(0x5a21);
                record.cdate.set(0x5a21);
                record.adate.set(0x5a21);
                dir::add(&layout, &image, &mut table, &mut chain, name.as_bytes(), &record).unwrap();
                model.insert(name, list[0]);
            }
            if step % 400 == 399 {
                table.store(&layout, &image).unwrap();
                check(&image);
                let mut seen = BTreeMap::new();
                Dir { layout: &layout, volume: &image, chain: &chain }
                    .for_each(0, |entry| {
                        seen.insert(entry.name.clone(), entry.record.cluster(&layout));
                        None::<()>
                    })
                    .unwrap();
                assert_eq!(seen, model);
            }
        }
        assert_eq!(open(&image).unwrap().1.nr_free(), table.nr_free());
        assert!(table.nr_free() < free);
    }
}

#[test]
fn directories_are_made_and_moved() {
    for args in [&["-F", "32", "-s", "2"][..], &["-F", "16"], &["-F", "12", "-s", "32"]] {
        let Some(image) = make(args) else { return };
        make_and_move(&image);
    }
}

fn make_and_move(image: &Image) {
    let (layout, mut table) = open(image).unwrap();
    let mut root = table::chain(&layout, image, layout.root, dir::MAX_LEN).unwrap();
    let add_dir = |table: &mut Table, chain: &mut Vec<u32>, parent: u32, name: &str| {
        let list = dir::make(&layout, image, table, parent, &Record::empty()).unwrap();
        let mut record = Record { attributes: Attributes::DIRECTORY, ..Record::empty() };
        record.set_cluster(list[0]);
        dir::add(&layout, image, table, chain, name.as_bytes(), &record).unwrap();
        list
    };
    let mut one = add_dir(&mut table, &mut root, 0, "one");
    let two = add_dir(&mut table, &mut root, 0, "two");
    let first = one[0];
    let three = add_dir(&mut table, &mut one, first, "three, which has a long name");
    let entry =
        Dir { layout: &layout, volume: image, chain: &one }.find(b"THREE, WHICH has a long name").unwrap();
    let entry = entry.unwrap();
    let mut into = two.clone();
    dir::add(&layout, image, &mut table, &mut into, b"moved", &entry.record).unwrap();
    Dir { layout: &layout, volume: image, chain: &one }.remove(&entry).unwrap();
    Dir { layout: &layout, volume: image, chain: &three }.set_parent(two[0]).unwrap();
    table.store(&layout, image).unwrap();
    check(image);
    assert!(Dir { layout: &layout, volume: image, chain: &one }.has_no_names().unwrap());
    assert!(!Dir { layout: &layout, volume: image, chain: &two }.has_no_names().unwrap());
}

/// What a mount and some use do.
fn exercise(image: &Image) -> Result<()> {
    let (layout, mut table) = open(image)?;
    let mut chain = table::chain(&layout, image, layout.root, dir::MAX_LEN)?;
    let mut entries = Vec::new();
    Dir { layout: &layout, volume: image, chain: &chain }.for_each(0, |entry| {
        entries.push(entry);
        None::<()>
    })?;
    for entry in entries {
        if let Ok(list) = table::chain(&layout, image, entry.record.cluster(&layout), u32::MAX) {
            let mut buf = [0; 64];
            for pos in [0, u64::from(entry.record.size.get())] {
                if let Ok((at, _)) = layout.locate(&list, pos) {
                    image.read(at, &mut buf)?;
                }
            }
            if entry.record.is_dir() {
                let _ = Dir { layout: &layout, volume: image, chain: &list }.has_no_names();
            }
        }
    }
    dir::add(&layout, image, &mut table, &mut chain, b"a new file with a name", &Record::empty())?;
    table.store(&layout, image)
}

#[test]
fn mutated_images_are_refused_or_work() {
    for args in [&["-F", "32", "-s", "1"][..], &["-F", "16"], &["-F", "12", "-s", "32"]] {
        let Some(image) = make(args) else { return };
        mutate(&image);
    }
}

fn mutate(image: &Image) {
    let (layout, mut table) = open(image).unwrap();
    let mut root = table::chain(&layout, image, layout.root, dir::MAX_LEN).unwrap();
    for nr in 0..40 {
        let name = format!("file number {nr} with a long name");
        let mut list = Vec::new();
        table.append(&layout, image, &mut list).unwrap();
        let mut record = Record { attributes: Attributes::ARCHIVE, ..Record::empty() };
        record.set_cluster(list[0]);
        dir::add(&layout, image, &mut table, &mut root, name.as_bytes(), &record).unwrap();
    }
    let original = image.0.borrow().clone();
    let used: Vec<usize> = (0..original.len().min(2 << 20)).filter(|&at| original[at] != 0).collect();
    let nr: u64 = std::env::var("KEEL_HOSTILE_IMAGES").ok().and_then(|nr| nr.parse().ok()).unwrap_or(300);
    let mut random = Random(4);
    let mut worked = 0;
    for _ in 0..nr {
        for _ in 0..1 + random.below(8) {
            let at = if random.below(3) == 0 {
                random.below(512) as usize
            } else {
                used[random.below(used.len() as u64) as usize]
            };
            image.0.borrow_mut()[at] = random.below(256) as u8;
        }
        worked += u64::from(exercise(image).is_ok());
        // Back to what it was: nothing is written behind.
        image.0.borrow_mut()[..2 << 20].copy_from_slice(&original[..2 << 20]);
    }
    assert!(worked > nr / 10, "{worked} of {nr} worked");
}

#[test]
fn chains_without_an_end_are_damage() {
    let Some(image) = make(&["-F", "32", "-s", "1"]) else { return };
    let (layout, mut table) = open(&image).unwrap();
    let mut list = Vec::new();
    for _ in 0..100 {
        table.append(&layout, &image, &mut list).unwrap();
    }
    assert_eq!(table::chain(&layout, &image, list[0], u32::MAX).unwrap(), list);
    assert_eq!(table::chain(&layout, &image, list[0], 99 * 512).unwrap(), list);
    assert!(matches!(table::chain(&layout, &image, list[0], 98 * 512), Err(Error::Corrupt(_))));
    for to in [0, 1, 50, 99] {
        image.write(layout.entry_at(0, list[99]), &list[to].to_le_bytes()).unwrap();
        assert!(matches!(table::chain(&layout, &image, list[0], u32::MAX), Err(Error::Corrupt(_))));
    }
}
