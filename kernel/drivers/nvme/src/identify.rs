//! What controllers and namespaces say of themselves (NVM Express Base Specification 2.0, ch. 5.17; NVM Command Set
//! Specification 1.0, ch. 4.1.5). Nothing of it is trusted.

use alloc::string::String;

/// Bytes of an answer to "identify".
pub(crate) const LEN: usize = 4096;

/// Which answer is asked for (CNS).
pub(crate) const NAMESPACE: u32 = 0;
/// See [`NAMESPACE`].
pub(crate) const CONTROLLER: u32 = 1;
/// See [`NAMESPACE`].
pub(crate) const ACTIVE_NAMESPACES: u32 = 2;

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Controller {
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) firmware: String,
    /// The most pages of one command.
    pub(crate) max_pages: u32,
    pub(crate) has_discard: bool,
    pub(crate) has_write_zeroes: bool,
    pub(crate) has_volatile_cache: bool,
}

/// A namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) nr_blocks: u64,
    pub(crate) block_size: u32,
}

fn text(bytes: &[u8]) -> String {
    let clean = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' };
    let text: String = bytes.iter().take_while(|byte| **byte != 0).map(clean).collect();
    String::from(text.trim())
}

impl Controller {
    /// The answer for [`CONTROLLER`].
    pub(crate) fn parse(bytes: &[u8; LEN]) -> Self {
        let max_transfer = bytes[77];
        let supported = u16::from_le_bytes([bytes[520], bytes[521]]);
        Self {
            serial: text(&bytes[4..24]),
            model: text(&bytes[24..64]),
            firmware: text(&bytes[64..72]),
            max_pages: if max_transfer == 0 { 512 } else { 1 << max_transfer.min(9) },
            has_discard: supported & 1 << 2 != 0,
            has_write_zeroes: supported & 1 << 3 != 0,
            has_volatile_cache: bytes[525] & 1 != 0,
        }
    }
}

impl Namespace {
    /// The answer for [`NAMESPACE`]. `None`: blocks that cannot be used here, or none.
    pub(crate) fn parse(bytes: &[u8; LEN]) -> Option<Self> {
        let nr_blocks = u64::from_le_bytes(bytes[..8].try_into().ok()?);
        let format = usize::from(bytes[26] & 15 | bytes[26] >> 1 & 0x30);
        let entry = bytes.get(128 + 4 * format..)?.first_chunk::<4>()?;
        let metadata = u16::from_le_bytes([entry[0], entry[1]]);
        let shift = u32::from(entry[2]);
        if !(9..=12).contains(&shift)
            || metadata != 0
            || nr_blocks == 0
            || nr_blocks > u64::MAX >> (shift + 1)
        {
            return None;
        }
        Some(Self { nr_blocks, block_size: 1 << shift })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_says_what_it_is() {
        let mut bytes = [0; LEN];
        bytes[4..24].copy_from_slice(b"S123                ");
        bytes[24..64].copy_from_slice(b"Model \x01                                 ");
        bytes[77] = 7;
        bytes[520] = 0b1100;
        bytes[525] = 1;
        let controller = Controller::parse(&bytes);
        assert_eq!((controller.serial.as_str(), controller.model.as_str()), ("S123", "Model ?"));
        assert_eq!(controller.max_pages, 128);
        assert!(controller.has_discard && controller.has_write_zeroes && controller.has_volatile_cache);
    }

    #[test]
    fn namespaces_with_strange_blocks_are_refused() {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&100_u64.to_le_bytes());
        bytes[26] = 1;
        bytes[132..136].copy_from_slice(&[0, 0, 12, 0]);
        assert_eq!(Namespace::parse(&bytes), Some(Namespace { nr_blocks: 100, block_size: 4096 }));
        for (at, value) in [(134, 13), (134, 8), (132, 8), (26, 2), (7, 0xff)] {
            let mut other = bytes;
            other[at] = value;
            assert_eq!(Namespace::parse(&other), None, "{at} {value}");
        }
        bytes[..8].fill(0);
        assert_eq!(Namespace::parse(&bytes), None);
    }
}
