//! Where archive bytes come from.
//!
//! The two traits are separate because decoders need only [`Input`], as a trait object, while pages change hands
//! only at the uncompressed top.

use crate::Error;

/// Bytes in order, a chunk at a time.
pub trait Input {
    /// The bytes at the current position, at least one; empty at the end.
    ///
    /// The same bytes come again until [`Input::consume`] moves on.
    fn fill(&mut self) -> Result<&[u8], Error>;

    /// Moves on by `len` bytes, at most what the last `fill` showed.
    fn consume(&mut self, len: usize);
}

/// An [`Input`] that can part with whole pages.
pub trait PageInput: Input {
    /// A page of 4096 bytes that the receiver then owns.
    type Page;

    /// Gives away the page at the current position and moves past it.
    ///
    /// `None` when the position is not at the start of a page or the page cannot be given away.
    fn take_page(&mut self) -> Option<Self::Page>;
}

impl<T: Input + ?Sized> Input for &mut T {
    fn fill(&mut self) -> Result<&[u8], Error> {
        (**self).fill()
    }

    fn consume(&mut self, len: usize) {
        (**self).consume(len);
    }
}

impl<T: PageInput> PageInput for &mut T {
    type Page = T::Page;

    fn take_page(&mut self) -> Option<T::Page> {
        (**self).take_page()
    }
}

/// An input over bytes in memory, cut into chunks.
pub struct SliceInput<'a> {
    rest: &'a [u8],
    chunk: usize,
}

impl<'a> SliceInput<'a> {
    /// An input that shows `bytes` in pieces of at most `chunk` (at least 1) bytes.
    pub fn new(bytes: &'a [u8], chunk: usize) -> Self {
        Self { rest: bytes, chunk: chunk.max(1) }
    }
}

impl Input for SliceInput<'_> {
    fn fill(&mut self) -> Result<&[u8], Error> {
        Ok(&self.rest[..self.rest.len().min(self.chunk)])
    }

    fn consume(&mut self, len: usize) {
        self.rest = self.rest.get(len..).unwrap_or(&[]);
    }
}

impl PageInput for SliceInput<'_> {
    type Page = core::convert::Infallible;

    fn take_page(&mut self) -> Option<Self::Page> {
        None
    }
}
