//! Random numbers, and arguments of each type made from them: mostly sensible, sometimes hostile.

use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Pages of the arena.
const ARENA_PAGES: usize = 64;
const PAGE: usize = 4096;

/// A xorshift generator: what a seed gives is the same everywhere.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// The generator of `seed`; near seeds give unlike numbers.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            rng.next();
        }
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Numbers at which kernels go wrong.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    255,
    4095,
    4096,
    4097,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_f000,
    0x7fff_ffff_ffff,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Names in the scratch folder.
const NAMES: [&str; 10] = [
    "f0",
    "f1",
    "f2",
    "d0",
    "d0/f3",
    "d1",
    "d1/d2",
    "link",
    "fifo",
    "a-name-of-more-bytes-than-fit-in-a-dentry",
];
/// Paths outside, which may be read.
const OUTSIDE: [&str; 18] = [
    "/",
    ".",
    "..",
    "",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/urandom",
    "/dev/ptmx",
    "/proc/self/status",
    "/proc/self/maps",
    "/proc/self/mem",
    "/proc/self/fd/3",
    "/proc/self/stat",
    "/proc/self/environ",
    "/proc/meminfo",
    "/proc",
    "/sys",
];

/// What a process of the fuzzer gives to the kernel.
pub struct Values {
    pub rng: Rng,
    arena: usize,
    inside: Vec<CString>,
    outside: Vec<CString>,
    child: &'static AtomicUsize,
}

/// The process that a call of fork(2) made last, or 0.
pub static CHILD: AtomicUsize = AtomicUsize::new(0);

impl Values {
    /// Arguments from `seed` in the memory at `arena`; paths outside of the scratch folder only if `may_leave`.
    pub fn new(seed: u64, arena: usize, may_leave: bool) -> Self {
        let c = |s: &str| CString::new(s).unwrap_or_default();
        let inside: Vec<CString> = NAMES.iter().map(|name| c(name)).collect();
        let mut outside = inside.clone();
        if may_leave {
            outside.extend(OUTSIDE.iter().map(|path| c(path)));
        }
        outside.push(c(&"x/".repeat(2040)));
        outside.push(c(&"y".repeat(5000)));
        Values { rng: Rng::new(seed), arena, inside, outside, child: &CHILD }
    }

    /// Bytes that the arena needs; the pages around it must be unmapped.
    pub const ARENA_LEN: usize = ARENA_PAGES * PAGE;

    fn edge(&mut self) -> u64 {
        let at = self.rng.pick(&EDGES);
        match self.rng.below(8) {
            0 => at.wrapping_add(1),
            1 => at.wrapping_sub(1),
            2 => 1 << self.rng.below(64),
            3 => self.rng.next(),
            _ => at,
        }
    }

    /// An address in the arena, at its end, or nowhere.
    pub fn address(&mut self) -> usize {
        match self.rng.below(16) {
            0 => self.edge() as usize,
            1 => 0,
            // A structure that begins in the arena and ends outside.
            2 => self.arena + Self::ARENA_LEN - self.rng.below(64),
            3 => self.arena + self.rng.below(Self::ARENA_LEN),
            _ => self.arena + self.rng.below(ARENA_PAGES) * PAGE + self.rng.below(32) * 8,
        }
    }

    /// The page-aligned start of a part of the arena, for calls that change mappings.
    fn page(&mut self) -> usize {
        if self.rng.one_in(30) {
            return self.rng.pick(&[1, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, usize::MAX & !(PAGE - 1)]);
        }
        self.arena + self.rng.below(ARENA_PAGES) * PAGE
    }

    fn length(&mut self) -> usize {
        match self.rng.below(12) {
            0 => self.edge() as usize,
            1 => 0,
            2..5 => self.rng.below(8) * PAGE,
            5 => self.rng.below(1 << 17),
            _ => self.rng.below(256),
        }
    }

    fn path(&mut self, all: bool) -> usize {
        if self.rng.one_in(20) {
            return self.address();
        }
        let list = if all { &self.outside } else { &self.inside };
        let at = (self.rng.next() >> 11) as usize % list.len();
        list[at].as_ptr() as usize
    }

    /// Only this process, its children and nobody: the guest must live on.
    fn pid(&mut self) -> usize {
        let own = std::process::id() as usize;
        match self.rng.below(8) {
            0 => 0,
            1 => 0x3fff_fff0 + self.rng.below(8),
            2..4 => self.child.load(Relaxed),
            4 => own.wrapping_neg(),
            _ => own,
        }
    }

    fn flags(&mut self) -> usize {
        match self.rng.below(6) {
            0 => 0,
            1 => self.edge() as usize,
            2 => 1 << self.rng.below(32),
            3 => 1 << self.rng.below(16) | 1 << self.rng.below(24),
            _ => self.rng.below(16),
        }
    }

    fn fd(&mut self) -> usize {
        match self.rng.below(24) {
            0 => self.edge() as usize,
            1 => libc::AT_FDCWD as usize,
            _ => 3 + self.rng.below(24),
        }
    }

    /// An argument of the type that `letter` names (see `calls`).
    pub fn argument(&mut self, letter: u8) -> usize {
        match letter {
            b'f' => self.fd(),
            b'd' if self.rng.below(3) > 0 => libc::AT_FDCWD as usize,
            b'd' => self.fd(),
            b'b' => self.address(),
            b'l' => self.length(),
            b'p' => self.path(true),
            b'w' => self.path(false),
            b'g' => self.flags(),
            b'P' => self.pid(),
            b's' => self.rng.below(66),
            b'o' if self.rng.one_in(4) => self.edge() as usize,
            b'o' => self.rng.below(1 << 18),
            b'm' => self.rng.below(0o10000),
            b'a' => self.page(),
            b'u' => self.rng.pick(&[0, 1000, 65534, 0xffff_ffff, 1]),
            b'c' => self.rng.below(14),
            b'r' if self.rng.one_in(20) => self.fd(),
            b'r' => crate::rings::DESCRIPTOR as usize,
            b'j' => self.rng.below(36),
            // 'i' and anything else: a small number, or an edge.
            _ if self.rng.one_in(6) => self.edge() as usize,
            _ => self.rng.below(40),
        }
    }

    /// A word as it may stand in a structure: small, an edge, a descriptor, an address.
    pub fn word(&mut self) -> u64 {
        match self.rng.below(8) {
            0 => self.edge(),
            1 | 2 => self.address() as u64,
            3 => self.fd() as u64,
            4 => self.rng.below(66) as u64 | (self.rng.below(66) as u64) << 32,
            _ => self.rng.below(300) as u64,
        }
    }
}
