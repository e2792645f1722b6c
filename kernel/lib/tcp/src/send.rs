//! What waits to be acknowledged or sent, and what the other side has out of order.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::segment::{Chain, Payload};
use crate::seq::Seq;

/// What a piece in a queue costs beyond its bytes.
pub(crate) const OVERHEAD: usize = 256;

/// The bytes from the first that was not acknowledged to the last that was written.
pub(crate) struct SendQueue<P> {
    pieces: VecDeque<P>,
    /// Bytes of the first piece that were acknowledged.
    head: usize,
    len: usize,
    charged: usize,
    /// A piece and the offset in the queue where it begins: where the last range ended.
    cursor: (usize, usize),
}

impl<P: Payload> SendQueue<P> {
    pub(crate) fn new() -> Self {
        Self { pieces: VecDeque::new(), head: 0, len: 0, charged: 0, cursor: (0, 0) }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes, with what they cost beside.
    #[inline]
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    pub(crate) fn push(&mut self, piece: P) {
        self.len += piece.len();
        self.charged += piece.len() + OVERHEAD;
        self.pieces.push_back(piece);
    }

    /// The first `n` bytes are no longer needed.
    pub(crate) fn acknowledge(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        self.head += n;
        let mut gone = 0;
        while let Some(first) = self.pieces.front() {
            let len = first.len();
            if self.head < len {
                break;
            }
            self.head -= len;
            self.charged -= len + OVERHEAD;
            self.pieces.pop_front();
            gone += 1;
        }
        // Offsets count from the first unacknowledged byte.
        self.cursor = if self.cursor.0 > gone && self.cursor.1 >= n {
            (self.cursor.0 - gone, self.cursor.1 - n)
        } else {
            (0, 0)
        };
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    /// The bytes from offset `start` on, `len` of them.
    pub(crate) fn range(&mut self, start: usize, len: usize) -> Chain<P> {
        let mut out = Chain::new();
        let end = (start + len).min(self.len);
        let (mut idx, mut at) = if self.cursor.1 <= start { self.cursor } else { (0, 0) };
        while at < end
            && let Some(piece) = self.pieces.get(idx)
        {
            let skip = if idx == 0 { self.head } else { 0 };
            let here = piece.len() - skip;
            let (from, to) = (start.saturating_sub(at).min(here), (end - at).min(here));
            if from < to {
                let whole = skip + from == 0 && to == here;
                out.push(if whole { piece.clone() } else { piece.slice(skip + from, skip + to) });
            }
            self.cursor = (idx, at);
            if at + here > end {
                break;
            }
            idx += 1;
            at += here;
        }
        out
    }
}

/// Ranges that the other side holds out of order, sorted and apart.
#[derive(Default)]
pub(crate) struct Scoreboard {
    ranges: Vec<(Seq, Seq)>,
    bytes: u32,
}

/// Most ranges that are remembered; what is beyond is sent once more.
const MAX_RANGES: usize = 128;

impl Scoreboard {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The end of the last range.
    pub(crate) fn highest(&self) -> Option<Seq> {
        self.ranges.last().map(|range| range.1)
    }

    /// The start of the last range.
    pub(crate) fn last_start(&self) -> Option<Seq> {
        self.ranges.last().map(|range| range.0)
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Adds a block; gives whether it told something new.
    pub(crate) fn add(&mut self, mut start: Seq, mut end: Seq) -> bool {
        let old = self.bytes;
        let first = self.ranges.iter().position(|range| !range.1.before(start)).unwrap_or(self.ranges.len());
        let mut last = first;
        while let Some(range) = self.ranges.get(last).filter(|range| !range.0.after(end)) {
            start = start.min(range.0);
            end = end.max(range.1);
            last += 1;
        }
        if first == last && self.ranges.len() >= MAX_RANGES {
            return false;
        }
        self.ranges.splice(first..last, [(start, end)]);
        self.count();
        self.bytes != old
    }

    /// All before `una` is acknowledged.
    pub(crate) fn advance(&mut self, una: Seq) {
        if self.ranges.is_empty() {
            return;
        }
        self.ranges.retain(|range| range.1.after(una));
        if let Some(first) = self.ranges.first_mut() {
            first.0 = first.0.max(una);
        }
        self.count();
    }

    fn count(&mut self) {
        self.bytes = self.ranges.iter().map(|range| range.1.since(range.0)).sum();
    }

    /// The first hole at or after `from`: where it begins and ends.
    pub(crate) fn hole(&self, from: Seq, limit: Seq) -> Option<(Seq, Seq)> {
        let mut start = from;
        for &(first, end) in &self.ranges {
            if start.before(first) {
                break;
            }
            start = start.max(end);
        }
        let next = self.ranges.iter().map(|range| range.0).find(|first| first.after(start));
        let end = next.map_or(limit, |next| next.min(limit));
        start.before(end).then_some((start, end))
    }

    /// Bytes between `from` and `to` that are in no range.
    pub(crate) fn missing(&self, from: Seq, to: Seq) -> u32 {
        if !from.before(to) {
            return 0;
        }
        let held: u32 = self
            .ranges
            .iter()
            .map(|&(first, end)| {
                let (first, end) = (first.max(from), end.min(to));
                if first.before(end) { end.since(first) } else { 0 }
            })
            .sum();
        to.since(from) - held
    }
}
