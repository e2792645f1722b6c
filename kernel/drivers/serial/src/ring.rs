//! A ring of bytes with a fixed size, for output that waits for the line.

/// Bytes that a port can hold for output.
pub const SIZE: usize = 4096;

/// A first-in, first-out queue of at most [`SIZE`] bytes.
pub struct Ring {
    bytes: [u8; SIZE],
    head: usize,
    len: usize,
}

impl Ring {
    /// An empty ring.
    pub const fn new() -> Self {
        Self { bytes: [0; SIZE], head: 0, len: 0 }
    }

    /// Appends as much of `from` as fits and returns how much that was.
    pub fn push(&mut self, from: &[u8]) -> usize {
        let count = from.len().min(SIZE - self.len);
        for (offset, &byte) in from[..count].iter().enumerate() {
            self.bytes[(self.head + self.len + offset) % SIZE] = byte;
        }
        self.len += count;
        count
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes[self.head];
        self.head = (self.head + 1) % SIZE;
        self.len -= 1;
        Some(byte)
    }

    /// How many bytes wait.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// How many more bytes fit.
    pub const fn room(&self) -> usize {
        SIZE - self.len
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_around_the_end() {
        let mut ring = Ring::new();
        let mut next_in = 0u8;
        let mut next_out = 0u8;
        for round in 0..1000 {
            let chunk: Vec<u8> = (0..round % 97)
                .map(|_| {
                    next_in = next_in.wrapping_add(1);
                    next_in
                })
                .collect();
            assert_eq!(ring.push(&chunk), chunk.len());
            for _ in 0..chunk.len() {
                next_out = next_out.wrapping_add(1);
                assert_eq!(ring.pop(), Some(next_out));
            }
        }
        assert_eq!(ring.pop(), None);
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let mut ring = Ring::new();
        assert_eq!(ring.push(&[7; SIZE + 5]), SIZE);
        assert_eq!((ring.push(&[1]), ring.room(), ring.len()), (0, 0, SIZE));
    }
}
