//! The first stack of a program: arguments, environment and the auxiliary vector.
//!
//! ```text
//! stack_top  8 zero bytes
//!            file name                        <- AT_EXECFN
//!            environment strings
//!            argument strings
//!            random gap, aligned
//!            "x86_64", 16 random bytes        <- AT_PLATFORM, AT_RANDOM
//!            auxiliary vector, AT_NULL
//!            environment pointers, NULL
//!            argument pointers, NULL
//! rsp        number of arguments              16-byte aligned
//! ```
//!
//! Sources: System V ABI AMD64 supplement 3.4.1, getauxval(3).

use alloc::vec::Vec;

use abi::{Errno, Result};

use super::args::Strings;

/// `AT_PLATFORM`.
const PLATFORM: &[u8] = b"x86_64\0";

/// Numbers of auxiliary-vector entries (getauxval(3), linux/auxvec.h).
pub(super) mod at {
    pub(crate) const NULL: u64 = 0;
    pub(crate) const EXECFD: u64 = 2;
    pub(crate) const PHDR: u64 = 3;
    pub(crate) const PHENT: u64 = 4;
    pub(crate) const PHNUM: u64 = 5;
    pub(crate) const PAGESZ: u64 = 6;
    pub(crate) const BASE: u64 = 7;
    pub(crate) const FLAGS: u64 = 8;
    pub(crate) const ENTRY: u64 = 9;
    pub(crate) const UID: u64 = 11;
    pub(crate) const EUID: u64 = 12;
    pub(crate) const GID: u64 = 13;
    pub(crate) const EGID: u64 = 14;
    pub(crate) const PLATFORM: u64 = 15;
    pub(crate) const HWCAP: u64 = 16;
    pub(crate) const CLKTCK: u64 = 17;
    pub(crate) const SECURE: u64 = 23;
    pub(crate) const RANDOM: u64 = 25;
    pub(crate) const HWCAP2: u64 = 26;
    pub(crate) const RSEQ_FEATURE_SIZE: u64 = 27;
    pub(crate) const RSEQ_ALIGN: u64 = 28;
    pub(crate) const EXECFN: u64 = 31;
    pub(crate) const SYSINFO_EHDR: u64 = 33;
    pub(crate) const MINSIGSTKSZ: u64 = 51;
}

/// What goes onto the stack.
pub(super) struct Contents<'a> {
    pub(super) args: &'a Strings,
    pub(super) env: &'a Strings,
    /// `AT_EXECFN`.
    pub(super) file_name: &'a [u8],
    /// Entries of the auxiliary vector whose values are known; places in the stack and the end are added.
    pub(super) auxv: &'a [(u64, u64)],
    pub(super) random: [u8; 16],
    /// Bytes to leave free between strings and pointers.
    pub(super) gap: u64,
}

/// A stack ready to be written.
#[derive(Debug)]
pub(super) struct Stack {
    /// The stack pointer: address of the first byte.
    pub(super) sp: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) arg_start: u64,
    pub(super) arg_end: u64,
    pub(super) env_end: u64,
    /// The auxiliary vector as words.
    pub(super) auxv: Vec<u64>,
    /// Where it begins.
    auxv_start: u64,
}

impl Stack {
    /// The address of the value of `key`, if the auxiliary vector has it.
    pub(super) fn value_at(&self, key: u64) -> Option<u64> {
        let index = self.auxv.iter().step_by(2).position(|known| *known == key)?;
        Some(self.auxv_start + index as u64 * 16 + 8)
    }
}

/// Lays out `contents` below `top`, which is page-aligned. `ENOMEM`.
pub(super) fn build(top: u64, contents: &Contents<'_>) -> Result<Stack> {
    let Contents { args, env, file_name, .. } = contents;
    let strings_len = args.bytes.len() + env.bytes.len() + file_name.len() + 1 + 8;
    let arg_start = top.checked_sub(strings_len as u64).ok_or(Errno::E2BIG)?;
    let arg_end = arg_start + args.bytes.len() as u64;
    let env_end = arg_end + env.bytes.len() as u64;
    let platform = (arg_start.saturating_sub(contents.gap) & !15).saturating_sub(PLATFORM.len() as u64);
    let random = platform.saturating_sub(16);
    let auxv =
        complete_auxv(contents, [(at::RANDOM, random), (at::EXECFN, env_end), (at::PLATFORM, platform)])?;
    let nr_words = 1 + args.count + 1 + env.count + 1 + auxv.len();
    let sp = random.checked_sub(nr_words as u64 * 8).ok_or(Errno::E2BIG)? & !15;
    let mut stack = Writer::new(sp, top)?;
    stack.word(args.count as u64);
    stack.pointers(&args.bytes, arg_start);
    stack.pointers(&env.bytes, arg_end);
    auxv.iter().for_each(|word| stack.word(*word));
    stack.pad_to(random);
    stack.bytes.extend_from_slice(&contents.random);
    stack.bytes.extend_from_slice(PLATFORM);
    stack.pad_to(arg_start);
    stack.bytes.extend_from_slice(&args.bytes);
    stack.bytes.extend_from_slice(&env.bytes);
    stack.bytes.extend_from_slice(file_name);
    stack.pad_to(top);
    let auxv_start = sp + (1 + args.count + 1 + env.count + 1) as u64 * 8;
    Ok(Stack { sp, bytes: stack.bytes, arg_start, arg_end, env_end, auxv, auxv_start })
}

/// The auxiliary vector as words, with its end.
fn complete_auxv(contents: &Contents<'_>, places: [(u64, u64); 3]) -> Result<Vec<u64>> {
    let mut words = Vec::new();
    words.try_reserve_exact((contents.auxv.len() + places.len() + 1) * 2).map_err(|_| Errno::ENOMEM)?;
    for (key, value) in contents.auxv.iter().copied().chain(places).chain([(at::NULL, 0)]) {
        words.extend([key, value]);
    }
    Ok(words)
}

/// Fills the bytes from `start` up.
struct Writer {
    start: u64,
    bytes: Vec<u8>,
}

impl Writer {
    /// A stack of `top - start` bytes. `ENOMEM`.
    fn new(start: u64, top: u64) -> Result<Self> {
        let mut bytes = Vec::new();
        let len = usize::try_from(top - start).map_err(|_| Errno::E2BIG)?;
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        Ok(Self { start, bytes })
    }

    fn word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    /// The addresses of the strings in `bytes`, which begin at `addr`, and a NULL.
    fn pointers(&mut self, bytes: &[u8], addr: u64) {
        let mut next = Some(0);
        while let Some(offset) = next.filter(|offset| *offset < bytes.len()) {
            self.word(addr + offset as u64);
            let rest = bytes.get(offset..).unwrap_or_default();
            next = rest.iter().position(|byte| *byte == 0).map(|nul| offset + nul + 1);
        }
        self.word(0);
    }

    /// Zeroes up to `addr`.
    fn pad_to(&mut self, addr: u64) {
        let len = usize::try_from(addr.saturating_sub(self.start)).unwrap_or(0);
        if len > self.bytes.len() {
            self.bytes.resize(len, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x7fff_ffff_0000;

    struct Reader<'a>(&'a Stack);

    impl Reader<'_> {
        fn word(&self, addr: u64) -> u64 {
            let at = (addr - self.0.sp) as usize;
            u64::from_le_bytes(self.0.bytes[at..at + 8].try_into().unwrap())
        }

        fn string(&self, addr: u64) -> &[u8] {
            let at = (addr - self.0.sp) as usize;
            self.0.bytes[at..].split(|byte| *byte == 0).next().unwrap()
        }
    }

    fn strings(list: &[&[u8]]) -> Strings {
        let mut strings = Strings::default();
        list.iter().for_each(|string| strings.push(string).unwrap());
        strings
    }

    #[test]
    fn a_program_finds_what_the_abi_promises() {
        for gap in [0, 5, 4096] {
            let (args, env) = (strings(&[b"prog", b"", b"x y"]), strings(&[b"A=1"]));
            let contents = Contents {
                args: &args,
                env: &env,
                file_name: b"/bin/prog",
                auxv: &[(at::PAGESZ, 4096)],
                random: [7; 16],
                gap,
            };
            let stack = build(TOP, &contents).unwrap();
            let read = Reader(&stack);
            assert_eq!(stack.sp % 16, 0);
            assert_eq!(stack.sp + stack.bytes.len() as u64, TOP);
            assert_eq!(read.word(stack.sp), 3);
            assert_eq!(read.string(read.word(stack.sp + 8)), b"prog");
            assert_eq!(read.string(read.word(stack.sp + 16)), b"");
            assert_eq!(read.string(read.word(stack.sp + 24)), b"x y");
            assert_eq!(read.word(stack.sp + 32), 0);
            assert_eq!(read.string(read.word(stack.sp + 40)), b"A=1");
            assert_eq!(read.word(stack.sp + 48), 0);
            assert_eq!(stack.value_at(at::PAGESZ), Some(stack.sp + 64));
            assert_eq!(stack.value_at(at::EXECFD), None);
            assert_eq!((read.word(stack.sp + 56), read.word(stack.sp + 64)), (at::PAGESZ, 4096));
            let auxv = &stack.auxv;
            let value = |key| auxv.chunks(2).find(|pair| pair[0] == key).unwrap()[1];
            assert_eq!(read.string(value(at::EXECFN)), b"/bin/prog");
            assert_eq!(read.string(value(at::PLATFORM)), b"x86_64");
            assert_eq!(read.word(value(at::RANDOM)), 0x0707_0707_0707_0707);
            assert_eq!(stack.arg_start, read.word(stack.sp + 8));
            assert_eq!(stack.arg_end, read.word(stack.sp + 40));
            assert_eq!(&stack.bytes[stack.bytes.len() - 8..], [0; 8]);
        }
    }
}
