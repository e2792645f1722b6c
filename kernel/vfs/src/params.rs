//! Parameters of file systems: their names and what values they take.
//!
//! A file system lists them in a table ([`crate::FileSystemType::params`]). With it fsconfig(2) checks a parameter when it
//! is set, and [`each`] reads the options of mount(2), so both know the same names and understand values alike.
//!
//! ```text
//!   "size=64k,mode=755"  --each-->  ("size", Number(65536)), ("mode", Number(0o755))
//! ```
//!
//! Sources: mount(2), fsconfig(2), Documentation/filesystems/mount_api.rst; texts and numbers as observed on Linux 7.2
//! (user/tests `mountfd`).

use alloc::vec::Vec;

use abi::{Errno, Result};

/// What values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None.
    Nothing,
    /// A number of 32 bits: decimal, or as C writes other bases.
    Number,
    /// A number of 32 bits in octal.
    Octal,
    /// A number with an optional suffix k, m, g, t, p or e.
    Size,
    /// As `Size`, or percent of something.
    Share,
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// A parameter. One that may come with and without a value has two entries.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    name: &'static str,
    takes: Takes,
}

impl Param {
    /// The parameter `name`.
    pub const fn new(name: &'static str, takes: Takes) -> Self {
        Self { name, takes }
    }
}

/// A value as its parameter takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// [`Takes::Nothing`].
    Nothing,
    /// [`Takes::Number`], [`Takes::Octal`], [`Takes::Size`].
    Number(u64),
    /// [`Takes::Share`] with a percent sign.
    Percent(u64),
    /// [`Takes::Text`], [`Takes::Word`].
    Text(&'a [u8]),
}

impl Value<'_> {
    /// A number that is known to have 32 bits. `EINVAL`: it has more, or there is none.
    pub fn as_u32(self) -> Result<u32> {
        match self {
            Self::Number(number) => u32::try_from(number).map_err(|_| Errno::EINVAL),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Why a parameter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is none of this name.
    Unknown,
    /// It takes no value.
    Unexpected,
    /// The value is missing or not understood.
    Bad,
}

impl Problem {
    /// What the log of a context says of parameter `key` of the file system `fs_type`.
    pub(crate) fn message(self, fs_type: &str, key: &[u8]) -> Vec<u8> {
        let what: &[u8] = match self {
            Self::Unknown => b": Unknown parameter '",
            Self::Unexpected => b": Unexpected value for '",
            Self::Bad => b": Bad value for '",
        };
        [fs_type.as_bytes(), what, key, b"'"].concat()
    }
}

/// Reads one parameter: its name in the table and the value.
pub fn read<'a>(
    params: &'static [Param],
    key: &[u8],
    value: Option<&'a [u8]>,
) -> core::result::Result<(&'static str, Value<'a>), Problem> {
    let mut problem = Problem::Unknown;
    for param in params.iter().filter(|param| param.name.as_bytes() == key) {
        match (param.takes, value) {
            (Takes::Nothing, None) => return Ok((param.name, Value::Nothing)),
            (Takes::Nothing, Some(_)) if problem == Problem::Unknown => problem = Problem::Unexpected,
            (Takes::Nothing, Some(_)) => {}
            (takes, value) => match value.and_then(|value| takes.read(value)) {
                Some(value) => return Ok((param.name, value)),
                None => problem = Problem::Bad,
            },
        }
    }
    Err(problem)
}

/// Calls `set` for each option of `data`, which commas separate. `EINVAL`: one that is not as `params` say, or as `set` wants.
pub fn each(
    params: &'static [Param],
    data: &[u8],
    mut set: impl FnMut(&'static str, Value<'_>) -> Result<()>,
) -> Result<()> {
    for option in data.split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
        let (key, value) = split(option);
        let (name, value) = read(params, key, value).map_err(|_| Errno::EINVAL)?;
        set(name, value)?;
    }
    Ok(())
}

/// Cuts an option at the first equals sign.
pub fn split(option: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = option.splitn(2, |&byte| byte == b'=');
    (parts.next().unwrap_or_default(), parts.next())
}

impl Takes {
    fn read(self, value: &[u8]) -> Option<Value<'_>> {
        match self {
            Self::Nothing => None,
            Self::Number => whole(value, None).map(Value::Number),
            Self::Octal => whole(value, Some(8)).map(Value::Number),
            Self::Size => size(value).map(Value::Number),
            Self::Share => match value.strip_suffix(b"%") {
                Some(percent) => digits(percent, None)
                    .and_then(|(percent, rest)| rest.is_empty().then_some(Value::Percent(percent))),
                None => size(value).map(Value::Number),
            },
            Self::Text => Some(Value::Text(value)),
            Self::Word(words) => {
                words.iter().any(|word| word.as_bytes() == value).then_some(Value::Text(value))
            }
        }
    }
}

/// The number that `text` begins with, and what follows; without a base a prefix tells it: 0x, 0 or none.
fn digits(text: &[u8], base: Option<u32>) -> Option<(u64, &[u8])> {
    let (base, text) = match (base, text) {
        (Some(base), text) => (base, text),
        (None, [b'0', b'x' | b'X', rest @ ..]) => (16, rest),
        (None, [b'0', _, ..]) => (8, text),
        (None, text) => (10, text),
    };
    let len = text.iter().take_while(|byte| char::from(**byte).is_digit(base)).count();
    let (number, rest) = text.split_at(len);
    let number = core::str::from_utf8(number).ok()?;
    Some((u64::from_str_radix(number, base).ok()?, rest))
}

/// `text` as a number of 32 bits and nothing else.
fn whole(text: &[u8], base: Option<u32>) -> Option<u64> {
    let (number, rest) = digits(text, base)?;
    (rest.is_empty() && number <= u64::from(u32::MAX)).then_some(number)
}

fn size(text: &[u8]) -> Option<u64> {
    let (number, rest) = digits(text, None)?;
    let shift = match rest {
        [] => 0,
        [suffix] => match suffix.to_ascii_lowercase() {
            b'k' => 10,
            b'm' => 20,
            b'g' => 30,
            b't' => 40,
            b'p' => 50,
            b'e' => 60,
            _ => return None,
        },
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: &[Param] = &[
        Param::new("size", Takes::Share),
        Param::new("mode", Takes::Octal),
        Param::new("uid", Takes::Number),
        Param::new("on", Takes::Nothing),
        Param::new("dir", Takes::Text),
        Param::new("barrier", Takes::Nothing),
        Param::new("barrier", Takes::Number),
        Param::new("errors", Takes::Word(&["panic", "continue"])),
    ];

    fn one(option: &[u8]) -> core::result::Result<Value<'_>, Problem> {
        let (key, value) = split(option);
        read(PARAMS, key, value).map(|(_, value)| value)
    }

    #[test]
    fn numbers_have_bases_and_suffixes() {
        for (option, number) in [
            (&b"size=64k"[..], 65536),
            (b"size=1G", 1 << 30),
            (b"size=0x10", 16),
            (b"size=010", 8),
            (b"size=0", 0),
            (b"mode=0755", 0o755),
            (b"mode=755", 0o755),
            (b"uid=4294967295", u64::from(u32::MAX)),
        ] {
            assert_eq!(one(option), Ok(Value::Number(number)));
        }
        assert_eq!(one(b"size=50%"), Ok(Value::Percent(50)));
        for option in [
            &b"size=1q"[..],
            b"size=1kk",
            b"size=x",
            b"size=-1",
            b"size=99999999999999999999",
            b"size=16777216t",
            b"size=5%%",
            b"size",
            b"mode=9",
            b"uid=4294967296",
            b"uid=1k",
            b"uid=\xff",
            b"errors=maybe",
        ] {
            assert_eq!(one(option), Err(Problem::Bad), "{option:?}");
        }
    }

    #[test]
    fn names_and_kinds_are_told_apart() {
        assert_eq!(one(b"frob"), Err(Problem::Unknown));
        assert_eq!(one(b"on"), Ok(Value::Nothing));
        assert_eq!(one(b"on=1"), Err(Problem::Unexpected));
        assert_eq!((one(b"barrier"), one(b"barrier=1")), (Ok(Value::Nothing), Ok(Value::Number(1))));
        assert_eq!(one(b"barrier=x"), Err(Problem::Bad));
        assert_eq!(one(b"dir=a=b"), Ok(Value::Text(b"a=b")));
        assert_eq!(one(b"dir="), Ok(Value::Text(b"")));
        assert_eq!(Problem::Bad.message("tmpfs", b"size"), b"tmpfs: Bad value for 'size'");
    }

    #[test]
    fn options_come_in_order_and_stop_at_the_first_bad_one() {
        let mut seen = Vec::new();
        let result = each(PARAMS, b",uid=3,,on,size=x,mode=7", |name, value| {
            seen.push((name, value == Value::Nothing));
            Ok(())
        });
        assert_eq!(result, Err(Errno::EINVAL));
        assert_eq!(seen, [("uid", false), ("on", true)]);
    }
}
