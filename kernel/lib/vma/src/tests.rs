//! Picture tests, and random edits against a model with one byte per page.

use super::*;
use std::string::String;
use std::vec::Vec;

const PAGE: u64 = 4096;

/// A letter; `g` has a guard of one page, `H` is cut at every second page only. `file` letters carry an offset and merge only when it fits.
/// A mark decides nothing, and stays when areas become one.
#[derive(Clone, Debug, PartialEq)]
struct Letter {
    letter: u8,
    offset: Option<u64>,
    is_marked: bool,
}

impl Attr for Letter {
    fn advance(&mut self, bytes: u64) {
        self.offset = self.offset.map(|o| o + bytes);
    }
    fn merges(&self, len: u64, next: &Self) -> bool {
        self.letter == next.letter && self.offset.map(|o| o + len) == next.offset
    }
    fn absorb(&mut self, gone: &Self) {
        self.is_marked |= gone.is_marked;
    }
    fn can_cut(&self, bytes: u64) -> bool {
        self.letter != b'H' || bytes.is_multiple_of(2 * PAGE)
    }
    fn guard(&self) -> u64 {
        if self.letter == b'g' { PAGE } else { 0 }
    }
}

fn letter(letter: u8) -> Letter {
    Letter { letter, offset: None, is_marked: false }
}

fn pages(r: Range<u64>) -> Range<u64> {
    r.start * PAGE..r.end * PAGE
}

fn from_picture(picture: &str) -> VmaSet<Letter> {
    let mut set = VmaSet::new();
    for (i, c) in (0u64..).zip(picture.bytes()) {
        if c != b'.' {
            set.insert(pages(i..i + 1), letter(c)).unwrap();
        }
    }
    set.check_invariants();
    set
}

fn to_picture(set: &VmaSet<Letter>, len: usize) -> String {
    let mut out = std::vec![b'.'; len];
    for v in set.iter() {
        for p in v.start / PAGE..v.end / PAGE {
            out[p as usize] = v.attr.letter;
        }
    }
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn check_remove(before: &str, range: Range<u64>, after: &str, len: usize) {
    let mut set = from_picture(before);
    set.remove(pages(range), 1000).unwrap();
    set.check_invariants();
    assert_eq!(to_picture(&set, before.len()), after);
    assert_eq!(set.len(), len);
}

#[track_caller]
fn check_modify(before: &str, range: Range<u64>, to: u8, after: &str, len: usize) {
    let mut set = from_picture(before);
    set.modify(pages(range), letter(to), 1000).unwrap();
    set.check_invariants();
    assert_eq!(to_picture(&set, before.len()), after);
    assert_eq!(set.len(), len);
}

#[test]
fn remove_splits_trims_and_takes_whole_vmas() {
    check_remove("..AAAAAA..", 3..5, "..A..AAA..", 2);
    check_remove("..AAAAAA..", 2..5, ".....AAA..", 1);
    check_remove("..AAAAAA..", 5..9, "..AAA.....", 1);
    check_remove("..AABBCC..", 3..7, "..A....C..", 2);
    check_remove("..AABBCC..", 0..9, "..........", 0);
    check_remove("..AA..BB..", 4..6, "..AA..BB..", 2);
}

#[test]
fn insert_merges_with_both_sides() {
    let mut set = from_picture("..AA..AA..");
    set.insert(pages(4..6), letter(b'A')).unwrap();
    assert_eq!(set.len(), 1);
    set.check_invariants();
}

#[test]
fn modify_moves_borders_before_it_splits() {
    check_modify("AAAABB", 1..4, b'B', "ABBBBB", 2);
    check_modify("BBAAAA", 2..4, b'B', "BBBBAA", 2);
    check_modify("BBAABB", 2..4, b'B', "BBBBBB", 1);
    check_modify("BBAACC", 2..4, b'B', "BBBBCC", 2);
    check_modify("CCAABB", 2..4, b'B', "CCBBBB", 2);
    check_modify("AAAA", 0..2, b'B', "BBAA", 2);
    check_modify("AAAA", 2..4, b'B', "AABB", 2);
    check_modify("AAAA", 1..3, b'B', "ABBA", 3);
}

/// However borders move, what an edit marks is in an area with the mark, and no mark goes.
#[test]
fn marks_stay_when_areas_become_one() {
    for before in ["aab", "aaba", "baa", "aabb", "bbaa", "aabbaa", "bb"] {
        for old_is_marked in [false, true] {
            let at = before.find('b').unwrap() as u64;
            let mut set = VmaSet::new();
            for (i, c) in (0u64..).zip(before.bytes()) {
                let is_marked = c == b'b' && old_is_marked;
                set.insert(pages(i..i + 1), Letter { is_marked, ..letter(c) }).unwrap();
            }
            set.modify(pages(at..at + 1), Letter { is_marked: true, ..letter(b'a') }, 100).unwrap();
            set.check_invariants();
            assert!(set.at(at * PAGE).unwrap().attr.is_marked, "{before}");
        }
    }
}

#[test]
fn splits_are_refused_at_the_limit() {
    let mut set = from_picture("AAAA.BB");
    assert_eq!(set.modify(pages(1..3), letter(b'C'), 2), Err(Refused::Count));
    assert_eq!(set.modify(pages(1..4), letter(b'C'), 2), Err(Refused::Count));
    assert_eq!(set.remove(pages(1..2), 2).err(), Some(Refused::Count));
    assert_eq!(to_picture(&set, 7), "AAAA.BB");
    assert!(set.modify(pages(1..3), letter(b'C'), 4).is_ok());
    assert!(set.remove(pages(0..1), 0).is_ok(), "trimming never asks");
}

#[test]
fn what_cannot_be_cut_stays_whole() {
    let mut set = from_picture("HHHHHH.AA");
    assert_eq!(set.remove(pages(1..4), 9).err(), Some(Refused::Cut));
    assert_eq!(set.remove(pages(2..5), 9).err(), Some(Refused::Cut));
    assert_eq!(set.remove(pages(5..8), 9).err(), Some(Refused::Cut));
    assert_eq!(set.modify(pages(0..3), letter(b'B'), 9), Err(Refused::Cut));
    assert_eq!(set.split(PAGE, 9), Err(Refused::Cut));
    assert_eq!((to_picture(&set, 9).as_str(), set.len()), ("HHHHHH.AA", 2));
    set.remove(pages(2..4), 9).unwrap();
    set.modify(pages(4..6), letter(b'B'), 9).unwrap();
    assert_eq!(to_picture(&set, 9), "HH..BB.AA");
}

#[test]
fn a_refused_second_split_leaves_the_first() {
    let mut set = from_picture("AAAA");
    assert_eq!(set.modify(pages(1..3), letter(b'B'), 2), Err(Refused::Count));
    assert_eq!((to_picture(&set, 4).as_str(), set.len()), ("AAAA", 2));
    assert!(set.at(0).unwrap().end == PAGE);
    // The next edit of the rest finds it cut already, and a change back merges.
    set.modify(pages(1..3), letter(b'B'), 3).unwrap();
    assert_eq!(set.len(), 3);
    set.modify(pages(1..3), letter(b'A'), 0).unwrap();
    assert_eq!(set.len(), 1);
}

#[test]
fn apart_means_unmerged() {
    let mut set = from_picture("AA....");
    set.insert_apart(pages(2..3), letter(b'A'), 0).unwrap();
    assert_eq!(set.len(), 2);
    set.insert(pages(3..4), letter(b'A')).unwrap();
    assert_eq!(set.len(), 2);
    set.modify_apart(pages(1..2), letter(b'B'), 9).unwrap();
    set.modify_apart(pages(1..2), letter(b'A'), 0).unwrap();
    assert_eq!((to_picture(&set, 6).as_str(), set.len()), ("AAAA..", 3));
    set.check_invariants();
}

#[test]
fn count_rules_are_those_of_linux() {
    use CountRule::*;
    let first_refused = |rule| (0..20).find(|&c| !count_fits(rule, c, 10)).unwrap();
    assert_eq!(first_refused(Map), 11);
    assert_eq!(first_refused(Split), 10);
    assert_eq!(first_refused(CutMiddle), 10);
    assert_eq!(first_refused(MremapEntry), 7);
    assert_eq!(first_refused(MremapEntryKeep), 6);
    assert_eq!(first_refused(MremapMove), 9);
    assert_eq!(first_refused(MremapMoveKeep), 8);
}

#[test]
fn gaps_respect_alignment_bounds_and_guards() {
    let mut set = from_picture("..AA....gg..BB..");
    let find = |set: &mut VmaSet<Letter>, range: Range<u64>, len, align: Align| {
        set.find_top_down(pages(range), len * PAGE, align).map(|a| a / PAGE)
    };
    assert_eq!(find(&mut set, 0..16, 2, Align::PAGE), Some(14));
    assert_eq!(find(&mut set, 0..14, 2, Align::PAGE), Some(10));
    assert_eq!(find(&mut set, 0..10, 2, Align::PAGE), Some(5), "a page below g stays free");
    assert_eq!(find(&mut set, 0..10, 2, Align { size: 4 * PAGE, offset: 0 }), Some(4));
    assert_eq!(find(&mut set, 0..10, 4, Align::PAGE), None);
    assert_eq!(find(&mut set, 3..10, 3, Align::PAGE), Some(4));
    assert_eq!(set.find_bottom_up(pages(1..16), 2 * PAGE, Align::PAGE), Some(4 * PAGE));
    assert_eq!(set.find_bottom_up(pages(0..16), PAGE, Align::PAGE), Some(0));
    assert!(!set.fits(pages(6..8)) && set.is_free(pages(6..8)));
}

#[test]
fn file_offsets_decide_about_merging() {
    let mut set = VmaSet::new();
    let file = |offset: u64| Letter { offset: Some(offset * PAGE), ..letter(b'F') };
    set.insert(pages(0..4), file(10)).unwrap();
    set.remove(pages(1..2), 100).unwrap();
    assert_eq!(set.at(2 * PAGE).unwrap().attr, file(12));
    set.insert(pages(1..2), file(3)).unwrap();
    assert_eq!(set.len(), 3);
    set.remove(pages(1..2), 100).unwrap();
    set.insert(pages(1..2), file(11)).unwrap();
    assert_eq!(set.len(), 1);
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// A byte per page, and whether a VMA begins there: the rules of Linux spelled out page by page.
struct Model {
    letters: Vec<u8>,
    borders: Vec<bool>,
}

impl Model {
    fn count(&self) -> usize {
        self.letters.iter().zip(&self.borders).filter(|(c, b)| **c != b'.' && **b).count()
    }

    /// A border at `at`, when that is inside of a VMA. `false`: no room.
    fn split(&mut self, at: usize, limit: usize) -> bool {
        if at >= self.letters.len() || self.letters[at] == b'.' || self.borders[at] {
            return true;
        }
        let room = self.count() < limit;
        self.borders[at] |= room;
        room
    }

    fn clear(&mut self, r: Range<usize>) {
        if self.letters.get(r.end).is_some_and(|c| *c != b'.') {
            self.borders[r.end] = true;
        }
        self.letters[r].fill(b'.');
    }

    /// Fills a hole or one whole VMA, which merges with its neighbours.
    fn fill(&mut self, r: Range<usize>, c: u8) {
        self.letters[r.clone()].fill(c);
        self.borders[r.clone()].fill(false);
        self.borders[r.start] = r.start == 0 || self.letters[r.start - 1] != c;
        if let Some(next) = self.letters.get(r.end).filter(|n| **n != b'.') {
            self.borders[r.end] = *next != c;
        }
    }

    /// Changes `r`, part of one VMA. `false`: refused.
    fn modify(&mut self, r: Range<usize>, c: u8, limit: usize) -> bool {
        let (at_start, at_end) = (
            self.borders[r.start],
            self.letters.get(r.end).is_none_or(|n| *n == b'.') || self.borders[r.end],
        );
        let joins_below = at_start && r.start > 0 && self.letters[r.start - 1] == c;
        let joins_above = at_end && self.letters.get(r.end) == Some(&c);
        if joins_below || joins_above {
            if self.letters.get(r.end).is_some_and(|n| *n != b'.') {
                self.borders[r.end] = true;
            }
            self.fill_from(r, c, joins_below, joins_above);
            return true;
        }
        if !self.split(r.start, limit) || !self.split(r.end, limit) {
            return false;
        }
        self.letters[r].fill(c);
        true
    }

    fn fill_from(&mut self, r: Range<usize>, c: u8, below: bool, above: bool) {
        self.letters[r.clone()].fill(c);
        self.borders[r.clone()].fill(false);
        self.borders[r.start] = !below;
        if above {
            self.borders[r.end] = false;
        }
    }
}

fn model_gap_top_down(model: &[u8], lo: usize, hi: usize, len: usize, align: usize) -> Option<usize> {
    (lo..(hi + 1).saturating_sub(len)).rev().find(|&s| {
        s % align == 0 && model[s..s + len].iter().all(|&c| c == b'.') && (model.get(s + len) != Some(&b'g'))
    })
}

fn random_edits(seed: u64, nr_pages: u64, steps: usize) {
    let mut rng = Random(seed);
    let mut set = VmaSet::new();
    let nr = nr_pages as usize;
    let mut model = Model { letters: std::vec![b'.'; nr], borders: std::vec![false; nr] };
    for _ in 0..steps {
        let a = rng.below(nr_pages);
        let longest = if rng.below(4) == 0 { nr_pages } else { 5 };
        let b = (a + 1 + rng.below(longest)).min(nr_pages);
        let c = b"ABg"[rng.below(3) as usize];
        let (lo, hi) = (a as usize, b as usize);
        match rng.below(5) {
            0 | 1 => {
                set.remove(pages(a..b), 1_000_000).unwrap();
                model.clear(lo..hi);
                if rng.below(3) > 0 {
                    set.insert(pages(a..b), letter(c)).unwrap();
                    model.fill(lo..hi, c);
                }
            }
            2 | 3 => {
                // Half of the time the limit is near.
                let limit = if rng.below(2) == 0 { 1_000_000 } else { set.len() + rng.below(3) as usize };
                let parts: Vec<_> = set
                    .overlapping(pages(a..b))
                    .filter(|v| v.attr.letter != c)
                    .map(|v| v.clip(&pages(a..b)))
                    .collect();
                for part in parts {
                    let expect =
                        model.modify((part.start / PAGE) as usize..(part.end / PAGE) as usize, c, limit);
                    assert_eq!(set.modify(part, letter(c), limit).is_ok(), expect);
                    set.check_invariants();
                }
            }
            _ => {
                let len = 1 + rng.below(4);
                let align = 1 << rng.below(3);
                let found =
                    set.find_top_down(pages(a..b), len * PAGE, Align { size: align * PAGE, offset: 0 });
                // Guards reach down into the range from a VMA at its very end only in the set's view.
                let model = &model.letters;
                let expect = model_gap_top_down(model, lo, hi, len as usize, align as usize);
                assert_eq!(found.map(|f| (f / PAGE) as usize), expect, "{a}..{b} len {len} align {align}");
                assert_eq!(set.is_free(pages(a..b)), model[lo..hi].iter().all(|&c| c == b'.'));
                assert_eq!(set.covers(pages(a..b)), model[lo..hi].iter().all(|&c| c != b'.'));
            }
        }
        set.check_invariants();
        assert_eq!(to_picture(&set, nr).as_bytes(), &model.letters[..]);
        assert_eq!(set.len(), model.count());
    }
}

#[test]
fn random_edits_agree_with_a_byte_per_page() {
    for seed in 1..40 {
        random_edits(seed * 0x9e37_79b9_7f4a, 48, 800);
    }
    for seed in 1..6 {
        random_edits(seed * 0x9e37_79b9_7f4a, 1000, 1500);
    }
}

#[test]
fn push_copies_a_large_set_in_order() {
    let mut set = VmaSet::new();
    for i in 0..500 {
        set.push(Vma { start: i * 2 * PAGE, end: (i * 2 + 1) * PAGE, attr: letter(b'A') }).unwrap();
    }
    set.check_invariants();
    assert_eq!(set.len(), 500);
    assert_eq!(set.find_top_down(pages(0..2000), 2 * PAGE, Align::PAGE), Some(1998 * PAGE));
    assert_eq!(set.find_top_down(pages(0..999), 2 * PAGE, Align::PAGE), None);
}
