//! POSIX message queues (mq_overview(7)): the queue behind a descriptor.
//!
//! Messages are kept by priority, then by age. Senders wait while the queue is full, receivers while it is empty; poll(2)
//! sees both. One process can be told when a message comes to an empty queue that nobody waits at: by a signal, or by a
//! message to a netlink socket, from which its C library makes the start of a thread.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cmp::Reverse;

use abi::poll::PollEvents;
use abi::signal::{NSIG, SI_MESGQ, SigInfo};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::uio::Dest;
use limits::{Resource, UserCounts, UserResource};
use net_netlink::Notice;
use process::signal::{Target, send_kernel};
use process::{ThreadGroup, pid};
use sched::{Interruptible, PollTable, WaitError, WaitQueue};
use security::IdKind;
use vfs::{File, FileMode, FileOps, Whence, rw};

/// Highest priority plus one (`MQ_PRIO_MAX`).
pub const PRIORITY_MAX: u32 = 32768;
/// What the bookkeeping of a message costs (Linux: `struct msg_msg`, and a tree node for each priority).
const MESSAGE_COST: u64 = 48;
const NODE_COST: u64 = 48;

/// Most messages, and bytes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Most messages.
    pub max_messages: u64,
    /// Most bytes of a message.
    pub max_bytes: u64,
}

impl Size {
    /// Bytes that count against `RLIMIT_MSGQUEUE`. `None`: they overflow.
    pub(crate) fn cost(self) -> Option<u64> {
        let nodes = self.max_messages.min(u64::from(PRIORITY_MAX)).checked_mul(NODE_COST)?;
        let messages = self.max_messages.checked_mul(self.max_bytes.checked_add(MESSAGE_COST)?)?;
        nodes.checked_add(messages)
    }
}

/// How a process wants to be told.
pub enum How {
    /// Not at all; the place is just taken.
    Silent,
    /// By a signal with a value.
    Signal(u32, u64),
    /// By a message to a netlink socket.
    Thread(Cookie),
}

/// Bytes of the message of [`How::Thread`] (`NOTIFY_COOKIE_LEN`).
pub const COOKIE_LEN: usize = 32;

/// What a program gets back by its netlink socket, with the last byte saying why.
pub struct Cookie {
    bytes: [u8; COOKIE_LEN],
    notice: Notice,
}

impl Cookie {
    /// A message has come (`NOTIFY_WOKENUP`).
    const WOKEN: u8 = 1;
    /// The wish was taken back (`NOTIFY_REMOVED`).
    const REMOVED: u8 = 2;

    /// One that will go to the netlink socket behind `file`; waits for room there.
    ///
    /// `ENOTSOCK`: `file` is no socket. `EINVAL`: it is of another family. `ERESTARTSYS`.
    pub fn new(bytes: [u8; COOKIE_LEN], file: &File) -> Result<Self> {
        Ok(Self { bytes, notice: Notice::reserve(file, COOKIE_LEN)? })
    }

    fn send(self, why: u8) {
        let mut bytes = self.bytes.to_vec();
        if let Some(last) = bytes.last_mut() {
            *last = why;
        }
        self.notice.send(bytes);
    }
}

struct Notify {
    group: Weak<ThreadGroup>,
    pid: u32,
    how: How,
}

struct State {
    messages: BTreeMap<(Reverse<u32>, u64), Vec<u8>>,
    next: u64,
    bytes: u64,
    receivers_waiting: u32,
    notify: Option<Notify>,
}

/// A queue.
pub struct MqQueue {
    size: Size,
    user: Arc<UserCounts>,
    cost: u64,
    state: SpinLock<State>,
    senders: WaitQueue,
    receivers: WaitQueue,
    /// Paid back when the queue goes.
    _count: crate::mqfs::QueueCount,
}

impl Drop for MqQueue {
    fn drop(&mut self) {
        self.user.uncharge(UserResource::MqueueBytes, self.cost);
    }
}

impl State {
    /// Adds a message; gives it back if there is no room.
    fn put(&mut self, size: Size, text: Vec<u8>, priority: u32) -> core::result::Result<(), Vec<u8>> {
        if self.messages.len() as u64 >= size.max_messages {
            return Err(text);
        }
        self.bytes += text.len() as u64;
        self.messages.insert((Reverse(priority), self.next), text);
        self.next += 1;
        Ok(())
    }

    /// Takes the oldest of the highest priority.
    fn take(&mut self) -> Option<(Vec<u8>, u32)> {
        let ((Reverse(priority), _), text) = self.messages.pop_first()?;
        self.bytes -= text.len() as u64;
        Some((text, priority))
    }
}

impl MqQueue {
    /// A queue of `size`, charged to the caller. `EMFILE`: over `RLIMIT_MSGQUEUE`. `EOVERFLOW`: sizes too large.
    pub(crate) fn new(size: Size, count: crate::mqfs::QueueCount) -> Result<Self> {
        let cost = size.cost().ok_or(Errno::EOVERFLOW)?;
        let task = process::current();
        let user = process::cred::user_of(task.with_cred(|cred| cred.uid));
        let limit = task.group().rlimits().cur(Resource::Msgqueue);
        if !user.try_charge(UserResource::MqueueBytes, cost, limit) {
            return Err(Errno::EMFILE);
        }
        let state =
            State { messages: BTreeMap::new(), next: 0, bytes: 0, receivers_waiting: 0, notify: None };
        Ok(Self {
            size,
            user,
            cost,
            state: SpinLock::new("ipc.mq", state),
            senders: WaitQueue::new(),
            receivers: WaitQueue::new(),
            _count: count,
        })
    }

    /// Most messages and bytes.
    pub fn size(&self) -> Size {
        self.size
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// mq_timedsend(2). `EMSGSIZE`, `EAGAIN`, `ETIMEDOUT`.
    pub fn send(&self, file: &File, text: Vec<u8>, priority: u32, deadline_ns: Option<u64>) -> Result<()> {
        let mut text = Some(text);
        let mut told = None;
        let mut try_put = || -> Option<()> {
            let mut state = self.state.lock();
            match state.put(self.size, text.take()?, priority) {
                Ok(()) => {
                    if state.messages.len() == 1 && state.receivers_waiting == 0 {
                        told = state.notify.take();
                    }
                    Some(())
                }
                Err(back) => {
                    text = Some(back);
                    None
                }
            }
        };
        if try_put().is_none() {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            self.senders.wait_deadline(try_put, deadline_ns, Interruptible::Yes).map_err(ended)?;
        }
        self.receivers.wake_all();
        if let Some(notify) = told {
            notify.tell();
        }
        Ok(())
    }

    /// mq_timedreceive(2). `EAGAIN`, `ETIMEDOUT`.
    pub fn receive(&self, file: &File, deadline_ns: Option<u64>) -> Result<(Vec<u8>, u32)> {
        let first = self.state.lock().take();
        let taken = match first {
            Some(taken) => taken,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => {
                self.state.lock().receivers_waiting += 1;
                let try_take = || self.state.lock().take();
                let taken = self.receivers.wait_deadline(try_take, deadline_ns, Interruptible::Yes);
                self.state.lock().receivers_waiting -= 1;
                taken.map_err(ended)?
            }
        };
        self.senders.wake_all();
        Ok(taken)
    }

    /// mq_notify(2): `None` takes the caller's wish back. `EBUSY`: another process waits for news already. `EINVAL`: no
    /// signal.
    pub fn notify(&self, how: Option<How>) -> Result<()> {
        if let Some(How::Signal(signo, _)) = &how
            && *signo > NSIG
        {
            return Err(Errno::EINVAL);
        }
        let task = process::current();
        let mut lost = None;
        let mut state = self.state.lock();
        let is_taken = state.notify.as_ref().is_some_and(|notify| notify.group.strong_count() > 0);
        let old = match how {
            None => {
                let is_ours = state.notify.as_ref().is_some_and(|notify| notify.is_of(task.group()));
                if is_ours { state.notify.take() } else { None }
            }
            Some(_) if is_taken => return Err(Errno::EBUSY),
            Some(how) => {
                let group = Arc::downgrade(task.group());
                // Who was there before has ended.
                lost = state.notify.replace(Notify { group, pid: task.pid(), how });
                None
            }
        };
        drop(state);
        drop(lost);
        if let Some(old) = old {
            old.take_back();
        }
        Ok(())
    }
}

/// Why a wait ended without a message.
fn ended(error: WaitError) -> Errno {
    match error {
        WaitError::TimedOut => Errno::ETIMEDOUT,
        WaitError::Interrupted => Errno::ERESTARTSYS,
    }
}

impl Notify {
    fn is_of(&self, group: &Arc<ThreadGroup>) -> bool {
        self.group.as_ptr() == Arc::as_ptr(group)
    }

    /// The process does not want to be told any more; one that waits for a message gets its last.
    fn take_back(self) {
        if let How::Thread(cookie) = self.how {
            cookie.send(Cookie::REMOVED);
        }
    }

    /// Tells of a message that the caller has sent.
    fn tell(self) {
        let (signo, value) = match self.how {
            How::Silent => return,
            How::Signal(signo, value) => (signo, value),
            How::Thread(cookie) => return cookie.send(Cookie::WOKEN),
        };
        let Some(group) = self.group.upgrade() else { return };
        if signo == 0 {
            return;
        }
        let sender = process::current();
        let uid = group.live_task().map_or(0, |task| {
            let real = sender.with_cred(|cred| cred.uid);
            task.with_cred(|cred| cred.user_ns.show(IdKind::User, real))
        });
        let number = pid::number_in(sender.pid(), group.pid_ns());
        let mut info = SigInfo::user(signo, SI_MESGQ, number as i32, uid);
        info.fields[1] = value;
        send_kernel(Target::Group(&group), info);
    }
}

/// An open queue.
pub struct MqFile(pub(crate) Arc<MqQueue>);

impl MqFile {
    /// The queue.
    pub fn queue(&self) -> &Arc<MqQueue> {
        &self.0
    }
}

impl FileOps for MqFile {
    fn mode(&self) -> FileMode {
        FileMode::SEEK
    }

    fn read(&self, _file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        /// `SIGEV_SIGNAL`, `SIGEV_NONE` and `SIGEV_THREAD`.
        const SIGNAL: i32 = 0;
        const NONE: i32 = 1;
        const THREAD: i32 = 2;
        let (bytes, notify) = {
            let state = self.0.state.lock();
            let notify = state.notify.as_ref().filter(|notify| notify.group.strong_count() > 0);
            let shown = notify.map(|notify| match &notify.how {
                How::Silent => (NONE, 0, notify.pid),
                How::Signal(signo, _) => (SIGNAL, *signo, notify.pid),
                How::Thread(_) => (THREAD, 0, notify.pid),
            });
            (state.bytes, shown)
        };
        let (kind, signo, number) =
            notify.map_or((0, 0, 0), |(kind, signo, number)| (kind, signo, pid::visible(number)));
        let text = format!("QSIZE:{bytes:<10} NOTIFY:{kind:<5} SIGNO:{signo:<5} NOTIFY_PID:{number:<6}\n");
        let rest = usize::try_from(pos).ok().and_then(|pos| text.as_bytes().get(pos..)).unwrap_or(&[]);
        Ok(dst.put_bytes(rest)?)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        rw::seek_unsized(file, offset, whence)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.0.receivers);
        table.register(&self.0.senders);
        let len = self.0.len() as u64;
        let mut events = PollEvents::empty();
        if len > 0 {
            events |= PollEvents::IN | PollEvents::RDNORM;
        }
        if len < self.0.size.max_messages {
            events |= PollEvents::OUT | PollEvents::WRNORM;
        }
        events
    }

    /// Whoever closes the queue does not want to be told any more (mq_close(3)).
    fn flush(&self, _file: &File) -> Result<()> {
        let Some(task) = process::try_current() else { return Ok(()) };
        let mut state = self.0.state.lock();
        let is_ours = state.notify.as_ref().is_some_and(|notify| notify.is_of(task.group()));
        let old = if is_ours { state.notify.take() } else { None };
        drop(state);
        if let Some(old) = old {
            old.take_back();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_priorities_go_first_and_equals_by_age() {
        let mut state =
            State { messages: BTreeMap::new(), next: 0, bytes: 0, receivers_waiting: 0, notify: None };
        let size = Size { max_messages: 4, max_bytes: 8 };
        for (text, priority) in [("a", 1), ("b", 5), ("c", 5), ("d", 0)] {
            state.put(size, text.into(), priority).unwrap();
        }
        assert!(state.put(size, "e".into(), 9).is_err());
        let mut taken = String::new();
        while let Some((text, _)) = state.take() {
            taken.push(text[0] as char);
        }
        assert_eq!((taken.as_str(), state.bytes), ("bcad", 0));
    }

    #[test]
    fn costs_that_overflow_are_refused() {
        assert_eq!(Size { max_messages: 10, max_bytes: 8192 }.cost(), Some(10 * (8192 + 96)));
        assert_eq!(Size { max_messages: u64::MAX, max_bytes: 1 }.cost(), None);
    }
}
