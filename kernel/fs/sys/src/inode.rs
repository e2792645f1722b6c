//! Inodes: made from places and items when they are looked up.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use abi::{Errno, Result};
use vfs::inode::{Link, SetAttr};
use vfs::listing::{DirFile, Each, Listing, ino_of};
use vfs::text::{Content, Text, TextFile};
use vfs::{FileOps, Inode, InodeFlags, InodeInit, InodeOps, NewInode, OpenRequest};

use crate::place::{Item, Place, Show, Store};

/// What stat(2) shows as the size of each attribute.
const ATTRIBUTE_SIZE: u64 = 4096;

fn mode_of(item: &Item) -> u32 {
    match item {
        Item::Dir(_) => S_IFDIR | 0o755,
        Item::File(_) => S_IFREG | 0o444,
        Item::Setting(..) => S_IFREG | 0o644,
        Item::Trigger(_) => S_IFREG | 0o200,
        Item::GroupTrigger(_) => S_IFREG | 0o220,
        Item::Link(_) => S_IFLNK | 0o777,
    }
}

/// A directory.
pub(crate) struct Dir(pub(crate) Place);

/// No inode has extended attributes. `ENODATA` for the kinds that Linux keeps here, `EOPNOTSUPP` for others.
fn no_xattr(name: &[u8]) -> Result<Vec<u8>> {
    let is_known = [&b"user."[..], b"trusted.", b"security."].iter().any(|kind| name.starts_with(kind));
    Err(if is_known { Errno::ENODATA } else { Errno::EOPNOTSUPP })
}

impl InodeOps for Dir {
    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        no_xattr(name)
    }

    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Ok(find(&self.0, name).map(|item| make(dir, &self.0, name, item)))
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        match (find(&self.0, name), inode) {
            (None, None) => true,
            (Some(item), Some(inode)) => is_made_of(inode, &item),
            _ => false,
        }
    }

    fn create(&self, _dir: &Arc<Inode>, _name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        Err(if new.mode & S_IFMT == S_IFREG { Errno::EACCES } else { Errno::EPERM })
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(Children(self.0.clone()))))
    }
}

struct Children(Place);

impl Listing for Children {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        for (at, (name, item)) in self.0.items().iter().enumerate().skip(start) {
            if !each(name.as_bytes(), mode_of(item), at as u64 + 1) {
                break;
            }
        }
        Ok(())
    }
}

fn find(place: &Place, name: &[u8]) -> Option<Item> {
    place.items().into_iter().find(|(known, _)| known.as_bytes() == name).map(|(_, item)| item)
}

/// Whether `inode` is what [`make`] would make of `item`: another device may have its name by now.
fn is_made_of(inode: &Inode, item: &Item) -> bool {
    match item {
        Item::Dir(place) => inode.ops_as::<Dir>().is_some_and(|dir| dir.0 == *place),
        Item::Link(target) => inode.ops_as::<Symlink>().is_some_and(|link| link.0 == *target),
        // Attributes here are found anew when they are opened.
        Item::File(_) | Item::Setting(..) | Item::Trigger(_) | Item::GroupTrigger(_) => {
            inode.ops_as::<Volatile>().is_some()
        }
    }
}

fn make(dir: &Arc<Inode>, place: &Place, name: &[u8], item: Item) -> Arc<Inode> {
    let mut init = InodeInit::new(ino_of(dir.ino(), name), mode_of(&item));
    let ops: Box<dyn InodeOps> = match item {
        Item::Dir(child) => {
            if child.is_volatile() {
                init.flags = InodeFlags::VOLATILE;
            }
            Box::new(Dir(child))
        }
        Item::Link(target) => Box::new(Symlink(target)),
        Item::File(_) | Item::Setting(..) | Item::Trigger(_) | Item::GroupTrigger(_)
            if place.is_volatile() =>
        {
            // Another device may have this name when it is opened.
            init.size = ATTRIBUTE_SIZE;
            Box::new(Volatile(place.clone(), name.to_vec()))
        }
        Item::File(show) => attribute(&mut init, show, None),
        Item::Setting(show, store) => attribute(&mut init, show, Some(store)),
        Item::Trigger(store) | Item::GroupTrigger(store) => attribute(&mut init, unreadable(), Some(store)),
    };
    Inode::new(dir.sb(), init, ops, None)
}

struct Symlink(String);

impl InodeOps for Symlink {
    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        Ok(Link::Target(self.0.as_bytes().to_vec()))
    }

    fn link_in_memory(&self) -> Option<&[u8]> {
        Some(self.0.as_bytes())
    }
}

struct Attribute(Arc<Show>, Option<Store>);

fn attribute(init: &mut InodeInit, show: Show, store: Option<Store>) -> Box<dyn InodeOps> {
    init.size = ATTRIBUTE_SIZE;
    Box::new(Attribute(Arc::new(show), store))
}

/// LINUX: who may read what can only be written is refused.
fn unreadable() -> Show {
    Box::new(|_| Err(Errno::EIO))
}

/// An attribute of what comes and goes: found anew at each opening.
struct Volatile(Place, Vec<u8>);

impl InodeOps for Volatile {
    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        no_xattr(name)
    }

    fn open(&self, inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        let (show, store) = match find(&self.0, &self.1).ok_or(Errno::ENODEV)? {
            Item::File(show) => (show, None),
            Item::Setting(show, store) => (show, Some(store)),
            Item::Trigger(store) | Item::GroupTrigger(store) => (unreadable(), Some(store)),
            Item::Dir(_) | Item::Link(_) => return Err(Errno::ENODEV),
        };
        Attribute(Arc::new(show), store).open(inode, request)
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        inode.apply(change);
        Ok(())
    }
}

impl InodeOps for Attribute {
    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        no_xattr(name)
    }

    fn open(&self, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        // What cannot be written cannot, whatever capabilities the opener has.
        if request.flags.can_write() && self.1.is_none() {
            return Err(Errno::EACCES);
        }
        Ok(TextFile::open(AttributeText(self.0.clone(), self.1.clone())))
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        inode.apply(change);
        Ok(())
    }
}

struct AttributeText(Arc<Show>, Option<Store>);

impl Content for AttributeText {
    fn show(&self, out: &mut Text) -> Result<()> {
        (self.0)(out)
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        self.1.as_ref().ok_or(Errno::EIO)?(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks a path up, without following links.
    fn find(path: &str) -> Option<Item> {
        path.split('/').try_fold(Item::Dir(Place::Root), |at, name| match at {
            Item::Dir(place) => place.items().into_iter().find(|(n, _)| n == name).map(|(_, item)| item),
            _ => None,
        })
    }

    fn text(path: &str) -> String {
        let Some(Item::File(show)) = find(path) else { panic!("{path} is no file") };
        let mut out = Text::new();
        show(&mut out).unwrap();
        String::from_utf8(out.finish().unwrap()).unwrap()
    }

    #[test]
    fn cpus_have_their_directories() {
        assert_eq!(text("devices/system/cpu/kernel_max"), "63\n");
        assert_eq!(text("devices/system/cpu/offline"), "\n");
        assert_eq!(text("kernel/cpu_byteorder"), "little\n");
        for cpu in hal::cpu::online().iter() {
            assert_eq!(
                text(&format!("devices/system/cpu/cpu{0}/topology/core_id", cpu.0)),
                format!("{}\n", cpu.0)
            );
        }
        assert!(find("devices/system/cpu/cpu64").is_none());
    }

    #[test]
    fn names_in_a_directory_are_unique() {
        fn check(place: &Place) {
            let items = place.items();
            for (at, (name, item)) in items.iter().enumerate() {
                assert!(items.iter().skip(at + 1).all(|(other, _)| other != name), "{place:?} {name}");
                if let Item::Dir(place) = item {
                    check(place);
                }
            }
        }
        check(&Place::Root);
    }

    #[test]
    fn what_is_cached_is_not_taken_for_another_device() {
        let (old, new) = (Item::Link(String::from("../virtio0")), Item::Link(String::from("../virtio1")));
        let init = || InodeInit::new(1, S_IFLNK | 0o777);
        let sb = vfs::SuperBlock::new(vfs::SuperInit::in_memory(&crate::TYPE, 1), Box::new(crate::Super));
        let inode = Inode::new(&sb, init(), Box::new(Symlink(String::from("../virtio0"))), None);
        assert!(is_made_of(&inode, &old) && !is_made_of(&inode, &new));
        assert!(!is_made_of(&inode, &Item::Dir(Place::Empty)));
        let dir = Inode::new(&sb, init(), Box::new(Dir(Place::Hardware(String::from("a")))), None);
        assert!(is_made_of(&dir, &Item::Dir(Place::Hardware(String::from("a")))));
        assert!(!is_made_of(&dir, &Item::Dir(Place::Empty)) && !is_made_of(&dir, &new));
    }
}
