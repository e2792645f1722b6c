//! Words of the tracee's memory.

use abi::{Errno, Result};
use hal::{UserAddr, user};
use mm::Rights;
use process::Task;

/// `PTRACE_PEEKTEXT`, `PTRACE_PEEKDATA`: writes the word at `addr` to `data`. `EIO`: it cannot be read.
pub(crate) fn peek(task: &Task, addr: u64, data: u64) -> Result<()> {
    let mm = task.mm().ok_or(Errno::EIO)?;
    let mut word = [0; 8];
    if mm.read_remote(addr, &mut word, Rights::Force) < word.len() {
        return Err(Errno::EIO);
    }
    Ok(user::write(UserAddr(data), &word)?)
}

/// `PTRACE_POKETEXT`, `PTRACE_POKEDATA`: sets the word at `addr`. `EIO`: it cannot be written.
pub(crate) fn poke(task: &Task, addr: u64, data: u64) -> Result<()> {
    let mm = task.mm().ok_or(Errno::EIO)?;
    let word = data.to_le_bytes();
    if mm.write_remote(addr, &word, Rights::Force) < word.len() { Err(Errno::EIO) } else { Ok(()) }
}
