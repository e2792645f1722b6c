//! mremap(2).

use crate::prelude::*;

tests!(
    "mremap":
    shrinks_in_place, grows_in_place_when_free, does_not_move_unasked, moves, fixed_replaces_the_target, errors,
    across_two_areas_is_efault, part_of_an_area, old_size_zero_duplicates_a_shared_mapping,
    file_mapping_moves_with_its_offset, dontunmap_leaves_empty_pages, keeps_protection,
    a_piece_of_another_area_merges, read_only_areas_merge_though_one_was_written,
);

fn mremap(old: usize, old_len: usize, new_len: usize, flags: i32, new: usize) -> Result<usize, Errno> {
    sys!(SYS_mremap, old, old_len, new_len, flags, new)
}

fn shrinks_in_place() {
    let a = anon(4 * PAGE);
    poke(a, 1);
    assert_eq!(mremap(a, 4 * PAGE, PAGE, 0, 0), Ok(a));
    assert_eq!(peek(a), 1);
    assert_eq!(fate(|| ignore(peek(a + PAGE))), Status::Signal(SIGSEGV));
}

fn grows_in_place_when_free() {
    let a = anon(8 * PAGE);
    sys!(SYS_munmap, a + PAGE, 7 * PAGE).unwrap();
    assert_eq!(mremap(a, PAGE, 4 * PAGE, 0, 0), Ok(a));
    poke(a + 4 * PAGE - 1, 1);
    assert_eq!(peek(a + PAGE), 0);
}

fn does_not_move_unasked() {
    let a = anon(4 * PAGE);
    sys!(SYS_mprotect, a + 2 * PAGE, PAGE, PROT_READ).unwrap();
    assert_eq!(mremap(a, PAGE, 4 * PAGE, 0, 0), Err(ENOMEM));
}

fn moves() {
    let a = anon(4 * PAGE);
    for i in 0..2 {
        poke(a + i * PAGE, i as u8 + 10);
    }
    let b = mremap(a, 2 * PAGE, 16 * PAGE, MREMAP_MAYMOVE, 0).unwrap();
    assert_ne!(a, b);
    assert_eq!((peek(b), peek(b + PAGE), peek(b + 2 * PAGE)), (10, 11, 0));
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
    peek(a + 2 * PAGE);
}

fn fixed_replaces_the_target() {
    let a = anon(2 * PAGE);
    let b = anon(4 * PAGE);
    poke(a, 1);
    poke(b + PAGE, 2);
    assert_eq!(mremap(a, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b + PAGE), Ok(b + PAGE));
    assert_eq!(peek(b + PAGE), 1);
}

fn errors() {
    let a = anon(4 * PAGE);
    let fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
    assert_eq!(mremap(a + 1, PAGE, PAGE, 0, 0), Err(EINVAL));
    assert_eq!(mremap(a, PAGE, 0, 0, 0), Err(EINVAL));
    assert_eq!(mremap(a, PAGE, PAGE, 64, 0), Err(EINVAL));
    assert_eq!(mremap(a, PAGE, PAGE, MREMAP_FIXED, a), Err(EINVAL));
    assert_eq!(mremap(a, 2 * PAGE, 2 * PAGE, fixed, a + PAGE), Err(EINVAL), "overlap");
    assert_eq!(mremap(a, PAGE, PAGE, fixed, a + 2 * PAGE + 5), Err(EINVAL));
    assert_eq!(mremap(a, PAGE, usize::MAX - PAGE, MREMAP_MAYMOVE, 0), Err(EINVAL));
    assert_eq!(mremap(a, 0, PAGE, MREMAP_MAYMOVE, 0), Err(EINVAL), "old size 0 is for shared mappings");
    sys!(SYS_munmap, a, PAGE).unwrap();
    assert_eq!(mremap(a, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0), Err(EFAULT));
}

fn across_two_areas_is_efault() {
    let a = anon(2 * PAGE);
    sys!(SYS_mprotect, a + PAGE, PAGE, PROT_READ).unwrap();
    assert_eq!(mremap(a, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0), Err(EFAULT));
}

fn part_of_an_area() {
    let a = anon(4 * PAGE);
    for i in 0..4 {
        poke(a + i * PAGE, i as u8 + 1);
    }
    let b = mremap(a + PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0).unwrap();
    assert_eq!((peek(b), peek(b + PAGE)), (2, 0));
    assert_eq!((peek(a), peek(a + 2 * PAGE)), (1, 3));
    assert_eq!(fate(|| ignore(peek(a + PAGE))), Status::Signal(SIGSEGV));
}

fn old_size_zero_duplicates_a_shared_mapping() {
    let a = shared(2 * PAGE);
    poke(a, 3);
    let b = mremap(a, 0, 2 * PAGE, MREMAP_MAYMOVE, 0).unwrap();
    assert_eq!(peek(b), 3);
    poke(b, 4);
    assert_eq!(peek(a), 4);
}

fn file_mapping_moves_with_its_offset() {
    let fd = new_file("f");
    for i in 0..8u8 {
        write(fd, &[i; PAGE]).unwrap();
    }
    let a = sys!(SYS_mmap, 0, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 2 * PAGE).unwrap();
    let b = mremap(a + PAGE, PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0).unwrap();
    assert_eq!((peek(b), peek(b + 3 * PAGE)), (3, 6));
}

fn dontunmap_leaves_empty_pages() {
    let a = anon(2 * PAGE);
    poke(a, 6);
    let b = mremap(a, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0).unwrap();
    assert_eq!((peek(b), peek(a)), (6, 0));
    assert_eq!(mremap(a, 2 * PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0), Err(EINVAL));
}

fn keeps_protection() {
    let a = anon(2 * PAGE);
    poke(a, 1);
    sys!(SYS_mprotect, a, 2 * PAGE, PROT_READ).unwrap();
    let b = mremap(a, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0).unwrap();
    assert_eq!(peek(b), 1);
    assert_eq!(fate(|| poke(b + 3 * PAGE, 1)), Status::Signal(SIGSEGV));
}

/// Memory that was writable and is not any more joins what lies beside it, whichever of the two was written to.
fn read_only_areas_merge_though_one_was_written() {
    for written in [0, 1] {
        let whole = map(6 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1).unwrap();
        let a = whole + PAGE;
        sys!(SYS_mprotect, whole, 6 * PAGE, PROT_NONE).unwrap();
        sys!(SYS_mprotect, a, 4 * PAGE, PROT_READ | PROT_WRITE).unwrap();
        let halves = [a, a + 2 * PAGE];
        sys!(SYS_mprotect, halves[1 - written], 2 * PAGE, PROT_READ).unwrap();
        poke(halves[written], 7);
        sys!(SYS_mprotect, halves[written], 2 * PAGE, PROT_READ).unwrap();
        let line = format!("{a:x}-{:x} ", a + 4 * PAGE);
        let maps = slurp("/proc/self/maps");
        assert!(maps.lines().any(|other| other.starts_with(&line)), "{line}{maps}");
        // The area that is whole now is still one that a fork copies.
        assert_eq!(fate(|| assert_eq!(peek(halves[written]), 7)), Status::Exit(0));
    }
}

/// Pages that nobody wrote to become part of the area that they are moved into, once they have its rights.
fn a_piece_of_another_area_merges() {
    for (first, second) in [(PROT_READ, PROT_READ | PROT_WRITE), (PROT_READ | PROT_WRITE, PROT_READ)] {
        let a = map(8 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
        let (left, right) = (a + PAGE, a + 4 * PAGE);
        for (at, prot) in [(left, first), (right, second)] {
            sys!(SYS_mmap, at, 3 * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0).unwrap();
        }
        let whole = |at: usize| {
            let line = format!("{at:x}-{:x} ", at + 3 * PAGE);
            slurp("/proc/self/maps").lines().any(|other| other.starts_with(&line))
        };
        assert!(whole(left) && whole(right));
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
        mremap(right + 2 * PAGE, PAGE, PAGE, flags, left + PAGE).unwrap();
        assert!(!whole(left) && whole(right));
        sys!(SYS_mprotect, left + PAGE, PAGE, first).unwrap();
        assert!(whole(left), "{first} {}", slurp("/proc/self/maps"));
    }
}
