//! Hashes of names in directory indexes: "legacy", half of MD4, and TEA, each with names taken as signed or
//! unsigned bytes.
//!
//! Sources: Documentation/filesystems/ext4/directory.rst (Linux 7.2); RFC 1320 (MD4); Wheeler and Needham, "TEA, a
//! Tiny Encryption Algorithm", 1994.

use crate::error::{Error, Result};
use crate::layout::Layout;

/// The hash of a name: what the index sorts by, and what tells apart names with equal ones when listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash {
    /// An even number.
    pub major: u32,
    /// 0 for the legacy hash.
    pub minor: u32,
}

const LEGACY: u8 = 0;
const HALF_MD4: u8 = 1;
const TEA: u8 = 2;
/// Added to the version for unsigned names.
const UNSIGNED: u8 = 3;

/// The largest hash is reserved for the end of a listing.
const END: u32 = 0x7fff_ffff << 1;

/// The hash of `name` by the rule `version` of an index.
pub(crate) fn hash(layout: &Layout, version: u8, name: &[u8]) -> Result<Hash> {
    let (kind, is_unsigned) = match version {
        LEGACY..=TEA => (version, layout.is_hash_unsigned),
        UNSIGNED..=5 => (version - UNSIGNED, true),
        _ => return Err(Error::Corrupt("hash version")),
    };
    let widen = move |byte: u8| if is_unsigned { u32::from(byte) } else { byte as i8 as u32 };
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    if layout.hash_seed.iter().any(|&word| word != 0) {
        state = layout.hash_seed;
    }
    let (major, minor) = match kind {
        LEGACY => (legacy(name, widen), 0),
        HALF_MD4 => {
            for at in (0..name.len()).step_by(32) {
                half_md4(&mut state, &words::<8>(name.get(at..).unwrap_or_default(), widen));
            }
            (state[1], state[2])
        }
        _ => {
            for at in (0..name.len()).step_by(16) {
                tea(&mut state, &words::<4>(name.get(at..).unwrap_or_default(), widen));
            }
            (state[0], state[1])
        }
    };
    let major = major & !1;
    Ok(Hash { major: if major == END { END - 2 } else { major }, minor })
}

fn legacy(name: &[u8], widen: impl Fn(u8) -> u32) -> u32 {
    let (mut before, mut current) = (0x37ab_e8f9u32, 0x12a3_fe2du32);
    for &byte in name {
        let mut next = before.wrapping_add(current ^ widen(byte).wrapping_mul(7_152_373));
        if next & 0x8000_0000 != 0 {
            next = next.wrapping_sub(0x7fff_ffff);
        }
        (before, current) = (current, next);
    }
    current << 1
}

/// The first bytes of `name` as `N` big-endian words, filled up with its length.
fn words<const N: usize>(name: &[u8], widen: impl Fn(u8) -> u32) -> [u32; N] {
    let len = name.len() as u32;
    let pad = len | len << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; N];
    for (word, chunk) in words.iter_mut().zip(name.chunks(4)) {
        *word = chunk.iter().fold(pad, |value, &byte| widen(byte).wrapping_add(value << 8));
    }
    words
}

fn tea(state: &mut [u32; 4], key: &[u32; 4]) {
    const DELTA: u32 = 0x9e37_79b9;
    let (mut a, mut b, mut sum) = (state[0], state[1], 0u32);
    for _ in 0..16 {
        sum = sum.wrapping_add(DELTA);
        let mix = |v: u32, k0: u32, k1: u32| {
            (v << 4).wrapping_add(k0) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(k1)
        };
        a = a.wrapping_add(mix(b, key[0], key[1]));
        b = b.wrapping_add(mix(a, key[2], key[3]));
    }
    state[0] = state[0].wrapping_add(a);
    state[1] = state[1].wrapping_add(b);
}

/// A round of eight steps: its function, its constant, its rotations and the order of its words. Inlined, so that all
/// of these are constants in the machine's code: a listing hashes every name.
#[inline(always)]
fn round(
    [mut a, mut b, mut c, mut d]: [u32; 4],
    input: &[u32; 8],
    mix: impl Fn(u32, u32, u32) -> u32,
    constant: u32,
    rotations: [u32; 4],
    order: [usize; 8],
) -> [u32; 4] {
    let step = |a: u32, b: u32, c: u32, d: u32, word: usize, rotation: u32| {
        a.wrapping_add(mix(b, c, d))
            .wrapping_add(input[word & 7])
            .wrapping_add(constant)
            .rotate_left(rotation)
    };
    let [r0, r1, r2, r3] = rotations;
    let [w0, w1, w2, w3, w4, w5, w6, w7] = order;
    a = step(a, b, c, d, w0, r0);
    d = step(d, a, b, c, w1, r1);
    c = step(c, d, a, b, w2, r2);
    b = step(b, c, d, a, w3, r3);
    a = step(a, b, c, d, w4, r0);
    d = step(d, a, b, c, w5, r1);
    c = step(c, d, a, b, w6, r2);
    b = step(b, c, d, a, w7, r3);
    [a, b, c, d]
}

/// MD4's compression with half of the words and 24 of the 48 steps.
fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    let v = *state;
    let v = round(v, input, |x, y, z| z ^ x & (y ^ z), 0, [3, 7, 11, 19], [0, 1, 2, 3, 4, 5, 6, 7]);
    let majority = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let v = round(v, input, majority, 0x5a82_7999, [3, 5, 9, 13], [1, 3, 5, 7, 0, 2, 4, 6]);
    let v = round(v, input, |x, y, z| x ^ y ^ z, 0x6ed9_eba1, [3, 9, 11, 15], [3, 7, 2, 6, 1, 5, 0, 4]);
    for (word, add) in state.iter_mut().zip(v) {
        *word = word.wrapping_add(add);
    }
}
