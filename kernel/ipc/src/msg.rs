//! Message queues (msgget(2), msgop(2), msgctl(2)).
//!
//! Senders wait while the queue is full, receivers while no message fits; each change wakes the other side, which looks
//! again under the queue's lock.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use process::pid;
use sched::WaitQueue;
use security::Cap;

use crate::perm::{Found, IPC_CREAT, IPC_NOWAIT, Object, Perm, PermDs, READ, WRITE, now_s};
use crate::sem::{Named, Usage};
use crate::state::current;

/// `MSG_NOERROR`: cut a message that is too long.
pub const MSG_NOERROR: i32 = 0o10000;
/// `MSG_EXCEPT`: any type but this.
pub const MSG_EXCEPT: i32 = 0o20000;
/// `MSG_COPY`: a copy of the message at a place.
pub const MSG_COPY: i32 = 0o40000;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type, above 0.
    pub kind: i64,
    /// Its text.
    pub text: Vec<u8>,
}

struct State {
    perm: Perm,
    messages: VecDeque<Message>,
    bytes: u64,
    max_bytes: u64,
    stime: i64,
    rtime: i64,
    ctime: i64,
    last_sender: u32,
    last_receiver: u32,
    is_removed: bool,
}

/// A message queue.
pub struct Queue {
    state: SpinLock<State>,
    senders: WaitQueue,
    receivers: WaitQueue,
}

impl Object for Queue {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// msgget(2).
pub fn msgget(key: i32, flags: i32) -> Result<i32> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    loop {
        match ipc.queues.find(key, flags)? {
            Found::Old(queue) => {
                let perm = queue.perm();
                perm.check(&cred, ns.id().owner(), flags as u32 & 0o777)?;
                return Ok(perm.id);
            }
            Found::Missing => {
                let max_bytes = u64::from(ipc.msg_mnb.load(Relaxed));
                let made = ipc.queues.add(key, ipc.msg_mni.load(Relaxed), |id| {
                    let perm = Perm::new(key, id, flags as u32, &cred);
                    Ok(Queue::new(perm, max_bytes))
                });
                match made {
                    Err(Errno::EEXIST) if flags & IPC_CREAT != 0 => {}
                    made => return Ok(made?.perm().id),
                }
            }
        }
    }
}

/// What a receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    First,
    Is(i64),
    IsNot(i64),
    /// The lowest type not above.
    UpTo(i64),
    /// The one at this place.
    Place(i64),
}

impl Wanted {
    fn new(kind: i64, flags: i32) -> Self {
        match kind {
            _ if flags & MSG_COPY != 0 => Self::Place(kind),
            0 => Self::First,
            1.. if flags & MSG_EXCEPT != 0 => Self::IsNot(kind),
            1.. => Self::Is(kind),
            _ => Self::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
        }
    }

    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        match self {
            Self::First => (!messages.is_empty()).then_some(0),
            Self::Is(kind) => messages.iter().position(|message| message.kind == kind),
            Self::IsNot(kind) => messages.iter().position(|message| message.kind != kind),
            Self::UpTo(max) => {
                let fitting = messages.iter().enumerate().filter(|(_, message)| message.kind <= max);
                fitting.min_by_key(|(at, message)| (message.kind, *at)).map(|(at, _)| at)
            }
            Self::Place(at) => usize::try_from(at).ok().filter(|at| *at < messages.len()),
        }
    }
}

impl State {
    /// Adds `message` if there is room; gives it back if not.
    fn put(&mut self, message: Message, pid: u32) -> core::result::Result<(), Message> {
        let len = message.text.len() as u64;
        let fits = self.bytes + len <= self.max_bytes && (self.messages.len() as u64) < self.max_bytes;
        if !fits || self.messages.try_reserve(1).is_err() {
            return Err(message);
        }
        self.bytes += len;
        self.messages.push_back(message);
        self.last_sender = pid;
        self.stime = now_s();
        Ok(())
    }

    /// Takes the message that `wanted` means. `E2BIG`: it is longer than `max`.
    fn take(&mut self, wanted: Wanted, max: usize, flags: i32, pid: u32) -> Result<Option<Message>> {
        let Some(at) = wanted.find(&self.messages) else { return Ok(None) };
        let Some(found) = self.messages.get(at) else { return Ok(None) };
        if found.text.len() > max && flags & MSG_NOERROR == 0 {
            return Err(Errno::E2BIG);
        }
        if matches!(wanted, Wanted::Place(_)) {
            let mut text = Vec::new();
            text.try_reserve_exact(found.text.len()).map_err(|_| Errno::ENOMEM)?;
            text.extend_from_slice(&found.text);
            return Ok(Some(Message { kind: found.kind, text }));
        }
        let message = self.messages.remove(at);
        if let Some(message) = &message {
            self.bytes -= message.text.len() as u64;
            self.last_receiver = pid;
            self.rtime = now_s();
        }
        Ok(message)
    }
}

impl Queue {
    fn new(perm: Perm, max_bytes: u64) -> Self {
        let state = State {
            perm,
            messages: VecDeque::new(),
            bytes: 0,
            max_bytes,
            stime: 0,
            rtime: 0,
            ctime: now_s(),
            last_sender: 0,
            last_receiver: 0,
            is_removed: false,
        };
        Self {
            state: SpinLock::new("ipc.msg", state),
            senders: WaitQueue::new(),
            receivers: WaitQueue::new(),
        }
    }
}

/// msgsnd(2). `EINVAL`: a type below 1 or a text too long. `EAGAIN`, `EACCES`, `EIDRM`, `EINTR`.
pub fn msgsnd(id: i32, message: Message, flags: i32) -> Result<()> {
    let (ns, ipc) = current()?;
    if message.kind < 1 {
        return Err(Errno::EINVAL);
    }
    let queue = ipc.queues.get(id)?;
    let task = process::current();
    let cred = task.cred();
    let mut message = Some(message);
    let mut try_put = || -> Option<Result<()>> {
        let mut state = queue.state.lock();
        if state.is_removed {
            return Some(Err(Errno::EIDRM));
        }
        if let Err(error) = state.perm.check(&cred, ns.id().owner(), WRITE) {
            return Some(Err(error));
        }
        match state.put(message.take()?, task.pid()) {
            Ok(()) => Some(Ok(())),
            Err(back) => {
                message = Some(back);
                None
            }
        }
    };
    let result = match try_put() {
        Some(result) => result,
        None if flags & IPC_NOWAIT != 0 => Err(Errno::EAGAIN),
        None => queue.senders.wait_interruptible(try_put).map_err(|_| Errno::ERESTARTNOHAND)?,
    };
    if result.is_ok() {
        queue.receivers.wake_all();
    }
    result
}

/// Longest text of a message now (kernel.msgmax).
pub fn max_text() -> Result<usize> {
    Ok(current()?.1.msg_max.load(Relaxed) as usize)
}

/// msgrcv(2), up to `max` bytes of text. `ENOMSG`, `E2BIG`, `EACCES`, `EINVAL`, `EIDRM`, `EINTR`.
pub fn msgrcv(id: i32, kind: i64, max: usize, flags: i32) -> Result<Message> {
    if flags & MSG_COPY != 0 && (flags & IPC_NOWAIT == 0 || flags & MSG_EXCEPT != 0) {
        return Err(Errno::EINVAL);
    }
    let (ns, ipc) = current()?;
    let queue = ipc.queues.get(id)?;
    let task = process::current();
    let cred = task.cred();
    let wanted = Wanted::new(kind, flags);
    let try_take = || -> Option<Result<Message>> {
        let mut state = queue.state.lock();
        if state.is_removed {
            return Some(Err(Errno::EIDRM));
        }
        if let Err(error) = state.perm.check(&cred, ns.id().owner(), READ) {
            return Some(Err(error));
        }
        state.take(wanted, max, flags, task.pid()).transpose()
    };
    let mut message = match try_take() {
        Some(result) => result?,
        None if flags & IPC_NOWAIT != 0 => return Err(Errno::ENOMSG),
        None => queue.receivers.wait_interruptible(try_take).map_err(|_| Errno::ERESTARTNOHAND)??,
    };
    if flags & MSG_COPY == 0 {
        queue.senders.wake_all();
    }
    message.text.truncate(max);
    Ok(message)
}

/// A queue as `IPC_STAT` shows it.
pub struct QueueInfo {
    /// Identifier.
    pub id: i32,
    /// Owner and mode.
    pub perm: PermDs,
    /// Times of the last message sent, received, and of the last change.
    pub times: [i64; 3],
    /// Bytes of text in it, messages in it, most bytes.
    pub counts: [u64; 3],
    /// Who sent and received last, as the caller sees them.
    pub pids: [u32; 2],
}

impl Queue {
    pub(crate) fn info(&self, reader: &security::UserNs) -> QueueInfo {
        let (info, pids) = {
            let state = self.state.lock();
            let info = QueueInfo {
                id: state.perm.id,
                perm: state.perm.show(reader),
                times: [state.stime, state.rtime, state.ctime],
                counts: [state.bytes, state.messages.len() as u64, state.max_bytes],
                pids: [0; 2],
            };
            (info, [state.last_sender, state.last_receiver])
        };
        QueueInfo { pids: pids.map(pid::visible), ..info }
    }
}

/// `IPC_STAT`, `MSG_STAT`, `MSG_STAT_ANY`.
pub fn stat(named: Named) -> Result<QueueInfo> {
    let (ns, ipc) = current()?;
    let queue = match named {
        Named::Id(id) => ipc.queues.get(id)?,
        Named::Index(index) | Named::AnyIndex(index) => ipc.queues.at(index)?,
    };
    let cred = process::current().cred();
    if !matches!(named, Named::AnyIndex(_)) {
        queue.perm().check(&cred, ns.id().owner(), READ)?;
    }
    Ok(queue.info(&cred.user_ns))
}

/// `IPC_SET`. `EPERM`: not the owner, or more bytes than kernel.msgmnb without `CAP_SYS_RESOURCE`.
pub fn set_perm(id: i32, perm: &PermDs, max_bytes: u64) -> Result<()> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    let queue = ipc.queues.get(id)?;
    {
        let mut state = queue.state.lock();
        state.perm.check_owner(&cred, ns.id().owner())?;
        let is_more = max_bytes > u64::from(ipc.msg_mnb.load(Relaxed));
        if is_more && !cred.ns_capable(ns.id().owner(), Cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        state.perm.set(perm, &cred)?;
        state.max_bytes = max_bytes;
        state.ctime = now_s();
    }
    // Rights or room may have changed for those who wait.
    queue.senders.wake_all();
    queue.receivers.wake_all();
    Ok(())
}

/// `IPC_RMID`: waiting calls end with `EIDRM`. `EPERM`: not the owner.
pub fn remove(id: i32) -> Result<()> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    let queue = ipc.queues.get(id)?;
    queue.perm().check_owner(&cred, ns.id().owner())?;
    if !ipc.queues.remove(id) {
        return Err(Errno::EIDRM);
    }
    let messages = {
        let mut state = queue.state.lock();
        state.is_removed = true;
        core::mem::take(&mut state.messages)
    };
    drop(messages);
    queue.senders.wake_all();
    queue.receivers.wake_all();
    Ok(())
}

/// `IPC_INFO` and `MSG_INFO`: the seven numbers of `struct msginfo` before `msgseg`, and the highest index in use.
pub fn info(usage: Usage) -> Result<([i32; 7], i32)> {
    /// `MSGSSZ`, and the pool and map sizes that Linux computes of it; all unused.
    const SEGMENT: i32 = 16;
    let (_, ipc) = current()?;
    let limit = |value: &core::sync::atomic::AtomicU32| value.load(Relaxed) as i32;
    let (max, per_queue, queues) = (limit(&ipc.msg_max), limit(&ipc.msg_mnb), limit(&ipc.msg_mni));
    let (used, highest) = ipc.queues.usage();
    let [pool, map, total] = match usage {
        Usage::Limits => [queues.saturating_mul(per_queue) / 1024, per_queue, per_queue],
        Usage::Now => {
            let (mut messages, mut bytes) = (0, 0);
            for queue in ipc.queues.all() {
                let state = queue.state.lock();
                messages += state.messages.len();
                bytes += state.bytes;
            }
            [used as i32, messages as i32, bytes as i32]
        }
    };
    Ok(([pool, map, max, per_queue, queues, SEGMENT, total], highest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use security::Cred;

    fn queue(messages: &[(i64, &str)]) -> State {
        let perm = Perm::new(1, 0, 0o600, &Cred::root());
        let queue = Queue::new(perm, 20);
        let mut state = queue.state.into_inner();
        for (kind, text) in messages {
            state.put(message(*kind, text), 1).unwrap();
        }
        state
    }

    fn message(kind: i64, text: &str) -> Message {
        Message { kind, text: text.into() }
    }

    fn take(state: &mut State, kind: i64, flags: i32) -> Option<i64> {
        state.take(Wanted::new(kind, flags), 100, flags, 2).unwrap().map(|message| message.kind)
    }

    #[test]
    fn types_choose_the_message() {
        let mut state = queue(&[(5, "a"), (3, "b"), (9, "c"), (3, "d")]);
        assert_eq!(take(&mut state, -4, 0), Some(3));
        assert_eq!(take(&mut state, 5, MSG_EXCEPT), Some(9));
        assert_eq!(take(&mut state, 7, 0), None);
        assert_eq!(take(&mut state, 1, MSG_COPY), Some(3));
        assert_eq!(take(&mut state, 2, MSG_COPY), None);
        assert_eq!((take(&mut state, 0, 0), take(&mut state, i64::MIN, 0)), (Some(5), Some(3)));
        assert_eq!((state.bytes, state.last_receiver), (0, 2));
    }

    #[test]
    fn a_full_queue_gives_the_message_back() {
        let mut state = queue(&[(1, "0123456789")]);
        assert!(state.put(message(1, "01234567890"), 1).is_err());
        assert!(state.put(message(1, "0123456789"), 1).is_ok());
        assert_eq!(state.take(Wanted::First, 4, 0, 1), Err(Errno::E2BIG));
        assert_eq!(state.take(Wanted::First, 4, MSG_NOERROR, 1).unwrap().unwrap().text.len(), 10);
    }
}
