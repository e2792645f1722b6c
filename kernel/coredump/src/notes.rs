//! The notes of a core file.
//!
//! ```text
//! first thread: PRSTATUS PRPSINFO SIGINFO AUXV FILE FPREGSET X86_XSTATE     others: PRSTATUS FPREGSET X86_XSTATE
//! ```
//!
//! Sources: elf(5) "Notes", include/uapi/linux/elfcore.h, and what gdb and binutils read.

use alloc::vec::Vec;

use abi::signal::SigInfo;
use hal::trap::UserRegs;
use zerocopy::{Immutable, IntoBytes};

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_X86_XSTATE: u32 = 0x202;
/// Bytes of the floating-point registers that every CPU has.
const FPREGS_LEN: usize = 512;

/// `struct elf_prstatus`, 336 bytes.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Status {
    pub signo: i32,
    pub code: i32,
    pub errno: i32,
    pub cursig: i16,
    pub pad0: u16,
    pub pending: u64,
    pub held: u64,
    pub pid: u32,
    pub ppid: u32,
    pub pgrp: u32,
    pub sid: u32,
    /// User and system time, and those of children: seconds and microseconds.
    pub times: [u64; 8],
    pub regs: Regs,
    pub has_fpu: u32,
    pub pad1: u32,
}

/// `struct user_regs_struct`.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Regs {
    pub saved: UserRegs,
    pub fs_base: u64,
    pub gs_base: u64,
    pub selectors: [u64; 4],
}

/// `struct elf_prpsinfo`, 136 bytes.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct PsInfo {
    pub state: u8,
    pub letter: u8,
    pub is_zombie: u8,
    pub nice: i8,
    pub pad: u32,
    pub flags: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub ppid: u32,
    pub pgrp: u32,
    pub sid: u32,
    pub name: [u8; 16],
    pub args: [u8; 80],
}

const _: () = assert!(size_of::<Status>() == 336 && size_of::<PsInfo>() == 136);

/// A mapped file.
pub(crate) struct MappedFile {
    pub start: u64,
    pub end: u64,
    /// In bytes.
    pub offset: u64,
    pub name: Vec<u8>,
}

/// Notes, as they are written.
#[derive(Default)]
pub(crate) struct Notes(pub Vec<u8>);

impl Notes {
    fn add(&mut self, owner: &[u8], kind: u32, contents: &[u8]) {
        let out = &mut self.0;
        let owner_len = owner.len() as u32 + 1;
        for word in [owner_len, contents.len() as u32, kind] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(owner);
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(contents);
        out.resize(out.len().next_multiple_of(4), 0);
    }

    pub(crate) fn status(&mut self, status: &Status) {
        self.add(b"CORE", NT_PRSTATUS, status.as_bytes());
    }

    pub(crate) fn ps_info(&mut self, info: &PsInfo) {
        self.add(b"CORE", NT_PRPSINFO, info.as_bytes());
    }

    pub(crate) fn siginfo(&mut self, info: &SigInfo) {
        self.add(b"CORE", NT_SIGINFO, info.as_bytes());
    }

    pub(crate) fn auxv(&mut self, auxv: &[u64]) {
        self.add(b"CORE", NT_AUXV, auxv.as_bytes());
    }

    /// Floating-point registers, as the machine saves them.
    pub(crate) fn fpu(&mut self, bytes: &[u8]) {
        self.add(b"CORE", NT_PRFPREG, bytes.get(..FPREGS_LEN).unwrap_or(bytes));
        if bytes.len() > FPREGS_LEN {
            self.add(b"LINUX", NT_X86_XSTATE, bytes);
        }
    }

    pub(crate) fn files(&mut self, files: &[MappedFile]) {
        const PAGE: u64 = hal::PAGE_SIZE as u64;
        let mut contents = Vec::new();
        let mut put = |word: u64| contents.extend_from_slice(&word.to_le_bytes());
        put(files.len() as u64);
        put(PAGE);
        for file in files {
            put(file.start);
            put(file.end);
            put(file.offset / PAGE);
        }
        for file in files {
            contents.extend_from_slice(&file.name);
            contents.push(0);
        }
        self.add(b"CORE", NT_FILE, &contents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_padded_to_words() {
        let mut notes = Notes::default();
        notes.add(b"CORE", 7, b"abcde");
        let wanted = [&[5, 0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0][..], b"CORE\0\0\0\0abcde\0\0\0"].concat();
        assert_eq!(notes.0, wanted);
    }

    #[test]
    fn mapped_files_are_listed_in_pages() {
        let mut notes = Notes::default();
        notes.files(&[MappedFile { start: 0x1000, end: 0x3000, offset: 0x2000, name: b"/a".to_vec() }]);
        let words: Vec<u64> =
            notes.0[20..60].chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [1, 4096, 0x1000, 0x3000, 2]);
        assert_eq!(&notes.0[60..63], b"/a\0");
    }
}
