//! The structures of loop ioctls (include/uapi/linux/loop.h).

use abi::{Errno, Result};

/// Bytes of `struct loop_info64`.
pub const INFO_LEN: usize = 232;
/// Bytes of `struct loop_config`: fd u32, block size u32, info, 8 × u64 reserved.
pub const CONFIG_LEN: usize = 8 + INFO_LEN + 64;
/// Bytes of a name in it.
const NAME_LEN: usize = 64;

/// `lo_flags`.
pub const READ_ONLY: u32 = 1;
/// The device forgets its file at its last close.
pub const AUTOCLEAR: u32 = 4;
/// Partitions are looked for.
pub const PARTSCAN: u32 = 8;

// Offsets in `struct loop_info64`.
const DEVICE: usize = 0;
const INODE: usize = 8;
const RDEVICE: usize = 16;
const OFFSET: usize = 24;
const SIZE_LIMIT: usize = 32;
const NUMBER: usize = 40;
const ENCRYPT_TYPE: usize = 44;
const ENCRYPT_KEY_SIZE: usize = 48;
const FLAGS: usize = 52;
const FILE_NAME: usize = 56;

/// The part of `struct loop_info64` that is set, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where in the file the device begins, in bytes.
    pub offset: u64,
    /// How long it is at most; 0 for no limit.
    pub size_limit: u64,
    /// See the constants.
    pub flags: u32,
    /// A name for people.
    pub name: [u8; NAME_LEN],
}

impl Default for Settings {
    fn default() -> Self {
        Settings { offset: 0, size_limit: 0, flags: 0, name: [0; NAME_LEN] }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Settings {
    /// Reads the structure. `EINVAL`: encryption, or a place that no file has. `EOVERFLOW`: beyond what files can be.
    pub fn parse(info: &[u8; INFO_LEN]) -> Result<Settings> {
        if u32_at(info, ENCRYPT_TYPE) != 0 || u32_at(info, ENCRYPT_KEY_SIZE) != 0 {
            return Err(Errno::EINVAL);
        }
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(&info[FILE_NAME..FILE_NAME + NAME_LEN]);
        name[NAME_LEN - 1] = 0;
        let settings = Settings {
            offset: u64_at(info, OFFSET),
            size_limit: u64_at(info, SIZE_LIMIT),
            flags: u32_at(info, FLAGS),
            name,
        };
        let is_large = |value: u64| i64::try_from(value).is_err();
        if is_large(settings.offset) || is_large(settings.size_limit) {
            return Err(Errno::EOVERFLOW);
        }
        Ok(settings)
    }

    /// Makes the structure for a device `number` on the file (device, inode).
    pub fn to_bytes(&self, number: u32, file: (u64, u64)) -> [u8; INFO_LEN] {
        let mut info = [0; INFO_LEN];
        let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
        put(DEVICE, &file.0.to_le_bytes());
        put(INODE, &file.1.to_le_bytes());
        put(RDEVICE, &0u64.to_le_bytes());
        put(OFFSET, &self.offset.to_le_bytes());
        put(SIZE_LIMIT, &self.size_limit.to_le_bytes());
        put(NUMBER, &number.to_le_bytes());
        put(FLAGS, &self.flags.to_le_bytes());
        put(FILE_NAME, &self.name);
        info
    }

    /// Sectors of the device on a file of `size` bytes.
    pub fn sectors(&self, size: u64) -> u64 {
        let len = size.saturating_sub(self.offset);
        let len = if self.size_limit > 0 { len.min(self.size_limit) } else { len };
        len >> block::SECTOR_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_structure() {
        let mut name = [0; NAME_LEN];
        name[..4].copy_from_slice(b"/img");
        let settings = Settings { offset: 4096, size_limit: 1 << 20, flags: AUTOCLEAR, name };
        assert_eq!(Settings::parse(&settings.to_bytes(3, (1, 2))), Ok(settings));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut info = Settings::default().to_bytes(0, (0, 0));
        info[ENCRYPT_TYPE] = 1;
        assert_eq!(Settings::parse(&info), Err(Errno::EINVAL));
        let large = Settings { offset: u64::MAX, ..Settings::default() };
        assert_eq!(Settings::parse(&large.to_bytes(0, (0, 0))), Err(Errno::EOVERFLOW));
    }

    #[test]
    fn the_size_is_what_the_file_has_behind_the_offset() {
        let settings = Settings { offset: 1000, size_limit: 0, ..Settings::default() };
        assert_eq!((settings.sectors(10_000), settings.sectors(999)), (17, 0));
        assert_eq!(Settings { size_limit: 1024, ..settings }.sectors(10_000), 2);
    }
}
