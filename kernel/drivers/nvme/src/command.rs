//! Commands and their status, as bytes (NVM Express Base Specification 2.0, ch. 3.3.3).

use abi::{Errno, Result};

/// Bytes of a command.
pub(crate) const COMMAND_BYTES: usize = 64;
/// Bytes of a completion.
pub(crate) const COMPLETION_BYTES: usize = 16;

/// Commands of the admin queue.
pub(crate) mod admin {
    pub(crate) const DELETE_SUBMISSION: u8 = 0x00;
    pub(crate) const CREATE_SUBMISSION: u8 = 0x01;
    pub(crate) const DELETE_COMPLETION: u8 = 0x04;
    pub(crate) const CREATE_COMPLETION: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const SET_FEATURES: u8 = 0x09;
    /// The feature "number of queues".
    pub(crate) const NUMBER_OF_QUEUES: u32 = 0x07;
}

/// Commands on a namespace.
pub(crate) mod io {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const WRITE_ZEROES: u8 = 0x08;
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;
    /// In double word 12 of a write: on the medium before it ends.
    pub(crate) const FORCE_UNIT_ACCESS: u32 = 1 << 30;
    /// In double word 12 of a zeroing: may deallocate.
    pub(crate) const DEALLOCATE: u32 = 1 << 25;
    /// In double word 11 of dataset management: deallocate.
    pub(crate) const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
}

/// A command without its identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Command([u32; COMMAND_BYTES / 4]);

impl Command {
    /// The command `opcode` on namespace `nsid` (0: on none).
    pub(crate) fn new(opcode: u8, nsid: u32) -> Self {
        let mut words = [0; 16];
        words[0] = opcode.into();
        words[1] = nsid;
        Self(words)
    }

    /// With the memory that `first` and `second` name (PRP entries).
    pub(crate) fn with_data(mut self, first: u64, second: u64) -> Self {
        for (at, entry) in [(6, first), (8, second)] {
            self.0[at] = entry as u32;
            self.0[at + 1] = (entry >> 32) as u32;
        }
        self
    }

    /// With `value` in the command's own double word `N` (10 to 15).
    pub(crate) fn with<const N: usize>(mut self, value: u32) -> Self {
        const { assert!(N >= 10 && N < 16) }
        self.0[N] = value;
        self
    }

    /// With a start block and a number of blocks (1 to 65,536), and `flags` above the number.
    pub(crate) fn with_blocks(self, start: u64, count: u32, flags: u32) -> Self {
        let count = count.clamp(1, 1 << 16) - 1;
        self.with::<10>(start as u32).with::<11>((start >> 32) as u32).with::<12>(count | flags)
    }

    /// Its bytes with identifier `id`.
    pub(crate) fn bytes(&self, id: u16) -> [u8; COMMAND_BYTES] {
        let mut bytes = [0; COMMAND_BYTES];
        for (word, out) in self.0.iter().zip(bytes.chunks_exact_mut(4)) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        bytes[2..4].copy_from_slice(&id.to_le_bytes());
        bytes
    }
}

/// How a command ended: status code, its type, and whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

/// Status code type 0: generic; the codes that mean "no such command" and "no such field".
const INVALID_OPCODE: u16 = 0x001;
const DO_NOT_RETRY: u16 = 1 << 14;

impl Status {
    pub(crate) fn is_ok(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether the same command may do better another time.
    pub(crate) fn is_worth_retrying(self) -> bool {
        !self.is_ok() && self.0 & DO_NOT_RETRY == 0
    }

    /// `EOPNOTSUPP`: the controller does not know the command. `EIO`: anything else that went wrong.
    pub(crate) fn result(self) -> Result<()> {
        match self.0 & 0x7ff {
            0 => Ok(()),
            INVALID_OPCODE => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EIO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_laid_out_as_the_specification_says() {
        let command = Command::new(io::WRITE, 7).with_data(0x1122_3344_5566_7788, 9).with_blocks(
            0x1_0000_0002,
            3,
            io::FORCE_UNIT_ACCESS,
        );
        let bytes = command.bytes(0xabcd);
        assert_eq!(bytes[..8], [1, 0, 0xcd, 0xab, 7, 0, 0, 0]);
        assert_eq!(bytes[24..40], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[40..52], [2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0x40]);
    }

    #[test]
    fn statuses_are_told_apart() {
        assert_eq!((Status(0).result(), Status(0).is_worth_retrying()), (Ok(()), false));
        assert_eq!(Status(0x4001).result(), Err(Errno::EOPNOTSUPP));
        assert_eq!((Status(0x281).result(), Status(0x281).is_worth_retrying()), (Err(Errno::EIO), true));
        assert!(!Status(0x4281).is_worth_retrying());
    }
}
