//! The two checksums of ext4: CRC-32C (metadata_csum, the journal) and CRC-16 (the older gdt_csum).
//!
//! Both are used raw, without the inversions at the start and the end.

/// Castagnoli's polynomial, reflected.
const POLY32: u32 = 0x82f6_3b78;
/// The polynomial of CRC-16/ARC, reflected.
const POLY16: u16 = 0xa001;

/// `TABLES[k][b]`: what byte `b` does to the CRC `k` bytes later.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ POLY32 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// Continues the CRC-32C `crc` over `bytes`.
pub fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let low = crc ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let a = low.to_le_bytes();
        crc = TABLES[7][a[0] as usize]
            ^ TABLES[6][a[1] as usize]
            ^ TABLES[5][a[2] as usize]
            ^ TABLES[4][a[3] as usize]
            ^ TABLES[3][word[4] as usize]
            ^ TABLES[2][word[5] as usize]
            ^ TABLES[1][word[6] as usize]
            ^ TABLES[0][word[7] as usize];
    }
    for &byte in rest {
        crc = crc >> 8 ^ TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize];
    }
    crc
}

/// Continues the CRC-16 `crc` over `bytes`.
pub(crate) fn crc16(mut crc: u16, bytes: &[u8]) -> u16 {
    for &byte in bytes {
        crc ^= u16::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ POLY16 } else { crc >> 1 };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 3720, B.4, with its inversions.
    #[test]
    fn crc32c_of_the_standard_examples() {
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn crc16_of_the_standard_example() {
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
