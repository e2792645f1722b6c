//! Answers of many messages, made as their reader goes on.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter::Fuse;

use abi::Errno;
use netlink_message::{self as message, Builder, HEADER_LEN, Header};

/// Least bytes of a datagram of a dump: about what fits into a page on Linux.
const LEAST: usize = 3776;
/// Most bytes.
const MOST: usize = 32768;
/// Bytes of the message that ends a dump.
const DONE_LEN: usize = HEADER_LEN + 4;

/// A dump that is under way.
pub(crate) struct Dump {
    messages: Fuse<Box<dyn Iterator<Item = Vec<u8>> + Send>>,
    /// One that had no room any more.
    pending: Option<Vec<u8>>,
    seq: u32,
    port: u32,
    /// What the end tells.
    error: Option<Errno>,
}

impl Dump {
    pub(crate) fn new(
        seq: u32,
        port: u32,
        messages: Box<dyn Iterator<Item = Vec<u8>> + Send>,
        error: Option<Errno>,
    ) -> Self {
        Self { messages: messages.fuse(), pending: None, seq, port, error }
    }

    /// The next datagram for a reader whose longest buffer had `room` bytes, and whether it is the last one.
    pub(crate) fn next(&mut self, room: usize) -> (Vec<u8>, bool) {
        let room = room.clamp(LEAST, MOST);
        let mut batch = Vec::new();
        loop {
            match self.pending.take().or_else(|| self.messages.next()) {
                Some(next) if !batch.is_empty() && batch.len() + next.len() > room => {
                    self.pending = Some(next);
                    return (batch, false);
                }
                Some(next) => {
                    batch.extend_from_slice(&next);
                    batch.resize(batch.len().next_multiple_of(message::ALIGN), 0);
                }
                None if batch.is_empty() || batch.len() + DONE_LEN <= room => {
                    batch.extend_from_slice(&self.done());
                    return (batch, true);
                }
                None => return (batch, false),
            }
        }
    }

    fn done(&self) -> Vec<u8> {
        let header =
            Header { len: 0, kind: message::DONE, flags: message::MULTI, seq: self.seq, port: self.port };
        let code = self.error.map_or(0, |errno| errno.to_return() as i32);
        Builder::new(header).put(&code.to_ne_bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(count: usize, len: usize) -> Dump {
        let header = Header { len: 0, kind: 20, flags: message::MULTI, seq: 1, port: 2 };
        let one = move |_| Builder::new(header).put(&vec![7; len]).finish();
        Dump::new(1, 2, Box::new((0..count).map(one)), None)
    }

    #[test]
    fn all_messages_come_in_datagrams_that_fit() {
        for (count, len, room) in [(0, 0, 0), (1, 5, 0), (100, 100, 0), (1000, 77, 8192), (5, 9000, 4096)] {
            let (mut dump, mut kinds) = (dump(count, len), Vec::new());
            loop {
                let (batch, is_last) = dump.next(room);
                let found: Vec<_> = message::messages(&batch).map(|m| m.header.kind).collect();
                assert!(batch.len() <= room.clamp(LEAST, MOST) || found.len() == 1);
                kinds.extend(found);
                if is_last {
                    break;
                }
            }
            assert_eq!((kinds.len(), kinds.pop()), (count + 1, Some(message::DONE)), "{count} of {len}");
            assert!(kinds.iter().all(|&kind| kind == 20));
        }
    }
}
