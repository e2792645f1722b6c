//! Writing: one message, part after part.

use alloc::vec::Vec;

use crate::{ALIGN, ATTRIBUTE_LEN, HEADER_LEN, Header, NESTED};

/// Most bytes of an attribute's data.
pub const MAX_ATTRIBUTE: usize = u16::MAX as usize - ATTRIBUTE_LEN;

/// A message being written.
#[derive(Clone, Debug)]
pub struct Builder {
    header: Header,
    bytes: Vec<u8>,
}

impl Builder {
    /// One with `header`, whose length does not matter.
    pub fn new(header: Header) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&header.to_bytes());
        Self { header, bytes }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// Makes room for `more` bytes. `false`: there is no memory.
    #[must_use]
    pub fn try_reserve(&mut self, more: usize) -> bool {
        self.bytes.try_reserve(more).is_ok()
    }

    /// Appends a part of the fixed structure.
    pub fn put(&mut self, part: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(part);
        self
    }

    /// Appends an attribute; one with more than [`MAX_ATTRIBUTE`] bytes has no place in a message and is left out.
    pub fn attribute(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let Ok(len) = u16::try_from(data.len() + ATTRIBUTE_LEN) else { return self };
        self.pad();
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.pad();
        self
    }

    /// An attribute of 8 bits.
    pub fn byte(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attribute(kind, &[value])
    }

    /// An attribute of 16 bits.
    pub fn half(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute of 32 bits.
    pub fn word(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute of a text, which gets its NUL.
    pub fn text(&mut self, kind: u16, text: &[u8]) -> &mut Self {
        let mut data = Vec::with_capacity(text.len() + 1);
        data.extend_from_slice(text);
        data.push(0);
        self.attribute(kind, &data)
    }

    /// An attribute with those inside that `fill` appends. One that grows too large is left out.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.pad();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        self.pad();
        match u16::try_from(self.bytes.len() - start) {
            Ok(len) => {
                if let Some(field) = self.bytes.get_mut(start..start + 2) {
                    field.copy_from_slice(&len.to_ne_bytes());
                }
            }
            Err(_) => self.bytes.truncate(start),
        }
        self
    }

    /// The message, with its length and without padding behind it.
    pub fn finish(&mut self) -> Vec<u8> {
        let len = self.bytes.len();
        let header = Header { len: u32::try_from(len).unwrap_or(u32::MAX), ..self.header };
        if let Some(head) = self.bytes.first_chunk_mut::<HEADER_LEN>() {
            *head = header.to_bytes();
        }
        core::mem::take(&mut self.bytes)
    }
}
