//! Probes in programs: a place in a file whose executions, or the returns of the function there, are counted.
//!
//! A probe is the byte at an offset of a file. In the address spaces that it concerns, that byte is a breakpoint
//! instruction: in a copy of the page that is the process's own, as a debugger's would be. The breakpoint is set when the
//! probe is made, and in what is mapped later; fork copies it; with the last use of the probe it goes.
//!
//! ```text
//! registry  the probes by file and offset          insn     what the instruction there does
//! area      the page where copies are stepped      returns  who returns to the trampoline
//! step      what a thread does that meets a probe
//! ```
//!
//! # Locks
//!
//! `perf.uprobe.probes`, `perf.uprobe.insn`, `perf.uprobe.recent` and `perf.uprobe.state` are leaves. The mutexes
//! `perf.uprobe.change`, held while breakpoints are set and cleared, and `perf.uprobe.area` are taken with no lock held
//! and let address spaces be edited below them. A probe is known until its last breakpoint is gone, so a thread that
//! meets a breakpoint finds the probe, or the instruction back in its place.
//!
//! Source: Documentation/trace/uprobetracer.rst, behaviour of Linux 7.2.

mod area;
mod insn;
mod registry;
mod returns;
mod step;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::fs::{AT_FDCWD, PATH_MAX};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::time::now_ns;
use hal::uio::Dest;
use hal::{USER_END, UserAddr, user};
use mm::{Mapping, Mm, Rights};
use process::CurrentTask;
use sched::Mutex;
use vfs::open::How;
use vfs::{At, WalkContext, WalkFlags, walk};

use crate::attr::Attr;
use crate::context;
use area::BREAKPOINT;
use insn::Insn;

/// `type` of this source of events in /sys.
pub(crate) const KIND: u32 = 7;
/// The bit of `config` that asks for returns.
const RETURNS: u64 = 1;

/// Held while breakpoints are set or cleared.
static CHANGE: Mutex<()> = Mutex::new("perf.uprobe.change", ());

/// Probes that have just gone, and when: a fork may have copied their breakpoints meanwhile.
static RECENT: SpinLock<Vec<(u64, Arc<Probe>)>> = SpinLock::new("perf.uprobe.recent", Vec::new());
/// For how long, in nanoseconds: longer than any fork takes.
const RECENT_NS: u64 = 10_000_000_000;
/// How many at most.
const MAX_RECENT: usize = 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The order of probes: the file, by its page cache, then the offset.
fn key(mapping: &Arc<Mapping>, offset: u64) -> (usize, u64) {
    (Arc::as_ptr(mapping).addr(), offset)
}

/// One place in a file.
pub(crate) struct Probe {
    id: u64,
    mapping: Arc<Mapping>,
    offset: u64,
    /// Read when the first breakpoint is set.
    insn: SpinLock<Option<Arc<Insn>>>,
    /// Changed under the registry's lock.
    nr_uses: AtomicU32,
    nr_returns: AtomicU32,
}

impl Probe {
    fn new(mapping: Arc<Mapping>, offset: u64) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            mapping,
            offset,
            insn: SpinLock::new("perf.uprobe.insn", None),
            nr_uses: AtomicU32::new(0),
            nr_returns: AtomicU32::new(0),
        }
    }

    fn key(&self) -> (usize, u64) {
        key(&self.mapping, self.offset)
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn add_use(&self, awaits_return: bool) {
        self.nr_uses.fetch_add(1, Relaxed);
        self.nr_returns.fetch_add(u32::from(awaits_return), Relaxed);
    }

    fn nr_uses(&self) -> u32 {
        self.nr_uses.load(Relaxed)
    }

    /// `true`: there are no uses left.
    fn remove_use(&self, awaits_return: bool) -> bool {
        self.nr_returns.fetch_sub(u32::from(awaits_return), Relaxed);
        self.nr_uses.fetch_sub(1, Relaxed) == 1
    }

    /// Whether somebody counts the returns of the function here.
    fn awaits_returns(&self) -> bool {
        self.nr_returns.load(Relaxed) > 0
    }

    /// The instruction, once it was read.
    fn insn(&self) -> Option<Arc<Insn>> {
        self.insn.lock().clone()
    }

    /// Reads the instruction from the file, unless that was done. `ENOTSUPP`: it cannot be probed. `EIO`.
    fn prepare(&self) -> Result<Arc<Insn>> {
        if let Some(insn) = self.insn() {
            return Ok(insn);
        }
        let mut bytes = [0; 16];
        let mut dest = Dest::kernel(&mut bytes);
        let len = self.mapping.read(self.offset, &mut dest)?;
        let insn = Arc::new(Insn::parse(bytes.get(..len).unwrap_or_default())?);
        Ok(self.insn.lock().get_or_insert(insn).clone())
    }

    /// Sets the breakpoint wherever `range` of `mm` shows the place. `ENOTSUPP`, `ENOMEM`, `EIO`.
    fn set(&self, mm: &Mm, range: Range<u64>) -> Result<()> {
        for addr in mm.code_places(&self.mapping, self.offset, range)? {
            self.prepare()?;
            if mm.write_remote(addr, &[BREAKPOINT], Rights::Force) != 1 {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }

    /// Puts the instruction back in `mm`, where the breakpoint is and `is_ours` says so of its address.
    fn clear(&self, mm: &Mm, is_ours: impl Fn(u64) -> bool) {
        let Some(insn) = self.insn() else { return };
        let Ok(places) = mm.code_places(&self.mapping, self.offset, 0..USER_END) else { return };
        for addr in places {
            if is_set(mm, addr) && is_ours(addr) {
                // What cannot be written now is not there any more.
                let _ = mm.write_remote(addr, &[insn.first], Rights::Force);
            }
        }
    }
}

/// Whether there is a breakpoint at `addr` of `mm`.
fn is_set(mm: &Mm, addr: u64) -> bool {
    let mut byte = [0];
    mm.read_remote(addr, &mut byte, Rights::Force) == 1 && byte == [BREAKPOINT]
}

/// Remembers `probe`, which has gone, for a while.
fn remember(probe: &Arc<Probe>) {
    let now = now_ns();
    let mut room = Vec::new();
    let can_grow = room.try_reserve_exact(MAX_RECENT).is_ok();
    let mut recent = RECENT.lock();
    if recent.capacity() == 0 && can_grow {
        core::mem::swap(&mut *recent, &mut room);
    }
    if recent.len() >= MAX_RECENT {
        room.extend(recent.drain(..1));
    }
    if recent.len() < recent.capacity() {
        recent.push((now, probe.clone()));
    }
    drop(recent);
    drop(room);
}

/// Takes breakpoints out of `child`, a fork of `parent`, that were cleared in `parent` while it was made.
fn clear_stale(parent: &Mm, child: &Mm) {
    if RECENT.lock().is_empty() {
        return;
    }
    let (mut fresh, mut old) = (Vec::new(), Vec::new());
    if fresh.try_reserve_exact(MAX_RECENT).is_err() || old.try_reserve_exact(MAX_RECENT).is_err() {
        return;
    }
    let _change = CHANGE.lock();
    let oldest = now_ns().saturating_sub(RECENT_NS);
    {
        let mut recent = RECENT.lock();
        let nr_old = recent.iter().take_while(|(when, _)| *when < oldest).count();
        old.extend(recent.drain(..nr_old));
        fresh.extend(recent.iter().map(|(_, probe)| probe.clone()));
    }
    drop(old);
    for probe in fresh {
        if registry::find(&probe.mapping, probe.offset).is_none() {
            probe.clear(child, |addr| !is_set(parent, addr));
        }
    }
}

/// A use of a probe by an event and those inherited from it.
pub(crate) struct Use {
    probe: Arc<Probe>,
    /// The returns are counted, not the entries.
    pub(crate) is_return: bool,
}

impl Use {
    /// Number of the probe.
    pub(crate) fn id(&self) -> u64 {
        self.probe.id
    }

    /// Sets the breakpoint in `mm`, or in all address spaces. `ENOTSUPP`, `ENOMEM`, `EIO`: it is not in all of them.
    pub(crate) fn set(&self, mm: Option<&Mm>) -> Result<()> {
        let _change = CHANGE.lock();
        if let Some(mm) = mm {
            return self.probe.set(mm, 0..USER_END);
        }
        let mut result = Ok(());
        mm::registry::for_each(|mm| {
            if result.is_ok() {
                result = self.probe.set(mm, 0..USER_END);
            }
        });
        result
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let _change = CHANGE.lock();
        if registry::is_last_use(&self.probe) {
            mm::registry::for_each(|mm| self.probe.clear(mm, |_| true));
            remember(&self.probe);
        }
        registry::release(&self.probe, self.is_return);
    }
}

/// Makes the probe that `attr` describes, as yet without breakpoints.
///
/// `EACCES`: no privilege. `EINVAL`: no regular file, a place behind its end, a counter of references (which are not
/// kept here). `EIO`: a file without cached pages. Errors of the path.
pub(crate) fn open(me: &CurrentTask, attr: &Attr) -> Result<Use> {
    if !crate::settings::is_privileged(&me.cred()) {
        return Err(Errno::EACCES);
    }
    let is_return = attr.raw.config & RETURNS != 0;
    if attr.raw.config >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let mapping = mapping_of(me, UserAddr(attr.raw.config1))?;
    let offset = attr.raw.config2;
    if offset > mapping.size() {
        return Err(Errno::EINVAL);
    }
    let _change = CHANGE.lock();
    let probe = registry::acquire(&mapping, offset, is_return)?;
    process::hooks::register_probes(&step::Hooks);
    mm::probe::watch_maps(mapped);
    Ok(Use { probe, is_return })
}

/// The page cache of the file whose path is at `addr`.
fn mapping_of(me: &CurrentTask, addr: UserAddr) -> Result<Arc<Mapping>> {
    let name = user::read_cstr(addr, PATH_MAX).map_err(|error| match error {
        hal::CStrError::Fault => Errno::EFAULT,
        hal::CStrError::TooLong => Errno::E2BIG,
        hal::CStrError::NoMemory => Errno::ENOMEM,
    })?;
    let fs = me.fs().ok_or(Errno::ESRCH)?;
    let files = me.files().ok_or(Errno::ESRCH)?;
    let cred = me.cred();
    let ctx = WalkContext { fs: &fs, files: &files, cred: &cred };
    let at = At::from_raw(AT_FDCWD);
    let path = walk(&ctx, at, &name, WalkFlags::FOLLOW)?;
    if !path.inode().is_some_and(|inode| inode.is_regular()) {
        return Err(Errno::EINVAL);
    }
    let file = vfs::open::open_path(&path, &How::new(0, 0)?, &cred)?;
    file.mapping().cloned().ok_or(Errno::EIO)
}

/// Sets the breakpoints in what was mapped: [`mm::probe::MapWatch`].
fn mapped(mm: &Mm, range: Range<u64>) {
    let Some(task) = process::try_current() else { return };
    let _change = CHANGE.lock();
    let result = registry::for_each(|probe| {
        if context::concerns(&task, probe.id)
            && let Err(error) = probe.set(mm, range.clone())
        {
            log::debug!("a probe is not in a new mapping: {error:?}");
        }
    });
    if let Err(error) = result {
        log::debug!("probes are not in a new mapping: {error:?}");
    }
}
