//! Ways to servers, which drivers add, and the calls that travel on them.
//!
//! ```text
//!   mount -t 9p TAG  --claim-->  Channel (a virtio device with this tag)
//!   Call: head, out  --submit--> server
//!         reply      <--complete--
//! ```
//!
//! # Invariants
//!
//! - C1: a call's frames stay where they are from [`Channel::submit`] until [`Call::complete`] or [`Call::fail`]: the channel
//!   holds the call meanwhile, whoever else has lost interest.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::{Errno, Result};
use hal::frame::Frame;
use sched::{Mutex, WaitQueue};

/// Bytes of a request that need no frame.
pub const MAX_HEAD: usize = 192;

/// Why a call was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no room until another call completes.
    Full,
    /// It can never be taken, or there is no memory.
    NoMemory,
    /// The device is gone.
    Gone,
}

/// A way to one server.
pub trait Channel: Send + Sync {
    /// Its name, as mount(2) gives it.
    fn tag(&self) -> &[u8];

    /// The longest message that it can carry.
    fn max_message(&self) -> u32;

    /// Sends `call`; it is completed or failed later, from any context. Sleeps not.
    fn submit(&self, call: &Arc<Call>) -> core::result::Result<(), Refused>;

    /// Looks for completions that nobody told of. `EIO`: the device is gone; all calls were failed.
    fn check(&self) -> Result<()>;
}

/// Bytes of a frame.
#[derive(Clone, Debug)]
pub struct Part {
    /// The frame.
    pub frame: Frame,
    /// Where they begin in it.
    pub offset: usize,
    /// How many.
    pub len: usize,
}

/// Counts completions of a client's calls, for those who wait for room.
#[derive(Default)]
pub(crate) struct Room {
    pub(crate) completions: AtomicU64,
    pub(crate) wait: WaitQueue,
}

impl Room {
    pub(crate) fn made(&self) {
        self.completions.fetch_add(1, Release);
        self.wait.wake_all();
    }
}

const PENDING: u32 = 0;
const DONE: u32 = 1;
const GONE: u32 = 2;

/// A request on its way, with the place for its reply.
pub struct Call {
    head: Vec<u8>,
    out: Vec<Part>,
    reply: Vec<Part>,
    state: AtomicU32,
    written: AtomicU32,
    wait: WaitQueue,
    room: Arc<Room>,
}

impl Call {
    pub(crate) fn new(head: Vec<u8>, out: Vec<Part>, reply: Vec<Part>, room: &Arc<Room>) -> Arc<Self> {
        Arc::new(Self {
            head,
            out,
            reply,
            state: AtomicU32::new(PENDING),
            written: AtomicU32::new(0),
            wait: WaitQueue::new(),
            room: room.clone(),
        })
    }

    /// The first bytes of the request, at most [`MAX_HEAD`].
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The rest of the request.
    pub fn out(&self) -> &[Part] {
        &self.out
    }

    /// Where the reply goes.
    pub fn reply(&self) -> &[Part] {
        &self.reply
    }

    fn end(&self, state: u32) {
        // (A) Pairs with the load in `state`: who sees the end sees the length.
        self.state.store(state, Release);
        self.wait.wake_all();
        self.room.made();
    }

    /// The server has answered with so many bytes, by its own account. Usable in interrupt context.
    pub fn complete(&self, written: u32) {
        self.written.store(written, Relaxed);
        self.end(DONE);
    }

    /// There will be no answer. Usable in interrupt context.
    pub fn fail(&self) {
        self.end(GONE);
    }

    /// How it ended: the length of the reply, never beyond the room for it. `EIO`: without one.
    pub(crate) fn ended(&self) -> Option<Result<usize>> {
        match self.state.load(Acquire) {
            PENDING => None,
            DONE => {
                let room: usize = self.reply.iter().map(|part| part.len).sum();
                Some(Ok((self.written.load(Relaxed) as usize).min(room)))
            }
            _ => Some(Err(Errno::EIO)),
        }
    }

    pub(crate) fn wait(&self) -> &WaitQueue {
        &self.wait
    }
}

struct Known {
    channel: Arc<dyn Channel>,
    is_used: Arc<AtomicBool>,
}

static CHANNELS: Mutex<Vec<Known>> = Mutex::new("p9.channels", Vec::new());

/// Makes `channel` known to mount(2).
pub fn add(channel: Arc<dyn Channel>) {
    CHANNELS.lock().push(Known { channel, is_used: Arc::new(AtomicBool::new(false)) });
}

/// Forgets `channel`; who uses it keeps it.
pub fn remove(channel: &Arc<dyn Channel>) {
    CHANNELS.lock().retain(|known| !Arc::ptr_eq(&known.channel, channel));
}

/// A channel that has one user.
pub(crate) struct Claim {
    pub(crate) channel: Arc<dyn Channel>,
    is_used: Arc<AtomicBool>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.is_used.store(false, Release);
    }
}

/// Takes the channel called `tag`. `ENOENT`: there is none. `EBUSY`: others use it.
pub(crate) fn claim(tag: &[u8]) -> Result<Claim> {
    let mut is_known = false;
    for known in CHANNELS.lock().iter().filter(|known| known.channel.tag() == tag) {
        is_known = true;
        if !known.is_used.swap(true, AcqRel) {
            return Ok(Claim { channel: known.channel.clone(), is_used: known.is_used.clone() });
        }
    }
    Err(if is_known { Errno::EBUSY } else { Errno::ENOENT })
}
