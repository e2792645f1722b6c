//! A session with a server: tags, the size of messages, and calls that wait for their replies.
//!
//! Calls of many threads are under way at once, each with a tag of its own. One whose thread is to die is taken back by
//! a flush, and its tag is free again when that is answered (flush(5) of Plan 9's manual):
//!
//! ```text
//!   waiting --reply--> done
//!      | killed
//!      v
//!   flushing --reply, then answer to the flush--> done all the same
//!            --answer to the flush-->             EINTR; no reply will come
//!            --no memory for a flush-->           waiting, whatever signals come
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::*};

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use hal::sync::SpinLock;
use p9_wire::{DATA_AT, Error, IO_HEADER, MIN_MSIZE, NO_TAG, Reader, Request, kind};
use sched::{Interruptible, WaitError};

use crate::channel::{Call, Claim, MAX_HEAD, Part, Refused, Room};
use crate::serial::Serial;

/// Calls under way at most; the last quarter is for flushes.
const MAX_TAGS: usize = 256;
const MAX_CALLS: usize = 192;
/// How often a call that waits asks whether the device is still there.
const CHECK_NS: u64 = 2_000_000_000;
/// After so many looks without any answer the server is given up, if somebody waits whom no signal ends: five minutes, not
/// counting those in which the guest stood still.
const MAX_SILENT_LOOKS: u32 = 150;
/// Room for the reply to most requests.
const REPLY_LEN: usize = PAGE_SIZE;
/// Room for a link's target of 4095 bytes.
const LINK_REPLY_LEN: usize = 2 * PAGE_SIZE;

/// Data that goes with a call without being copied.
#[derive(Clone, Copy)]
pub(crate) enum Data<'a> {
    None,
    /// Behind the request.
    Out(&'a [Part]),
    /// Behind the first [`DATA_AT`] bytes of the reply.
    In(&'a [Part]),
}

/// A reply that was checked.
pub(crate) struct Answer {
    bytes: Vec<u8>,
    kind: u8,
    tag: u16,
}

impl Answer {
    /// Its fields.
    pub(crate) fn body(&self) -> Result<Reader<'_>> {
        p9_wire::reply(&self.bytes, self.kind, self.tag).map_err(errno)
    }
}

/// What a program sees of `error`. A server cannot make numbers up that mean something inside of the kernel.
pub(crate) fn errno(error: Error) -> Errno {
    match error {
        Error::Refused(number) => i32::try_from(number)
            .ok()
            .and_then(Errno::new)
            .filter(|errno| !errno.is_internal())
            .unwrap_or(Errno::EIO),
        Error::Malformed(what) => {
            log::warn!("9p: a server's reply is refused: {what}");
            Errno::EIO
        }
        Error::TooLong => Errno::ENAMETOOLONG,
        Error::NoMemory => Errno::ENOMEM,
    }
}

#[derive(Default)]
struct Fids {
    next: u32,
    free: Vec<u32>,
}

/// See the module's front page.
pub(crate) struct Client {
    claim: Claim,
    msize: u32,
    tags: SpinLock<[u64; MAX_TAGS / 64]>,
    room: Arc<Room>,
    fids: SpinLock<Fids>,
    /// What is done later.
    pub(crate) later: Arc<Serial>,
    is_dead: AtomicBool,
}

/// A tag in use.
struct Tag<'a> {
    client: &'a Client,
    number: u16,
}

impl Drop for Tag<'_> {
    fn drop(&mut self) {
        let number = usize::from(self.number);
        if let Some(word) = self.client.tags.lock().get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
        self.client.room.made();
    }
}

impl Client {
    /// Begins a session on the channel: agrees on the protocol and a size of messages up to `msize`.
    ///
    /// `EREMOTEIO`: the server does not speak 9P2000.L. `EIO`: it makes no sense, or is gone. May sleep.
    pub(crate) fn new(claim: Claim, msize: u32) -> Result<Arc<Self>> {
        let msize = msize.min(claim.channel.max_message());
        let mut client = Self {
            claim,
            msize,
            tags: SpinLock::new("p9.tags", [0; MAX_TAGS / 64]),
            room: Arc::default(),
            fids: SpinLock::new("p9.fids", Fids::default()),
            later: Serial::new(),
            is_dead: AtomicBool::new(false),
        };
        let request = Request::Version { msize, version: p9_wire::VERSION };
        let answer = client.run(&request, NO_TAG, Data::None, Interruptible::Killable)?;
        let mut body = answer.body()?;
        let agreed = body.u32().map_err(errno)?;
        if body.string().map_err(errno)? != p9_wire::VERSION {
            log::error!("9p: the server does not speak 9P2000.L");
            return Err(Errno::EREMOTEIO);
        }
        if !(MIN_MSIZE..=msize).contains(&agreed) {
            log::error!("9p: the server wants messages of {agreed} bytes");
            return Err(Errno::EIO);
        }
        client.msize = agreed;
        Ok(Arc::new(client))
    }

    /// The longest message.
    pub(crate) fn msize(&self) -> u32 {
        self.msize
    }

    /// Bytes that a read or write carries at most.
    pub(crate) fn payload(&self) -> u32 {
        self.msize - IO_HEADER
    }

    /// Is the device gone?
    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead.load(Relaxed)
    }

    /// A fid that is not in use. `ENOSPC`: none.
    pub(crate) fn new_fid(&self) -> Result<u32> {
        let mut fids = self.fids.lock();
        if let Some(fid) = fids.free.pop() {
            return Ok(fid);
        }
        let fid = fids.next;
        if fid == p9_wire::NO_FID {
            return Err(Errno::ENOSPC);
        }
        fids.next += 1;
        Ok(fid)
    }

    /// The server knows `fid` no more.
    pub(crate) fn free_fid(&self, fid: u32) {
        let mut fids = self.fids.lock();
        // Without memory the number is never used again.
        if fids.free.try_reserve(1).is_ok() {
            fids.free.push(fid);
        }
    }

    /// Sends a request and waits for the answer; a fatal signal ends the wait.
    ///
    /// Errors are the server's. `EIO`: the reply makes no sense, or the device is gone. `EINTR`. `ENOMEM`. Sleeps.
    pub(crate) fn call(&self, request: &Request<'_>, data: Data<'_>) -> Result<Answer> {
        self.call_as(request, data, Interruptible::Killable)
    }

    /// As [`Client::call`], for what has to be done even so.
    pub(crate) fn call_surely(&self, request: &Request<'_>) -> Result<Answer> {
        self.call_as(request, Data::None, Interruptible::No)
    }

    /// As [`Client::call`]; `kind` tells which signals end the wait.
    pub(crate) fn call_as(
        &self,
        request: &Request<'_>,
        data: Data<'_>,
        kind: Interruptible,
    ) -> Result<Answer> {
        let tag = self.tag(MAX_CALLS, kind)?;
        self.run(request, tag.number, data, kind)
    }

    /// A free tag below `end`; waits for one.
    fn tag(&self, end: usize, kind: Interruptible) -> Result<Tag<'_>> {
        let take = || {
            let mut tags = self.tags.lock();
            for (at, word) in tags.iter_mut().enumerate() {
                let bit = word.trailing_ones() as usize;
                if bit < 64 && at * 64 + bit < end {
                    *word |= 1 << bit;
                    return Some((at * 64 + bit) as u16);
                }
            }
            None
        };
        let number = self.room.wait.wait_deadline(take, None, kind).map_err(|_| Errno::EINTR)?;
        Ok(Tag { client: self, number })
    }

    fn run(&self, request: &Request<'_>, tag: u16, data: Data<'_>, kind: Interruptible) -> Result<Answer> {
        let call = self.prepare(request, tag, data)?;
        self.submit(&call, kind)?;
        match self.wait(&call, kind) {
            Err(Errno::EINTR) if tag != NO_TAG => match self.flush(tag) {
                // The server knows of the call still: its tag must not be another's until it has answered.
                Err(Errno::ENOMEM) => self.wait(&call, Interruptible::No)?,
                flushed => flushed?,
            },
            waited => waited?,
        }
        let len = call.ended().unwrap_or(Err(Errno::EINTR))?;
        // A call that was flushed comes back empty.
        if len == 0 {
            return Err(if kind == Interruptible::No { Errno::EIO } else { Errno::EINTR });
        }
        let kept = if matches!(data, Data::In(_)) { len.min(DATA_AT) } else { len };
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(kept).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(kept, 0);
        let mut at = 0;
        for part in call.reply() {
            let end = (at + part.len).min(kept);
            if let Some(to) = bytes.get_mut(at..end) {
                part.frame.read(part.offset, to);
            }
            at = end;
        }
        if let (Data::In(_), Some(size)) = (data, bytes.first_chunk()) {
            // The data lie elsewhere: what is here is the message without them, if they all came.
            let size = u32::from_le_bytes(*size) as usize;
            if size > len {
                return Err(errno(Error::Malformed("data that did not come")));
            }
            if let Some(place) = bytes.first_chunk_mut() {
                *place = (size.min(kept) as u32).to_le_bytes();
            }
            let mut body = p9_wire::reply(&bytes, request.kind(), tag).map_err(errno)?;
            if body.u32().map_err(errno)? as usize > size.saturating_sub(DATA_AT) {
                return Err(errno(Error::Malformed("fewer data than are told")));
            }
        } else {
            p9_wire::reply(&bytes, request.kind(), tag).map_err(errno)?;
        }
        Ok(Answer { bytes, kind: request.kind(), tag })
    }

    /// Has the call with `tag` forgotten by the server; its reply may come all the same before this returns.
    fn flush(&self, tag: u16) -> Result<()> {
        let own = self.tag(MAX_TAGS, Interruptible::No)?;
        let call = self.prepare(&Request::Flush { tag }, own.number, Data::None)?;
        self.submit(&call, Interruptible::No)?;
        self.wait(&call, Interruptible::No)
    }

    /// Lays out a call: a short request in its head, a long one in frames.
    fn prepare(&self, request: &Request<'_>, tag: u16, data: Data<'_>) -> Result<Arc<Call>> {
        let mut head = request.encode(tag).map_err(errno)?;
        let (mut out, mut reply) = (Vec::new(), Vec::new());
        let room = match (data, request.kind()) {
            (Data::In(_), _) => DATA_AT,
            (_, kind::READLINK) => LINK_REPLY_LEN,
            _ => REPLY_LEN,
        };
        // What the server reads and writes has the agreed size at most.
        let most = self.msize as usize;
        if head.len() > most {
            return Err(Errno::ENAMETOOLONG);
        }
        if head.len() > MAX_HEAD {
            for piece in head.chunks(PAGE_SIZE) {
                let frame = Frame::alloc().ok_or(Errno::ENOMEM)?;
                frame.write(0, piece);
                push(&mut out, Part { frame, offset: 0, len: piece.len() })?;
            }
            head = Vec::new();
        }
        let mut left = room.min(most);
        while left > 0 {
            let len = left.min(PAGE_SIZE);
            push(&mut reply, Part { frame: Frame::alloc().ok_or(Errno::ENOMEM)?, offset: 0, len })?;
            left -= len;
        }
        let (list, parts): (_, &[Part]) = match data {
            Data::None => (&mut out, &[]),
            Data::Out(parts) => (&mut out, parts),
            Data::In(parts) => (&mut reply, parts),
        };
        list.try_reserve_exact(parts.len()).map_err(|_| Errno::ENOMEM)?;
        list.extend(parts.iter().cloned());
        Ok(Call::new(head, out, reply, &self.room))
    }

    fn submit(&self, call: &Arc<Call>, kind: Interruptible) -> Result<()> {
        loop {
            if self.is_dead() {
                return Err(Errno::EIO);
            }
            let seen = self.room.completions.load(Acquire);
            match self.claim.channel.submit(call) {
                Ok(()) => return Ok(()),
                Err(Refused::NoMemory) => return Err(Errno::ENOMEM),
                Err(Refused::Gone) => {
                    // Has it reset, so that it touches no frame any more, and fails the other calls.
                    let _ = self.claim.channel.check();
                    self.died();
                }
                Err(Refused::Full) => {
                    let has_room = || (self.room.completions.load(Acquire) != seen).then_some(());
                    self.wait_on(&self.room.wait, has_room, kind)?;
                }
            }
        }
    }

    fn wait(&self, call: &Call, kind: Interruptible) -> Result<()> {
        self.wait_on(call.wait(), || call.ended().map(drop), kind)
    }

    /// Waits for `cond`, and looks now and then whether the device is there. `EINTR`: a signal as `kind` says. `EIO`: the device
    /// is gone, or nothing was answered for minutes and no signal can end the wait.
    fn wait_on(
        &self,
        queue: &sched::WaitQueue,
        mut cond: impl FnMut() -> Option<()>,
        kind: Interruptible,
    ) -> Result<()> {
        let (mut nr_silent, mut seen) = (0, self.room.completions.load(Acquire));
        loop {
            let deadline_ns = hal::time::now_ns().saturating_add(CHECK_NS);
            match queue.wait_deadline(&mut cond, Some(deadline_ns), kind) {
                Ok(()) => return Ok(()),
                Err(WaitError::Interrupted) => return Err(Errno::EINTR),
                Err(WaitError::TimedOut) if self.is_dead() => return Err(Errno::EIO),
                Err(WaitError::TimedOut) => {
                    let now = self.room.completions.load(Acquire);
                    nr_silent = if now == seen { nr_silent + 1 } else { 0 };
                    seen = now;
                    let is_silent = kind == Interruptible::No && nr_silent > MAX_SILENT_LOOKS;
                    if self.claim.channel.check().is_err() || is_silent {
                        self.died();
                    }
                }
            }
        }
    }

    fn died(&self) {
        if !self.is_dead.swap(true, Relaxed) {
            log::error!("9p: the device of {} is gone", tag_text(self.claim.channel.tag()));
        }
        self.room.made();
    }
}

fn tag_text(tag: &[u8]) -> alloc::string::String {
    alloc::string::String::from_utf8_lossy(tag).into_owned()
}

/// Appends, if there is memory.
pub(crate) fn push<T>(list: &mut Vec<T>, value: T) -> Result<()> {
    list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    list.push(value);
    Ok(())
}
