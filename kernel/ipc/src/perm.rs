//! Owners, modes, keys and identifiers of System V objects (sysvipc(7)).
//!
//! An identifier is an index with a sequence number above it, so that one of a removed object names nothing for long:
//!
//! ```text
//! bits 30..15 sequence   bits 14..0 index
//! ```

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use security::{Cap, Cred, IdKind, UserNs};

/// `IPC_CREAT`: make it if it is not there.
pub const IPC_CREAT: i32 = 0o1000;
/// `IPC_EXCL`: it must not be there.
pub const IPC_EXCL: i32 = 0o2000;
/// `IPC_NOWAIT`: fail instead of waiting.
pub const IPC_NOWAIT: i32 = 0o4000;
/// `IPC_PRIVATE`: a new object without a key.
const IPC_PRIVATE: i32 = 0;

/// Bits of the index.
const INDEX_BITS: u32 = 15;
/// One past the highest index (Linux: `IPCMNI`).
const MAX_OBJECTS: usize = 1 << INDEX_BITS;
/// Sequence numbers go round below this.
const MAX_SEQ: u32 = 1 << (31 - INDEX_BITS);

/// `struct ipc64_perm` of x86-64, as twelve 32-bit words.
pub type PermDs = [u32; 12];

/// Who may do what with an object. Ids are those of the first user namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Perm {
    pub(crate) key: i32,
    pub(crate) id: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) cuid: u32,
    pub(crate) cgid: u32,
    pub(crate) mode: u32,
}

/// Reading, for `Perm::check`.
pub(crate) const READ: u32 = 0o444;
/// Changing.
pub(crate) const WRITE: u32 = 0o222;

impl Perm {
    /// That of a new object of `cred`.
    pub(crate) fn new(key: i32, id: i32, mode: u32, cred: &Cred) -> Self {
        let (uid, gid) = (cred.euid, cred.egid);
        Self { key, id, uid, gid, cuid: uid, cgid: gid, mode: mode & 0o777 }
    }

    /// `EACCES` unless `cred` may do `wanted`, which is any of the three digits of a mode.
    pub(crate) fn check(&self, cred: &Cred, ns: &UserNs, wanted: u32) -> Result<()> {
        let requested = wanted >> 6 | wanted >> 3 | wanted;
        let granted = if cred.euid == self.cuid || cred.euid == self.uid {
            self.mode >> 6
        } else if cred.in_group(self.cgid) || cred.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if requested & !granted & 0o7 != 0 && !cred.ns_capable(ns, Cap::IPC_OWNER) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// `EPERM` unless `cred` owns or made the object, or administrates the namespace.
    pub(crate) fn check_owner(&self, cred: &Cred, ns: &UserNs) -> Result<()> {
        if cred.euid == self.cuid || cred.euid == self.uid || cred.ns_capable(ns, Cap::SYS_ADMIN) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// `IPC_SET`: owner, group and the nine bits of the mode, as the caller's namespace numbers them.
    pub(crate) fn set(&mut self, new: &PermDs, cred: &Cred) -> Result<()> {
        let uid = cred.user_ns.to_global(IdKind::User, new[1]).ok_or(Errno::EINVAL)?;
        let gid = cred.user_ns.to_global(IdKind::Group, new[2]).ok_or(Errno::EINVAL)?;
        (self.uid, self.gid) = (uid, gid);
        self.mode = self.mode & !0o777 | new[5] & 0o777;
        Ok(())
    }

    /// As user space sees it.
    pub(crate) fn show(&self, reader: &UserNs) -> PermDs {
        let user = |id| reader.show(IdKind::User, id);
        let group = |id| reader.show(IdKind::Group, id);
        let seq = (self.id as u32) >> INDEX_BITS;
        [
            self.key as u32,
            user(self.uid),
            group(self.gid),
            user(self.cuid),
            group(self.cgid),
            self.mode,
            seq & 0xffff,
            0,
            0,
            0,
            0,
            0,
        ]
    }
}

/// An object of a [`Table`].
pub(crate) trait Object: Send + Sync {
    /// Its owner and mode.
    fn perm(&self) -> Perm;
}

struct Ids<T> {
    slots: Vec<Option<(i32, Arc<T>)>>,
    keys: BTreeMap<i32, usize>,
    used: usize,
    seq: u32,
    /// Where the last one went that did not ask for its identifier.
    last_index: Option<usize>,
    /// The identifier that the next object is to get, if one was asked for (kernel.msg_next_id and its like).
    next_id: Option<i32>,
}

impl<T> Ids<T> {
    /// The identifier and index of the next object: as demanded once, else at the lowest free index with the sequence
    /// number that is due. `ENOSPC`: no index is free. `ENOMEM`.
    fn choose(&mut self) -> Result<(i32, usize)> {
        let wanted = self.next_id.take();
        let from = wanted.map_or(0, |id| id as usize & (MAX_OBJECTS - 1));
        let free = self.slots.iter().enumerate().skip(from).find(|(_, slot)| slot.is_none());
        let index = free.map_or(self.slots.len().max(from), |(index, _)| index);
        if index >= MAX_OBJECTS {
            return Err(Errno::ENOSPC);
        }
        if let Some(more) = (index + 1).checked_sub(self.slots.len()) {
            self.slots.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(self.slots.len() + more, || None);
        }
        if let Some(id) = wanted {
            return Ok((id & !(MAX_OBJECTS as i32 - 1) | index as i32, index));
        }
        // An index that comes again gets another sequence number.
        if self.last_index.is_some_and(|last| index <= last) {
            self.seq = (self.seq + 1) % MAX_SEQ;
        }
        self.last_index = Some(index);
        Ok(((self.seq << INDEX_BITS) as i32 | index as i32, index))
    }
}

/// The objects of one kind in one namespace.
pub(crate) struct Table<T> {
    ids: SpinLock<Ids<T>>,
}

/// What a `*get` call found.
pub(crate) enum Found<T> {
    /// It is there.
    Old(Arc<T>),
    /// It must be made.
    Missing,
}

impl<T: Object> Table<T> {
    pub(crate) const fn new() -> Self {
        let ids = Ids {
            slots: Vec::new(),
            keys: BTreeMap::new(),
            used: 0,
            seq: 0,
            last_index: None,
            next_id: None,
        };
        Self { ids: SpinLock::new("ipc.ids", ids) }
    }

    /// Looks for `key` as `flags` say. `ENOENT`, `EEXIST`.
    pub(crate) fn find(&self, key: i32, flags: i32) -> Result<Found<T>> {
        if key == IPC_PRIVATE {
            return Ok(Found::Missing);
        }
        let ids = self.ids.lock();
        let found = ids.keys.get(&key).and_then(|index| ids.slots.get(*index)?.as_ref());
        match found {
            Some(_) if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL => Err(Errno::EEXIST),
            Some((_, object)) => Ok(Found::Old(object.clone())),
            None if flags & IPC_CREAT == 0 => Err(Errno::ENOENT),
            None => Ok(Found::Missing),
        }
    }

    /// Adds what `make` makes of the identifier. `ENOSPC`: there are `max` objects already. `EEXIST`: someone was faster.
    pub(crate) fn add(&self, key: i32, max: u32, make: impl FnOnce(i32) -> Result<T>) -> Result<Arc<T>> {
        self.add_arc(key, max, |id| make(id).map(Arc::new))
    }

    /// As [`Table::add`] for an object that knows itself.
    pub(crate) fn add_cyclic(
        &self,
        key: i32,
        max: u32,
        make: impl FnOnce(i32, &Weak<T>) -> T,
    ) -> Result<Arc<T>> {
        self.add_arc(key, max, |id| Ok(Arc::new_cyclic(|me| make(id, me))))
    }

    fn add_arc(&self, key: i32, max: u32, make: impl FnOnce(i32) -> Result<Arc<T>>) -> Result<Arc<T>> {
        let mut ids = self.ids.lock();
        if key != IPC_PRIVATE && ids.keys.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        if ids.used >= (max as usize).min(MAX_OBJECTS) {
            return Err(Errno::ENOSPC);
        }
        let (id, index) = ids.choose()?;
        let object = make(id)?;
        if let Some(slot) = ids.slots.get_mut(index) {
            *slot = Some((id, object.clone()));
        }
        if key != IPC_PRIVATE {
            ids.keys.insert(key, index);
        }
        ids.used += 1;
        Ok(object)
    }

    /// The identifier that the next object shall get; -1 for none.
    pub(crate) fn next_id(&self) -> i32 {
        self.ids.lock().next_id.unwrap_or(-1)
    }

    /// Demands the identifier of the next object, not negative; its index only if that is free then.
    pub(crate) fn set_next_id(&self, id: i32) {
        self.ids.lock().next_id = Some(id);
    }

    /// The object with identifier `id`. `EINVAL`: there is none.
    pub(crate) fn get(&self, id: i32) -> Result<Arc<T>> {
        let index = usize::try_from(id).map_err(|_| Errno::EINVAL)? & (MAX_OBJECTS - 1);
        let ids = self.ids.lock();
        let slot = ids.slots.get(index).and_then(Option::as_ref);
        slot.filter(|(own, _)| *own == id).map(|(_, object)| object.clone()).ok_or(Errno::EINVAL)
    }

    /// The object at `index` (`*_STAT` commands). `EINVAL`: there is none.
    pub(crate) fn at(&self, index: i32) -> Result<Arc<T>> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)? & (MAX_OBJECTS - 1);
        let ids = self.ids.lock();
        let slot = ids.slots.get(index).and_then(Option::as_ref);
        slot.map(|(_, object)| object.clone()).ok_or(Errno::EINVAL)
    }

    /// Takes the object out; false if it was not there any more.
    pub(crate) fn remove(&self, id: i32) -> bool {
        let Ok(index) = usize::try_from(id) else { return false };
        let index = index & (MAX_OBJECTS - 1);
        let mut ids = self.ids.lock();
        let Some(slot) = ids.slots.get_mut(index) else { return false };
        if slot.as_ref().is_none_or(|(own, _)| *own != id) {
            return false;
        }
        let gone = slot.take();
        ids.keys.retain(|_, at| *at != index);
        ids.used -= 1;
        drop(ids);
        drop(gone);
        true
    }

    /// Takes the key from an object that lives on (`IPC_RMID` of memory in use).
    pub(crate) fn forget_key(&self, key: i32) {
        self.ids.lock().keys.remove(&key);
    }

    /// How many objects there are, and the highest index in use (0 for none).
    pub(crate) fn usage(&self) -> (usize, i32) {
        let ids = self.ids.lock();
        let highest = ids.slots.iter().rposition(Option::is_some).unwrap_or(0);
        (ids.used, highest as i32)
    }

    /// All objects by ascending index.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        let mut all = Vec::new();
        loop {
            let ids = self.ids.lock();
            if all.capacity() >= ids.used {
                all.extend(ids.slots.iter().flatten().map(|(_, object)| object.clone()));
                return all;
            }
            let wanted = ids.used;
            drop(ids);
            if all.try_reserve(wanted).is_err() {
                return all;
            }
        }
    }
}

/// The wall clock in seconds, for the times that objects show.
pub(crate) fn now_s() -> i64 {
    let wall = hal::time::wall_base_ns().saturating_add_unsigned(hal::time::now_ns());
    wall / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Perm);

    impl Object for Thing {
        fn perm(&self) -> Perm {
            self.0
        }
    }

    fn thing(key: i32, id: i32, mode: u32) -> Thing {
        Thing(Perm::new(key, id, mode, &Cred::root()))
    }

    #[test]
    fn identifiers_of_removed_objects_name_nothing() {
        let table: Table<Thing> = Table::new();
        let add = |key| table.add(key, 2, |id| Ok(thing(key, id, 0o600)));
        let first = add(5).unwrap().perm().id;
        assert!(matches!(table.find(5, 0), Ok(Found::Old(_))));
        assert_eq!(table.find(5, IPC_CREAT | IPC_EXCL).err(), Some(Errno::EEXIST));
        assert_eq!(add(5).err(), Some(Errno::EEXIST));
        assert!(table.remove(first) && !table.remove(first));
        assert_eq!(table.get(first).err(), Some(Errno::EINVAL));
        assert_eq!(table.find(5, 0).err(), Some(Errno::ENOENT));
        let second = add(0).unwrap().perm().id;
        assert_ne!(first, second);
        add(0).unwrap();
        assert_eq!(add(0).err(), Some(Errno::ENOSPC));
        assert_eq!((table.usage(), table.all().len()), ((2, 1), 2));
    }

    #[test]
    fn an_identifier_can_be_demanded_once() {
        let table: Table<Thing> = Table::new();
        let add = || table.add(0, 9, |id| Ok(thing(0, id, 0o600))).unwrap().perm().id;
        table.set_next_id(7 << 15 | 3);
        assert_eq!(table.next_id(), 7 << 15 | 3);
        assert_eq!((add(), table.next_id()), (7 << 15 | 3, -1));
        assert_eq!(add() & 0x7fff, 0, "the circle goes on where it was");
        table.set_next_id(9 << 15 | 3);
        assert_eq!(add(), 9 << 15 | 4, "the index was taken");
        table.set_next_id(i32::MAX);
        assert_eq!(add(), i32::MAX);
        table.set_next_id(i32::MAX);
        assert_eq!(table.add(0, 9, |id| Ok(thing(0, id, 0o600))).err(), Some(Errno::ENOSPC));
        assert_eq!(table.usage(), (4, 32767));
    }

    #[test]
    fn modes_are_checked_by_class() {
        let perm = thing(1, 0, 0o640).0;
        let user = |uid: u32| Cred::root().setgid(uid).unwrap().setuid(uid).unwrap();
        let ns = UserNs::INITIAL;
        assert_eq!(perm.check(&user(5), &ns, READ), Err(Errno::EACCES));
        assert_eq!(perm.check(&Cred::root(), &ns, READ | WRITE), Ok(()));
        let mut owned = perm;
        (owned.uid, owned.gid) = (5, 6);
        assert_eq!(owned.check(&user(5), &ns, READ | WRITE), Ok(()));
        assert_eq!(owned.check(&user(6), &ns, READ), Ok(()));
        assert_eq!(owned.check(&user(6), &ns, WRITE), Err(Errno::EACCES));
        assert_eq!(owned.check_owner(&user(6), &ns), Err(Errno::EPERM));
    }
}
