//! How much of a kernel stack each function takes, held against a limit.
//!
//! Kernel stacks are small, and a fault or the write-back of a page begins wherever a system call happens to be.
//! (Interrupts of kernel code run on their CPU's own stack, which is no larger.) The compiler notes the size of each
//! function's frame in the section `.stack_sizes`, which is in the kernel's file but not loaded: for each function
//! its address (8 bytes) and the frame's bytes (ULEB128).

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::kernel::{self, Flavour};

/// Bytes that a function may take, without what it calls (Linux: `CONFIG_FRAME_WARN` of 64-bit machines).
const LIMIT: u64 = 2048;

const UNWINDING: &str = "a crate from outside; a panic is unwound on the stack of the thread that had it, the calls \
     take up to 17.6 of its 20 KiB, and where less is left the guard page stops the machine";

/// Functions that may take more, by how their names begin, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("hal::arch::boot::", "on the boot stack, before there is anything else"),
    ("hal::arch::smp::start_all", "once at boot, in the boot thread"),
    ("serial::uart::probe", "once at boot, in the boot thread"),
    ("unwinding::", UNWINDING),
    ("gimli::", UNWINDING),
];

/// A function's name and the bytes of its frame.
type Frame = (String, u64);

/// Builds the kernel as users run it, and fails with every function that takes too much.
pub fn run() -> Result<String> {
    let elf = kernel::build(Flavour::Release)?.elf;
    let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let frames = frames(&bytes)?;
    let (wrong, vain) = judge(&frames, EXCEPTIONS);
    if !wrong.is_empty() {
        bail!(
            "kernel functions may take {LIMIT} bytes of the stack (what is large goes to the heap, what is rare \
             into an `#[inline(never)]` function):\n  {}",
            wrong.join("\n  ")
        );
    }
    let mut note =
        format!("{} frames of at most {LIMIT} bytes, {} exceptions", frames.len(), EXCEPTIONS.len());
    if !vain.is_empty() {
        note.push_str(&format!(" (this compiler needs none for {})", vain.join(", ")));
    }
    Ok(note)
}

/// The frames of all functions of the kernel in `elf` that have one noted.
fn frames(elf: &[u8]) -> Result<Vec<Frame>> {
    let file = object::File::parse(elf).context("the kernel is no ELF file")?;
    let section = file.section_by_name(".stack_sizes").context("the kernel has no section .stack_sizes")?;
    let functions =
        file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
    let names: BTreeMap<u64, &str> =
        functions.filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?))).collect();
    let sizes = decode(section.data()?).context("the section .stack_sizes is damaged")?;
    let name = |address: u64| match names.get(&address) {
        Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
        None => format!("{address:#x}"),
    };
    Ok(sizes.into_iter().map(|(address, bytes)| (name(address), bytes)).collect())
}

/// The entries of the section: address and bytes. `None`: it is cut off or a number is too large.
fn decode(mut data: &[u8]) -> Option<Vec<(u64, u64)>> {
    let mut sizes = Vec::new();
    while !data.is_empty() {
        let (address, mut rest) = data.split_first_chunk::<8>()?;
        let (mut bytes, mut shift) = (0u64, 0);
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            bytes |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        sizes.push((u64::from_le_bytes(*address), bytes));
        data = rest;
    }
    Some(sizes)
}

/// What is wrong, which is frames beyond the limit, the largest first; and the exceptions that nothing needs.
///
/// The latter is not wrong: what is inlined where differs from one compiler to the next.
fn judge<'a>(frames: &[Frame], exceptions: &[(&'a str, &str)]) -> (Vec<String>, Vec<&'a str>) {
    let mut large: Vec<&Frame> = frames.iter().filter(|(_, bytes)| *bytes > LIMIT).collect();
    large.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    let is_for = |exception: &str, frame: &Frame| frame.0.trim_start_matches('<').starts_with(exception);
    let is_excepted = |frame: &Frame| exceptions.iter().any(|(exception, _)| is_for(exception, frame));
    let beyond = large.iter().filter(|frame| !is_excepted(frame));
    let mut wrong: Vec<String> = beyond.map(|(name, bytes)| format!("{bytes} bytes: {name}")).collect();
    let is_vain = |exception: &&str| !large.iter().any(|frame| is_for(exception, frame));
    let vain = exceptions.iter().map(|(exception, _)| *exception).filter(is_vain).collect();
    if frames.is_empty() {
        wrong.push("no frame at all is noted".to_owned());
    }
    (wrong, vain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_an_address_and_a_number_of_any_length() {
        let data = [&[1, 0, 0, 0, 0, 0, 0, 0x80, 0x88, 0x10][..], &[2, 0, 0, 0, 0, 0, 0, 0, 0x7f]].concat();
        assert_eq!(decode(&data), Some(vec![(1 | 0x80 << 56, 2056), (2, 127)]));
        assert_eq!(decode(&data[..data.len() - 1]), None);
        assert_eq!(decode(&[0xff; 40]), None);
    }

    #[test]
    fn large_frames_are_wrong_unless_excepted() {
        let frames = [("a::f", 2049), ("b::g", 4096), ("<c::T>::h", 9000), ("d::i", LIMIT)];
        let frames = frames.map(|(name, bytes)| (name.to_owned(), bytes));
        let (wrong, vain) = judge(&frames, &[("c::", "boot"), ("e::", "gone")]);
        assert_eq!(wrong, ["4096 bytes: b::g", "2049 bytes: a::f"]);
        assert_eq!(vain, ["e::"]);
        assert_eq!(judge(&[], &[]).0, ["no frame at all is noted"]);
    }
}
