//! Probes in programs: a place in a file whose executions, or the returns of the function there, are counted.
//!
//! A probe is the byte at an offset of a file. In the address spaces that it concerns, that byte is a breakpoint
//! instruction: in a copy of the page that is the process's own, as a debugger's would be. The breakpoint is set when the
//! probe is made, and in what is mapped later; fork copies it; with the last use of the probe it goes. Both visit parents
//! before children, so no fork escapes them.
//!
//! ```text
//! registry  the probes by file and offset          insn     what the instruction there does
//! area      the page where copies are stepped      returns  who returns to the trampoline
//! step      what a thread does that meets a probe
//! ```
//!
//! # Locks
//!
//! `perf.uprobe.probes`, `perf.uprobe.insn` and `perf.uprobe.state` are leaves; the first is also taken with an address
//! space held. The mutex `perf.uprobe.change` is held while breakpoints are set and cleared, and lets address spaces be
//! edited below it; what is written so waits for no other program. It and `perf.uprobe.area` are taken with no lock held:
//! whoever maps what no probe is in, as the area, does not take it.
//!
//! A probe is known until its last breakpoint is gone, so a thread that meets a breakpoint finds the probe, or the
//! instruction back in its place. Where the instruction cannot be put back (there is no memory for a copy of the page, or
//! only the page's watcher could let it be written), the probe stays without uses, and the next change tries again.
//!
//! Source: Documentation/trace/uprobetracer.rst, behaviour of Linux 7.2.

mod area;
mod insn;
mod registry;
mod returns;
mod step;

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::fs::{AT_FDCWD, PATH_MAX};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::uio::Dest;
use hal::{USER_END, UserAddr, user};
use mm::{Mapping, Mm};
use process::CurrentTask;
use sched::{Interruptible, Mutex, MutexGuard};
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

    /// Sets the breakpoint wherever `range` of `mm` shows the place. `ENOTSUPP`, `ENOMEM`, `EIO`; `EFAULT`: where it is
    /// not, the memory cannot be written, or only after its watcher (userfaultfd) made that good.
    fn set(&self, mm: &Mm, range: Range<u64>) -> Result<()> {
        let mut result = Ok(());
        for addr in mm.code_places(&self.mapping, self.offset, range, true)? {
            self.prepare()?;
            mm.expect_probes();
            match mm.write_code(addr, BREAKPOINT) {
                Err(Errno::EFAULT) => result = Err(Errno::EFAULT),
                done => done?,
            }
        }
        result
    }

    /// Puts the instruction back in all address spaces. `false`: it could not be put everywhere.
    fn clear_everywhere(&self) -> bool {
        let Some(insn) = self.insn() else { return true };
        let mut is_gone = true;
        mm::registry::for_each_by_age(|mm| is_gone &= !mm.has_probes() || self.clear(mm, &insn));
        is_gone
    }

    /// Puts the instruction back in `mm`, also where code can be written by now. `false`: not everywhere.
    fn clear(&self, mm: &Mm, insn: &Insn) -> bool {
        let Ok(places) = mm.code_places(&self.mapping, self.offset, 0..USER_END, false) else { return false };
        places.iter().fold(true, |is_gone, addr| is_gone & clear_at(mm, *addr, insn.first))
    }
}

/// Replaces a breakpoint at `addr` of `mm` by `byte`. `false`: it may be there still.
fn clear_at(mm: &Mm, addr: u64, byte: u8) -> bool {
    if !mm.has_private_copy(addr) {
        return true;
    }
    let is_gone = match mm.read_code(addr) {
        Ok(BREAKPOINT) => mm.write_code(addr, byte).is_ok(),
        Ok(_) => true,
        Err(_) => false,
    };
    // The page may have gone meanwhile, and the breakpoint with it.
    is_gone || !mm.has_private_copy(addr)
}

/// Tries again to take the breakpoints of probes that nobody uses any more. The caller holds [`CHANGE`].
fn clear_rest() {
    let Ok(unused) = registry::select(|probe| probe.nr_uses() == 0) else { return };
    for probe in unused {
        if probe.clear_everywhere() {
            registry::forget(&probe);
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
    /// `EFAULT`: it cannot be put into `mm`; of all others one is left out then. `EINTR`: the caller was killed.
    pub(crate) fn set(&self, mm: Option<&Mm>) -> Result<()> {
        // Read before others are held up. Whether it can be probed is only told where it is mapped.
        let _ = self.probe.prepare();
        let _change = lock_changes()?;
        if let Some(mm) = mm {
            return self.probe.set(mm, 0..USER_END);
        }
        let mut result = Ok(());
        mm::registry::for_each_by_age(|mm| {
            if result.is_ok() {
                result = match self.probe.set(mm, 0..USER_END) {
                    Err(Errno::EFAULT) => {
                        log::debug!("a probe cannot be put into address space {}", mm.id());
                        Ok(())
                    }
                    result => result,
                };
            }
        });
        result
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let _change = CHANGE.lock();
        // Known as long as somebody can meet its breakpoint.
        let stays = registry::is_last_use(&self.probe) && !self.probe.clear_everywhere();
        registry::release(&self.probe, self.is_return, stays);
        if !stays {
            clear_rest();
        }
    }
}

/// Takes [`CHANGE`]. `EINTR`: the caller was killed.
fn lock_changes() -> Result<MutexGuard<'static, ()>> {
    CHANGE.lock_interruptible(Interruptible::Killable).map_err(|_| Errno::EINTR)
}

/// Makes the probe that `attr` describes, as yet without breakpoints.
///
/// `EACCES`: no privilege. `EINVAL`: no regular file, a place behind its end, a counter of references (which are not
/// kept here). `EIO`: a file without cached pages. `EINTR`: the caller was killed. Errors of the path.
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
    let _change = lock_changes()?;
    clear_rest();
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
    let inode = path.inode().filter(|inode| inode.is_regular()).ok_or(Errno::EINVAL)?;
    if let Some(mapping) = inode.mapping() {
        return Ok(mapping.clone());
    }
    // The page cache is another inode's, which only an open file tells (overlayfs).
    let file = vfs::open::open_path(&path, &How::new(0, 0)?, &cred)?;
    file.mapping().cloned().ok_or(Errno::EIO)
}

/// Sets the breakpoints in what was mapped: [`mm::probe::MapWatch`].
///
/// Most mappings concern no probe, and find that out without [`CHANGE`]. Who makes a probe meanwhile finds the mapping.
fn mapped(mm: &Mm, range: Range<u64>) {
    if registry::is_empty() {
        return;
    }
    let Some(task) = process::try_current() else { return };
    if let Err(error) = set_in_mapping(&task, mm, range) {
        log::debug!("a probe is not in a new mapping: {error:?}");
    }
}

fn set_in_mapping(task: &CurrentTask, mm: &Mm, range: Range<u64>) -> Result<()> {
    let mappings = mm.code_in(range.clone(), registry::knows)?;
    if mappings.is_empty() {
        return Ok(());
    }
    let _change = lock_changes()?;
    let is_shown = |probe: &Probe| mappings.iter().any(|mapping| Arc::ptr_eq(mapping, &probe.mapping));
    let mut result = Ok(());
    for probe in registry::select(is_shown)? {
        if context::concerns(task, probe.id)
            && let Err(error) = probe.set(mm, range.clone())
        {
            result = Err(error);
        }
    }
    result
}
