//! The requests of ioctl_userfaultfd(2).
//!
//! Requests that fill pages in tell in the last word of their argument how many bytes they did, or the errno. They wake
//! the threads that wait for these pages unless told not to. Less than all is `EAGAIN`.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use abi::raw::general as raw;
use abi::raw::ioctl as cmd;
use abi::{Errno, Result};
use hal::{PAGE_SIZE, USER_END, UserAddr, user};
use mm::watch::{WatchModes, Watcher};
use mm::{Holes, Mm, Protect, Supply};
use security::Cap;

use crate::watcher::{Userfaultfd, modes_of};

const UFFDIO_CONTINUE: u32 = cmd::UFFDIO_CONTINUE;
/// `_IOWR(0xaa, 5, struct uffdio_move)`.
const UFFDIO_MOVE: u32 = 0xc028_aa05;
/// `_IOWR(0xaa, 8, struct uffdio_poison)`.
const UFFDIO_POISON: u32 = 0xc020_aa08;

/// What there is.
const FEATURES: u64 = (raw::UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | raw::UFFD_FEATURE_EVENT_FORK
    | raw::UFFD_FEATURE_EVENT_REMAP
    | raw::UFFD_FEATURE_EVENT_REMOVE
    | raw::UFFD_FEATURE_MISSING_SHMEM
    | raw::UFFD_FEATURE_MISSING_HUGETLBFS
    | raw::UFFD_FEATURE_MINOR_HUGETLBFS
    | raw::UFFD_FEATURE_EVENT_UNMAP
    | raw::UFFD_FEATURE_SIGBUS
    | raw::UFFD_FEATURE_THREAD_ID
    | raw::UFFD_FEATURE_MINOR_SHMEM
    | raw::UFFD_FEATURE_EXACT_ADDRESS
    | raw::UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | raw::UFFD_FEATURE_WP_UNPOPULATED
    | raw::UFFD_FEATURE_POISON
    | raw::UFFD_FEATURE_WP_ASYNC
    | raw::UFFD_FEATURE_MOVE) as u64;

const fn bit(nr: u32) -> u64 {
    1 << nr
}

/// Requests of any descriptor, a bit each.
const API_IOCTLS: u64 = bit(raw::_UFFDIO_REGISTER) | bit(raw::_UFFDIO_UNREGISTER) | bit(raw::_UFFDIO_API);
/// Requests about watched memory.
const RANGE_IOCTLS: u64 = bit(raw::_UFFDIO_WAKE)
    | bit(raw::_UFFDIO_COPY)
    | bit(raw::_UFFDIO_ZEROPAGE)
    | bit(raw::_UFFDIO_MOVE)
    | bit(raw::_UFFDIO_WRITEPROTECT)
    | bit(raw::_UFFDIO_CONTINUE)
    | bit(raw::_UFFDIO_POISON);
/// Those about huge pages.
const BASIC_IOCTLS: u64 = bit(raw::_UFFDIO_WAKE)
    | bit(raw::_UFFDIO_COPY)
    | bit(raw::_UFFDIO_WRITEPROTECT)
    | bit(raw::_UFFDIO_CONTINUE)
    | bit(raw::_UFFDIO_POISON);
/// All, as /proc/PID/fdinfo shows them.
pub(crate) const ALL_IOCTLS: u64 = API_IOCTLS | RANGE_IOCTLS;

/// Bits of `mode`.
const DONTWAKE: u64 = 1;
const COPY_MODE_WP: u64 = 2;
const MOVE_ALLOW_HOLES: u64 = 2;
/// `UFFDIO_WRITEPROTECT_MODE_*` has them the other way round.
const WRITEPROTECT_WP: u64 = 1;
const WRITEPROTECT_DONTWAKE: u64 = 2;

/// Carries out a request. `EINVAL`: unknown, or before `UFFDIO_API`.
pub(crate) fn handle(watcher: &Arc<Userfaultfd>, request: u32, arg: usize) -> Result<usize> {
    if request == cmd::UFFDIO_API {
        return api(watcher, UserAddr(arg as u64)).map(|()| 0);
    }
    let features = watcher.features().ok_or(Errno::EINVAL)?;
    let call = Call { watcher, features, arg: UserAddr(arg as u64) };
    // LINUX: before the argument is looked at.
    if watcher.is_changing() {
        match request {
            cmd::UFFDIO_COPY | UFFDIO_MOVE => return call.too_early(Some(4)),
            cmd::UFFDIO_ZEROPAGE | UFFDIO_CONTINUE | UFFDIO_POISON => return call.too_early(Some(3)),
            cmd::UFFDIO_WRITEPROTECT => return call.too_early(None),
            _ => {}
        }
    }
    match request {
        cmd::UFFDIO_REGISTER => call.register(),
        cmd::UFFDIO_UNREGISTER => call.unregister(),
        cmd::UFFDIO_WAKE => call.wake(),
        cmd::UFFDIO_COPY => call.copy(),
        cmd::UFFDIO_ZEROPAGE => call.zeropage(),
        cmd::UFFDIO_WRITEPROTECT => call.writeprotect(),
        UFFDIO_CONTINUE => call.resume(),
        UFFDIO_POISON => call.poison(),
        UFFDIO_MOVE => call.move_pages(),
        _ => Err(Errno::EINVAL),
    }
    .map(|()| 0)
}

/// `UFFDIO_API`. `EINVAL`: another API, unknown features, or called before. `EPERM`: forks need `CAP_SYS_PTRACE`.
fn api(watcher: &Userfaultfd, arg: UserAddr) -> Result<()> {
    let [version, mut wanted, _]: [u64; 3] = user::read(arg)?;
    let result = (|| {
        if version != u64::from(raw::UFFD_API) {
            return Err(Errno::EINVAL);
        }
        let follows = wanted & u64::from(raw::UFFD_FEATURE_EVENT_FORK) != 0;
        if follows && !process::current().cred().capable(Cap::SYS_PTRACE) {
            return Err(Errno::EPERM);
        }
        if wanted & u64::from(raw::UFFD_FEATURE_WP_ASYNC) != 0 {
            wanted |= u64::from(raw::UFFD_FEATURE_WP_UNPOPULATED);
        }
        if wanted & !FEATURES != 0 {
            return Err(Errno::EINVAL);
        }
        user::write(arg, &[version, FEATURES, API_IOCTLS])?;
        watcher.agree(wanted)
    })();
    if result.is_err() {
        user::write(arg, &[0u64; 3])?;
    }
    result
}

/// A range of pages in user space. `EINVAL`: it is not, or empty.
fn pages(start: u64, len: u64) -> Result<Range<u64>> {
    let aligned = start.is_multiple_of(PAGE_SIZE as u64) && len.is_multiple_of(PAGE_SIZE as u64);
    let end = start.checked_add(len).filter(|end| *end <= USER_END).ok_or(Errno::EINVAL)?;
    let low = start < mm::sysctl::MMAP_MIN_ADDR.load(Relaxed);
    if !aligned || len == 0 || low { Err(Errno::EINVAL) } else { Ok(start..end) }
}

/// A request under way.
struct Call<'a> {
    watcher: &'a Arc<Userfaultfd>,
    features: u64,
    arg: UserAddr,
}

impl Call<'_> {
    fn by(&self) -> Arc<dyn Watcher> {
        self.watcher.clone()
    }

    /// The address space. `ESRCH`: it is gone.
    fn mm(&self) -> Result<Arc<Mm>> {
        self.watcher.mm().ok_or(Errno::ESRCH)
    }

    fn at(&self, word: u64) -> UserAddr {
        UserAddr(self.arg.0.wrapping_add(word * 8))
    }

    /// Refuses a request while the memory changes, and tells so in its word `result_at`. `EAGAIN`.
    fn too_early(&self, result_at: Option<u64>) -> Result<usize> {
        if let Some(word) = result_at {
            user::write(self.at(word), &-i64::from(Errno::EAGAIN.number()))?;
        }
        Err(Errno::EAGAIN)
    }

    fn register(&self) -> Result<()> {
        let [start, len, mode, _]: [u64; 4] = user::read(self.arg)?;
        let modes = modes_of(mode, self.features)?;
        let range = pages(start, len)?;
        let mm = self.watcher.mm().ok_or(Errno::ENOMEM)?;
        mm.watch(range.clone(), &self.by(), modes)?;
        let mut ioctls = RANGE_IOCTLS;
        if mm.has_huge_pages(range) {
            ioctls &= BASIC_IOCTLS;
        }
        if !modes.contains(WatchModes::WP) {
            ioctls &= !bit(raw::_UFFDIO_WRITEPROTECT);
        }
        if !modes.contains(WatchModes::MINOR) {
            ioctls &= !bit(raw::_UFFDIO_CONTINUE);
        }
        Ok(user::write(self.at(3), &ioctls)?)
    }

    fn unregister(&self) -> Result<()> {
        let [start, len]: [u64; 2] = user::read(self.arg)?;
        let range = pages(start, len)?;
        self.watcher.mm().ok_or(Errno::ENOMEM)?.unwatch(range.clone(), &self.by())?;
        self.watcher.wake(&range);
        Ok(())
    }

    fn wake(&self) -> Result<()> {
        let [start, len]: [u64; 2] = user::read(self.arg)?;
        self.watcher.wake(&pages(start, len)?);
        Ok(())
    }

    /// Runs `work` on the pages of `range`, tells in word `result_at` how far it came, and wakes.
    fn fill(
        &self,
        range: Range<u64>,
        result_at: u64,
        mode: u64,
        work: impl FnOnce(&Mm) -> Result<u64>,
    ) -> Result<()> {
        let result = work(&*self.mm()?);
        let told = match result {
            Ok(done) => done as i64,
            Err(e) => -i64::from(e.number()),
        };
        user::write(self.at(result_at), &told)?;
        let done = result?;
        if mode & DONTWAKE == 0 {
            self.watcher.wake(&(range.start..range.start + done));
        }
        if done == range.end - range.start { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    fn copy(&self) -> Result<()> {
        let [to, from, len, mode]: [u64; 4] = user::read(self.arg)?;
        let inside = from.checked_add(len).is_some_and(|end| end <= USER_END);
        if !inside || mode & !(DONTWAKE | COPY_MODE_WP) != 0 {
            return Err(Errno::EINVAL);
        }
        let range = pages(to, len)?;
        let protect = if mode & COPY_MODE_WP != 0 { Protect::Yes } else { Protect::No };
        self.fill(range.clone(), 4, mode, |mm| mm.supply(range, Supply::Copy(from), protect, &self.by()))
    }

    fn zeropage(&self) -> Result<()> {
        self.fill_range(DONTWAKE, Supply::Zeroes)
    }

    fn resume(&self) -> Result<()> {
        self.fill_range(DONTWAKE | COPY_MODE_WP, Supply::Resume)
    }

    fn poison(&self) -> Result<()> {
        self.fill_range(DONTWAKE, Supply::Poison)
    }

    /// The requests whose argument is range, mode and result.
    fn fill_range(&self, known: u64, what: Supply) -> Result<()> {
        let [start, len, mode]: [u64; 3] = user::read(self.arg)?;
        let range = pages(start, len)?;
        if mode & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let protect = if mode & COPY_MODE_WP != 0 { Protect::Yes } else { Protect::No };
        self.fill(range.clone(), 3, mode, |mm| mm.supply(range, what, protect, &self.by()))
    }

    fn writeprotect(&self) -> Result<()> {
        let [start, len, mode]: [u64; 3] = user::read(self.arg)?;
        let range = pages(start, len)?;
        let (protects, quiet) = (mode & WRITEPROTECT_WP != 0, mode & WRITEPROTECT_DONTWAKE != 0);
        if mode & !(WRITEPROTECT_WP | WRITEPROTECT_DONTWAKE) != 0 || (protects && quiet) {
            return Err(Errno::EINVAL);
        }
        let protect = if protects { Protect::Yes } else { Protect::No };
        self.mm()?.write_protect(range.clone(), protect, &self.by())?;
        if !protects && !quiet {
            self.watcher.wake(&range);
        }
        Ok(())
    }

    fn move_pages(&self) -> Result<()> {
        let [to, from, len, mode]: [u64; 4] = user::read(self.arg)?;
        if mode & !(DONTWAKE | MOVE_ALLOW_HOLES) != 0 {
            return Err(Errno::EINVAL);
        }
        let (range, source) = (pages(to, len)?, pages(from, len)?);
        let holes = if mode & MOVE_ALLOW_HOLES != 0 { Holes::Allowed } else { Holes::Refused };
        self.fill(range, 4, mode, |mm| mm.move_watched(source, to, holes, &self.by()))
    }
}
