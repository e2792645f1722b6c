//! A tree with some of everything, and its description, which does not depend on who wrote it.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, FileType, Mode, XattrFlags};

use crate::{Random, pattern, random};

/// Enough names for a folder with an index of several levels of blocks.
const NR_NAMES: u64 = 1500;
const NR_FILES: u64 = 40;

/// What a file system can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All that POSIX has, and more.
    Full,
    /// Files and folders with times, and names that differ in more than case: FAT.
    Plain,
}

/// Fills the folder `root`.
pub fn fill(root: &Path, seed: u64, kind: Kind) -> io::Result<()> {
    let mut random = Random::new(seed);
    for dir in ["files", "many", "kinds", "deep"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for nr in 0..NR_FILES {
        let len = [0, 1, 59, 61, 4096, 100_000][nr as usize % 6] + random.below(1 << (nr % 20)) as usize;
        write(&root.join(format!("files/{nr}")), &pattern(random.word(), 0, len))?;
    }
    for nr in 0..NR_NAMES {
        let name = format!("many/{nr}-{}", "n".repeat(random.below(60) as usize));
        write(&root.join(name), nr.to_string().as_bytes())?;
    }
    for nr in (0..NR_NAMES).step_by(3) {
        let start = format!("{nr}-");
        for entry in fs::read_dir(root.join("many"))?.flatten() {
            if nr % 90 == 0 && entry.file_name().as_bytes().starts_with(start.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    let mut deep = root.join("deep");
    for nr in 0..30 {
        deep.push(format!("{nr}-{}", "d".repeat(nr)));
        fs::create_dir_all(&deep)?;
        write(&deep.join("file"), &pattern(nr as u64, 0, nr * 100))?;
    }
    match kind {
        Kind::Full => kinds(&root.join("kinds")),
        Kind::Plain => names_and_times(&root.join("kinds")),
    }
}

/// Names of several forms, times before and after what FAT knows, a file that cannot be written.
fn names_and_times(dir: &Path) -> io::Result<()> {
    let names = [
        "SHORT.TXT",
        "lower.txt",
        "Mixed.Txt",
        "Grüße",
        "日本語🦀",
        ".dot",
        "two.dots.here",
        "a+b",
        "x".repeat(255).as_str(),
    ]
    .map(str::to_owned);
    for (nr, name) in names.iter().enumerate() {
        write(&dir.join(name), &pattern(nr as u64, 0, nr * 700))?;
    }
    fs::rename(dir.join("lower.txt"), dir.join("LOWER.TXT"))?;
    for (name, seconds) in [("early", 1_000), ("odd", 1_234_567_891), ("late", 5_000_000_000)] {
        write(&dir.join(name), b"x")?;
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        File::options().write(true).open(dir.join(name))?.set_times(FileTimes::new().set_modified(time))?;
    }
    fs::set_permissions(dir.join("odd"), fs::Permissions::from_mode(0o555))
}

/// Sparse and preallocated files, links, devices, attributes, times.
fn kinds(dir: &Path) -> io::Result<()> {
    let sparse = File::create(dir.join("sparse"))?;
    for nr in 0..40 {
        sparse.write_all_at(&pattern(nr, 0, 3000), nr * 123_457)?;
    }
    sparse.set_len(20 << 20)?;
    let allocated = File::create(dir.join("allocated"))?;
    rustix::fs::fallocate(&allocated, FallocateFlags::empty(), 0, 1 << 20)?;
    allocated.write_all_at(&pattern(1, 0, 5000), 300_000)?;
    let kept = File::create(dir.join("kept"))?;
    rustix::fs::fallocate(&kept, FallocateFlags::KEEP_SIZE, 0, 1 << 20)?;
    kept.write_all_at(b"short", 0)?;
    let punched = File::create(dir.join("punched"))?;
    punched.write_all_at(&pattern(2, 0, 200_000), 0)?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&punched, punch, 10_000, 100_000)?;
    fs::hard_link(dir.join("punched"), dir.join("linked"))?;
    symlink("short", dir.join("symlink"))?;
    symlink("l".repeat(200), dir.join("long symlink"))?;
    let cwd = rustix::fs::CWD;
    rustix::fs::mknodat(cwd, dir.join("fifo"), FileType::Fifo, Mode::RUSR, 0)?;
    let device = rustix::fs::makedev(300, 70_000);
    rustix::fs::mknodat(cwd, dir.join("device"), FileType::CharacterDevice, Mode::RUSR, device)?;
    let attributed = dir.join("attributed");
    write(&attributed, b"x")?;
    for (name, len) in [("user.short", 5), ("user.long", 500), ("trusted.t", 30), ("security.s", 100)] {
        rustix::fs::setxattr(&attributed, name, &pattern(len, 0, len as usize), XattrFlags::empty())?;
    }
    fs::set_permissions(&attributed, fs::Permissions::from_mode(0o4751))?;
    std::os::unix::fs::chown(&attributed, Some(70_000), Some(80_000))?;
    let old = SystemTime::UNIX_EPOCH + Duration::new(5_000_000_000, 123_456_789);
    File::open(&attributed)?.set_times(FileTimes::new().set_modified(old))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::create(path)?.write_all(bytes)
}

/// Changes what [`fill`] made: grows, cuts, renames, removes, adds.
pub fn change(root: &Path, seed: u64, kind: Kind) -> io::Result<()> {
    let mut random = Random::new(seed);
    for nr in 0..NR_FILES {
        let path = root.join(format!("files/{nr}"));
        if !path.exists() {
            continue;
        }
        match nr % 5 {
            0 => OpenOptions::new().append(true).open(&path)?.write_all(&pattern(seed, 0, 7777))?,
            1 => {
                // Linux 7.2 loses the bytes of a file in its inode that is made longer before anybody has read it.
                fs::read(&path)?;
                OpenOptions::new().write(true).open(&path)?.set_len(random.below(50_000))?;
            }
            2 => fs::rename(&path, root.join(format!("many/moved-{nr}-{seed}")))?,
            3 => fs::remove_file(&path)?,
            _ => OpenOptions::new().write(true).open(&path)?.write_all_at(&pattern(seed, 0, 300), 40)?,
        }
    }
    for nr in 0..200 {
        write(&root.join(format!("many/new-{seed}-{nr}")), &pattern(seed, nr, nr as usize))?;
    }
    if kind == Kind::Full {
        change_attributes(&root.join("kinds/attributed"), seed)?;
    }
    fs::remove_dir_all(
        root.join(format!("deep/0-/1-d/{}", if random.below(2) == 0 { "2-dd" } else { "file" })),
    )
    .or_else(|_| fs::remove_file(root.join("deep/0-/file")))
    .or(Ok(()))
}

fn change_attributes(attributed: &Path, seed: u64) -> io::Result<()> {
    rustix::fs::setxattr(attributed, "user.short", b"changed", XattrFlags::REPLACE)?;
    if rustix::fs::removexattr(attributed, "user.long").is_err() {
        rustix::fs::setxattr(attributed, "user.long", &pattern(seed, 0, 600), XattrFlags::CREATE)?;
    }
    Ok(())
}

/// Describes all below `root`, a line for each name, in the order of names.
pub fn describe(root: &Path, out: &mut String) -> io::Result<()> {
    describe_below(root, Path::new(""), out)
}

fn describe_below(root: &Path, below: &Path, out: &mut String) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(root.join(below))?.collect::<io::Result<_>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let name = below.join(entry.file_name());
        if name == Path::new("lost+found") {
            continue;
        }
        let meta = entry.metadata()?;
        // The size and the blocks of a folder are the file system's own business.
        let (size, sum) = match meta.is_file() {
            true => (meta.len(), sum(&fs::read(entry.path())?)),
            false => (0, 0),
        };
        out.push_str(&format!(
            "{} {:o} {}:{} {} {}.{:09} {:x} {size} {sum:x}",
            name.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
        ));
        if meta.is_symlink() {
            out.push_str(&format!(" -> {}", fs::read_link(entry.path())?.display()));
        } else {
            describe_attributes(&entry.path(), out)?;
        }
        out.push('\n');
        if meta.is_dir() {
            describe_below(root, &name, out)?;
        }
    }
    Ok(())
}

fn describe_attributes(path: &Path, out: &mut String) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    let len = match rustix::fs::llistxattr(path, &mut buffer) {
        // It has none.
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        len => len?,
    };
    let mut names: Vec<_> =
        buffer[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    for name in names {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, &name[..], &mut value)?;
        out.push_str(&format!(" {}={len}:{:x}", String::from_utf8_lossy(&name), sum(&value[..len])));
    }
    Ok(())
}

/// A checksum of 64 bits.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        random::mix(sum.rotate_left(7) ^ u64::from_le_bytes(word))
    })
}
