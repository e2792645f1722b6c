//! The text of /proc/PID/mounts and /proc/PID/mountinfo (proc_pid_mountinfo(5)).

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use abi::fs::{major, minor};

use crate::fs_context::FsContext;
use crate::mount::{Mount, MountFlags, MountNs};
use crate::path::Path;
use crate::superblock::SbFlags;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// /proc/PID/mounts, as fstab(5).
    Mounts,
    /// /proc/PID/mountinfo.
    MountInfo,
}

/// Appends `text` with space, tab, newline and backslash as octal numbers.
fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => out.extend(format!("\\{byte:03o}").bytes()),
            _ => out.push(byte),
        }
    }
}

fn push_mount_options(out: &mut Vec<u8>, mount: &Mount) {
    let flags = mount.flags();
    out.extend_from_slice(if flags.contains(MountFlags::RDONLY) { b"ro" } else { b"rw" });
    for (flag, name) in [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
        (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
    ] {
        if flags.contains(flag) {
            out.extend_from_slice(name.as_bytes());
        }
    }
    if mount.is_idmapped() {
        out.extend_from_slice(b",idmapped");
    }
}

#[inline]
fn push_super_options(out: &mut Vec<u8>, mount: &Mount) {
    let flags = mount.sb().flags();
    for (flag, name) in [(SbFlags::SYNCHRONOUS, ",sync"), (SbFlags::LAZYTIME, ",lazytime")] {
        if flags.contains(flag) {
            out.extend_from_slice(name.as_bytes());
        }
    }
    mount.sb().ops().show_options(mount.sb(), out);
}

/// The lines for all mounts that `fs` can reach. The errors are those of [`SuperOps::show_root`](crate::SuperOps::show_root).
pub fn show(fs: &FsContext, format: Format) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let root = fs.root();
    let Some(ns) = fs.ns() else { return Ok(out) };
    let mounts = ns.mounts();
    for mount in &mounts {
        let spelled = Path::root_of(mount).spell(Some(&root));
        if !spelled.is_reachable {
            continue;
        }
        match format {
            Format::Mounts => push_mounts_line(&mut out, mount, &spelled.text),
            Format::MountInfo => {
                push_mountinfo_line(&mut out, mount, &spelled.text, (&ns, &root))?;
            }
        }
    }
    Ok(out)
}

fn push_mounts_line(out: &mut Vec<u8>, mount: &Mount, at: &[u8]) {
    push_escaped(out, mount.source());
    out.push(b' ');
    push_escaped(out, at);
    out.push(b' ');
    out.extend_from_slice(mount.sb().fs_type().name().as_bytes());
    out.push(b' ');
    if mount.sb().is_readonly() && !mount.flags().contains(MountFlags::RDONLY) {
        let mut options = Vec::new();
        push_mount_options(&mut options, mount);
        out.extend_from_slice(b"ro");
        out.extend_from_slice(options.get(2..).unwrap_or(&[]));
    } else {
        push_mount_options(out, mount);
    }
    push_super_options(out, mount);
    out.extend_from_slice(b" 0 0\n");
}

/// Appends the fields of propagation, as seen in the namespace and from the root `seen`.
fn push_propagation(out: &mut Vec<u8>, mount: &Mount, seen: (&Arc<MountNs>, &Path)) {
    if let Some(group) = mount.group() {
        out.extend(format!(" shared:{group}").bytes());
    }
    if let Some(master) = mount.master() {
        out.extend(format!(" master:{master}").bytes());
        if let Some(from) = mount.dominating(seen.0, seen.1).filter(|from| *from != master) {
            out.extend(format!(" propagate_from:{from}").bytes());
        }
    }
    if mount.is_unbindable() {
        out.extend_from_slice(b" unbindable");
    }
}

fn push_mountinfo_line(
    out: &mut Vec<u8>,
    mount: &Arc<Mount>,
    at: &[u8],
    seen: (&Arc<MountNs>, &Path),
) -> Result<()> {
    let parent = mount.mountpoint().map_or(mount.id(), |up| up.mount.id());
    let dev = mount.sb().dev();
    out.extend(format!("{} {} {}:{} ", mount.id(), parent, major(dev), minor(dev)).bytes());
    let own = match mount.root().inode() {
        Some(root) => mount.sb().ops().show_root(root)?,
        None => None,
    };
    push_escaped(out, &own.unwrap_or_else(|| mount.root().path_in_fs()));
    out.push(b' ');
    push_escaped(out, at);
    out.push(b' ');
    push_mount_options(out, mount);
    push_propagation(out, mount, seen);
    out.extend(format!(" - {} ", mount.sb().fs_type().name()).bytes());
    push_escaped(out, mount.source());
    out.extend_from_slice(if mount.sb().is_readonly() { b" ro" } else { b" rw" });
    push_super_options(out, mount);
    out.push(b'\n');
    Ok(())
}
