//! Protection keys: rights over user pages that a thread changes itself, without a system call.
//!
//! Each user page carries a key ([`PteFlags::PKEY`](crate::paging::PteFlags)), each thread a word of rights, two bits a
//! key. They concern reads and writes of user code and user copies alike; what they refuse is a page fault with
//! [`Access::by_key`](crate::trap::Access).

use crate::arch;

/// Number of keys; the first is that of pages without a key of their own.
pub const NR_KEYS: u8 = 16;
/// In the bits of a key: no access to data.
pub const NO_ACCESS: u32 = 1;
/// In the bits of a key: no writes.
pub const NO_WRITE: u32 = 2;
/// The rights of a new program: no access by any key but the first (Linux: `init_pkru_value`).
pub const INITIAL: u32 = 0x5555_5554;

/// Does this machine have protection keys?
#[inline]
pub fn is_supported() -> bool {
    arch::pku::is_supported()
}

/// The rights of the current thread; 0 (everything) without protection keys.
#[inline]
pub fn rights() -> u32 {
    arch::pku::rights()
}

/// Sets the rights of the current thread; nothing happens without protection keys.
#[inline]
pub fn set_rights(rights: u32) {
    arch::pku::set_rights(rights);
}

/// `rights` with the two bits of `key` replaced by `bits`.
pub fn with_key(rights: u32, key: u8, bits: u32) -> u32 {
    let shift = u32::from(key % NR_KEYS) * 2;
    rights & !(3 << shift) | (bits & 3) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_owns_two_bits() {
        assert_eq!(with_key(INITIAL, 1, 0), 0x5555_5550);
        assert_eq!(with_key(0, 15, NO_ACCESS | NO_WRITE), 0xc000_0000);
        assert_eq!(with_key(u32::MAX, 0, NO_WRITE), 0xffff_fffe);
    }
}
