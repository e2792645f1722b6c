//! The layout of a split virtqueue in memory (VIRTIO 1.2, ch. 2.7).
//!
//! ```text
//!   descriptors  size × 16   addr u64, len u32, flags u16, next u16
//!   available                flags u16, idx u16, ring size × u16, used_event u16
//!   used         (aligned 4) flags u16, idx u16, ring size × (id u32, len u32), avail_event u16
//! ```

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;
/// The descriptor goes on at `next`.
pub const NEXT: u16 = 1;
/// The device writes it.
pub const WRITE: u16 = 2;
/// It names a table.
pub const INDIRECT: u16 = 4;
/// In `used.flags`: no need to tell the device.
pub const NO_NOTIFY: u16 = 1;
/// In `available.flags`: no need to interrupt.
pub const NO_INTERRUPT: u16 = 1;

/// Where things are in the memory of a queue with `size` descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    size: usize,
}

impl Layout {
    /// The layout for `size` descriptors, a power of two.
    pub const fn new(size: u16) -> Layout {
        Layout { size: size as usize }
    }

    /// The available ring.
    pub const fn available(self) -> usize {
        self.size * DESCRIPTOR
    }

    /// Entry `at` of the available ring.
    pub const fn available_entry(self, at: u16) -> usize {
        self.available() + 4 + 2 * (at as usize % self.size)
    }

    /// From which used entry on the driver wants an interrupt.
    pub const fn used_event(self) -> usize {
        self.available() + 4 + 2 * self.size
    }

    /// The used ring.
    pub const fn used(self) -> usize {
        (self.used_event() + 2).next_multiple_of(4)
    }

    /// Entry `at` of the used ring.
    pub const fn used_entry(self, at: u16) -> usize {
        self.used() + 4 + 8 * (at as usize % self.size)
    }

    /// From which available entry on the device wants to be told.
    pub const fn avail_event(self) -> usize {
        self.used() + 4 + 8 * self.size
    }

    /// All bytes.
    pub const fn len(self) -> usize {
        self.avail_event() + 2
    }
}

/// Did the index pass `event` on its way from `old` to `new`?
pub const fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_follow_each_other_aligned() {
        let layout = Layout::new(256);
        assert_eq!(layout.available(), 4096);
        assert_eq!(layout.used(), 4096 + 4 + 512 + 2 + 2);
        assert_eq!(layout.len(), layout.used() + 4 + 2048 + 2);
        assert_eq!(layout.used_entry(256), layout.used_entry(0));
        for shift in 0..16 {
            let layout = Layout::new(1 << shift);
            assert!(layout.used().is_multiple_of(4) && layout.available().is_multiple_of(2));
        }
    }

    #[test]
    fn an_event_is_passed_once() {
        assert!(passed(5, 6, 5) && !passed(5, 5, 4) && !passed(5, 7, 6));
        assert!(passed(u16::MAX, 0, u16::MAX) && passed(u16::MAX, 3, 65_000));
        assert!(!passed(4, 4, 4));
    }
}
