//! Mounting, and what concerns the file system as a whole.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::fs::Statfs;
use abi::{Errno, Result};
use hal::sync::{Once, SpinLock};
use sched::{Interruptible, WaitQueue};
use vfs::params::Param;
use vfs::superblock::MAX_FILE_SIZE;
use vfs::{Dentry, FileSystemType, Inode, MountRequest, SuperBlock, SuperInit, SuperOps, register_fs};

use crate::channel::{self, Claim};
use crate::client::Client;
use crate::fid::Fid;
use crate::options::{self, Access, Options};

/// `V9FS_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x0102_1997;
/// How often and how long a mount waits for the last user of an earlier one to go.
const RETRIES: u32 = 50;
const RETRY_NS: u64 = 20_000_000;

struct P9;

static TYPE: P9 = P9;

/// Makes the file system known.
pub fn register() -> Result<()> {
    register_fs(&TYPE)
}

impl FileSystemType for P9 {
    fn name(&self) -> &'static str {
        "9p"
    }

    fn writes_back(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        options::PARAMS
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let options = Options::parse(request.data)?;
        let client = Client::new(claim(request.source)?, options.msize)?;
        let uid = match options.access {
            Access::Any => p9_wire::NO_ID,
            Access::Single(uid) => uid,
            Access::User | Access::Client => request.ctx.cred.fsuid,
        };
        let root = Fid::attach(&client, &options.uname, &options.aname, uid)?;
        let attributes = root.attributes()?;
        let fs = Arc::new(Fs {
            client,
            options,
            known: SpinLock::new("p9.known", BTreeMap::new()),
            sb: Once::new(),
            nr_pending: AtomicU32::new(0),
            settled: WaitQueue::new(),
        });
        let init = SuperInit {
            fs_type: &TYPE,
            dev: 0,
            magic: MAGIC,
            block_size: fs.client.payload().next_power_of_two(),
            max_bytes: MAX_FILE_SIZE,
            flags: request.flags,
        };
        let root = Arc::new(root);
        let sb = SuperBlock::new(init, Box::new(Super { fs: fs.clone(), root: root.clone() }));
        fs.sb.call_once(|| Arc::downgrade(&sb));
        let inode = fs.instantiate(root, None, &attributes)?;
        if inode.is_dir() { Ok(Dentry::new_root(inode)) } else { Err(Errno::ENOTDIR) }
    }
}

/// The channel called `tag`; the last inodes of an earlier mount may still be on their way.
fn claim(tag: &[u8]) -> Result<Claim> {
    for _ in 0..RETRIES {
        match channel::claim(tag) {
            Err(Errno::EBUSY) => {
                let next_ns = hal::time::now_ns().saturating_add(RETRY_NS);
                sched::sleep_until(next_ns, Interruptible::Killable).map_err(|_| Errno::EINTR)?;
            }
            claimed => return claimed,
        }
    }
    Err(Errno::EBUSY)
}

/// A mounted file system: what all its inodes share.
pub(crate) struct Fs {
    pub(crate) client: Arc<Client>,
    pub(crate) options: Options,
    /// Inodes in memory, by the server's number.
    pub(crate) known: SpinLock<BTreeMap<u64, Weak<Inode>>>,
    pub(crate) sb: Once<Weak<SuperBlock>>,
    /// Closed files whose pages are being written.
    nr_pending: AtomicU32,
    settled: WaitQueue,
}

impl Fs {
    /// Runs `work` soon, where it may sleep; sync(2) waits for it.
    pub(crate) fn later(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        let fs = self.clone();
        fs.nr_pending.fetch_add(1, SeqCst);
        self.client.later.queue(Box::new(move || {
            work();
            fs.nr_pending.fetch_sub(1, SeqCst);
            fs.settled.wake_all();
        }));
    }

    /// Has all dirty pages on the server.
    fn sync(&self) -> Result<()> {
        let all: Vec<_> = self.known.lock().values().filter_map(Weak::upgrade).collect();
        let mut result = Ok(());
        for inode in all {
            if let Some(mapping) = inode.mapping().filter(|mapping| mapping.nr_pages() > 0) {
                result = result.and(mapping.write_back(0..u64::MAX));
            }
        }
        self.settled.wait(|| (self.nr_pending.load(SeqCst) == 0).then_some(()));
        result
    }
}

struct Super {
    fs: Arc<Fs>,
    root: Arc<Fid>,
}

impl SuperOps for Super {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        let stat = self.root.statfs()?;
        Ok(Statfs {
            f_type: stat.kind.into(),
            f_bsize: stat.block_size.into(),
            f_blocks: stat.blocks,
            f_bfree: stat.free,
            f_bavail: stat.available,
            f_files: stat.files,
            f_ffree: stat.files_free,
            f_namelen: stat.name_len.into(),
            ..Statfs::default()
        })
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        self.fs.options.show(self.fs.client.msize(), out);
    }

    fn sync(&self, _sb: &SuperBlock) -> Result<()> {
        self.fs.sync()
    }
}
