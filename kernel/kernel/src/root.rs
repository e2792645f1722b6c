//! The root file system on a disk: `root=` and what belongs to it.
//!
//! Linux mounts it when the initramfs has no first program: on /root of the rootfs, with devtmpfs on its /dev, makes it
//! the root by pivot_root(2), and unmounts the rootfs. Sources: Documentation/admin-guide/kernel-parameters.txt, init/do_mounts.c's messages.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::S_IFBLK;
use abi::{Errno, Result};
use block::BlockDevice;
use vfs::{At, WalkContext, WalkFlags};

use crate::params::Params;

const MS_RDONLY: u64 = 1;
const MNT_DETACH: u32 = 2;
/// How often `rootwait` looks.
const WAIT_NS: u64 = 100_000_000;

/// Mounts the root file system and makes it the root of `cx`; stops the machine when it cannot be, as Linux does.
pub(crate) fn mount(cx: &WalkContext<'_>, params: &Params, name: &str) -> Result<()> {
    let Some(device) = find_device(name, params.root_wait) else {
        let known: Vec<String> = block::all().iter().map(|device| String::from(device.name())).collect();
        log::error!("VFS: cannot open root device \"{name}\"; there are: {}", known.join(" "));
        hal::power::stop("VFS: Unable to mount root fs on unknown-block(0,0)");
    };
    if let Err(errno) = mount_device(cx, params, &device) {
        let (major, minor) = device.number();
        log::error!("VFS: cannot mount {} as the root: {errno}", device.name());
        hal::power::stop(&alloc::format!("VFS: Unable to mount root fs on unknown-block({major},{minor})"));
    }
    Ok(())
}

/// The device that `root=` names: /dev/NAME, PARTUUID=, PARTLABEL=, MAJOR:MINOR.
fn find_device(name: &str, wait: bool) -> Option<Arc<BlockDevice>> {
    loop {
        let found = find_once(name);
        if found.is_some() || !wait {
            return found;
        }
        let next_ns = hal::time::now_ns().saturating_add(WAIT_NS);
        let _ = sched::sleep_until(next_ns, sched::Interruptible::No);
    }
}

fn find_once(name: &str) -> Option<Arc<BlockDevice>> {
    if let Some(node) = name.strip_prefix("/dev/") {
        return block::by_name(node);
    }
    let by = |wanted: &str, of: fn(&block::Partition) -> Option<&str>| {
        let is_it = |device: &Arc<BlockDevice>| {
            device.partition().and_then(of).is_some_and(|text| text.eq_ignore_ascii_case(wanted))
        };
        block::all().into_iter().find(is_it)
    };
    if let Some(uuid) = name.strip_prefix("PARTUUID=") {
        return by(uuid, |part| part.uuid.as_deref());
    }
    if let Some(label) = name.strip_prefix("PARTLABEL=") {
        return by(label, |part| part.label.as_deref());
    }
    let (major, minor) = name.split_once(':')?;
    block::by_number(abi::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn mount_device(cx: &WalkContext<'_>, params: &Params, device: &Arc<BlockDevice>) -> Result<()> {
    let given = params.root_types.as_deref().map(|types| types.split(',').map(String::from).collect());
    let types: Vec<String> = given.unwrap_or_else(|| {
        let on_devices = vfs::superblock::fs_types().into_iter().filter(|kind| kind.needs_device());
        on_devices.map(|kind| String::from(kind.name())).collect()
    });
    vfs::namespace::mknodat(cx, At::Cwd, b"/dev/root", S_IFBLK | 0o600, device.rdev())?;
    let flags = if params.root_writable { 0 } else { MS_RDONLY };
    let data = params.root_flags.as_bytes();
    let mut result = Err(Errno::ENODEV);
    for kind in &types {
        result = vfs::mount_ops::mount(cx, b"/dev/root", b"/root", kind.as_bytes(), flags, data);
        match &result {
            Ok(()) => {
                let how = if params.root_writable { "" } else { " readonly" };
                log::info!("VFS: Mounted root ({kind} filesystem){how} on device {}", device.name());
                break;
            }
            // Not of this type: the next may fit.
            Err(Errno::EINVAL) => {}
            Err(errno) => log::warn!("VFS: {kind} on {}: {errno}", device.name()),
        }
    }
    result?;
    if let Err(errno) = vfs::mount_ops::mount(cx, b"devtmpfs", b"/root/dev", b"devtmpfs", 0, b"") {
        log::warn!("devtmpfs: cannot be mounted on the root's /dev: {errno}");
    }
    let root = vfs::walk(cx, At::Cwd, b"/root", WalkFlags::FOLLOW)?;
    vfs::mount_ops::pivot_root(cx, b"/root", b"/root")?;
    // No task is there yet whose view would follow.
    cx.fs.set_root(root.clone());
    cx.fs.set_cwd(root);
    // What is upon the new root now is the rootfs.
    vfs::mount_ops::umount(cx, b"/", MNT_DETACH)
}
