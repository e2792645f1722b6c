//! Reading: iterators over messages in a datagram, and over attributes in a body.

use crate::{ALIGN, ATTRIBUTE_LEN, HEADER_LEN, Header, TYPE_MASK};

/// A message in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// What is behind the header.
    pub body: &'a [u8],
}

/// The messages of a datagram, in order.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

/// The messages in `bytes`, until one is cut off or says that it is shorter than its header.
pub fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages { rest: bytes }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = Header::from_bytes(self.rest)?;
        let len = usize::try_from(header.len).ok()?;
        let body = self.rest.get(HEADER_LEN..len)?;
        // The padding of the last one may be missing.
        self.rest = len.checked_next_multiple_of(ALIGN).and_then(|at| self.rest.get(at..)).unwrap_or(&[]);
        Some(Message { header, body })
    }
}

/// An attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number, without marks.
    pub kind: u16,
    /// Its data.
    pub data: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        attributes(self.data)
    }

    /// Its data as a number of 32 bits; `None`: it has fewer.
    pub fn as_u32(&self) -> Option<u32> {
        self.data.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
    }

    /// Its data as a number of 16 bits; `None`: it has fewer.
    pub fn as_u16(&self) -> Option<u16> {
        self.data.first_chunk().map(|raw| u16::from_ne_bytes(*raw))
    }

    /// Its data up to the first NUL.
    pub fn as_str(&self) -> &'a [u8] {
        self.data.split(|&byte| byte == 0).next().unwrap_or(self.data)
    }
}

/// The attributes of a body, in order.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

/// The attributes in `bytes`, until one does not fit.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

impl<'a> Attributes<'a> {
    /// The last attribute with number `kind`, which is the one that counts on Linux.
    pub fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.clone().filter(|attribute| attribute.kind == kind).last()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let [a, b, c, d] = *self.rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let data = self.rest.get(ATTRIBUTE_LEN..len)?;
        self.rest = self.rest.get(len.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some(Attribute { kind: u16::from_ne_bytes([c, d]) & TYPE_MASK, data })
    }
}
