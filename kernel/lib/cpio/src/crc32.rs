//! CRC-32 as gzip uses it (RFC 1952, section 8), eight bytes a step.

const POLYNOMIAL: u32 = 0xedb8_8320;

/// `TABLE[k][b]`: the CRC of byte `b` followed by `k` zero bytes.
static TABLE: [[u32; 256]; 8] = build_table();

const fn build_table() -> [[u32; 256]; 8] {
    let mut table = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let prev = table[k - 1][byte];
            table[k][byte] = (prev >> 8) ^ table[0][(prev & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    table
}

/// A running CRC-32.
pub(crate) struct Crc32(u32);

impl Crc32 {
    pub(crate) fn new() -> Self {
        Self(!0)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            let value = u64::from_le_bytes(*word) ^ u64::from(crc);
            crc = 0;
            for (i, table) in TABLE.iter().rev().enumerate() {
                crc ^= table[(value >> (8 * i)) as usize & 0xff];
            }
        }
        for &byte in tail {
            crc = (crc >> 8) ^ TABLE[0][((crc ^ u32::from(byte)) & 0xff) as usize];
        }
        self.0 = crc;
    }

    pub(crate) fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_check_value_of_the_catalogue_for_any_split() {
        for split in 0..9 {
            let mut crc = Crc32::new();
            crc.update(&b"123456789"[..split]);
            crc.update(&b"123456789"[split..]);
            assert_eq!(crc.value(), 0xcbf4_3926);
        }
        let mut crc = Crc32::new();
        crc.update(b"The quick brown fox jumps over the lazy dog");
        assert_eq!(crc.value(), 0x414f_a339);
    }
}
