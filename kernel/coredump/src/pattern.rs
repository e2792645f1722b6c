//! kernel.core_pattern (core(5) "Naming of core dump files").

use alloc::vec::Vec;

/// What the letters of a pattern stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// In its own pid namespace.
    pub own_pid: u32,
    pub pid: u32,
    /// In its own pid namespace.
    pub own_tid: u32,
    pub tid: u32,
    pub uid: u32,
    pub gid: u32,
    pub dumpable: u8,
    pub signal: i32,
    pub seconds: i64,
    pub limit: u64,
    pub cpu: u32,
    pub host: Vec<u8>,
    pub comm: Vec<u8>,
    /// Path of the program.
    pub program: Vec<u8>,
}

/// Where a dump goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file of this name.
    File(Vec<u8>),
    /// The standard input of a program with these arguments, the first one being its path.
    Program(Vec<Vec<u8>>),
    /// The server at this socket, which is asked first with `asks`.
    Socket { path: Vec<u8>, asks: bool },
}

/// The path in a pattern that names a socket, and whether its server is asked first.
pub(crate) fn socket(pattern: &[u8]) -> Option<(&[u8], bool)> {
    let path = pattern.strip_prefix(b"@")?;
    Some(path.strip_prefix(b"@").map_or((path, false), |path| (path, true)))
}

/// Longest name or argument that comes of a pattern.
const MAX: usize = 4096;

/// Applies `pattern`. `None`: an empty name.
pub(crate) fn expand(pattern: &[u8], facts: &Facts, uses_pid: bool) -> Option<Place> {
    if let Some((path, asks)) = socket(pattern) {
        return Some(Place::Socket { path: path.to_vec(), asks });
    }
    if let Some((b'|', command)) = pattern.split_first() {
        // Split first, so that blanks in names make no arguments.
        let words = command.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let args: Vec<Vec<u8>> = words.map(|word| one(word, facts).0).collect();
        return if args.is_empty() { None } else { Some(Place::Program(args)) };
    }
    let (mut name, has_pid) = one(pattern, facts);
    if uses_pid && !has_pid {
        name.extend_from_slice(alloc::format!(".{}", facts.own_pid).as_bytes());
    }
    if name.is_empty() { None } else { Some(Place::File(name)) }
}

/// Expands one word; also tells whether the process id is in it.
fn one(word: &[u8], facts: &Facts) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut has_pid = false;
    let mut bytes = word.iter().copied();
    while let Some(byte) = bytes.next() {
        if out.len() >= MAX {
            break;
        }
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        // A lone % at the end is dropped.
        let Some(letter) = bytes.next() else { break };
        has_pid |= letter == b'p';
        letter_into(letter, facts, &mut out);
    }
    out.truncate(MAX);
    (out, has_pid)
}

fn letter_into(letter: u8, facts: &Facts, out: &mut Vec<u8>) {
    let number = match letter {
        b'%' => return out.push(b'%'),
        b'p' => i128::from(facts.own_pid),
        b'P' => i128::from(facts.pid),
        b'i' => i128::from(facts.own_tid),
        b'I' => i128::from(facts.tid),
        b'u' => i128::from(facts.uid),
        b'g' => i128::from(facts.gid),
        b'd' => i128::from(facts.dumpable),
        b's' => i128::from(facts.signal),
        b't' => i128::from(facts.seconds),
        b'c' => i128::from(facts.limit),
        b'C' => i128::from(facts.cpu),
        b'h' => return name_into(&facts.host, out),
        b'e' => return name_into(&facts.comm, out),
        b'f' => return name_into(facts.program.rsplit(|&byte| byte == b'/').next().unwrap_or_default(), out),
        b'E' => return name_into(&facts.program, out),
        // Unknown letters disappear.
        _ => return,
    };
    out.extend_from_slice(alloc::format!("{number}").as_bytes());
}

/// A name that the user chose must not lead into another directory.
fn name_into(name: &[u8], out: &mut Vec<u8>) {
    match name {
        b"." => out.push(b'!'),
        b".." => out.extend_from_slice(b"!."),
        b"" => out.push(b'!'),
        _ => out.extend(name.iter().map(|&byte| if byte == b'/' { b'!' } else { byte })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            own_pid: 12,
            pid: 112,
            own_tid: 13,
            tid: 113,
            signal: 11,
            comm: b"a/b c".to_vec(),
            host: b"keel".to_vec(),
            program: b"/bin/prog".to_vec(),
            limit: u64::MAX,
            ..Facts::default()
        }
    }

    #[track_caller]
    fn file(pattern: &str, uses_pid: bool, wanted: &str) {
        let place = expand(pattern.as_bytes(), &facts(), uses_pid);
        assert_eq!(place, Some(Place::File(wanted.as_bytes().to_vec())));
    }

    #[test]
    fn letters_are_replaced() {
        file("core", false, "core");
        file("core", true, "core.12");
        file("core.%p.%P.%I", true, "core.12.112.113");
        file("/tmp/%e-%s-%i%%%", false, "/tmp/a!b c-11-13%");
        file("%h.%f.%E.%q", false, "keel.prog.!bin!prog.");
        file("%c", false, "18446744073709551615");
    }

    #[test]
    fn a_program_gets_words_that_names_cannot_split() {
        let place = expand(b"|/sbin/dump  %p %e", &facts(), true);
        let wanted = ["/sbin/dump", "12", "a!b c"].map(|word| word.as_bytes().to_vec());
        assert_eq!(place, Some(Place::Program(wanted.to_vec())));
        assert_eq!(expand(b"|", &facts(), false), None);
    }

    #[test]
    fn a_socket_is_named_without_letters() {
        let place = |path: &str, asks| Some(Place::Socket { path: path.as_bytes().to_vec(), asks });
        assert_eq!(expand(b"@/run/%p", &facts(), true), place("/run/%p", false));
        assert_eq!(expand(b"@@/run/x", &facts(), true), place("/run/x", true));
    }

    #[test]
    fn an_empty_pattern_names_nothing() {
        assert_eq!(expand(b"", &facts(), false), None);
    }
}
