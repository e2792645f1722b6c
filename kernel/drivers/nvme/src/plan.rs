//! How the pieces of a request become commands.
//!
//! A command names memory by pages: the first may begin inside of a page, the last may end inside of one, and between
//! them everything is whole (PRP entries; NVM Express Base Specification 2.0, ch. 4.1.1). So pieces join up where one
//! ends at the end of its page and the next begins at the start of its own:
//!
//! ```text
//!   pieces     |..AAAA|BBBB|CC..|  |..DD|EE..|
//!   commands    \______________/    \_______/
//! ```

/// A piece of memory inside of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) paddr: u64,
    pub(crate) len: u32,
}

const PAGE: u64 = hal::PAGE_SIZE as u64;
/// Entries of a PRP list of one page.
pub(crate) const LIST_ENTRIES: usize = hal::PAGE_SIZE / 8;
/// The most pieces of a command: one in the command itself, the others in its list.
const MAX_PIECES: usize = LIST_ENTRIES + 1;

impl Piece {
    fn ends_its_page(self) -> bool {
        (self.paddr + u64::from(self.len)).is_multiple_of(PAGE)
    }

    fn begins_its_page(self) -> bool {
        self.paddr.is_multiple_of(PAGE)
    }
}

/// The memory of `len` bytes at `paddr`, cut at the ends of pages.
pub(crate) fn pages(paddr: u64, len: u32) -> impl Iterator<Item = Piece> + Clone {
    let (mut at, end) = (paddr, paddr + u64::from(len));
    core::iter::from_fn(move || {
        let piece = Piece { paddr: at, len: (end - at).min(PAGE - at % PAGE) as u32 };
        at += u64::from(piece.len);
        Some(piece).filter(|piece| piece.len > 0)
    })
}

/// How many of the next `pieces` fit in one command, and their bytes.
pub(crate) fn next_run(pieces: impl Iterator<Item = Piece>) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    let mut last: Option<Piece> = None;
    for piece in pieces {
        let joins = last.is_none_or(|last| last.ends_its_page() && piece.begins_its_page());
        if !joins || count == MAX_PIECES {
            break;
        }
        count += 1;
        bytes += u64::from(piece.len);
        last = Some(piece);
    }
    (count, bytes)
}

/// How many commands `pieces` need.
pub(crate) fn nr_runs(pieces: impl Iterator<Item = Piece> + Clone) -> usize {
    let (mut done, mut runs) = (0, 0);
    loop {
        let (count, _) = next_run(pieces.clone().skip(done));
        if count == 0 {
            return runs;
        }
        done += count;
        runs += 1;
    }
}

/// Whether the commands that `pieces` become move whole blocks of `block` bytes, a power of two: there are no others.
pub(crate) fn is_whole(pieces: impl Iterator<Item = Piece> + Clone, block: u64) -> bool {
    let mut done = 0;
    loop {
        match next_run(pieces.clone().skip(done)) {
            (0, _) => return true,
            (count, bytes) if bytes.is_multiple_of(block) => done += count,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn piece(page: u64, offset: u64, len: u32) -> Piece {
        Piece { paddr: page * PAGE + offset, len }
    }

    fn runs(pieces: &[Piece]) -> Vec<(usize, u64)> {
        let mut found = Vec::new();
        let mut done = 0;
        while done < pieces.len() {
            let run = next_run(pieces.iter().copied().skip(done));
            done += run.0;
            found.push(run);
        }
        assert_eq!(nr_runs(pieces.iter().copied()), found.len());
        found
    }

    #[test]
    fn whole_pages_join_up() {
        let pieces = [piece(5, 1024, 3072), piece(9, 0, 4096), piece(2, 0, 512)];
        assert_eq!(runs(&pieces), [(3, 3072 + 4096 + 512)]);
    }

    #[test]
    fn adjacent_pages_are_a_piece_each() {
        let cut: Vec<_> = pages(5 * PAGE + 512, 8704).collect();
        assert_eq!(cut, [piece(5, 512, 3584), piece(6, 0, 4096), piece(7, 0, 1024)]);
        assert_eq!(pages(PAGE, 0).count(), 0);
    }

    #[test]
    fn a_gap_begins_another_command() {
        let pieces = [piece(5, 0, 512), piece(6, 0, 4096), piece(7, 512, 512), piece(8, 0, 512)];
        assert_eq!(runs(&pieces), [(1, 512), (1, 4096), (1, 512), (1, 512)]);
        assert_eq!(runs(&[piece(1, 2048, 2048), piece(2, 0, 100)]), [(2, 2148)]);
    }

    #[test]
    fn commands_are_whole_blocks() {
        let pieces = |pieces: &[Piece], block| is_whole(pieces.iter().copied(), block);
        assert!(pieces(&[], 4096));
        assert!(pieces(&[piece(5, 512, 3584), piece(6, 0, 512), piece(8, 0, 4096)], 4096), "over two pages");
        assert!(!pieces(&[piece(5, 0, 512), piece(6, 512, 3584)], 4096), "a gap inside of a block");
        assert!(!pieces(&[piece(5, 0, 4096), piece(7, 0, 512)], 4096));
        assert!(pieces(&[piece(5, 0, 512), piece(6, 512, 3584)], 512));
    }

    #[test]
    fn a_list_holds_so_many_and_no_more() {
        let pieces: Vec<_> = (0..600).map(|page| piece(page, 0, 4096)).collect();
        assert_eq!(runs(&pieces), [(513, 513 * 4096), (87, 87 * 4096)]);
        assert_eq!(nr_runs(core::iter::empty()), 0);
    }
}
