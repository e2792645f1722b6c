//! A segment as the mappings that carry it.
//!
//! ```text
//! segment        ....|vaddr======file_len~~~~~~~~~~~~~~mem_len|
//! pages        |--------|--------|--------|--------|--------|
//! file piece   |#################|                               mapped from the file, page by page
//! zeroed part                 |##|                               the end of its last page, if writable
//! anonymous                       |##########################|   no file behind it
//! ```

use core::ops::Range;

use crate::Segment;
use crate::image::{PAGE, page_up};

/// The mappings of one segment, before the load bias. Ranges are page-aligned except `zero`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Pages that come from the file; empty when the segment has no file part.
    pub file: Range<u64>,
    /// Offset in the file of the first of these pages.
    pub file_offset: u64,
    /// Bytes after the file part that must read as zero within the last file page.
    pub zero: Range<u64>,
    /// Pages with nothing behind them.
    pub anonymous: Range<u64>,
}

/// Splits `segment`.
pub fn pieces(segment: &Segment) -> Piece {
    let start = segment.vaddr & !(PAGE - 1);
    let file_end = segment.vaddr + segment.file_len;
    let mem_end = page_up(segment.vaddr + segment.mem_len);
    let file_pages_end = if segment.file_len == 0 { start } else { page_up(file_end) };
    let zero_end = if segment.mem_len > segment.file_len { file_pages_end.max(file_end) } else { file_end };
    Piece {
        file: start..file_pages_end,
        file_offset: segment.offset - (segment.vaddr - start),
        zero: if segment.file_len == 0 { start..start } else { file_end..zero_end },
        anonymous: file_pages_end..mem_end.max(file_pages_end),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Header, Image, Kind, Segment, StackFlags, pieces};
    use abi::Errno;

    const LIMIT: u64 = 0x7fff_ffff_f000;

    fn header(kind: u16, phnum: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(62_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(0x401_000_u64.to_le_bytes());
        bytes.extend(64_u64.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(64_u16.to_le_bytes());
        bytes.extend(56_u16.to_le_bytes());
        bytes.extend(phnum.to_le_bytes());
        bytes.extend([0; 6]);
        bytes
    }

    /// type, flags, offset, vaddr, file length, memory length, alignment
    fn phdr(kind: u32, flags: u32, rest: [u64; 5]) -> Vec<u8> {
        let [offset, vaddr, file_len, mem_len, align] = rest;
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [offset, vaddr, vaddr, file_len, mem_len, align] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    fn parse(phdrs: &[Vec<u8>]) -> abi::Result<Image> {
        let header = Header::parse(&header(2, phdrs.len() as u16))?;
        Image::parse(&header, &phdrs.concat(), LIMIT)
    }

    #[test]
    fn a_plain_static_program_becomes_two_segments() {
        let image = parse(&[
            phdr(1, 5, [0, 0x400_000, 0x1234, 0x1234, 0x1000]),
            phdr(1, 6, [0x1e00, 0x402_e00, 0x210, 0x5000, 0x20_0000]),
            phdr(0x6474_e551, 6, [0; 5]),
        ])
        .unwrap();
        assert_eq!((image.kind, image.stack, image.align), (Kind::Fixed, StackFlags::NoExec, 0x20_0000));
        assert_eq!(image.span(), 0x400_000..0x408_000);
        assert_eq!(image.phdr_vaddr, 0x400_040);
        let data = pieces(&image.segments[1]);
        assert_eq!((data.file, data.file_offset), (0x402_000..0x404_000, 0x1000));
        assert_eq!((data.zero, data.anonymous), (0x403_010..0x404_000, 0x404_000..0x408_000));
    }

    #[test]
    fn a_segment_without_file_part_is_all_anonymous() {
        let segment = Segment {
            vaddr: 0x5010,
            mem_len: 0x2000,
            offset: 0x10,
            file_len: 0,
            read: true,
            write: true,
            exec: false,
        };
        let piece = pieces(&segment);
        assert!(piece.file.is_empty() && piece.zero.is_empty());
        assert_eq!(piece.anonymous, 0x5000..0x8000);
    }

    #[test]
    fn foreign_and_broken_headers_are_no_programs() {
        let good = header(3, 1);
        assert!(Header::parse(&good).is_ok());
        for (offset, value) in [(0, 0), (18, 3), (16, 1), (16, 4), (54, 57), (56, 0), (39, 0xff)] {
            let mut bad = good.clone();
            bad[offset] = value;
            assert_eq!(Header::parse(&bad), Err(Errno::ENOEXEC), "byte {offset}");
        }
        assert_eq!(Header::parse(&good[..63]), Err(Errno::ENOEXEC));
    }

    #[test]
    fn segments_that_cannot_be_mapped_are_refused() {
        let bad = |rest| parse(&[phdr(1, 6, rest)]).unwrap_err();
        assert_eq!(bad([0, 0x1000, 2, 1, 0]), Errno::EINVAL);
        assert_eq!(bad([1, 0x1000, 1, 1, 0]), Errno::EINVAL);
        assert_eq!(bad([0, !0xfff, 1, 0x2000, 0]), Errno::EINVAL);
        assert_eq!(bad([0, LIMIT, 1, 1, 0]), Errno::ENOMEM);
        assert_eq!(bad([!0xfff, 0x1000, 0x1000, 0x1000, 0]), Errno::EINVAL);
        let overlap = [phdr(1, 6, [0, 0x1000, 1, 1, 0]), phdr(1, 6, [0x10, 0x1010, 1, 1, 0])];
        assert_eq!(parse(&overlap).unwrap_err(), Errno::EINVAL);
        let interp = phdr(3, 4, [0, 0, 1, 1, 1]);
        assert_eq!(parse(&[interp]).unwrap_err(), Errno::ENOEXEC);
    }

    #[test]
    fn random_bytes_never_break_an_invariant() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut accepted = 0;
        for _ in 0..100_000 {
            let nr = random() % 4 + 1;
            let mut phdrs = Vec::new();
            for _ in 0..nr {
                let mask = [0xfff, 0xff_ffff, LIMIT, u64::MAX][random() as usize % 4];
                let page = if random() % 2 == 0 { !0xfff } else { u64::MAX };
                let kinds = [1, 1, 1, 3, 6, 0x6474_e551];
                let words = [(); 5].map(|()| random() & mask & page);
                phdrs.push(phdr(kinds[random() as usize % 6], random() as u32 & 7, words));
            }
            let Ok(image) = parse(&phdrs) else { continue };
            accepted += 1;
            let mut end = 0;
            for segment in &image.segments {
                let piece = pieces(segment);
                assert!(piece.file.start >= end && piece.file.end <= piece.anonymous.start);
                assert!(piece.anonymous.start <= piece.anonymous.end);
                assert!(piece.zero.start <= piece.zero.end);
                assert!(segment.vaddr + segment.mem_len <= LIMIT);
                end = piece.anonymous.end;
            }
            assert!(image.align.is_power_of_two() && image.align >= 4096);
            assert_eq!(image.span().end, end);
        }
        assert!(accepted > 100, "{accepted}");
    }
}
