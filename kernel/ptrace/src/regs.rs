//! `struct user_regs_struct`: 27 words, the first 21 as the kernel saves them.
//!
//! ```text
//!  0 r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss
//! 21 fs_base gs_base ds es fs gs
//! ```
//!
//! Source: arch/x86/include/asm/user_64.h of Linux 7.2.

use abi::{Errno, Result};
use hal::USER_END;
use hal::trap::UserRegs;
use process::trace::Stop;
use zerocopy::{FromBytes, IntoBytes};

/// Words of the structure.
pub const NR_WORDS: usize = 27;
/// Its size in bytes.
pub const LEN: usize = NR_WORDS * 8;

/// Words of [`UserRegs`].
const NR_SAVED: usize = size_of::<UserRegs>() / 8;
const CS: usize = 17;
const EFLAGS: usize = 18;
const SS: usize = 20;
const FS_BASE: usize = 21;
const GS_BASE: usize = 22;

/// The flags that a tracer may set: CF PF AF ZF SF TF DF OF NT RF AC.
const FREE_FLAGS: u64 =
    1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 14 | 1 << 16 | 1 << 18;

/// The registers of a stopped tracee.
pub fn all(stop: &Stop) -> [u64; NR_WORDS] {
    let mut words = [0; NR_WORDS];
    if let Ok((saved, _)) = <[u64; NR_SAVED]>::read_from_prefix(stop.regs.as_bytes()) {
        words[..NR_SAVED].copy_from_slice(&saved);
    }
    words[FS_BASE] = stop.bases.fs;
    words[GS_BASE] = stop.bases.gs;
    for (word, selector) in words[GS_BASE + 1..].iter_mut().zip(stop.bases.selectors) {
        *word = selector.into();
    }
    words
}

/// Whether a selector is one that user code may load.
fn is_user_selector(value: u64) -> bool {
    value & 0xffff == 0 || value & 3 == 3
}

/// Sets word `idx`. `EIO`: a value that it cannot have.
pub fn set(stop: &mut Stop, idx: usize, value: u64) -> Result<()> {
    let mut words = all(stop);
    let slot = words.get_mut(idx).ok_or(Errno::EIO)?;
    match idx {
        CS | SS if !is_user_selector(value) || value & 0xffff == 0 => return Err(Errno::EIO),
        // Whatever they lead to: what the machine refuses is an exception on the way back.
        CS | SS => *slot = value & 0xffff,
        EFLAGS => *slot = *slot & !FREE_FLAGS | value & FREE_FLAGS,
        FS_BASE | GS_BASE if value >= USER_END => return Err(Errno::EIO),
        FS_BASE => stop.bases.fs = value,
        GS_BASE => stop.bases.gs = value,
        _ if idx > GS_BASE && !is_user_selector(value) => return Err(Errno::EIO),
        // One that the tracee may not have becomes null when it goes on.
        _ if idx > GS_BASE => {
            if let Some(selector) = stop.bases.selectors.get_mut(idx - GS_BASE - 1) {
                *selector = value as u16;
            }
        }
        _ => *slot = value,
    }
    if let Ok((regs, _)) = UserRegs::read_from_prefix(words.as_bytes()) {
        stop.regs = regs;
    }
    Ok(())
}
