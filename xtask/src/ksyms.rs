//! Filling the kernel image's symbol table.
//!
//! The image reserves a section for the names of its functions (see `symbols.rs` in hal, which explains the format);
//! only after linking are the addresses known. What does not fit is left out, the longest names first.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

const SECTION: &str = ".ksyms";
const MAGIC: &[u8; 8] = b"KEELSYMS";
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 8;

/// A function of the kernel: its address less the image's start, and its name.
struct Function {
    offset: u32,
    name: String,
}

/// Writes the names and addresses of all functions of the kernel at `elf` into the file.
pub fn fill(elf: &Path) -> Result<()> {
    let mut bytes = fs::read(elf)?;
    let (at, room, functions) = {
        let file = object::File::parse(&*bytes).context("the kernel is no ELF file")?;
        let section = file.section_by_name(SECTION).context("the kernel has no section for symbols")?;
        let (at, room) = section.file_range().context("the section for symbols is empty")?;
        (usize::try_from(at)?, usize::try_from(room)?, collect(&file)?)
    };
    let table = encode(functions, room)?;
    let place = bytes.get_mut(at..at + room).context("the section for symbols is cut off")?;
    let (filled, rest) = place.split_at_mut(table.len());
    if filled == table && rest.iter().all(|byte| *byte == 0) {
        return Ok(()); // unchanged: keep the file's time, so that nothing is packed again
    }
    filled.copy_from_slice(&table);
    rest.fill(0);
    fs::write(elf, bytes).context("cannot write the symbols into the kernel")
}

/// The functions of the kernel at `elf`, by address as linked.
pub fn functions(elf: &Path) -> Result<BTreeMap<u64, String>> {
    let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(&*bytes).context("the kernel is no ELF file")?;
    let start = start(&file)?;
    Ok(collect(&file)?.into_iter().map(|f| (start + u64::from(f.offset), f.name)).collect())
}

/// The address that offsets count from.
fn start(file: &object::File<'_>) -> Result<u64> {
    let start = file.symbols().find(|symbol| symbol.name() == Ok("__image_start"));
    Ok(start.context("the kernel has no symbol __image_start")?.address())
}

/// The functions by address, one name each.
fn collect(file: &object::File<'_>) -> Result<Vec<Function>> {
    let start = start(file)?;
    let mut functions: Vec<Function> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let offset = symbol.address().checked_sub(start)?.try_into().ok()?;
            Some(Function { offset, name: short_name(symbol.name().ok()?) })
        })
        .collect();
    functions.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    functions.dedup_by_key(|function| function.offset);
    if functions.is_empty() {
        bail!("the kernel was stripped of its symbols");
    }
    Ok(functions)
}

/// The demangled name without hashes and generic arguments, which are long and say little in a backtrace.
fn short_name(mangled: &str) -> String {
    let full = format!("{:#}", rustc_demangle::demangle(mangled));
    let mut name = String::new();
    let mut depth = 0usize;
    let mut previous = ' ';
    for (at, ch) in full.char_indices() {
        // `<T as Trait>::f` begins with a bracket that matters; `f::<T>` and `Type<T>` have ones that do not.
        match ch {
            '<' if at > 0 && previous != '<' && previous != ' ' => depth += 1,
            '>' if depth > 0 && previous != '-' => depth -= 1,
            _ if depth == 0 => name.push(ch),
            _ => {}
        }
        previous = ch;
    }
    name.replace("::::", "::").trim_end_matches("::").to_owned()
}

/// The section's contents, at most `room` bytes.
fn encode(mut functions: Vec<Function>, room: usize) -> Result<Vec<u8>> {
    let size = |function: &Function| ENTRY_BYTES + function.name.len() + 1;
    let mut total = HEADER_BYTES + functions.iter().map(size).sum::<usize>();
    let mut limit = 200;
    while total > room {
        for function in &mut functions {
            if function.name.len() > limit {
                let cut = (0..=limit).rev().find(|at| function.name.is_char_boundary(*at)).unwrap_or(0);
                function.name.truncate(cut);
            }
        }
        total = HEADER_BYTES + functions.iter().map(size).sum::<usize>();
        if limit == 0 {
            bail!("the section for symbols is too small for {} functions", functions.len());
        }
        limit -= 10;
    }
    let mut names = Vec::new();
    let mut table = Vec::with_capacity(total);
    table.extend_from_slice(MAGIC);
    table.extend_from_slice(&u32::try_from(functions.len())?.to_le_bytes());
    table.extend_from_slice(
        &u32::try_from(functions.iter().map(|f| f.name.len() + 1).sum::<usize>())?.to_le_bytes(),
    );
    for function in &functions {
        table.extend_from_slice(&function.offset.to_le_bytes());
        table.extend_from_slice(&u32::try_from(names.len())?.to_le_bytes());
        names.extend_from_slice(function.name.as_bytes());
        names.push(0);
    }
    table.extend_from_slice(&names);
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(offset: u32, name: &str) -> Function {
        Function { offset, name: name.to_owned() }
    }

    #[test]
    fn the_table_has_sorted_entries_and_names() {
        let table = encode(vec![function(0, "a"), function(16, "bc")], 4096).unwrap();
        let expected = b"KEELSYMS\x02\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0\x02\0\0\0a\0bc\0";
        assert_eq!(table, expected);
    }

    #[test]
    fn long_names_are_cut_to_fit() {
        let table = encode(vec![function(0, &"x".repeat(300)), function(1, "short")], 256).unwrap();
        assert!(table.len() <= 256);
        assert!(table.ends_with(b"xshort\0") || table.ends_with(b"\0short\0"));
    }

    #[test]
    fn generic_arguments_are_left_out() {
        assert_eq!(short_name("plain_c_name"), "plain_c_name");
        assert_eq!(short_name("_RINvNtC3std3mem8align_ofyE"), "std::mem::align_of");
    }
}
