//! ioctl(2): the attributes that FAT has, the volume's number, and entries of directories with both of their names.
//!
//! Sources: ioctl_fat(2); results for entries without a long name, and at the end, as observed on Linux 7.2.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use fat_image::Attributes;
use fat_image::dir::{Dir, Entry};
use fat_image::name::{self, Spelling};
use hal::UserAddr;
use hal::user;
use security::Cred;
use vfs::notify::{self, Event};
use vfs::{File, InodeFlags, SetAttr};

use crate::dirs::DOTS;
use crate::node::{Node, node};

const GET_ATTRIBUTES: u32 = 0x8004_7210;
const SET_ATTRIBUTES: u32 = 0x4004_7211;
const GET_VOLUME_ID: u32 = 0x8004_7213;
const READDIR_BOTH: u32 = 0x8230_7201;
const READDIR_SHORT: u32 = 0x8230_7202;

/// `struct __fat_dirent`: its size, and where its fields are.
const DIRENT: usize = 280;
const OFF: usize = 8;
const RECLEN: usize = 16;
const NAME: usize = 18;
const NAME_ROOM: usize = 256;

/// Does request `cmd` for whom `cred` tells. `ENOTTY`: it is none of a file's. `EFAULT`, and the request's own errors. May sleep.
pub(crate) fn ioctl(file: &Arc<File>, cmd: u32, arg: usize, cred: &dyn Fn() -> Arc<Cred>) -> Result<usize> {
    let node = node(file.inode())?;
    let addr = UserAddr(arg as u64);
    match cmd {
        GET_ATTRIBUTES => user::write(addr, &attributes(node))?,
        SET_ATTRIBUTES => set_attributes(file, node, user::read(addr)?, &cred())?,
        GET_VOLUME_ID => user::write(addr, &node.fs.layout.serial)?,
        READDIR_BOTH if node.is_dir => return read_entry(file, node, addr, Names::Both),
        READDIR_SHORT if node.is_dir => return read_entry(file, node, addr, Names::Short),
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

fn attributes(node: &Node) -> u32 {
    let is_dir = if node.is_dir { Attributes::DIRECTORY } else { 0 };
    u32::from(node.attributes() | is_dir)
}

/// `EINVAL`: the root has none. `EPERM`: another user's file. `EOVERFLOW`: the mount does not show its owner. `EROFS`.
fn set_attributes(file: &File, node: &Arc<Node>, asked: u32, cred: &Cred) -> Result<()> {
    let inode = file.inode();
    let _write = file.path().mount.want_write()?;
    let _exclusive = inode.sem.write();
    let fixed = Attributes::VOLUME | Attributes::DIRECTORY;
    let is_dir = if node.is_dir { Attributes::DIRECTORY } else { 0 };
    let new = asked as u8 & !fixed | is_dir;
    if node.is_root() && new != Attributes::DIRECTORY {
        return Err(Errno::EINVAL);
    }
    let view = file.path().mount.id_view();
    if view.hides_owner(inode) {
        return Err(Errno::EOVERFLOW);
    }
    if !security::owner_or_capable(cred, view.uid(inode)) {
        return Err(Errno::EPERM);
    }
    // The mode follows: read-only is one of them.
    let options = *node.fs.options.lock();
    let may_be_read_only = !node.is_dir || options.has_read_only_dirs;
    let is_read_only = new & Attributes::READ_ONLY != 0 && may_be_read_only;
    let mask = if node.is_dir { options.dmask } else { options.fmask };
    let all = if node.is_dir { 0o777 } else { 0o666 | inode.mode() & 0o111 };
    let writable = if is_read_only { 0o555 } else { 0o777 };
    let kind = inode.mode() & abi::fs::S_IFMT;
    let change =
        SetAttr { mode: Some(kind | all & writable & !mask), ctime: vfs::time::now(), ..SetAttr::default() };
    inode.ops().set_attr(inode, &change)?;
    node.set_attributes(new & !is_dir | node.attributes() & fixed);
    node.write_record(inode)?;
    notify::path_event(file.path(), Event::ATTRIB);
    Ok(())
}

/// Which names of an entry are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Short,
    Both,
}

/// What a request for an entry gives.
struct Told {
    short: Vec<u8>,
    /// The long name, the inode's number and the entry's place.
    long: Option<(Vec<u8>, u64, u64)>,
    next: u64,
}

/// Stores the entry at the file's position, and moves behind it; 1, or 0 at the end. `ENOENT`: the directory was removed.
fn read_entry(file: &File, node: &Arc<Node>, to: UserAddr, names: Names) -> Result<usize> {
    let inode = file.inode();
    // So that a caller who looks at it only sees none at the end.
    put(to, RECLEN, &0u16.to_ne_bytes())?;
    let told = {
        let _shared = inode.sem.read();
        if inode.flags().contains(InodeFlags::DEAD) {
            return Err(Errno::ENOENT);
        }
        next_entry(node, file.pos(), names)?
    };
    let Some(told) = told else { return Ok(0) };
    file.set_pos(told.next);
    let second = to.add(DIRENT as u64);
    match &told.long {
        Some((name, ino, at)) => {
            put_name(second, name)?;
            put(second, 0, &ino.to_ne_bytes())?;
            put(second, OFF, &at.to_ne_bytes())?;
        }
        None => {
            put(second, NAME, &[0])?;
            put(second, RECLEN, &0u16.to_ne_bytes())?;
        }
    }
    put_name(to, &told.short)?;
    Ok(1)
}

fn next_entry(node: &Arc<Node>, pos: u64, names: Names) -> Result<Option<Told>> {
    if pos < DOTS {
        let short = Vec::from(if pos == 0 { &b"."[..] } else { b".." });
        return Ok(Some(Told { short, long: None, next: pos + 1 }));
    }
    let fs = &node.fs;
    let from = u32::try_from(pos - DOTS).unwrap_or(u32::MAX);
    let found: Option<(Entry, u64)> = fs.with(|meta| {
        node.with_chain(meta, |_, chain| {
            let dir = Dir { layout: &fs.layout, volume: &fs.volume, chain };
            let Some(entry) = dir.for_each(from, Some)? else { return Ok(None) };
            let at = dir.place(entry.at)?;
            Ok(Some((entry, at)))
        })
    })?;
    let Some((entry, place)) = found else { return Ok(None) };
    let spelling = fs.layout.spelling;
    let short = name::show_short(&entry.record.name, entry.record.case, spelling).into_bytes();
    let has_long = entry.start != entry.at && spelling != Spelling::Msdos;
    let long = (has_long && names == Names::Both)
        .then(|| (entry.name.into_bytes(), fs.shown_ino(place), DOTS + u64::from(entry.start)));
    Ok(Some(Told { short, long, next: DOTS + u64::from(entry.at) + 32 }))
}

fn put(to: UserAddr, at: usize, bytes: &[u8]) -> Result<()> {
    user::write_bytes(to.add(at as u64), bytes)?;
    Ok(())
}

/// Stores a name and its length; one that is too long is cut.
fn put_name(to: UserAddr, name: &[u8]) -> Result<()> {
    let name = name.get(..name.len().min(NAME_ROOM - 1)).unwrap_or(name);
    put(to, NAME, name)?;
    put(to, NAME + name.len(), &[0])?;
    put(to, RECLEN, &(name.len() as u16).to_ne_bytes())
}
