use super::*;

struct Image<'a> {
    bytes: &'a [u8],
    block: u32,
}

impl Source for Image<'_> {
    type Error = core::convert::Infallible;
    fn read(&mut self, pos: u64, buf: &mut [u8]) -> Result<(), Self::Error> {
        // A read beyond the end is a broken promise, and panics here.
        buf.copy_from_slice(&self.bytes[pos as usize..pos as usize + buf.len()]);
        Ok(())
    }
    fn block_size(&self) -> u32 {
        self.block
    }
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

fn parse(bytes: &[u8], block: u32) -> Option<Table> {
    let Ok(table) = read(&mut Image { bytes, block });
    if let Some(table) = &table {
        check(table, bytes.len() as u64 / 512);
    }
    table
}

/// The crate's promises.
fn check(table: &Table, sectors: u64) {
    assert!(table.entries.len() <= MAX_PARTITIONS);
    for (at, entry) in table.entries.iter().enumerate() {
        assert!(entry.index >= 1 && entry.start > 0 && entry.len > 0 && entry.start + entry.len <= sectors);
        assert!(table.entries[..at].iter().all(|other| other.index != entry.index));
    }
}

fn put_slot(bytes: &mut [u8], sector: usize, slot: usize, kind: u8, start: u32, len: u32) {
    let at = sector * 512 + 446 + slot * 16;
    bytes[at + 4] = kind;
    bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    bytes[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
    bytes[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
}

fn mbr_image() -> Vec<u8> {
    let mut bytes = vec![0; 3200 * 512];
    bytes[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
    put_slot(&mut bytes, 0, 0, 0x83, 64, 100);
    put_slot(&mut bytes, 0, 1, 0x05, 1000, 2000);
    put_slot(&mut bytes, 0, 3, 0x82, 200, 10);
    put_slot(&mut bytes, 1000, 0, 0x83, 10, 20);
    put_slot(&mut bytes, 1000, 1, 0x05, 500, 100);
    put_slot(&mut bytes, 1500, 0, 0x83, 1, 99);
    bytes
}

fn gpt_image(block: usize) -> Vec<u8> {
    let mut bytes = vec![0; 1024 * block];
    put_slot(&mut bytes, 0, 0, 0xee, 1, u32::MAX);
    let mut table = vec![0; 128 * 128];
    for (n, (first, last, name)) in [(40u64, 99u64, "root"), (100, 1000, "hömé")].into_iter().enumerate() {
        let entry = &mut table[n * 2 * 128..][..128];
        entry[..16].fill(7);
        entry[16..32].copy_from_slice(&[4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, n as u8]);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (at, unit) in name.encode_utf16().enumerate() {
            entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
        }
    }
    for (lba, entries_lba) in [(1u64, 2u64), (1023, 1023 - 32)] {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&lba.to_le_bytes());
        header[72..80].copy_from_slice(&entries_lba.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc::crc32(&table).to_le_bytes());
        let crc = crc::crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes[lba as usize * block..][..92].copy_from_slice(&header);
        bytes[entries_lba as usize * block..][..table.len()].copy_from_slice(&table);
    }
    bytes
}

fn ranges(table: &Table) -> Vec<(u32, u64, u64)> {
    table.entries.iter().map(|entry| (entry.index, entry.start, entry.len)).collect()
}

#[test]
fn an_mbr_has_primary_and_logical_partitions() {
    let table = parse(&mbr_image(), 512).unwrap();
    assert_eq!(table.kind, Kind::Mbr);
    let want = [(1, 64, 100), (2, 1000, 2), (4, 200, 10), (5, 1010, 20), (6, 1501, 99)];
    assert_eq!(ranges(&table), want);
    assert_eq!(table.entries[3].uuid, "1234abcd-05");
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let mut bytes = mbr_image();
    put_slot(&mut bytes, 1500, 1, 0x05, 0, 100);
    assert!(parse(&bytes, 512).unwrap().entries.len() <= MAX_PARTITIONS);
}

#[test]
fn a_gpt_names_its_partitions() {
    for block in [512, 4096] {
        let table = parse(&gpt_image(block), block as u32).unwrap();
        let per = block as u64 / 512;
        assert_eq!(table.kind, Kind::Gpt);
        assert_eq!(ranges(&table), [(1, 40 * per, 60 * per), (3, 100 * per, 901 * per)]);
        assert_eq!(table.entries[0].uuid, "01020304-0506-0708-090a-0b0c0d0e0f00");
        assert_eq!((table.entries[0].label.as_str(), table.entries[1].label.as_str()), ("root", "hömé"));
    }
}

#[test]
fn the_second_gpt_stands_in_for_a_broken_first() {
    let good = parse(&gpt_image(512), 512);
    for at in [512, 512 + 20, 2 * 512 + 33] {
        let mut bytes = gpt_image(512);
        bytes[at] ^= 1;
        assert_eq!(parse(&bytes, 512), good, "byte {at}");
    }
}

#[test]
fn what_is_no_table_is_none() {
    assert_eq!(parse(&[0; 100 * 512], 512), None);
    assert_eq!(parse(&[0; 512], 512), None);
    let mut boot_sector = [0xeb; 100 * 512];
    boot_sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(parse(&boot_sector, 512), None);
}

#[test]
fn mutated_tables_keep_the_promises() {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    for base in [mbr_image(), gpt_image(512)] {
        for _ in 0..500 {
            let mut bytes = base.clone();
            for _ in 0..1 + next() % 8 {
                // Mostly where tables are.
                let at = [next() % 512, 512 + next() % 2048, 1000 * 512 + next() % 512][next() % 3];
                bytes[at % base.len()] = next() as u8;
            }
            // Checksums that fit, so that the fields behind them are looked at.
            if bytes[512..520] == *b"EFI PART" {
                let table = crc::crc32(&bytes[1024..1024 + 128 * 128]);
                bytes[512 + 88..512 + 92].copy_from_slice(&table.to_le_bytes());
                bytes[512 + 16..512 + 20].fill(0);
                let crc = crc::crc32(&bytes[512..512 + 92]);
                bytes[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
            }
            parse(&bytes, 512);
        }
    }
}
