//! An inode in memory: the record that names it, and its clusters.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use abi::fs::{S_IFDIR, S_IFREG};
use abi::time::Timespec;
use abi::{Errno, Result};
use fat_image::dir::Dir;
use fat_image::{Attributes, Record, chain, dir, free_chain, time};
use hal::sync::{Once, SpinLock};
use mm::Mapping;
use vfs::inode::Times;
use vfs::{Inode, InodeFlags, InodeInit};

use crate::fs::{Fs, Meta};
use crate::options::Options;

/// The inode number of the root.
pub(crate) const ROOT_INO: u64 = 1;

/// Where it is on the volume. Changed with [`Fs::meta`] held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Of its short record, in bytes; `None` for the root, and when it has no name any more.
    pub(crate) record: Option<u64>,
    /// Its clusters, once they were needed.
    pub(crate) chain: Option<Vec<u32>>,
    /// The first of them; 0 for none.
    pub(crate) first: u32,
}

/// See the module's front page.
pub(crate) struct Node {
    pub(crate) fs: Arc<Fs>,
    pub(crate) vfs: Once<Weak<Inode>>,
    place: SpinLock<Place>,
    /// The directory that it is in.
    parent: SpinLock<Weak<Node>>,
    attributes: AtomicU32,
    /// It has no name: its clusters go with the last open file.
    is_gone: AtomicBool,
    /// Open files.
    pub(crate) nr_open: AtomicU32,
    /// It may have clusters behind its end, which pages were given before they were written to.
    pub(crate) has_spare: AtomicBool,
    pub(crate) is_dir: bool,
}

/// The VFS's operations on it.
pub(crate) struct Ops(pub(crate) Arc<Node>);

/// The node of an inode. `EXDEV` is what another file system's inode would be.
pub(crate) fn node(inode: &Inode) -> Result<&Arc<Node>> {
    inode.ops_as::<Ops>().map(|ops| &ops.0).ok_or(Errno::EXDEV)
}

fn timespec((tv_sec, nsec): (i64, u32)) -> Timespec {
    Timespec { tv_sec, tv_nsec: nsec.into() }
}

/// The times of a record.
fn times_of(record: &Record) -> Times {
    let mtime = timespec(time::decode(record.mdate.get(), record.mtime.get(), 0));
    Times {
        atime: timespec(time::decode(record.adate.get(), 0, 0)),
        mtime,
        ctime: mtime,
        btime: timespec(time::decode(record.cdate.get(), record.ctime.get(), record.ctime_fine)),
    }
}

/// Puts times into a record; a time of creation that is 0 stays out.
pub(crate) fn put_times(record: &mut Record, times: &Times) {
    let (mdate, mtime, _) = time::encode(times.mtime.tv_sec, 0);
    record.mdate.set(mdate);
    record.mtime.set(mtime);
    record.adate.set(time::encode(times.atime.tv_sec, 0).0);
    let (date, clock, fine) =
        time::encode(times.btime.tv_sec, u32::try_from(times.btime.tv_nsec).unwrap_or(0));
    record.cdate.set(date);
    record.ctime.set(clock);
    record.ctime_fine = fine;
}

/// Extensions of programs, the files that are executable with the option "showexec".
const PROGRAMS: [&[u8; 3]; 3] = [b"EXE", b"COM", b"BAT"];

fn mode_of(record: &Record, options: &Options) -> u32 {
    let keeps_writable = record.is_dir() && !options.has_read_only_dirs;
    let is_read_only = record.attributes().has(Attributes::READ_ONLY) && !keeps_writable;
    let writable = if is_read_only { 0o555 } else { 0o777 };
    let is_program = PROGRAMS.iter().any(|extension| record.name.ends_with(&extension[..]));
    match record.is_dir() {
        true => S_IFDIR | writable & !options.dmask,
        false if options.shows_exec && !is_program => S_IFREG | writable & 0o666 & !options.fmask,
        false => S_IFREG | writable & !options.fmask,
    }
}

impl Fs {
    /// The inode whose short record `record` is at `at` on the volume, in the directory `parent`. The caller holds a lock
    /// that keeps it there. `ELOOP`: a directory that is in another one, too, as damage may have it.
    pub(crate) fn inode(
        self: &Arc<Self>,
        at: u64,
        record: &Record,
        parent: &Arc<Node>,
        meta: &mut Meta,
    ) -> Result<Arc<Inode>> {
        let inode = match self.known_at(at) {
            Some(inode) => inode,
            None => {
                let place = Place { record: Some(at), chain: None, first: record.cluster(&self.layout) };
                self.instantiate(self.new_ino(), record, place, meta)?
            }
        };
        let node = node(&inode)?;
        let old = node.parent.lock().upgrade();
        match old {
            Some(old) if node.is_dir && !Arc::ptr_eq(&old, parent) => return Err(Errno::ELOOP),
            Some(_) => {}
            None => node.set_parent_node(parent),
        }
        Ok(inode)
    }

    fn known_at(&self, at: u64) -> Option<Arc<Inode>> {
        self.known.lock().get(&at).and_then(Weak::upgrade)
    }

    /// A number that no inode had. Records have none, and one by its place would stay with a file that moves away.
    fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Relaxed)
    }

    /// The inode number to show for the record at `at`: a new one, as on Linux, while no inode of it is in memory.
    pub(crate) fn shown_ino(&self, at: u64) -> u64 {
        self.known_at(at).map_or_else(|| self.new_ino(), |inode| inode.ino())
    }

    /// The root directory.
    pub(crate) fn root(self: &Arc<Self>) -> Result<Arc<Inode>> {
        let mut record = Record::empty();
        record.attributes = Attributes::DIRECTORY;
        record.set_cluster(self.layout.root);
        let place = Place { record: None, chain: None, first: self.layout.root };
        let mut meta = self.lock();
        self.instantiate(ROOT_INO, &record, place, &mut meta)
    }

    fn instantiate(
        self: &Arc<Self>,
        ino: u64,
        record: &Record,
        mut place: Place,
        _meta: &mut Meta,
    ) -> Result<Arc<Inode>> {
        let sb = self.sb.get().and_then(Weak::upgrade).ok_or(Errno::ENODEV)?;
        let options = *self.options.lock();
        let is_dir = record.is_dir();
        let mut size = u64::from(record.size.get());
        let mut nlink = 1;
        if is_dir {
            let list = chain(&self.layout, &self.volume, place.first, dir::MAX_LEN)
                .map_err(|error| self.failed(error))?;
            let dir = Dir { layout: &self.layout, volume: &self.volume, chain: &list };
            size = u64::from(dir.len());
            nlink = 2;
            dir.for_each(0, |entry| {
                nlink += u32::from(entry.record.is_dir());
                None::<()>
            })
            .map_err(|error| self.failed(error))?;
            place.chain = Some(list);
        }
        let record_at = place.record;
        let mode = mode_of(record, &options);
        let node = Arc::new(Node {
            fs: self.clone(),
            vfs: Once::new(),
            place: SpinLock::new("fat.node.place", place),
            parent: SpinLock::new("fat.node.parent", Weak::new()),
            attributes: AtomicU32::new(record.attributes.into()),
            is_gone: AtomicBool::new(false),
            nr_open: AtomicU32::new(0),
            has_spare: AtomicBool::new(false),
            is_dir,
        });
        let init = InodeInit {
            ino,
            mode,
            uid: options.uid,
            gid: options.gid,
            nlink,
            size,
            rdev: 0,
            // The root has no record that would tell.
            times: if record_at.is_some() { times_of(record) } else { Times::default() },
            // Names that differ in case only are one: what is cached of them has to be asked for again.
            flags: if is_dir { InodeFlags::VOLATILE } else { InodeFlags::empty() },
        };
        let mapping = (!is_dir).then(|| Mapping::with_source(node.clone(), size));
        let inode = Inode::new(&sb, init, Box::new(Ops(node.clone())), mapping);
        node.vfs.call_once(|| Arc::downgrade(&inode));
        if let Some(at) = record_at {
            self.known.lock().insert(at, Arc::downgrade(&inode));
        }
        Ok(inode)
    }
}

impl Node {
    /// Its clusters, loaded if need be, and its directory's chain while `f` runs; `f` may change the list.
    pub(crate) fn with_chain<R>(
        &self,
        meta: &mut Meta,
        f: impl FnOnce(&mut Meta, &mut Vec<u32>) -> fat_image::Result<R>,
    ) -> fat_image::Result<R> {
        let (list, first) = {
            let mut place = self.place.lock();
            (place.chain.take(), place.first)
        };
        let mut list = match list {
            Some(list) => list,
            None => {
                let max_len = if self.is_dir { dir::MAX_LEN } else { u32::MAX };
                chain(&self.fs.layout, &self.fs.volume, first, max_len)?
            }
        };
        let result = f(meta, &mut list);
        let mut place = self.place.lock();
        place.first = list.first().copied().unwrap_or(0);
        place.chain = Some(list);
        drop(place);
        result
    }

    /// Whether it is known to have clusters for its bytes up to `end`.
    pub(crate) fn has_clusters_to(&self, end: u64) -> bool {
        let size = u64::from(self.fs.layout.cluster_size);
        self.place.lock().chain.as_ref().is_some_and(|list| list.len() as u64 * size >= end)
    }

    /// Where its record is. `None`: it has none.
    pub(crate) fn record_at(&self) -> Option<u64> {
        self.place.lock().record
    }

    /// Whether it is the root.
    pub(crate) fn is_root(&self) -> bool {
        self.is_dir && self.record_at().is_none() && !self.is_gone.load(Relaxed)
    }

    /// The directory that it is in, if it is in memory.
    pub(crate) fn parent_node(&self) -> Option<Arc<Node>> {
        self.parent.lock().upgrade()
    }

    /// Bytes of the clusters that it is known to have.
    pub(crate) fn known_len(&self) -> u64 {
        let clusters = self.place.lock().chain.as_ref().map_or(0, Vec::len);
        clusters as u64 * u64::from(self.fs.layout.cluster_size)
    }

    /// The first cluster; 0 for none, and for the root as others name it.
    pub(crate) fn named_cluster(&self) -> u32 {
        let place = self.place.lock();
        if place.record.is_none() && place.first == self.fs.layout.root { 0 } else { place.first }
    }

    /// It is named by the record at `at` from now on, or by none. Called with [`Fs::meta`] held.
    pub(crate) fn set_record_at(&self, at: Option<u64>) {
        let old = core::mem::replace(&mut self.place.lock().record, at);
        let mut known = self.fs.known.lock();
        let weak = match old {
            Some(old) => known.remove(&old),
            None => self.vfs.get().cloned(),
        };
        if let (Some(at), Some(weak)) = (at, weak) {
            known.insert(at, weak);
        }
    }

    /// It is in the directory `parent` from now on. Called with [`Fs::meta`] held.
    pub(crate) fn set_parent_node(&self, parent: &Arc<Node>) {
        *self.parent.lock() = Arc::downgrade(parent);
    }

    /// It has no name any more.
    pub(crate) fn set_gone(&self) {
        self.set_record_at(None);
        self.is_gone.store(true, SeqCst);
    }

    /// It is opened.
    pub(crate) fn opened(&self) {
        self.nr_open.fetch_add(1, SeqCst);
    }

    /// An open file of it ends; with the last one its clusters go, if it has no name, or those behind its end.
    pub(crate) fn closed(&self) {
        if self.nr_open.fetch_sub(1, SeqCst) > 1 {
            return;
        }
        let Some(inode) = self.vfs.get().and_then(Weak::upgrade) else { return };
        let Ok(node) = node(&inode).cloned() else { return };
        if self.is_gone.load(SeqCst) {
            node.free_later();
        } else if !inode.sb().is_readonly() && self.has_spare.swap(false, SeqCst) {
            // The inode is kept for that, so that no other one has the clusters.
            node.later(move |node| node.free_spare(&inode));
        }
    }

    /// Frees its clusters soon: that does I/O, and the last user may hold locks.
    fn free_later(self: &Arc<Self>) {
        // What write-back would give clusters again.
        if let Some(inode) = self.vfs.get().and_then(Weak::upgrade) {
            self.forget_pages(&inode);
        }
        self.later(|node| node.free_all());
    }

    /// Has `free` free clusters soon; sync(2) waits for it.
    fn later(self: &Arc<Self>, free: impl FnOnce(&Node) -> Result<()> + Send + 'static) {
        let node = self.clone();
        node.fs.nr_evictions.fetch_add(1, SeqCst);
        sched::workqueue::queue(Box::new(move || {
            if let Err(errno) = free(&node) {
                log::error!("FAT-fs ({}): clusters are not freed: {errno}", node.fs.device.name());
            }
            node.fs.nr_evictions.fetch_sub(1, SeqCst);
            node.fs.evicted.wake_all();
        }));
    }

    fn free_all(&self) -> Result<()> {
        let fs = &self.fs;
        if let Some(inode) = self.vfs.get().and_then(Weak::upgrade)
            && let Some(mapping) = inode.mapping()
        {
            mapping.truncate(0);
        }
        fs.with(|meta| {
            self.with_chain(meta, |meta, list| free_chain(&fs.layout, &fs.volume, &mut meta.table, list, 0))
        })
    }

    /// Frees its clusters, as it has no name, unless somebody has it open. Other spellings of its name may keep the inode
    /// in the cache of names for long.
    pub(crate) fn free_if_unused(&self) {
        if self.nr_open.load(SeqCst) > 0 {
            return;
        }
        if let Err(errno) = self.free_all() {
            log::error!("FAT-fs ({}): clusters are not freed: {errno}", self.fs.device.name());
        }
    }

    /// The attributes of its record.
    pub(crate) fn attributes(&self) -> u8 {
        self.attributes.load(Relaxed) as u8
    }

    /// Changes them.
    pub(crate) fn set_attributes(&self, attributes: u8) {
        self.attributes.store(attributes.into(), Relaxed);
    }

    /// Writes what the VFS knows into the record, if it has one. The caller holds [`Fs::meta`].
    pub(crate) fn store(&self, inode: &Inode) -> fat_image::Result<()> {
        self.record_at().map_or(Ok(()), |at| self.store_at(inode, at))
    }

    /// Writes that into the record at `at`, which keeps its name.
    pub(crate) fn store_at(&self, inode: &Inode, at: u64) -> fat_image::Result<()> {
        let first = self.place.lock().first;
        let mut record = Record::empty();
        let mut raw = [0; 32];
        fat_image::Volume::read(&self.fs.volume, at, &mut raw)?;
        record.name.copy_from_slice(&raw[..11]);
        record.case = raw[12];
        record.attributes = self.attributes();
        record.set_cluster(first);
        if !self.is_dir {
            record.size.set(u32::try_from(inode.size()).unwrap_or(u32::MAX));
        }
        put_times(&mut record, &inode.times());
        dir::store(&self.fs.volume, at, &record)
    }

    /// As [`Node::store`], with the lock taken for it.
    pub(crate) fn write_record(&self, inode: &Inode) -> Result<()> {
        self.fs.with(|_| self.store(inode))
    }

    /// Has its pages written by the next sync(2), and itself kept until then.
    pub(crate) fn pages_dirty(&self) {
        if let Some(inode) = self.vfs.get().and_then(Weak::upgrade)
            && !inode.sb().is_readonly()
        {
            let key = Arc::as_ptr(&inode) as usize;
            let mut dirty = self.fs.dirty.lock();
            // Asked here: nobody looks any more when `Fs::forget_dirty` has.
            if self.fs.volume.check_there().is_ok() {
                dirty.entry(key).or_insert(inode);
            }
        }
    }

    /// Forgets that it has pages to write.
    pub(crate) fn forget_pages(&self, inode: &Arc<Inode>) {
        let kept = self.fs.dirty.lock().remove(&(Arc::as_ptr(inode) as usize));
        drop(kept);
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        let node = self.0.clone();
        if let Some(at) = node.record_at() {
            let mut known = node.fs.known.lock();
            if known.get(&at).is_some_and(|weak| weak.strong_count() == 0) {
                known.remove(&at);
            }
            return;
        }
        // What an open that failed has left.
        if node.is_gone.load(SeqCst) && node.place.lock().first != 0 {
            node.free_later();
        }
    }
}
