//! What programs for packets read (socket(7); the numbers are those of linux/filter.h).

use core::cell::Cell;

use crate::run::Source;

/// Where offsets begin that mean no bytes of the packet (`SKF_AD_OFF`).
pub(crate) const ANCILLARY: u32 = -0x1000_i32 as u32;
/// Where offsets from its network header begin (`SKF_NET_OFF`).
const NETWORK: u32 = -0x10_0000_i32 as u32;
/// Where offsets from its link header begin (`SKF_LL_OFF`).
const LINK: u32 = -0x20_0000_i32 as u32;

/// How many bytes a load takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Four.
    Word,
    /// Two.
    Half,
    /// One.
    Byte,
}

macro_rules! ancillary {
    ($($(#[$doc:meta])* $name:ident = $number:expr,)*) => {
        /// What is known about a packet besides its bytes (`SKF_AD_*`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Ancillary {
            $($(#[$doc])* $name,)*
        }

        impl Ancillary {
            /// That at offset `number`.
            pub(crate) fn at(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

ancillary! {
    /// Its protocol (`ETH_P_*`).
    Protocol = 0,
    /// Where it goes (`PACKET_*`).
    PacketType = 4,
    /// Number of its interface.
    Interface = 8,
    /// An attribute of netlink: type in `X`, from offset `A` on.
    Attribute = 12,
    /// The same inside of an attribute.
    NestedAttribute = 16,
    /// Its mark.
    Mark = 20,
    /// The queue that it came by.
    Queue = 24,
    /// Kind of its interface (`ARPHRD_*`).
    HardwareType = 28,
    /// A number that the packets of a flow have in common.
    Hash = 32,
    /// The running CPU.
    Cpu = 36,
    /// `A` xor `X`.
    Xor = 40,
    /// The tag of its virtual network.
    VlanTag = 44,
    /// Whether there is such a tag.
    HasVlanTag = 48,
    /// Where the data of the innermost known header begins.
    Payload = 52,
    /// A random number.
    Random = 56,
    /// Protocol of the tag.
    VlanProtocol = 60,
}

/// A packet as programs see it.
pub trait Packet {
    /// Its bytes, from where the reader's view of it begins.
    fn bytes(&self) -> &[u8];

    /// Its bytes from the network header on.
    fn network(&self) -> &[u8];

    /// Its bytes from the link header on.
    fn link(&self) -> &[u8];

    /// What is known besides; not asked for [`Ancillary::Xor`] and the attributes.
    fn ancillary(&self, which: Ancillary) -> u32;
}

/// The number of `size` bytes at `at`, in network order.
fn number(bytes: &[u8], size: Size, at: u32) -> Option<u32> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    match size {
        Size::Word => rest.first_chunk().map(|raw| u32::from_be_bytes(*raw)),
        Size::Half => rest.first_chunk().map(|raw| u16::from_be_bytes(*raw).into()),
        Size::Byte => rest.first().map(|&byte| byte.into()),
    }
}

/// Attributes that one run of a program may look at.
///
/// LINUX: there is no such limit, and a program that has 4096 times looked for the last one of 16384 has taken a while.
const MAX_ATTRIBUTES: u32 = 1 << 16;

/// The attribute of netlink of type `kind` among those from `at` to `end`: where it begins. `None` too when `left`, which
/// counts down, are not enough.
fn find_attribute(bytes: &[u8], mut at: usize, end: usize, kind: u16, left: &Cell<u32>) -> Option<usize> {
    const HEADER: usize = 4;
    let bytes = bytes.get(..end)?;
    loop {
        left.set(left.get().checked_sub(1)?);
        let head: [u8; HEADER] = *bytes.get(at..)?.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if len < HEADER || len > bytes.len() - at {
            return None;
        }
        // Two bits of the type are flags.
        if u16::from_ne_bytes([head[2], head[3]]) & 0x3fff == kind {
            return Some(at);
        }
        at += len.next_multiple_of(4);
    }
}

/// What one run of a program reads.
pub(crate) struct Reader<'a, P> {
    packet: &'a P,
    /// How many attributes it may still look at.
    left: Cell<u32>,
}

impl<'a, P: Packet> Reader<'a, P> {
    pub(crate) fn new(packet: &'a P) -> Self {
        Self { packet, left: Cell::new(MAX_ATTRIBUTES) }
    }

    fn attribute(&self, which: Ancillary, a: u32, x: u32) -> Option<usize> {
        let bytes = self.packet.bytes();
        let (at, kind) = (usize::try_from(a).ok()?, u16::try_from(x).ok()?);
        if which == Ancillary::Attribute {
            return find_attribute(bytes, at, bytes.len(), kind, &self.left);
        }
        let len = usize::from(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        find_attribute(bytes, at.checked_add(4)?, at.checked_add(len)?, kind, &self.left)
    }
}

impl<P: Packet> Source for Reader<'_, P> {
    fn load(&self, size: Size, offset: u32) -> Option<u32> {
        match offset {
            NETWORK.. => number(self.packet.network(), size, offset - NETWORK),
            LINK.. => number(self.packet.link(), size, offset - LINK),
            _ => number(self.packet.bytes(), size, offset),
        }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.packet.bytes().len()).unwrap_or(u32::MAX)
    }

    fn ancillary(&self, which: Ancillary, a: u32, x: u32) -> Option<u32> {
        Some(match which {
            Ancillary::Xor => a ^ x,
            Ancillary::Attribute | Ancillary::NestedAttribute => {
                self.attribute(which, a, x).and_then(|at| u32::try_from(at).ok()).unwrap_or(0)
            }
            other => self.packet.ancillary(other),
        })
    }
}
