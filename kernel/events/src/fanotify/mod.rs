//! fanotify(7): a queue of what happens to objects, mounts, file systems and mount namespaces, for one who may be asked
//! before it happens.
//!
//! ```text
//!   vfs::notify --> marks of what it meets, by group --> Fanotify::tell --> queue --> read(2), which opens descriptors
//!                                                        Fanotify::ask  --> queue --> read(2) --> asked
//!                                                             waits on `answers`  <-- write(2) <----+
//! ```
//!
//! A mark ends by fanotify_mark(2), when its inode is deleted, with its mount, file system or namespace, and with the
//! fanotify file. Who waits for an answer goes on when the file is closed.
//!
//! Locks: `marks`, then the marks of an object, then `queue`. Events come in without any of them.
//!
//! LINUX: events before content is there (`FAN_PRE_ACCESS`), errors of file systems (`FAN_FS_ERROR`) and audit records are
//! missing: `EINVAL`.
//!
//! Sources: fanotify(7), fanotify_init(2), fanotify_mark(2).

mod ask;
mod flags;
mod marks;
mod record;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::*};

use abi::fs::OpenFlags;
use abi::poll::PollEvents;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::uio::{Dest, Src};
use limits::events::{FANOTIFY_GROUPS, FANOTIFY_QUEUED};
use limits::{Charge, Resource, UserCounts, UserResource};
use process::pidns::PidNs;
use sched::{Interruptible, Mutex, PollTable, WaitQueue};
use security::{Cred, UserNs};
use smallvec::SmallVec;
use vfs::fdtable::Reserved;
use vfs::notify::{Event, Group, GroupMark, News, Told};
use vfs::{FdFlags, FdTable, File, FileMode, FileOps, Path, Whence};

use self::ask::Question;
use self::flags::InitFlags;
pub use self::flags::Request;
use self::marks::Registry;
pub use self::marks::Subject;
use self::record::{NOFD, Record};
use crate::{pidfd, seek_nowhere};

/// How far back an event looks for one that it can be merged with.
const MERGE_DEPTH: usize = 128;
/// A pidfd could not be made (`FAN_EPIDFD`).
const NO_PIDFD_FOR_ERROR: i32 = -2;

#[derive(Default)]
struct Queue {
    records: VecDeque<Record>,
    bytes: usize,
    /// Questions that were read, by the descriptor that went with them.
    asked: Vec<(i32, Arc<Question>)>,
}

impl Queue {
    /// Appends, merges, or notes an overflow; gives whether there is something new.
    fn push(&mut self, record: Record, max: usize, flags: InitFlags) -> bool {
        let mut recent = self.records.iter_mut().rev().take(MERGE_DEPTH);
        if recent.any(|known| known.merge(&record, flags)) {
            return false;
        }
        let is_full = self.records.len() >= max;
        let record = match (is_full, &record.question) {
            // It is not asked: so it is allowed, as on Linux.
            (true, Some(question)) => {
                question.answer(true);
                Record::overflow(flags)
            }
            (true, None) => Record::overflow(flags),
            (false, _) => record,
        };
        if is_full && self.records.back_mut().is_some_and(|last| last.merge(&record, flags)) {
            return false;
        }
        if self.records.try_reserve(1).is_err() {
            // Who cannot be asked must not be passed by.
            record.question.iter().for_each(|question| question.answer(false));
            return false;
        }
        self.bytes += record.len;
        self.records.push_back(record);
        true
    }

    fn pop(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        self.bytes -= record.len;
        Some(record)
    }

    /// Nobody waits for the answer to `question` any more; gives its record if it was not read.
    fn withdraw(&mut self, question: &Arc<Question>) -> Option<Record> {
        self.asked.retain(|(_, asked)| !Arc::ptr_eq(asked, question));
        let is_it = |record: &Record| record.question.as_ref().is_some_and(|own| Arc::ptr_eq(own, question));
        let record = self.records.remove(self.records.iter().position(is_it)?)?;
        self.bytes -= record.len;
        Some(record)
    }
}

/// The operations of a fanotify file.
pub struct Fanotify {
    me: Weak<Fanotify>,
    flags: InitFlags,
    /// How the files of events are opened.
    opened: OpenFlags,
    /// How many events wait at most.
    max_queued: usize,
    /// The user namespace of who made it.
    user_ns: UserNs,
    /// Its pid namespace: processes are told by their numbers there.
    pid_ns: PidNs,
    marks: Mutex<Registry>,
    queue: SpinLock<Queue>,
    wait: WaitQueue,
    answers: WaitQueue,
    is_closed: AtomicBool,
    user: Arc<UserCounts>,
    _charge: Charge,
    _asking: Option<Box<dyn Send + Sync>>,
}

impl Group for Fanotify {
    fn tell(&self, news: &News<'_>, happened: Event, told: Told) {
        if let Some(record) = Record::new(news, happened, told, self.flags, &self.pid_ns) {
            self.push(record);
        }
    }

    fn ask(&self, path: &Path, wanted: Event) -> Result<()> {
        // Pipes and devices are opened by no listener.
        if !path.inode().is_some_and(|inode| inode.is_regular() || inode.is_dir()) {
            return Ok(());
        }
        let question = Arc::new(Question::new());
        self.push(Record::question(path, wanted, &question, self.flags, &self.pid_ns));
        let answered = || question.answered().or_else(|| self.is_closed.load(Acquire).then_some(Ok(())));
        match self.answers.wait_deadline(answered, None, Interruptible::Killable) {
            Ok(answer) => answer,
            Err(_) => {
                question.answer(false);
                let unread = self.queue.lock().withdraw(&question);
                drop(unread);
                Err(Errno::EINTR)
            }
        }
    }

    fn gone(&self, mark: &Arc<GroupMark>) {
        let gone = self.marks.lock().take(mark);
        drop(gone);
    }

    fn priority(&self) -> u8 {
        self.flags.priority()
    }
}

impl Fanotify {
    fn push(&self, record: Record) {
        if self.queue.lock().push(record, self.max_queued, self.flags) {
            self.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
        }
    }

    /// fanotify_mark(2) on `subject`, which the caller may read.
    ///
    /// `EINVAL`: the group has no such events, or `subject` cannot have them. `EPERM`: more than an inode takes
    /// `CAP_SYS_ADMIN` over the file system or the namespace. `ENOENT`: there is no such mark to remove. `ENOSPC`: the user
    /// has too many. `EEXIST`, `EISDIR`, `ENOTDIR`, `EOPNOTSUPP`: as fanotify_mark(2) says. `ENOMEM`.
    pub fn mark(&self, request: &Request, subject: Subject<'_>, cred: &Cred) -> Result<()> {
        self.check(request, cred)?;
        let gone = self.marks.lock().change(self, request, subject, cred)?;
        drop(gone);
        Ok(())
    }

    /// fanotify_mark(2) with `FAN_MARK_FLUSH`.
    pub fn flush(&self, request: &Request, cred: &Cred) -> Result<()> {
        self.check(request, cred)?;
        let gone = self.marks.lock().flush(request);
        drop(gone);
        Ok(())
    }

    /// What is asked of a request before its object is looked for. `EPERM`, `EINVAL`.
    pub fn check(&self, request: &Request, cred: &Cred) -> Result<()> {
        if !request.is_of_inode() && !cred.ns_capable(&self.user_ns, security::Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        request.check(self.flags)
    }

    /// The first record if it fits into `room` bytes. `EINVAL`: it does not.
    fn take(&self, room: usize) -> Option<Result<Record>> {
        let mut queue = self.queue.lock();
        if queue.records.front()?.len > room {
            return Some(Err(Errno::EINVAL));
        }
        queue.pop().map(Ok)
    }

    /// Opens what goes with `record`, shows it, and waits for the answer if it is a question. Gives its length.
    fn show(&self, record: &Record, dst: &mut Dest<'_>) -> Result<usize> {
        let files = process::current().files().ok_or(Errno::EBADF)?;
        let mut made = Made { files, taken: SmallVec::new() };
        let fd = match &record.path {
            Some(path) => made.open(path, self.opened),
            None => Ok(NOFD),
        };
        let fd = match fd {
            Err(errno) if self.flags.contains(InitFlags::REPORT_FD_ERROR) => -errno.number(),
            other => other?,
        };
        let pidfd = match record.doer(self.flags) {
            Some(doer) if self.flags.contains(InitFlags::REPORT_PIDFD) => made.pidfd(doer),
            _ => NOFD,
        };
        let bytes = record.encode(self.flags, fd, pidfd);
        if let Some(question) = &record.question {
            // Before the reader can answer.
            let mut queue = self.queue.lock();
            queue.asked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            if question.answered().is_none() {
                queue.asked.push((fd, question.clone()));
            }
        }
        if !matches!(dst.put_bytes(&bytes), Ok(len) if len == bytes.len()) {
            return Err(Errno::EFAULT);
        }
        made.install();
        Ok(bytes.len())
    }

    /// Shows a record that was taken; what cannot be shown is lost, and a question answered with no.
    fn show_or_lose(&self, record: &Record, dst: &mut Dest<'_>) -> Result<usize> {
        let shown = self.show(record, dst);
        if let (Err(_), Some(question)) = (&shown, &record.question) {
            self.queue.lock().withdraw(question);
            question.answer(false);
            self.answers.wake_all();
        }
        shown
    }
}

/// Descriptors that are taken for a record, with their files; without [`Made::install`] they are given back.
struct Made {
    files: Arc<FdTable>,
    taken: SmallVec<[(Reserved, Arc<File>); 2]>,
}

impl Made {
    fn take(&mut self, file: Arc<File>, flags: FdFlags) -> Result<i32> {
        let limit = process::current().group().rlimits().cur(Resource::Nofile);
        let reserved = self.files.reserve(0, usize::try_from(limit).unwrap_or(usize::MAX), flags)?;
        let fd = reserved.fd();
        self.taken.push((reserved, file));
        Ok(fd)
    }

    fn open(&mut self, path: &Path, flags: OpenFlags) -> Result<i32> {
        let file = vfs::open::open_untold(path, flags, &process::current().cred())?;
        let is_cloexec = flags.contains(OpenFlags::CLOEXEC);
        self.take(file, if is_cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() })
    }

    fn pidfd(&mut self, doer: pidfd::Subject) -> i32 {
        pidfd::create(doer, OpenFlags::empty(), &process::current().cred())
            .and_then(|file| self.take(file, FdFlags::CLOEXEC))
            .unwrap_or(NO_PIDFD_FOR_ERROR)
    }

    fn install(self) {
        for (reserved, file) in self.taken {
            reserved.install(file);
        }
    }
}

impl FileOps for Fanotify {
    fn mode(&self) -> FileMode {
        FileMode::STREAM | FileMode::SEEK
    }

    fn seek(&self, file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        seek_nowhere(file)
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let room = dst.remaining();
        let first = match self.take(room) {
            Some(taken) => taken?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self.wait.wait_deadline(|| self.take(room), None, Interruptible::Yes)??,
        };
        let mut done = self.show_or_lose(&first, dst)?;
        while let Some(Ok(record)) = self.take(room - done) {
            match self.show_or_lose(&record, dst) {
                Ok(len) => done += len,
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        const LEN: usize = 8;
        if !self.flags.may_ask() || src.remaining() < LEN {
            return Err(Errno::EINVAL);
        }
        let mut raw = [0; LEN];
        if src.take_bytes(&mut raw)? < LEN {
            return Err(Errno::EFAULT);
        }
        let [fd, response] =
            [0, 4].map(|at| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]));
        let is_allowed = ask::decode(response)?;
        if (fd as i32) < 0 && !self.flags.contains(InitFlags::REPORT_FD_ERROR) {
            return Err(Errno::EINVAL);
        }
        let question = {
            let mut queue = self.queue.lock();
            let at = queue.asked.iter().position(|(known, _)| *known == fd as i32).ok_or(Errno::ENOENT)?;
            queue.asked.remove(at).1
        };
        question.answer(is_allowed);
        self.answers.wake_all();
        Ok(LEN)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.wait);
        let is_empty = self.queue.lock().records.is_empty();
        if is_empty { PollEvents::empty() } else { PollEvents::IN | PollEvents::RDNORM }
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.queue.lock().bytes)
    }

    fn release(&self, _file: &File) {
        self.is_closed.store(true, Release);
        let gone = self.marks.lock().take_all();
        drop(gone);
        let queue = core::mem::take(&mut *self.queue.lock());
        let unread = queue.records.iter().filter_map(|record| record.question.as_ref());
        for question in unread.chain(queue.asked.iter().map(|(_, question)| question)) {
            question.answer(true);
        }
        self.answers.wake_all();
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let flags = (self.flags - InitFlags::UNPRIVILEGED).bits();
        out.extend_from_slice(
            format!("fanotify flags:{flags:x} event-flags:{:x}\n", self.opened.bits()).as_bytes(),
        );
        // An object may end with what is shown of it: not inside the lock.
        let shown = self.marks.lock().snapshot();
        marks::show(&shown, out);
    }
}

/// fanotify_init(2).
///
/// `EPERM`: it takes rights over the machine. `EINVAL`: unknown flags, or not together. `EMFILE`: the user has too many.
/// `ENOMEM`.
pub fn create(flags: u32, event_flags: u32, cred: &Arc<Cred>) -> Result<(Arc<File>, FdFlags)> {
    let (flags, opened) = InitFlags::decode(flags, event_flags, cred)?;
    let user = process::cred::user_of(cred.uid);
    let limit = u64::from(FANOTIFY_GROUPS.load(Relaxed));
    let charge = Charge::new(&user, UserResource::FanotifyGroups, limit).ok_or(Errno::EMFILE)?;
    let max_queued = match flags.contains(InitFlags::UNLIMITED_QUEUE) {
        true => usize::MAX,
        false => FANOTIFY_QUEUED.load(Relaxed) as usize,
    };
    let asking: Option<Box<dyn Send + Sync>> = match flags.may_ask() {
        true => Some(Box::new(vfs::notify::asking())),
        false => None,
    };
    let ops = Arc::new_cyclic(|me| Fanotify {
        me: me.clone(),
        flags,
        opened,
        max_queued,
        user_ns: cred.user_ns.clone(),
        pid_ns: process::current().group().pid_ns().clone(),
        marks: Mutex::new("events.fanotify", Registry::default()),
        queue: SpinLock::new("events.fanotify.queue", Queue::default()),
        wait: WaitQueue::new(),
        answers: WaitQueue::new(),
        is_closed: AtomicBool::new(false),
        user,
        _charge: charge,
        _asking: asking,
    });
    let mut how = OpenFlags::RDWR;
    how.set(OpenFlags::NONBLOCK, flags.contains(InitFlags::NONBLOCK));
    let is_cloexec = flags.contains(InitFlags::CLOEXEC);
    let file = vfs::anon::file("[fanotify]", ops, how, cred)?;
    Ok((file, if is_cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() }))
}
