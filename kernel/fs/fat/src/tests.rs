//! A volume on a disk in memory, seen through the VFS; fsck.fat judges it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::fs::{OpenFlags, RenameFlags};
use abi::{Errno, Result};
use block::{BlockDevice, Limits, MemDisk};
use hal::uio::{Dest, Src};
use security::Cred;
use vfs::superblock::SbFlags;
use vfs::{At, Dentry, FdTable, File, FsContext, Mount, MountFlags, MountNs, Path, WalkContext};

use fat_image::name::Spelling;

use crate::options::Options;

fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nr = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("fat-{}-{nr}", std::process::id()))
}

/// Keeps other tests waiting while the result lives: a host thread that waits for a lock wakes on the CPU of the one that
/// opens it, which ends with its test.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An empty volume of 6 MiB; `None`, with a message, where mkfs.fat is not installed.
fn image(args: &[&str]) -> Option<Vec<u8>> {
    let path = scratch();
    std::fs::File::create(&path).unwrap().set_len(6 << 20).unwrap();
    let made = Command::new("/usr/sbin/mkfs.fat").args(["-i", "12345678"]).args(args).arg(&path).output();
    let Ok(made) = made else {
        eprintln!("skipped: mkfs.fat (package dosfstools) cannot run");
        let _ = std::fs::remove_file(&path);
        return None;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Some(bytes)
}

/// fsck.fat must find nothing.
#[track_caller]
fn check(bytes: &[u8]) {
    let path = scratch();
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new("/usr/sbin/fsck.fat").args(["-n", "-v"]).arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("wrong") && !said.contains("Dirty"), "{said}");
}

/// Disks that tests are done with: the hosted machine has little memory.
static DISKS: std::sync::Mutex<Vec<(Arc<MemDisk>, Arc<BlockDevice>)>> = std::sync::Mutex::new(Vec::new());

/// A disk with the contents `image`.
fn take_disk(image: &[u8]) -> Result<(Arc<MemDisk>, Arc<BlockDevice>)> {
    let Some((memory, device)) = DISKS.lock().unwrap().pop() else {
        return MemDisk::from_image(image, Limits::default());
    };
    device.write_bytes(0, image)?;
    Ok((memory, device))
}

impl Drop for Env {
    fn drop(&mut self) {
        self.view = None;
        if self.device.logical_block_size() == 512 {
            DISKS.lock().unwrap().push((self.memory.clone(), self.device.clone()));
        }
    }
}

struct Env {
    memory: Arc<MemDisk>,
    device: Arc<BlockDevice>,
    view: Option<(Arc<Dentry>, Arc<FsContext>)>,
    files: Arc<FdTable>,
    cred: Arc<Cred>,
}

impl Env {
    fn new(image: &[u8]) -> Result<Env> {
        Self::on(take_disk(image)?)
    }

    fn on((memory, device): (Arc<MemDisk>, Arc<BlockDevice>)) -> Result<Env> {
        let (files, cred) = (FdTable::new()?, Arc::new(Cred::root()));
        let mut env = Env { memory, device, view: None, files, cred };
        env.mount()?;
        Ok(env)
    }

    fn mount(&mut self) -> Result<()> {
        let root = crate::mount::open_device(
            &self.device,
            Options::new(0, 0, 0o022, Spelling::Mixed),
            SbFlags::empty(),
        )?;
        let mount = Mount::new(&root, b"/dev/ram", MountFlags::empty());
        let ns = MountNs::new(&mount);
        self.view = Some((root, FsContext::new(&ns, &Path::root_of(&mount))));
        Ok(())
    }

    fn sync(&self) {
        let sb = self.view.as_ref().unwrap().0.sb().clone();
        sb.ops().sync(&sb).unwrap();
    }

    /// Lets go of everything; gives the image.
    fn unmount(&mut self) -> Vec<u8> {
        for _ in 0..10 {
            settle();
        }
        let sb = self.view.as_ref().unwrap().0.sb().clone();
        sb.ops().set_readonly(&sb, true).unwrap();
        drop(sb);
        self.view = None;
        self.memory.snapshot()
    }

    fn ctx(&self) -> WalkContext<'_> {
        WalkContext { fs: &self.view.as_ref().unwrap().1, files: &self.files, cred: &self.cred }
    }

    fn open(&self, name: &str, flags: OpenFlags) -> Result<Arc<File>> {
        vfs::open::open(&self.ctx(), At::Cwd, name.as_bytes(), &vfs::open::How::new(flags.bits(), 0o644)?)
    }

    fn write(&self, name: &str, pos: usize, bytes: &[u8]) -> Result<()> {
        let file = self.open(name, OpenFlags::CREAT | OpenFlags::RDWR)?;
        let mut done = 0;
        while done < bytes.len() {
            let mut src = Src::kernel(&bytes[done..]);
            done += vfs::rw::pwrite(&file, &mut src, (pos + done) as i64, u64::MAX)?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.open(name, OpenFlags::empty())?;
        let mut bytes = vec![0; file.inode().size() as usize];
        let mut done = 0;
        while done < bytes.len() {
            match vfs::rw::read(&file, &mut Dest::kernel(&mut bytes[done..]))? {
                0 => break,
                n => done += n,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn rename(&self, old: &str, new: &str) -> Result<()> {
        let (old, new) = ((At::Cwd, old.as_bytes()), (At::Cwd, new.as_bytes()));
        vfs::namespace::renameat2(&self.ctx(), old, new, RenameFlags::empty())
    }

    fn unlink(&self, name: &str) -> Result<()> {
        vfs::namespace::unlinkat(&self.ctx(), At::Cwd, name.as_bytes())
    }

    fn mkdir(&self, name: &str) -> Result<()> {
        vfs::namespace::mkdirat(&self.ctx(), At::Cwd, name.as_bytes(), 0o755)
    }
}

/// Lets other threads do what was left to them.
fn settle() {
    hal::rcu::process();
    let _ = sched::sleep_until(hal::time::now_ns() + 1_000_000, sched::Interruptible::No);
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
fn files_agree_with_a_model() {
    let _alone = alone();
    for args in
        [&["-F", "32", "-s", "1"][..], &["-F", "32", "-s", "16"], &["-F", "16", "-s", "1"], &["-F", "12"]]
    {
        let Some(image) = image(args) else { return };
        let mut env = Env::new(&image).unwrap();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut random = Random(31);
        for dir in ["/one", "/two, with a long name"] {
            env.mkdir(dir).unwrap();
        }
        let name = |random: &mut Random| {
            let dir = ["", "/one", "/two, with a long name"][random.below(3) as usize];
            format!("{dir}/file number {}", random.below(8))
        };
        for step in 0..400 {
            let path = name(&mut random);
            match random.below(6) {
                0 if model.remove(&path).is_some() => env.unlink(&path).unwrap(),
                1 if model.contains_key(&path) => {
                    let to = name(&mut random);
                    env.rename(&path, &to).unwrap();
                    let bytes = model.remove(&path).unwrap();
                    model.insert(to, bytes);
                }
                2 if model.contains_key(&path) => {
                    let size = random.below(20_000);
                    let file = env.open(&path, OpenFlags::RDWR).unwrap();
                    vfs::attr::ftruncate(&file, size as i64, u64::MAX).unwrap();
                    model.get_mut(&path).unwrap().resize(size as usize, 0);
                }
                _ => {
                    let (pos, len) = (random.below(30_000) as usize, random.below(9_000) as usize + 1);
                    env.write(&path, pos, &vec![step as u8; len]).unwrap();
                    let bytes = model.entry(path).or_default();
                    bytes.resize(bytes.len().max(pos + len), 0);
                    bytes[pos..pos + len].fill(step as u8);
                }
            }
            if step % 100 == 99 {
                if step % 200 == 199 {
                    check(&env.unmount());
                    env.mount().unwrap();
                }
                for (path, bytes) in &model {
                    let read = env.read(&path.to_uppercase()).unwrap();
                    let at = read.iter().zip(bytes).position(|(one, other)| one != other);
                    assert!(
                        read == *bytes,
                        "{path}, step {step}: {} bytes of {}, differ at {at:?}",
                        read.len(),
                        bytes.len()
                    );
                }
            }
        }
        check(&env.unmount());
    }
}

#[test]
fn names_are_one_in_any_case() {
    let _alone = alone();
    let Some(image) = image(&["-F", "32", "-s", "1"]) else { return };
    let mut env = Env::new(&image).unwrap();
    assert_eq!(env.read("/Name").unwrap_err(), Errno::ENOENT);
    env.write("/name", 0, b"x").unwrap();
    assert_eq!(env.read("/NAME").unwrap(), b"x");
    env.unlink("/nAmE").unwrap();
    for name in ["/name", "/NAME", "/nAmE"] {
        assert_eq!(env.read(name).unwrap_err(), Errno::ENOENT);
    }
    for name in ["/a:b", "/trailing ", "/x\u{1}"] {
        assert_eq!(env.write(name, 0, b"x").unwrap_err(), Errno::EINVAL);
    }
    assert_eq!(env.write("/...", 0, b"x").unwrap_err(), Errno::ENOENT);
    env.mkdir("/dir").unwrap();
    env.write("/dir/x", 0, b"1").unwrap();
    assert_eq!(vfs::namespace::rmdirat(&env.ctx(), At::Cwd, b"/dir"), Err(Errno::ENOTEMPTY));
    env.sync();
    check(&env.unmount());
}

#[test]
fn files_end_within_large_blocks() {
    let _alone = alone();
    let Some(image) = image(&["-F", "12", "-S", "4096"]) else { return };
    let limits = Limits { logical_block_size: 4096, ..Limits::default() };
    let mut env = Env::on(MemDisk::from_image(&image, limits).unwrap()).unwrap();
    env.write("/short", 0, b"some bytes").unwrap();
    env.write("/long", 0, &[7; 9000]).unwrap();
    env.sync();
    check(&env.unmount());
    env.mount().unwrap();
    assert_eq!(env.read("/short").unwrap(), b"some bytes");
    assert_eq!(env.read("/long").unwrap(), [7; 9000]);
    env.unmount();
}

#[test]
fn a_volume_is_not_clean_before_all_is_written() {
    let _alone = alone();
    let Some(image) = image(&["-F", "12"]) else { return };
    let mut env = Env::new(&image).unwrap();
    env.write("/file", 0, b"x").unwrap();
    env.sync();
    env.write("/file", 1, b"y").unwrap();
    env.memory.set_fault(|op, sector, _| match op {
        block::Op::Write if sector > 0 => Err(Errno::EIO),
        _ => Ok(()),
    });
    let sb = env.view.as_ref().unwrap().0.sb().clone();
    assert_eq!(sb.ops().set_readonly(&sb, true), Err(Errno::EIO));
    drop(sb);
    assert_eq!(env.memory.snapshot()[0x25] & 1, 1);
    env.memory.clear_fault();
    check(&env.unmount());
}

#[test]
fn nothing_goes_on_in_memory_when_the_device_is_gone() {
    let _alone = alone();
    let Some(image) = image(&["-F", "12"]) else { return };
    let mut env = Env::new(&image).unwrap();
    env.write("/file", 0, b"x").unwrap();
    env.sync();
    env.write("/file", 1, b"y").unwrap();
    let before = env.memory.snapshot();
    let sb = env.view.as_ref().unwrap().0.sb().clone();
    let file = env.open("/file", OpenFlags::RDWR).unwrap();
    sb.ops().shutdown(&sb);
    assert_eq!(vfs::rw::pwrite(&file, &mut Src::kernel(b"z"), 0, u64::MAX), Err(Errno::EIO));
    assert_eq!(vfs::rw::pread(&file, &mut Dest::kernel(&mut [0; 4]), 0), Err(Errno::EIO));
    assert_eq!(env.write("/other", 0, b"z"), Err(Errno::EIO));
    assert_eq!(env.mkdir("/dir"), Err(Errno::EIO));
    assert_eq!(env.open("/file", OpenFlags::RDWR).map(drop), Err(Errno::EIO));
    assert_eq!(sb.ops().sync(&sb), Err(Errno::EIO));
    drop((file, sb));
    // Nothing keeps the volume.
    let weak = std::sync::Arc::downgrade(env.view.as_ref().unwrap().0.sb());
    for _ in 0..10 {
        settle();
    }
    env.view = None;
    for _ in 0..10 {
        settle();
    }
    assert!(weak.upgrade().is_none());
    assert_eq!(env.memory.snapshot(), before);
}

#[test]
fn a_directory_is_one_by_all_its_names() {
    let _alone = alone();
    let Some(image) = image(&["-F", "32", "-s", "1"]) else { return };
    let mut env = Env::new(&image).unwrap();
    env.mkdir("/A long name").unwrap();
    env.mkdir("/A long name/below").unwrap();
    env.write("/a LONG name/one", 0, b"1").unwrap();
    env.rename("/A long name/one", "/ALONGN~1/two").unwrap();
    assert_eq!(env.read("/a long name/TWO").unwrap(), b"1");
    for name in ["/A LONG NAME/x", "/alongn~1/below/x"] {
        assert_eq!(env.rename("/A long name", name), Err(Errno::EINVAL));
    }
    env.mkdir("/other").unwrap();
    assert_eq!(env.rename("/other", "/OTHER/x"), Err(Errno::EINVAL));
    let root = env.view.as_ref().unwrap().0.clone();
    let dentry = |name: &[u8]| vfs::walk::lookup_child(&root, name).unwrap();
    assert!(Arc::ptr_eq(&dentry(b"oTHER"), &dentry(b"other")));
    assert!(Arc::ptr_eq(&dentry(b"ALONGN~1"), &dentry(b"a long name")));
    assert!(!Arc::ptr_eq(&dentry(b"OTHER"), &dentry(b"a long name")));
    drop(root);
    assert_eq!(env.rename("/A long name/below", "/a long name"), Err(Errno::ENOTEMPTY));
    check(&env.unmount());
}

#[test]
fn a_directory_below_itself_is_refused() {
    let _alone = alone();
    let Some(image) = image(&["-F", "16", "-s", "1"]) else { return };
    let mut env = Env::new(&image).unwrap();
    for name in ["/DIR", "/DIR/SUB", "/DIR/SUB/LOW", "/OTHER"] {
        env.mkdir(name).unwrap();
    }
    let mut image = env.unmount();
    // The cluster numbers of SUB and LOW become that of DIR.
    let place = |name: &[u8; 11]| image.windows(11).position(|part| part == name).unwrap() + 26;
    let [dir, sub, low, other] = [b"DIR        ", b"SUB        ", b"LOW        ", b"OTHER      "].map(place);
    let original = image.clone();
    let first = [image[dir], image[dir + 1]];
    image[low..low + 2].copy_from_slice(&first);
    image[sub..sub + 2].copy_from_slice(&first);
    drop(env);
    let env = Env::new(&image).unwrap();
    let rmdir = |name: &str| vfs::namespace::rmdirat(&env.ctx(), At::Cwd, name.as_bytes());
    assert_eq!(rmdir("/DIR/SUB/SUB"), Err(Errno::ELOOP));
    assert_eq!(env.rename("/DIR/SUB/SUB", "/x"), Err(Errno::ELOOP));
    // Two directories that are one: what is in them is found in the first only.
    let mut image = original;
    image[other..other + 2].copy_from_slice(&first);
    drop(env);
    let env = Env::new(&image).unwrap();
    assert!(env.open("/DIR/SUB/LOW", OpenFlags::empty()).is_ok());
    assert_eq!(env.open("/OTHER/SUB", OpenFlags::empty()).unwrap_err(), Errno::ELOOP);
    env.rename("/DIR/SUB", "/SUB").unwrap();
    env.rename("/SUB", "/DIR/SUB").unwrap();
    assert!(env.open("/DIR/sub/LOW", OpenFlags::empty()).is_ok());
}

#[test]
fn a_target_is_replaced_in_place() {
    let _alone = alone();
    let Some(image) = image(&["-F", "12"]) else { return };
    let mut env = Env::new(&image).unwrap();
    env.mkdir("/dir").unwrap();
    env.write("/dir/a file with a long name", 0, b"file").unwrap();
    env.write("/target", 0, &[1; 5000]).unwrap();
    env.rename("/dir/a file with a long name", "/TARGET").unwrap();
    assert_eq!(env.read("/target").unwrap(), b"file");
    assert_eq!(env.read("/dir/a file with a long name").unwrap_err(), Errno::ENOENT);
    env.mkdir("/dir/below").unwrap();
    env.mkdir("/place").unwrap();
    env.write("/dir/below/file", 0, b"below").unwrap();
    assert_eq!(env.rename("/place", "/dir"), Err(Errno::ENOTEMPTY));
    env.rename("/dir/below", "/place").unwrap();
    assert_eq!(env.read("/place/../place/file").unwrap(), b"below");
    check(&env.unmount());
    env.mount().unwrap();
    assert_eq!(env.read("/place/../place/file").unwrap(), b"below");
    assert_eq!(env.read("/target").unwrap(), b"file");
    // A root directory of FAT12 is full at some time.
    let name = |nr| format!("/with a long name {nr}");
    let full = (0..).find_map(|nr| env.write(&name(nr), 0, b"").err()).unwrap();
    assert_eq!(full, Errno::ENOSPC);
    assert_eq!(env.rename("/target", "/a name that is longer than others were"), Err(Errno::ENOSPC));
    assert_eq!(env.read("/target").unwrap(), b"file");
    env.rename("/target", "/place/now a long name").unwrap();
    env.rename("/place/now a long name", &name(1)).unwrap();
    assert_eq!(env.read(&name(1)).unwrap(), b"file");
    check(&env.unmount());
}

#[test]
fn clusters_behind_the_end_go_with_the_last_file() {
    let _alone = alone();
    let Some(image) = image(&["-F", "32", "-s", "1"]) else { return };
    let mut env = Env::new(&image).unwrap();
    let free = |env: &Env| {
        let sb = env.view.as_ref().unwrap().0.sb().clone();
        sb.ops().statfs(&sb).unwrap().f_bfree
    };
    let before = free(&env);
    let file = env.open("/file", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    vfs::rw::pwrite(&file, &mut Src::kernel(b"x"), 0, u64::MAX).unwrap();
    assert_eq!(before - free(&env), 8);
    env.sync();
    assert_eq!(before - free(&env), 8);
    drop(file);
    env.sync();
    settle();
    env.sync();
    assert_eq!(before - free(&env), 1);
    env.write("/file", 1, &[b'x'; 600]).unwrap();
    let path = env.open("/file", OpenFlags::empty()).unwrap().path().clone();
    vfs::attr::truncate(&path, 700, u64::MAX, &env.cred).unwrap();
    drop(path);
    env.sync();
    assert_eq!(before - free(&env), 2);
    check(&env.unmount());
}

#[derive(Default)]
struct Listed(Vec<(Vec<u8>, u64)>);

impl vfs::DirEmit for Listed {
    fn emit(&mut self, name: &[u8], ino: u64, _kind: u8, _next: u64) -> bool {
        self.0.push((name.to_vec(), ino));
        true
    }
}

#[test]
fn inodes_have_numbers_of_their_own() {
    let _alone = alone();
    let Some(image) = image(&["-F", "12"]) else { return };
    let mut env = Env::new(&image).unwrap();
    let ino = |env: &Env, name: &str| env.open(name, OpenFlags::empty()).unwrap().inode().ino();
    env.mkdir("/dir").unwrap();
    env.write("/one", 0, b"1").unwrap();
    let moved = env.open("/one", OpenFlags::empty()).unwrap();
    env.rename("/one", "/dir/one").unwrap();
    // It takes the record that became free.
    env.write("/two", 0, b"2").unwrap();
    assert_eq!(ino(&env, "/dir/one"), moved.inode().ino());
    assert_ne!(ino(&env, "/two"), moved.inode().ino());
    let mut listed = Listed::default();
    let dir = env.open("/dir", OpenFlags::DIRECTORY).unwrap();
    dir.ops().readdir(&dir, &mut 0, &mut listed).unwrap();
    assert!(listed.0.contains(&(b"one".to_vec(), moved.inode().ino())), "{:?}", listed.0);
    drop((dir, moved));
    check(&env.unmount());
}

#[test]
fn names_swap() {
    let _alone = alone();
    let Some(image) = image(&["-F", "12"]) else { return };
    let mut env = Env::new(&image).unwrap();
    env.mkdir("/dir").unwrap();
    env.mkdir("/dir/inner").unwrap();
    env.write("/dir/inner/f", 0, b"inner").unwrap();
    env.write("/old", 0, b"old").unwrap();
    env.write("/new", 0, &[1; 5000]).unwrap();
    let exchange = |env: &Env, old: &str, new: &str| {
        let (old, new) = ((At::Cwd, old.as_bytes()), (At::Cwd, new.as_bytes()));
        vfs::namespace::renameat2(&env.ctx(), old, new, RenameFlags::EXCHANGE)
    };
    exchange(&env, "/old", "/new").unwrap();
    exchange(&env, "/new", "/dir/inner").unwrap();
    let look = |env: &Env| {
        assert_eq!(env.read("/old").unwrap(), [1; 5000]);
        assert_eq!(env.read("/dir/inner").unwrap(), b"old");
        assert_eq!(env.read("/new/f").unwrap(), b"inner");
        assert_eq!(env.read("/NEW/../dir/INNER").unwrap(), b"old");
    };
    look(&env);
    assert_eq!(exchange(&env, "/old", "/none"), Err(Errno::ENOENT));
    check(&env.unmount());
    env.mount().unwrap();
    look(&env);
}

#[test]
fn a_full_volume_refuses_writes_and_recovers() {
    let _alone = alone();
    let Some(image) = image(&["-F", "32", "-s", "1"]) else { return };
    let mut env = Env::new(&image).unwrap();
    let mut nr = 0;
    let full = loop {
        match env.write(&format!("/file{nr}"), 0, &vec![nr as u8; 300_000]) {
            Ok(()) => nr += 1,
            Err(errno) => break errno,
        }
    };
    assert_eq!(full, Errno::ENOSPC);
    assert_eq!(env.read("/file0").unwrap(), vec![0; 300_000]);
    env.unlink("/file0").unwrap();
    for _ in 0..10 {
        hal::rcu::process();
        env.sync();
    }
    env.write("/again", 0, &[1; 100_000]).unwrap();
    check(&env.unmount());
}

#[test]
fn mutated_volumes_mount_with_an_error_or_work() {
    let _alone = alone();
    for args in [&["-F", "32", "-s", "1"][..], &["-F", "16", "-s", "1"], &["-F", "12"]] {
        let Some(image) = image(args) else { return };
        mutate(&image);
    }
}

fn mutate(image: &[u8]) {
    let mut env = Env::new(image).unwrap();
    env.mkdir("/a directory").unwrap();
    for nr in 0..12 {
        env.write(&format!("/a directory/a file with number {nr}"), 0, &[nr; 3000]).unwrap();
    }
    let original = env.unmount();
    let used: Vec<usize> = (0..original.len()).filter(|&at| original[at] != 0).take(40_000).collect();
    let nr: u64 = std::env::var("KEEL_HOSTILE_IMAGES").ok().and_then(|nr| nr.parse().ok()).unwrap_or(60);
    let mut random = Random(8);
    for _ in 0..nr {
        let mut bytes = original.clone();
        for _ in 0..1 + random.below(6) {
            let at = if random.below(4) == 0 {
                random.below(96) as usize
            } else {
                used[random.below(used.len() as u64) as usize]
            };
            bytes[at] = random.below(256) as u8;
        }
        let env = match Env::new(&bytes) {
            Ok(env) => env,
            Err(errno) => {
                assert_ne!(errno, Errno::ENOMEM);
                continue;
            }
        };
        for nr in 0..12 {
            let _ = env.read(&format!("/a directory/a file with number {nr}"));
        }
        let _ = env.write("/a directory/new", 5000, b"data");
        let _ = env.rename("/a directory/a file with number 3", "/moved");
        let _ = env.unlink("/a directory/a file with number 4");
        let sb = env.view.as_ref().unwrap().0.sb().clone();
        let _ = sb.ops().sync(&sb);
        // What the end of the file system left to other threads has its turn, or memory runs out.
        drop((sb, env));
        settle();
    }
}
