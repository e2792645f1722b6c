//! Names: the short ones of 8 and 3 bytes, and the long ones in UTF-16 before them.
//!
//! Names are UTF-8 here. They are alike when they differ in case only. A file has a long name unless its name is one that
//! the short form holds as it is: capital letters, digits and some signs.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{Error, Result, le16};

/// Units of UTF-16 that a long name may have.
pub const MAX_UNITS: usize = 255;
/// Units in one record.
pub(crate) const PER_RECORD: usize = 13;

/// Code page 437 from 0x80 on, as characters (IBM).
const CODE_PAGE: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// What no name may have in it.
const NEVER: &str = "\"*/:<>?\\|";
/// What a short name may not have in it, beside those.
const NOT_SHORT: &str = "+,;=[]. ";

/// The character of byte `byte` of a short name.
fn from_code_page(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(nth) => CODE_PAGE.chars().nth(nth.into()).unwrap_or('?'),
    }
}

/// The byte of `character` in a short name, if it has one.
fn to_code_page(character: char) -> Option<u8> {
    if character.is_ascii() {
        return Some(character as u8);
    }
    CODE_PAGE.chars().position(|known| known == character).map(|nth| nth as u8 + 0x80)
}

/// How short names are shown, and when one does without a long name (mount option "shortname").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Shown in lower case; a name of capital letters has no long one.
    Lower,
    /// Shown as stored; a name of capital letters has no long one.
    Win95,
    /// Shown with the case that the record tells; names whose parts are of one case have no long one.
    WinNt,
    /// Shown as `WinNt`, made as `Win95`.
    Mixed,
    /// The file system msdos: shown in lower case, and there are no long names.
    Msdos,
}

/// The base name is shown in lower case.
const LOWER_BASE: u8 = 0x08;
/// The extension is.
const LOWER_EXTENSION: u8 = 0x10;

/// The name of a record as it is shown: what `case` says is in lower case, if `spelling` heeds that.
pub fn show_short(raw: &[u8; 11], case: u8, spelling: Spelling) -> String {
    let case = match spelling {
        Spelling::Lower | Spelling::Msdos => LOWER_BASE | LOWER_EXTENSION,
        Spelling::Win95 => 0,
        Spelling::WinNt | Spelling::Mixed => case,
    };
    let mut shown = String::new();
    let (base, extension) = raw.split_at(8);
    for (part, bit) in [(base, LOWER_BASE), (extension, LOWER_EXTENSION)] {
        let len = part.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
        if bit == LOWER_EXTENSION && len > 0 {
            shown.push('.');
        }
        for (at, &byte) in part.iter().take(len).enumerate() {
            // 0xe5 as a first byte would say that the record is free.
            let byte = if bit == LOWER_BASE && at == 0 && byte == 0x05 { 0xe5 } else { byte };
            let character = from_code_page(byte);
            if case & bit != 0 { shown.extend(character.to_lowercase()) } else { shown.push(character) }
        }
    }
    shown
}

/// Whether two names are one to a volume: letters of ASCII are in either case, others are not (Linux, with "utf8").
pub fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// As [`is_same`], of the short name `raw` as it is stored.
pub fn is_short_same(raw: &[u8; 11], name: &str) -> bool {
    // Most differ in the first character.
    let first = name.bytes().next().unwrap_or_default();
    (!first.is_ascii() || !raw[0].is_ascii() || raw[0] == 0x05 || first.eq_ignore_ascii_case(&raw[0]))
        && is_same(&show_short(raw, 0, Spelling::Win95), name)
}

/// The bits of a record's `case` with which `name` needs no long name beside `raw`, its capital letters.
///
/// `None`: there are none, or `spelling` does not use them.
pub fn case_of(name: &str, raw: &[u8; 11], spelling: Spelling) -> Option<u8> {
    let cases: &[u8] = match spelling {
        Spelling::WinNt => &[0, LOWER_BASE, LOWER_EXTENSION, LOWER_BASE | LOWER_EXTENSION],
        _ => &[0],
    };
    cases.iter().copied().find(|&case| show_short(raw, case, Spelling::Mixed) == name)
}

/// The 11 bytes of `name` on a file system without long names: what is too long is cut off.
///
/// `BadName`: not UTF-8, begins with a dot, ends with a space, or a character that no name has.
pub fn msdos(name: &[u8]) -> Result<[u8; 11]> {
    let name = core::str::from_utf8(name).map_err(|_| Error::BadName)?;
    let is_bad = |c: char| c < ' ' || NEVER.contains(c);
    if name.starts_with('.') || name.contains(is_bad) {
        return Err(Error::BadName);
    }
    let mut raw = [b' '; 11];
    let (base_place, extension_place) = raw.split_at_mut(8);
    let mut parts = name.split('.');
    for place in [base_place, extension_place] {
        let part = parts.next().unwrap_or_default();
        let mut last = None;
        for (slot, character) in place.iter_mut().zip(part.chars()) {
            *slot = to_code_page(character.to_ascii_uppercase()).ok_or(Error::BadName)?;
            last = Some(character);
        }
        if last == Some(' ') {
            return Err(Error::BadName);
        }
    }
    if raw[0] == b' ' {
        return Err(Error::BadName);
    }
    if raw[0] == 0xe5 {
        raw[0] = 0x05;
    }
    Ok(raw)
}

/// The name `bytes` as the volume keeps it: without dots at its end.
///
/// `NoName`: nothing is left. `BadName`: not UTF-8, a space at the end, or a character that no name has. `NameTooLong`.
pub fn check(bytes: &[u8]) -> Result<&str> {
    let name = core::str::from_utf8(bytes).map_err(|_| Error::BadName)?;
    let name = name.trim_end_matches('.');
    let is_bad = |c: char| c < ' ' || NEVER.contains(c);
    if name.is_empty() {
        return Err(Error::NoName);
    }
    if name.ends_with(' ') || name.contains(is_bad) {
        return Err(Error::BadName);
    }
    if name.encode_utf16().count() > MAX_UNITS { Err(Error::NameTooLong) } else { Ok(name) }
}

/// The name `bytes` as it is looked for. `None`: no file can have it.
pub fn wanted(bytes: &[u8]) -> Option<&str> {
    check(bytes).ok()
}

/// A short name, and whether it is all of the name but its case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// The 11 bytes.
    pub raw: [u8; 11],
    /// Characters were left out or replaced: a number must tell it from others.
    pub is_lossy: bool,
}

/// Puts what the short form can have of `text` into `place`; says how much that is, and whether it is all.
fn fill(place: &mut [u8], text: &str) -> (usize, bool) {
    let (mut len, mut is_all) = (0, true);
    for character in text.chars() {
        if matches!(character, ' ' | '.') {
            is_all = false;
            continue;
        }
        let mut upper = character.to_uppercase();
        let byte = upper.next().filter(|_| upper.next().is_none()).and_then(to_code_page);
        let byte = byte.filter(|_| !NOT_SHORT.contains(character));
        is_all &= byte.is_some();
        let Some(slot) = place.get_mut(len) else { return (len, false) };
        *slot = byte.unwrap_or(b'_');
        len += 1;
    }
    (len, is_all)
}

/// The short name for `name`, which [`check`] gave, before others are looked at.
pub fn shorten(name: &str) -> Short {
    let trimmed = name.trim_start_matches(['.', ' ']);
    let (base, extension) = match trimmed.rsplit_once('.') {
        Some((base, extension)) if !base.is_empty() => (base, extension),
        _ => (trimmed, ""),
    };
    let mut raw = [b' '; 11];
    let (base_place, extension_place) = raw.split_at_mut(8);
    let (len, is_base) = fill(base_place, base);
    let (_, is_extension) = fill(extension_place, extension);
    if len == 0 {
        base_place[0] = b'_';
    }
    let is_lossy = !is_base || !is_extension || len == 0 || trimmed.len() != name.len();
    if raw[0] == 0xe5 {
        raw[0] = 0x05;
    }
    Short { raw, is_lossy }
}

/// `raw` with `~nr` behind its first characters.
pub fn numbered(raw: &[u8; 11], nr: u32) -> [u8; 11] {
    let mut digits = [0; 8];
    let (mut at, mut rest) = (digits.len(), nr);
    while at > 1 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    at -= 1;
    digits[at] = b'~';
    let tail = digits.get(at..).unwrap_or_default();
    let used = raw[..8].iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    let keep = used.min(8 - tail.len());
    let mut new = *raw;
    new[keep..8].fill(b' ');
    new[keep..keep + tail.len()].copy_from_slice(tail);
    new
}

/// The sum over a short name that its long name's records have.
pub fn checksum(raw: &[u8; 11]) -> u8 {
    raw.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Where a record of a long name keeps its units.
const UNITS_AT: [usize; PER_RECORD] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// The records of the long name `name` for a short name with sum `sum`, as they lie in the directory: the last part
/// first. `NoMemory`.
pub fn long_records(name: &str, sum: u8) -> Result<Vec<[u8; 32]>> {
    let mut units: Vec<u16> = Vec::new();
    units.try_reserve_exact(name.len()).map_err(|_| Error::NoMemory)?;
    units.extend(name.encode_utf16());
    let parts: Vec<&[u16]> = units.chunks(PER_RECORD).collect();
    let mut records = Vec::new();
    records.try_reserve_exact(parts.len()).map_err(|_| Error::NoMemory)?;
    for (nth, part) in parts.iter().enumerate().rev() {
        let mut raw = [0; 32];
        raw[0] = (nth as u8 + 1) | if nth + 1 == parts.len() { 0x40 } else { 0 };
        raw[11] = 0x0f;
        raw[13] = sum;
        // Behind the end comes one 0, then ones.
        let filled = part.iter().copied().chain([0]).chain(core::iter::repeat(0xffff));
        for (at, unit) in UNITS_AT.into_iter().zip(filled) {
            raw[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        records.push(raw);
    }
    Ok(records)
}

/// The most records that a long name has.
const MAX_RECORDS: u8 = MAX_UNITS.div_ceil(PER_RECORD) as u8;

/// A long name that is being put together, record by record.
#[derive(Clone, Debug)]
pub struct Long {
    /// Where its first record is.
    pub start: u32,
    units: [u16; MAX_RECORDS as usize * PER_RECORD],
    /// Units that are of the name, at most.
    room: usize,
    /// The number of the record that must follow; 0: the short one.
    next: u8,
    sum: u8,
    is_open: bool,
}

impl Default for Long {
    fn default() -> Self {
        Self {
            start: 0,
            units: [0; MAX_RECORDS as usize * PER_RECORD],
            room: 0,
            next: 0,
            sum: 0,
            is_open: false,
        }
    }
}

impl Long {
    /// Takes the record `raw`, which is at `at`.
    pub fn take(&mut self, raw: &[u8; 32], at: u32) {
        let nr = raw[0] & 0x3f;
        if raw[0] & 0x40 != 0 {
            (self.start, self.next, self.sum) = (at, nr, raw[13]);
            self.is_open = (1..=MAX_RECORDS).contains(&nr);
            self.room = usize::from(nr) * PER_RECORD;
        }
        if !self.is_open || nr == 0 || nr != self.next || raw[13] != self.sum {
            self.is_open = false;
            return;
        }
        self.next -= 1;
        let first = usize::from(self.next) * PER_RECORD;
        for (slot, at) in self.units.iter_mut().skip(first).zip(UNITS_AT) {
            *slot = le16(raw, at);
        }
    }

    /// Forgets what was taken.
    pub fn clear(&mut self) {
        self.is_open = false;
    }

    /// The name in UTF-16, if all of it was there and it belongs to the short name `short`.
    pub fn finish(&mut self, short: &[u8; 11]) -> Option<&[u16]> {
        let is_whole = self.is_open && self.next == 0 && self.sum == checksum(short);
        self.is_open = false;
        if !is_whole {
            return None;
        }
        let units = self.units.get(..self.room)?;
        let len = units.iter().position(|&unit| unit == 0).unwrap_or(self.room);
        units.get(..len.min(MAX_UNITS)).filter(|units| !units.is_empty())
    }
}

/// The characters of a long name; what is none is shown as a replacement.
pub fn characters(units: &[u16]) -> impl Iterator<Item = char> + Clone + '_ {
    char::decode_utf16(units.iter().copied()).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
}

/// As [`is_same`], of the long name `units`.
pub fn is_long_same(units: &[u16], name: &str) -> bool {
    let mut wanted = name.chars();
    characters(units).all(|c| wanted.next().is_some_and(|other| c.eq_ignore_ascii_case(&other)))
        && wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(name: &str) -> (String, bool) {
        let short = shorten(check(name.as_bytes()).unwrap());
        let is_exact = !short.is_lossy && case_of(name, &short.raw, Spelling::Mixed).is_some();
        (String::from_utf8_lossy(&short.raw).into_owned(), is_exact)
    }

    #[test]
    fn short_names_are_made_of_long_ones() {
        for (name, raw, is_exact) in [
            ("README.TXT", "README  TXT", true),
            ("readme.txt", "README  TXT", false),
            ("a.b.c", "AB      C  ", false),
            (".profile", "PROFILE    ", false),
            ("long name here.html", "LONGNAMEHTM", false),
            ("a+b", "A_B        ", false),
            ("X", "X          ", true),
            ("日本", "__         ", false),
        ] {
            assert_eq!(short(name), (raw.to_string(), is_exact), "{name}");
        }
        assert_eq!(numbered(b"LONGNAMEHTM", 1), *b"LONGNA~1HTM");
        assert_eq!(numbered(b"AB      C  ", 12), *b"AB~12   C  ");
        assert_eq!(numbered(b"LONGNAMEHTM", 123_456), *b"L~123456HTM");
    }

    #[test]
    fn names_that_cannot_be() {
        assert_eq!(check(b"..."), Err(Error::NoName));
        for name in ["a:b", "a*", "a ", "tab\t", "nul\0"] {
            assert_eq!(check(name.as_bytes()), Err(Error::BadName), "{name:?}");
        }
        assert_eq!(check(b"\xff"), Err(Error::BadName));
        assert_eq!(check("x".repeat(256).as_bytes()), Err(Error::NameTooLong));
        assert_eq!(check("日".repeat(255).as_bytes()).map(str::len), Ok(765));
        assert_eq!(check(b"end.."), Ok("end"));
        assert!(is_same("Straße.TXT", "straße.txt") && !is_same("ÄPFEL", "äpfel") && !is_same("a", "b"));
    }

    #[test]
    fn long_names_come_back_from_their_records() {
        for name in ["x", "thirteen char", "a name of some length.tar.gz", "日本語🦀", &"y".repeat(255)]
        {
            let raw = shorten(name).raw;
            let mut long = Long::default();
            for (at, record) in long_records(name, checksum(&raw)).unwrap().iter().enumerate() {
                long.take(record, at as u32 * 32);
            }
            assert_eq!(long.clone().finish(b"OTHER      "), None);
            let units = long.finish(&raw).unwrap();
            assert_eq!(characters(units).collect::<String>(), name);
            assert!(is_long_same(units, &name.to_ascii_uppercase()) && !is_long_same(units, "other"));
        }
    }

    #[test]
    fn names_without_long_ones_are_cut() {
        for (name, raw) in
            [("readme.txt", b"README  TXT"), ("A", b"A          "), ("longer than it.html", b"LONGER THTM")]
        {
            assert_eq!(msdos(name.as_bytes()), Ok(*raw), "{name}");
        }
        for name in ["", ".x", " x", "a ", "a?", "a. ", "a:b"] {
            assert_eq!(msdos(name.as_bytes()), Err(Error::BadName), "{name}");
        }
    }

    #[test]
    fn case_flags_and_the_code_page_are_shown() {
        let show = |raw, case| show_short(raw, case, Spelling::Mixed);
        assert_eq!(show(b"README  TXT", 0x18), "readme.txt");
        assert_eq!(show(b"README  TXT", 0x08), "readme.TXT");
        assert_eq!(show(b"\x05BC        ", 0), "σBC");
        assert_eq!(show_short(b"README  TXT", 0, Spelling::Lower), "readme.txt");
        assert_eq!(show_short(b"README  TXT", 0x18, Spelling::Win95), "README.TXT");
        assert_eq!(case_of("readme.TXT", b"README  TXT", Spelling::WinNt), Some(0x08));
        assert_eq!(case_of("readme.TXT", b"README  TXT", Spelling::Mixed), None);
        assert_eq!(case_of("Readme.TXT", b"README  TXT", Spelling::WinNt), None);
        assert_eq!(CODE_PAGE.chars().count(), 128);
    }
}
