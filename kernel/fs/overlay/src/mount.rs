//! Mounting: the layers are found, checked and set up.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use abi::fs::{S_IFDIR, Statfs};
use abi::{Errno, Result};
use sched::Mutex;
use security::Cap;
use vfs::mount::{Mount, MountFlags};
use vfs::params::Param;
use vfs::superblock::SbFlags;
use vfs::{
    At, Dentry, FileSystemType, MountRequest, Path, SuperBlock, SuperInit, SuperOps, WalkContext, WalkFlags,
    namespace,
};

use crate::claim::{Claim, IfTaken};
use crate::icache::InodeCache;
use crate::inode::instantiate;
use crate::layers::{Lower, Overlay, Stack, Upper};
use crate::marks::Namespace;
use crate::options::{self, Options, Xino};

/// `OVERLAYFS_SUPER_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x794c_7630;
/// Overlays that may lie upon each other (Linux: `FILESYSTEM_MAX_STACK_DEPTH`).
const MAX_DEPTH: u32 = 2;

/// The type "overlay".
pub(crate) static OVERLAY: OverlayType = OverlayType;

/// See [`OVERLAY`].
pub(crate) struct OverlayType;

impl FileSystemType for OverlayType {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn is_stacked(&self) -> bool {
        true
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        options::PARAMS
    }

    /// `EIO`: for another user namespace than the caller's.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        if *request.user_ns != request.ctx.cred.user_ns {
            return Err(Errno::EIO);
        }
        let options = Options::parse(request.data)?;
        let fs = Arc::new(build(request.ctx, options)?);
        if fs.upper.is_some() {
            fs.clean_work()?;
            fs.open_index()?;
        }
        let mut flags = request.flags;
        flags.set(SbFlags::RDONLY, flags.contains(SbFlags::RDONLY) || fs.upper.is_none());
        let stack = roots(&fs);
        let shown = stack.real().ok_or(Errno::EINVAL)?.dentry.sb().clone();
        let init = SuperInit {
            fs_type: &OVERLAY,
            dev: 0,
            magic: MAGIC,
            block_size: shown.block_size(),
            max_bytes: shown.max_bytes(),
            flags,
        };
        let sb = SuperBlock::new(init, Box::new(Super(fs.clone())));
        Ok(Dentry::new_root(instantiate(&sb, &fs, stack, None)?))
    }
}

fn roots(fs: &Overlay) -> Stack {
    let lowers = fs.lowers.iter().enumerate().map(|(layer, path)| Lower { layer, path: path.clone() });
    Stack { upper: fs.upper.as_ref().map(|upper| upper.root.clone()), lowers: lowers.collect() }
}

/// A directory that an option names. `EINVAL`: something else.
fn directory(ctx: &WalkContext<'_>, name: &[u8]) -> Result<Path> {
    let path = vfs::walk(ctx, At::Cwd, name, WalkFlags::FOLLOW)?;
    if path.inode().is_some_and(|inode| inode.is_dir()) { Ok(path) } else { Err(Errno::EINVAL) }
}

/// How many overlays lie upon each other in the file system of `path`.
fn depth_of(path: &Path) -> u32 {
    path.dentry.sb().ops_as::<Super>().map_or(0, |below| below.0.depth)
}

/// The path of `path`'s directory through a mount of its own.
fn private(path: &Path, flags: MountFlags) -> Path {
    Path::root_of(&Mount::new_private(path, flags))
}

fn build(ctx: &WalkContext<'_>, mut options: Options) -> Result<Overlay> {
    let named = options.lower.iter().map(|name| directory(ctx, name)).collect::<Result<Vec<_>>>()?;
    let depth = named.iter().map(depth_of).max().unwrap_or(0) + 1;
    if depth > MAX_DEPTH {
        return Err(Errno::EINVAL);
    }
    let has_index = index_wanted(ctx, &mut options, &named)?;
    let marks = if options.userxattr { Namespace::User } else { Namespace::Trusted };
    let upper = match (&options.upper, &options.work) {
        (Some(upper), Some(work)) => Some(open_upper(ctx, upper, work, has_index)?),
        _ => None,
    };
    let lowers: Vec<_> =
        named.iter().map(|path| private(path, MountFlags::RDONLY | MountFlags::NOATIME)).collect();
    let mut devices = Vec::new();
    for path in upper.iter().map(|upper| &upper.root).chain(&lowers) {
        let dev = path.dentry.sb().dev();
        if !devices.contains(&dev) {
            devices.push(dev);
        }
    }
    if devices.len() == 1 {
        // There is nothing to tell apart.
        options.xino = Xino::Off;
    }
    Ok(Overlay {
        upper,
        lowers,
        cred: ctx.cred.clone(),
        options,
        marks,
        icache: InodeCache::new(),
        changes: Mutex::new("overlay.changes", ()),
        nr_copies: AtomicU64::new(0),
        devices,
        depth,
    })
}

/// Whether there is to be an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HasIndex {
    Yes,
    No,
}

/// Whether there is to be an index; `options` tell it then. There is none without an upper directory, nor where a layer's
/// file system has no handles.
fn index_wanted(ctx: &WalkContext<'_>, options: &mut Options, lowers: &[Path]) -> Result<HasIndex> {
    let Some(upper) = options.upper.as_ref().filter(|_| options.index) else {
        options.index = false;
        return Ok(HasIndex::No);
    };
    // Handles in marks open any file of a layer's file system.
    if !ctx.cred.capable(Cap::DAC_READ_SEARCH) {
        log::warn!("overlay: only who may open files by handle has an index: falling back to index=off");
        options.index = false;
        return Ok(HasIndex::No);
    }
    let upper = directory(ctx, upper)?;
    let has_handles = |path: &Path| path.dentry.sb().ops().export().is_some();
    if lowers.iter().chain([&upper]).all(has_handles) {
        return Ok(HasIndex::Yes);
    }
    log::warn!("overlay: a layer's file system has no file handles: falling back to index=off");
    options.index = false;
    Ok(HasIndex::No)
}

/// The writable layer. `EINVAL`: it cannot be written to, is an overlay itself, or does not go with the work directory.
/// `EBUSY`: with an index, another overlay uses one of them.
fn open_upper(ctx: &WalkContext<'_>, upper: &[u8], work: &[u8], has_index: HasIndex) -> Result<Upper> {
    let upper = directory(ctx, upper)?;
    let work = directory(ctx, work)?;
    let is_apart = !work.dentry.is_below(&upper.dentry) && !upper.dentry.is_below(&work.dentry);
    if !Arc::ptr_eq(&upper.mount, &work.mount) || !is_apart || depth_of(&upper) > 0 {
        return Err(Errno::EINVAL);
    }
    if upper.mount.is_readonly() {
        return Err(Errno::EINVAL);
    }
    let if_taken = if has_index == HasIndex::Yes { IfTaken::Refuse } else { IfTaken::Warn };
    let inode_of = |path: &Path| path.inode().cloned().ok_or(Errno::ENOENT);
    let claim = Claim::new(&inode_of(&upper)?, &inode_of(&work)?, if_taken)?;
    // One mount for both, so that things can be renamed from one to the other.
    let mount = Mount::new_private(&Path::root_of(&upper.mount), MountFlags::NOATIME);
    let place = |path: &Path| Path::new(&mount, &path.dentry);
    let dir = place(&work);
    let work = inner_work(ctx, &dir, b"work")?;
    let index = if has_index == HasIndex::Yes { Some(inner_work(ctx, &dir, b"index")?) } else { None };
    Ok(Upper { root: place(&upper), work, index, claim })
}

/// The directory `name` in the work directory, made if it is not there.
fn inner_work(ctx: &WalkContext<'_>, dir: &Path, name: &[u8]) -> Result<Path> {
    let made = namespace::create_in(dir, name, S_IFDIR | 0o700, 0, &[], ctx.cred);
    match made {
        Ok(path) => Ok(path),
        Err(Errno::EEXIST) => {
            let dentry = vfs::walk::lookup_child(&dir.dentry, name)?;
            let path = Path { mount: dir.mount.clone(), dentry };
            if path.inode().is_some_and(|inode| inode.is_dir()) { Ok(path) } else { Err(Errno::EINVAL) }
        }
        Err(errno) => Err(errno),
    }
}

/// The overlay's part of a superblock.
struct Super(Arc<Overlay>);

impl SuperOps for Super {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        let mut stat = roots(&self.0).real().ok_or(Errno::EIO)?.dentry.sb().statfs()?;
        stat.f_type = MAGIC as i64;
        Ok(stat)
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        self.0.options.show(out);
    }

    fn set_readonly(&self, _sb: &SuperBlock, readonly: bool) -> Result<()> {
        if readonly || self.0.upper.is_some() { Ok(()) } else { Err(Errno::EROFS) }
    }

    fn unmounted(&self) {
        if let Some(upper) = &self.0.upper {
            upper.claim.release();
        }
    }

    fn sync(&self, _sb: &SuperBlock) -> Result<()> {
        match &self.0.upper {
            Some(upper) if !self.0.options.volatile => {
                let sb = upper.root.dentry.sb();
                sb.ops().sync(sb)
            }
            _ => Ok(()),
        }
    }
}
