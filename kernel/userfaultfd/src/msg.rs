//! The messages, as `struct uffd_msg` of linux/userfaultfd.h has them.
//!
//! ```text
//! 0      event        8 to 31   the event's own:
//! 1-7    0              fault    flags, address, thread id (32 bits)
//!                       fork     descriptor (32 bits)
//!                       remap    from, to, bytes
//!                       remove, unmap   start, end
//! ```

use abi::raw::general as raw;
use mm::watch::{WatchModes, WatchedFault};

/// Bytes of a message.
pub(crate) const LEN: usize = 32;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Msg(pub [u8; LEN]);

impl Msg {
    fn new(event: u32, words: [u64; 3]) -> Self {
        let mut bytes = [0; LEN];
        bytes[0] = event as u8;
        for (place, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Self(bytes)
    }

    /// A fault at `addr`, by thread `tid` if that is to be told.
    pub fn fault(fault: &WatchedFault, addr: u64, tid: u32) -> Self {
        let mut flags = 0;
        if fault.write {
            flags |= raw::UFFD_PAGEFAULT_FLAG_WRITE;
        }
        if fault.kind == WatchModes::WP {
            flags |= raw::UFFD_PAGEFAULT_FLAG_WP;
        }
        if fault.kind == WatchModes::MINOR {
            flags |= raw::UFFD_PAGEFAULT_FLAG_MINOR;
        }
        Self::new(raw::UFFD_EVENT_PAGEFAULT, [flags.into(), addr, tid.into()])
    }

    /// A fork; `fd` watches the child.
    pub fn fork(fd: u32) -> Self {
        Self::new(raw::UFFD_EVENT_FORK, [fd.into(), 0, 0])
    }

    /// Memory moved.
    pub fn remap(from: u64, to: u64, len: u64) -> Self {
        Self::new(raw::UFFD_EVENT_REMAP, [from, to, len])
    }

    /// Pages are about to be dropped.
    pub fn remove(range: &core::ops::Range<u64>) -> Self {
        Self::new(raw::UFFD_EVENT_REMOVE, [range.start, range.end, 0])
    }

    /// Memory was unmapped.
    pub fn unmap(range: &core::ops::Range<u64>) -> Self {
        Self::new(raw::UFFD_EVENT_UNMAP, [range.start, range.end, 0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_lies_where_the_header_says() {
        let fault = WatchedFault {
            addr: 0x1234,
            page_size: 4096,
            write: true,
            kind: WatchModes::WP,
            user_mode: true,
        };
        let Msg(bytes) = Msg::fault(&fault, 0x1000, 77);
        assert_eq!((bytes[0], bytes[8], &bytes[16..18]), (0x12, 3, &[0, 0x10][..]));
        assert_eq!(bytes[24..28], [77, 0, 0, 0]);
    }
}
