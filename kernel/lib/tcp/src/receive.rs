//! Putting what comes in order.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::segment::{Chain, Payload, SackBlocks, chain_len, cut};
use crate::send::OVERHEAD;
use crate::seq::Seq;

/// Most pieces that wait for what is missing before them.
const MAX_WAITING: usize = 1024;
/// Pieces are joined up to this size when there are too many small ones.
const JOINED: usize = 16 << 10;

/// Bytes to read, and bytes that came too early.
pub(crate) struct ReceiveQueue<P> {
    ready: VecDeque<P>,
    /// Bytes of the first piece that were read.
    head: usize,
    len: usize,
    charged: usize,
    /// Sorted, without overlap.
    early: Vec<(Seq, Chain<P>)>,
    early_bytes: usize,
    /// Start of what came last out of order.
    latest: Seq,
}

impl<P: Payload> ReceiveQueue<P> {
    pub(crate) fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            head: 0,
            len: 0,
            charged: 0,
            early: Vec::new(),
            early_bytes: 0,
            latest: Seq(0),
        }
    }

    /// Bytes to read.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What all pieces cost.
    #[inline]
    pub(crate) fn charged(&self) -> usize {
        self.charged + self.early_bytes + self.early.len() * OVERHEAD
    }

    #[inline]
    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// The first piece at or after `skip` bytes.
    pub(crate) fn peek(&self, mut skip: usize) -> Option<P> {
        skip += self.head;
        for piece in &self.ready {
            if skip < piece.len() {
                return Some(if skip == 0 { piece.clone() } else { piece.slice(skip, piece.len()) });
            }
            skip -= piece.len();
        }
        None
    }

    /// The first `n` bytes were read. Gives what became free of use.
    pub(crate) fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        self.head += n;
        while let Some(first) = self.ready.front() {
            let len = first.len();
            if self.head < len {
                break;
            }
            self.head -= len;
            self.charged -= len + OVERHEAD;
            self.ready.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    fn append(&mut self, data: Chain<P>) {
        for piece in data {
            self.len += piece.len();
            self.charged += piece.len() + OVERHEAD;
            self.ready.push_back(piece);
        }
    }

    /// Takes `data` that begins at `seq`; `next` is the number expected. Gives the new one.
    pub(crate) fn insert(&mut self, seq: Seq, data: Chain<P>, next: Seq) -> Seq {
        let len = chain_len(&data) as u32;
        if seq == next && self.early.is_empty() {
            self.append(data);
            return next + len;
        }
        let end = seq + len;
        if !end.after(next) {
            return next;
        }
        let (seq, data) = if seq.before(next) {
            (next, cut(data, next.since(seq) as usize, len as usize))
        } else {
            (seq, data)
        };
        self.wait(seq, data);
        self.join(next)
    }

    /// Keeps early data, without what is there already.
    fn wait(&mut self, mut seq: Seq, mut data: Chain<P>) {
        self.latest = seq;
        let mut at = self.early.partition_point(|(start, _)| !start.after(seq));
        if let Some((start, before)) = at.checked_sub(1).and_then(|at| self.early.get(at)) {
            let end = *start + chain_len(before) as u32;
            if end.after(seq) {
                let (len, skip) = (chain_len(&data), end.since(seq) as usize);
                if skip >= len {
                    return;
                }
                data = cut(data, skip, len);
                seq = end;
            }
        }
        while let Some((start, after)) = self.early.get(at) {
            let (len, end) = (chain_len(&data) as u32, *start + chain_len(after) as u32);
            if !(seq + len).after(*start) {
                break;
            }
            if !end.after(seq + len) {
                self.early_bytes -= chain_len(after);
                self.early.remove(at);
                continue;
            }
            data = cut(data, 0, start.since(seq) as usize);
            break;
        }
        if self.early.len() >= MAX_WAITING || data.is_empty() {
            return;
        }
        self.early_bytes += chain_len(&data);
        at = at.min(self.early.len());
        self.early.insert(at, (seq, data));
    }

    /// Moves what follows `next` without a gap to the bytes to read.
    fn join(&mut self, mut next: Seq) -> Seq {
        let count = {
            let mut end = next;
            self.early
                .iter()
                .take_while(|(start, data)| {
                    let follows = *start == end;
                    end += chain_len(data) as u32;
                    follows
                })
                .count()
        };
        let ready: Vec<_> = self.early.drain(..count).collect();
        for (_, data) in ready {
            let len = chain_len(&data);
            self.early_bytes -= len;
            next += len as u32;
            self.append(data);
        }
        next
    }

    /// What to tell the sender: the newest block first.
    pub(crate) fn blocks(&self, most: usize) -> SackBlocks {
        let mut all: SackBlocks = SackBlocks::new();
        for (start, data) in &self.early {
            let end = *start + chain_len(data) as u32;
            match all.last_mut() {
                Some(last) if last.1 == *start => last.1 = end,
                _ => all.push((*start, end)),
            }
        }
        let newest = all.iter().position(|b| !b.0.after(self.latest) && b.1.after(self.latest));
        if let Some(newest) = newest {
            all[..=newest].rotate_right(1);
        }
        all.truncate(most);
        all
    }

    /// Joins small pieces, so that they cost less.
    pub(crate) fn compact(&mut self) {
        if self.charged < 4 * self.len.max(OVERHEAD) {
            return;
        }
        let mut old = core::mem::take(&mut self.ready);
        if self.head > 0
            && let Some(first) = old.pop_front()
        {
            old.push_front(first.slice(self.head, first.len()));
            self.head = 0;
        }
        let (mut group, mut size) = (Vec::new(), 0);
        self.charged = 0;
        self.len = 0;
        for piece in old {
            if size + piece.len() > JOINED {
                self.append_joined(&mut group, size);
                size = 0;
            }
            size += piece.len();
            group.push(piece);
        }
        self.append_joined(&mut group, size);
    }

    fn append_joined(&mut self, group: &mut Vec<P>, size: usize) {
        let joined = if group.len() > 1 { P::concat(group, size) } else { None };
        match joined {
            Some(joined) => {
                group.clear();
                self.append(core::iter::once(joined).collect());
            }
            None => self.append(group.drain(..).collect()),
        }
    }
}
