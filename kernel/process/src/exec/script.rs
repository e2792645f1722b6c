//! The first line of a script (execve(2), "Interpreter scripts").

use alloc::vec::Vec;

use abi::{Errno, Result};

/// How much of a file is looked at to find out what it is (Linux: `BINPRM_BUF_SIZE`).
pub(super) const PROBE_LEN: usize = 256;

/// What a `#!` line names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    pub(super) path: Vec<u8>,
    /// Everything after the first blank, as one argument.
    pub(super) argument: Option<Vec<u8>>,
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Reads the line at the start of `probe`, the beginning of a file. `None`: it does not start with `#!`.
///
/// `ENOEXEC`: no interpreter, or its path may have been cut off.
pub(super) fn parse(probe: &[u8]) -> Result<Option<Interpreter>> {
    let Some(rest) = probe.strip_prefix(b"#!") else { return Ok(None) };
    let start = rest.iter().position(|byte| !is_blank(byte)).ok_or(Errno::ENOEXEC)?;
    let rest = rest.get(start..).ok_or(Errno::ENOEXEC)?;
    let line = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => rest.get(..end).unwrap_or_default(),
        None if probe.len() < PROBE_LEN => rest,
        None => {
            let is_whole = rest.iter().any(|byte| is_blank(byte) || *byte == 0);
            if is_whole {
                rest.get(..rest.len() - 1).unwrap_or_default()
            } else {
                return Err(Errno::ENOEXEC);
            }
        }
    };
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let len = line.iter().rposition(|byte| !is_blank(byte)).map_or(0, |last| last + 1);
    let line = line.get(..len).unwrap_or_default();
    let path: Vec<u8> = line.iter().copied().take_while(|byte| !is_blank(byte)).collect();
    if path.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    let after = line.get(path.len()..).unwrap_or_default();
    let argument: Vec<u8> = after.iter().copied().skip_while(is_blank).collect();
    Ok(Some(Interpreter { path, argument: (!argument.is_empty()).then_some(argument) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &[u8], path: &[u8], argument: Option<&[u8]>) {
        let found = parse(line).unwrap().unwrap();
        assert_eq!((found.path.as_slice(), found.argument.as_deref()), (path, argument));
    }

    #[test]
    fn a_line_names_a_program_and_at_most_one_argument() {
        check(b"#!/bin/sh\necho", b"/bin/sh", None);
        check(b"#! \t/bin/sh  \n", b"/bin/sh", None);
        check(b"#!/usr/bin/env -S perl -w \nx", b"/usr/bin/env", Some(b"-S perl -w"));
        check(b"#!/bin/sh", b"/bin/sh", None);
        check(b"#!/bin/sh\0junk\n", b"/bin/sh", None);
    }

    #[test]
    fn lines_without_a_whole_path_are_no_scripts() {
        assert_eq!(parse(b"#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(parse(b"#!   "), Err(Errno::ENOEXEC));
        assert_eq!(parse(b"echo"), Ok(None));
        let mut long = b"#!/".to_vec();
        long.resize(PROBE_LEN, b'a');
        assert_eq!(parse(&long), Err(Errno::ENOEXEC));
        long.truncate(PROBE_LEN - 1);
        long.push(b' ');
        assert_eq!(parse(&long).unwrap().unwrap().path.len(), PROBE_LEN - 3);
    }
}
