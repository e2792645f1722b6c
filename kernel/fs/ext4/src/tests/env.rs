//! A file system on a disk in memory, seen through the VFS.

use std::path::{Path as HostPath, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use abi::Result;
use abi::fs::{AtFlags, OpenFlags, RenameFlags, Stat};
use block::{BlockDevice, Limits, MemDisk};
use hal::uio::{Dest, Src};
use security::Cred;
use vfs::superblock::SbFlags;
use vfs::{
    At, Dentry, FdTable, File, FsContext, Mount, MountFlags, MountNs, Path, SyncMode, WalkContext, WalkFlags,
};

fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nr = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ext4-{}-{nr}-{name}", std::process::id()))
}

fn tool(name: &str) -> Command {
    let sbin = HostPath::new("/usr/sbin").join(name);
    Command::new(if sbin.exists() { sbin } else { name.into() })
}

/// Shows what the file system logs with a test that fails.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("{}", record.args());
    }

    fn flush(&self) {}
}

/// Keeps other tests waiting while the result lives.
///
/// Mounting takes a lock that all share, and a host thread that waits for it wakes on the CPU of the one that opens it,
/// which ends with its test: nobody would run the other one then.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An image made by mke2fs; `None`, with a message, where that is not installed.
pub fn image(args: &[&str], size: u64) -> Option<Vec<u8>> {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    let path = scratch("image");
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    let output = match tool("mke2fs").arg("-q").arg("-F").args(args).arg(&path).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: mke2fs (package e2fsprogs) cannot run: {error}");
            let _ = std::fs::remove_file(&path);
            return None;
        }
    };
    assert!(output.status.success(), "mke2fs {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Some(bytes)
}

/// `image` after the commands `script` of debugfs; `None`, with a message, where that is not installed.
pub fn debugfs(image: &[u8], script: &str) -> Option<Vec<u8>> {
    let (path, commands) = (scratch("image"), scratch("script"));
    std::fs::write(&path, image).unwrap();
    std::fs::write(&commands, script).unwrap();
    let output = tool("debugfs").arg("-w").arg("-f").arg(&commands).arg(&path).output();
    let bytes = std::fs::read(&path).unwrap();
    let _ = (std::fs::remove_file(&path), std::fs::remove_file(&commands));
    match output {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(bytes)
        }
        Err(error) => {
            eprintln!("skipped: debugfs (package e2fsprogs) cannot run: {error}");
            None
        }
    }
}

/// Fails unless e2fsck finds nothing to complain about.
#[track_caller]
pub fn fsck(bytes: &[u8]) {
    let path = scratch("check");
    std::fs::write(&path, bytes).unwrap();
    let output = tool("e2fsck").args(["-f", "-n"]).arg(&path).output().unwrap();
    if !output.status.success() {
        let kept = path.with_extension("bad");
        std::fs::rename(&path, &kept).unwrap();
        panic!("e2fsck on {}:\n{}", kept.display(), String::from_utf8_lossy(&output.stdout));
    }
    std::fs::remove_file(&path).unwrap();
}

/// Has e2fsck replay the journal and finish deletions, and fails if it finds real damage; then as [`fsck`].
#[track_caller]
pub fn fsck_after_crash(bytes: &[u8]) {
    let path = scratch("replay");
    std::fs::write(&path, bytes).unwrap();
    let output = tool("e2fsck").args(["-f", "-p"]).arg(&path).output().unwrap();
    if output.status.code().is_none_or(|code| code >= 4) || has_complaints(&output.stdout) {
        std::fs::write(path.with_extension("bad"), bytes).unwrap();
        panic!("e2fsck -p on {}:\n{}", path.display(), String::from_utf8_lossy(&output.stdout));
    }
    let replayed = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    fsck(&replayed);
}

/// Whether e2fsck repaired more than what a replay and the end of deletions are.
fn has_complaints(stdout: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stdout);
    let is_expected = |line: &str| {
        ["recovering journal", "orphaned", "files (", "Setting free", "Truncating", "could be shorter"]
            .iter()
            .any(|part| line.contains(part))
    };
    text.lines().any(|line| !line.trim().is_empty() && !is_expected(line))
}

pub type Disk = (Arc<MemDisk>, Arc<BlockDevice>);

/// Disks that tests are done with: the hosted machine has little memory, and file systems go some time after them.
static DISKS: Mutex<Vec<Disk>> = Mutex::new(Vec::new());

/// A disk with the contents `image`.
fn take_disk(image: &[u8]) -> Result<Disk> {
    let mut disks = DISKS.lock().unwrap();
    let fits = disks.iter().position(|(_, device)| device.len_bytes() == image.len() as u64);
    let Some(at) = fits else {
        drop(disks);
        let limits = Limits { has_volatile_cache: true, has_fua: false, ..Limits::default() };
        return MemDisk::from_image(image, limits);
    };
    let (memory, device) = disks.swap_remove(at);
    drop(disks);
    memory.clear_fault();
    device.write_bytes(0, image)?;
    Ok((memory, device))
}

/// A mounted file system and one process' view of it.
pub struct Env {
    pub memory: Arc<MemDisk>,
    pub device: Arc<BlockDevice>,
    fs: Option<Arc<FsContext>>,
    files: Arc<FdTable>,
    cred: Arc<Cred>,
    root: Option<Arc<Dentry>>,
    mount: Option<Arc<Mount>>,
    options: &'static [u8],
}

struct TestType;

impl vfs::FileSystemType for TestType {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn mount(&self, _request: &vfs::MountRequest<'_>) -> Result<Arc<Dentry>> {
        Err(abi::Errno::ENODEV)
    }
}

static TYPE: TestType = TestType;

impl Env {
    pub fn new(image: &[u8]) -> Self {
        Self::try_new(image, SbFlags::empty()).unwrap()
    }

    pub fn try_new(image: &[u8], flags: SbFlags) -> Result<Self> {
        Self::with_options(image, flags, b"commit=900")
    }

    pub fn with_options(image: &[u8], flags: SbFlags, options: &'static [u8]) -> Result<Self> {
        Self::on(take_disk(image)?, flags, options)
    }

    /// On a disk, whose length is no other one's unless its limits are, too.
    pub fn on((memory, device): Disk, flags: SbFlags, options: &'static [u8]) -> Result<Self> {
        let mut env = Self {
            options,
            memory,
            device,
            fs: None,
            files: FdTable::new().unwrap(),
            cred: Arc::new(Cred::root()),
            root: None,
            mount: None,
        };
        env.mount(flags)?;
        Ok(env)
    }

    fn mount(&mut self, flags: SbFlags) -> Result<()> {
        let root = crate::mount::open(&TYPE, &self.device, self.options, flags, None)?;
        let mount = Mount::new(&root, b"/dev/ram", MountFlags::empty());
        let ns = MountNs::new(&mount);
        self.fs = Some(FsContext::new(&ns, &Path::root_of(&mount)));
        (self.root, self.mount) = (Some(root), Some(mount));
        Ok(())
    }

    /// Unmounts cleanly; gives the image.
    pub fn unmount(&mut self) -> Vec<u8> {
        // What was let go after a grace period may be a file without a name.
        for _ in 0..10 {
            hal::rcu::process();
            let _ = sched::sleep_until(hal::time::now_ns() + 1_000_000, sched::Interruptible::No);
        }
        self.sync().unwrap();
        (self.fs, self.mount, self.root) = (None, None, None);
        self.memory.snapshot()
    }

    /// Unmounts and mounts again: nothing is cached then.
    pub fn remount(&mut self) {
        self.sync().unwrap();
        (self.fs, self.mount, self.root) = (None, None, None);
        self.mount(SbFlags::empty()).unwrap();
    }

    pub fn sync(&self) -> Result<()> {
        let sb = self.root.as_ref().unwrap().sb().clone();
        sb.ops().sync(&sb)
    }

    pub fn ctx(&self) -> WalkContext<'_> {
        WalkContext { fs: self.fs.as_ref().unwrap(), files: &self.files, cred: &self.cred }
    }

    pub fn open(&self, name: &str, flags: OpenFlags) -> Result<Arc<File>> {
        vfs::open::open(&self.ctx(), At::Cwd, name.as_bytes(), &vfs::open::How::new(flags.bits(), 0o644)?)
    }

    pub fn create(&self, name: &str) -> Result<Arc<File>> {
        self.open(name, OpenFlags::CREAT | OpenFlags::RDWR)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<Arc<File>> {
        let file = self.open(name, OpenFlags::CREAT | OpenFlags::RDWR | OpenFlags::TRUNC)?;
        let mut done = 0;
        while done < bytes.len() {
            done += vfs::rw::write(&file, &mut Src::kernel(&bytes[done..]), u64::MAX)?;
        }
        Ok(file)
    }

    pub fn get(&self, name: &str) -> Result<Vec<u8>> {
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

    pub fn mkdir(&self, name: &str) -> Result<()> {
        vfs::namespace::mkdirat(&self.ctx(), At::Cwd, name.as_bytes(), 0o755)
    }

    pub fn symlink(&self, target: &str, name: &str) -> Result<()> {
        vfs::namespace::symlinkat(&self.ctx(), target.as_bytes(), At::Cwd, name.as_bytes())
    }

    pub fn link(&self, old: &str, new: &str) -> Result<()> {
        let (old, new) = ((At::Cwd, old.as_bytes()), (At::Cwd, new.as_bytes()));
        vfs::namespace::linkat(&self.ctx(), old, new, AtFlags::empty())
    }

    pub fn unlink(&self, name: &str) -> Result<()> {
        vfs::namespace::unlinkat(&self.ctx(), At::Cwd, name.as_bytes())
    }

    pub fn rmdir(&self, name: &str) -> Result<()> {
        vfs::namespace::rmdirat(&self.ctx(), At::Cwd, name.as_bytes())
    }

    pub fn rename(&self, old: &str, new: &str, flags: RenameFlags) -> Result<()> {
        let (old, new) = ((At::Cwd, old.as_bytes()), (At::Cwd, new.as_bytes()));
        vfs::namespace::renameat2(&self.ctx(), old, new, flags)
    }

    pub fn walk(&self, name: &str) -> Result<Path> {
        vfs::walk(&self.ctx(), At::Cwd, name.as_bytes(), WalkFlags::FOLLOW)
    }

    pub fn stat(&self, name: &str) -> Result<Stat> {
        vfs::attr::stat(&self.walk(name)?)
    }

    /// The names in a directory, sorted, without the dots.
    pub fn list(&self, name: &str) -> Result<Vec<String>> {
        let dir = self.open(name, OpenFlags::DIRECTORY)?;
        let mut names = Vec::new();
        loop {
            let mut buf = [0; 2048];
            let len =
                vfs::readdir::getdents(&dir, &mut Dest::kernel(&mut buf), vfs::readdir::Layout::Dirent64)?;
            if len == 0 {
                break;
            }
            let mut at = 0;
            while at < len {
                let record = u16::from_ne_bytes([buf[at + 16], buf[at + 17]]) as usize;
                let name: Vec<u8> =
                    buf[at + 19..at + record].iter().copied().take_while(|&b| b != 0).collect();
                names.push(String::from_utf8_lossy(&name).into_owned());
                at += record;
            }
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // What is dirty is lost, as in a crash.
        if let Some(root) = &self.root
            && let Some(ops) = root.sb().ops_as::<crate::superops::Super>()
        {
            let dirty = std::mem::take(&mut *ops.0.dirty.lock());
            ops.0.is_aborted.store(true, Ordering::Release);
            drop(dirty);
        }
        (self.fs, self.mount, self.root) = (None, None, None);
        DISKS.lock().unwrap().push((self.memory.clone(), self.device.clone()));
    }
}

pub fn fsync(file: &File) -> Result<()> {
    vfs::fcntl::fsync(file, SyncMode::Full)
}

/// Random numbers: xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed * 2 + 1);
    (0..len.div_ceil(4)).flat_map(|_| (random.next() as u32).to_le_bytes()).take(len).collect()
}
