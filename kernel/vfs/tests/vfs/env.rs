//! A root on tmpfs and one process' view of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Result;
use abi::fs::{AtFlags, OpenFlags, RenameFlags, Stat};
use hal::uio::{Dest, Src};
use security::Cred;
use vfs::{At, FdTable, File, FsContext, Mount, MountFlags, MountNs, Path, WalkContext, WalkFlags};

pub struct Env {
    pub fs: Arc<FsContext>,
    pub files: Arc<FdTable>,
    pub cred: Arc<Cred>,
}

/// The namespace's count of its mounts is always right.
impl Drop for Env {
    fn drop(&mut self) {
        if !std::thread::panicking()
            && let Some(ns) = self.fs.ns()
        {
            assert_eq!(ns.nr_mounts(), ns.mounts().len());
        }
    }
}

impl Env {
    /// A fresh root, seen by root.
    pub fn new() -> Self {
        let _ = tmpfs::register();
        let root = tmpfs::new_instance(tmpfs::Instance::Rootfs).unwrap();
        let mount = Mount::new(&root, b"rootfs", MountFlags::empty());
        let ns = MountNs::new(&mount);
        let fs = FsContext::new(&ns, &Path::root_of(&mount));
        // The context keeps the namespace.
        Self { fs, files: FdTable::new().unwrap(), cred: Arc::new(Cred::root()) }
    }

    /// The same tree seen by an unprivileged user.
    pub fn as_user(&self, id: u32) -> Self {
        let cred = Cred::root().setgid(id).unwrap().setuid(id).unwrap();
        Self { fs: self.fs.clone(), files: FdTable::new().unwrap(), cred: Arc::new(cred) }
    }

    pub fn ctx(&self) -> WalkContext<'_> {
        WalkContext { fs: &self.fs, files: &self.files, cred: &self.cred }
    }

    pub fn open(&self, name: &str, flags: OpenFlags, mode: u32) -> Result<Arc<File>> {
        vfs::open::open(&self.ctx(), At::Cwd, name.as_bytes(), &vfs::open::How::new(flags.bits(), mode)?)
    }

    pub fn create(&self, name: &str) -> Result<Arc<File>> {
        self.open(name, OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::RDWR, 0o644)
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

    pub fn rename(&self, old: &str, new: &str) -> Result<()> {
        self.rename2(old, new, RenameFlags::empty())
    }

    pub fn rename2(&self, old: &str, new: &str, flags: RenameFlags) -> Result<()> {
        let (old, new) = ((At::Cwd, old.as_bytes()), (At::Cwd, new.as_bytes()));
        vfs::namespace::renameat2(&self.ctx(), old, new, flags)
    }

    pub fn walk(&self, name: &str) -> Result<Path> {
        vfs::walk(&self.ctx(), At::Cwd, name.as_bytes(), WalkFlags::FOLLOW)
    }

    pub fn stat(&self, name: &str) -> Result<Stat> {
        vfs::attr::stat(&self.walk(name)?)
    }

    pub fn lstat(&self, name: &str) -> Result<Stat> {
        vfs::attr::fstatat(&self.ctx(), At::Cwd, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
    }

    pub fn chmod(&self, name: &str, mode: u32) -> Result<()> {
        vfs::attr::chmod(&self.walk(name)?, mode, &self.cred)
    }

    pub fn chdir(&self, name: &str) -> Result<()> {
        let path = self.walk(name)?;
        vfs::namespace::chdir(&self.ctx(), path)
    }

    pub fn cwd(&self) -> String {
        String::from_utf8(vfs::namespace::getcwd(&self.fs).unwrap()).unwrap()
    }

    pub fn mount(&self, source: &str, target: &str, fs_type: &str, flags: u64) -> Result<()> {
        let (source, target) = (source.as_bytes(), target.as_bytes());
        vfs::mount_ops::mount(&self.ctx(), source, target, fs_type.as_bytes(), flags, b"")
    }

    pub fn umount(&self, target: &str, flags: u32) -> Result<()> {
        settle();
        vfs::mount_ops::umount(&self.ctx(), target.as_bytes(), flags)
    }

    /// The names in a directory, sorted, without the dots.
    pub fn list(&self, name: &str) -> Vec<String> {
        let dir = self.open(name, OpenFlags::DIRECTORY, 0).unwrap();
        let mut names = Vec::new();
        loop {
            let mut buf = [0; 512];
            let len =
                vfs::readdir::getdents(&dir, &mut Dest::kernel(&mut buf), vfs::readdir::Layout::Dirent64)
                    .unwrap();
            if len == 0 {
                break;
            }
            let mut at = 0;
            while at < len {
                let record = u16::from_ne_bytes([buf[at + 16], buf[at + 17]]) as usize;
                let name: Vec<u8> =
                    buf[at + 19..at + record].iter().copied().take_while(|&b| b != 0).collect();
                names.push(String::from_utf8(name).unwrap());
                at += record;
            }
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }
}

pub fn write(file: &File, bytes: &[u8]) -> Result<usize> {
    vfs::rw::write(file, &mut Src::kernel(bytes), u64::MAX)
}

pub fn read(file: &File, max: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0; max];
    let len = vfs::rw::read(file, &mut Dest::kernel(&mut buf))?;
    buf.truncate(len);
    Ok(buf)
}

pub fn pause_ms(ms: u64) {
    let _ = sched::sleep_until(hal::time::now_ns() + ms * 1_000_000, sched::Interruptible::No);
}

/// A kernel thread on this CPU, and what it gives.
pub struct Handle<T> {
    result: Arc<std::sync::Mutex<Option<T>>>,
}

/// Runs `f` in a kernel thread: for tests that sleep for each other.
pub fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Handle<T> {
    let result = Arc::new(std::sync::Mutex::new(None));
    let store = result.clone();
    let body = move || {
        let value = f();
        *store.lock().unwrap() = Some(value);
    };
    sched::spawn("test", body).unwrap();
    Handle { result }
}

impl<T> Handle<T> {
    pub fn join(self) -> T {
        loop {
            if let Some(value) = self.result.lock().unwrap().take() {
                return value;
            }
            pause_ms(1);
        }
    }
}

/// Has everything given up that waits for a grace period, and what that frees in its turn. The reaper would do so, but it
/// lives on the CPU of the test that came first, and goes with it.
fn settle() {
    let deadline = hal::time::now_ns() + 5_000_000_000;
    for _ in 0..3 {
        let is_over = Arc::new(AtomicBool::new(false));
        let signal = is_over.clone();
        hal::rcu::call(Box::new(move || signal.store(true, Ordering::Relaxed)));
        while !is_over.load(Ordering::Relaxed) && hal::time::now_ns() < deadline {
            hal::rcu::process();
            hal::cpu::relax();
        }
    }
}
