//! Segments as typed values, and the bytes that they carry.
//!
//! A segment on loopback is handed over as it is; who puts it on a wire turns it into bytes.

use smallvec::SmallVec;

use crate::seq::Seq;

/// A piece of a byte stream: cheap to clone and to cut, since the bytes are shared.
pub trait Payload: Clone {
    /// Length in bytes; not 0 for a piece in a queue.
    fn len(&self) -> usize;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `start` to `end`, which are in range.
    fn slice(&self, start: usize, end: usize) -> Self;

    /// One piece with the bytes of all `parts`, `len` together; `None` without memory.
    fn concat(parts: &[Self], len: usize) -> Option<Self>;

    /// The byte at `at`, which is in range.
    fn byte(&self, at: usize) -> u8;
}

/// Pieces in order.
pub type Chain<P> = SmallVec<[P; 2]>;

/// Length of `chain` in bytes.
#[inline]
pub fn chain_len<P: Payload>(chain: &[P]) -> usize {
    chain.iter().map(Payload::len).sum()
}

/// Keeps the bytes of `chain` from `start` to `end`.
pub(crate) fn cut<P: Payload>(chain: Chain<P>, start: usize, end: usize) -> Chain<P> {
    let mut at = 0;
    let mut out = Chain::new();
    for piece in chain {
        let len = piece.len();
        let (from, to) = (start.saturating_sub(at).min(len), end.saturating_sub(at).min(len));
        if from < to {
            out.push(if (from, to) == (0, len) { piece } else { piece.slice(from, to) });
        }
        at += len;
    }
    out
}

/// The control bits of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data comes.
    pub const FIN: Flags = Flags(1);
    /// Opens a connection.
    pub const SYN: Flags = Flags(2);
    /// There is no such connection.
    pub const RST: Flags = Flags(4);
    /// Hand the data over.
    pub const PSH: Flags = Flags(8);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(16);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(32);

    /// Both.
    #[inline]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[inline]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Blocks of a selective acknowledgement: first byte, end.
pub type SackBlocks = SmallVec<[(Seq, Seq); 4]>;

/// The options of a segment.
#[derive(Clone, Debug, Default)]
pub struct SegOptions {
    /// Largest segment that the sender takes (SYN only).
    pub mss: Option<u16>,
    /// Shift of the sender's windows (SYN only).
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgements may be sent (SYN only).
    pub sack_permitted: bool,
    /// The sender's clock, and the one that it saw last.
    pub timestamps: Option<(u32, u32)>,
    /// What has come out of order.
    pub sack: SackBlocks,
}

/// A segment without ports.
#[derive(Clone, Debug)]
pub struct Segment<P> {
    /// Number of the first byte, or of SYN.
    pub seq: Seq,
    /// Next number that the sender expects.
    pub ack: Seq,
    /// Control bits.
    pub flags: Flags,
    /// Window as it goes over the wire, not yet shifted.
    pub window: u16,
    /// Offset of the byte behind the urgent data.
    pub urgent: u16,
    /// Options.
    pub options: SegOptions,
    /// Data.
    pub data: Chain<P>,
}

impl<P: Payload> Segment<P> {
    /// A segment without data and options.
    pub fn bare(seq: Seq, ack: Seq, flags: Flags) -> Self {
        Self { seq, ack, flags, window: 0, urgent: 0, options: SegOptions::default(), data: Chain::new() }
    }

    /// Numbers that it takes: data, SYN and FIN.
    #[inline]
    pub fn seq_len(&self) -> u32 {
        let control = u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN));
        chain_len(&self.data) as u32 + control
    }

    /// The reset that answers a segment for which there is no connection; none for a reset.
    pub fn refusal(&self) -> Option<Self> {
        if self.flags.has(Flags::RST) {
            return None;
        }
        Some(if self.flags.has(Flags::ACK) {
            Self::bare(self.ack, Seq(0), Flags::RST)
        } else {
            Self::bare(Seq(0), self.seq + self.seq_len(), Flags::RST.with(Flags::ACK))
        })
    }
}
