//! Rows measured in guests: a guest that dies costs the row that ran in it, and the rest goes on in a fresh one.
//!
//! What a guest prints on its standard output (`user/bench/src/main.rs` and `programs.rs` write it):
//!
//! ```text
//! kernel Linux 7.2.0 #1 SMP                  uname, first
//! begin GROUP/NAME
//! bench GROUP/NAME 123.4 ns                  the value and its unit
//! bench GROUP/NAME unsupported ENOSYS        the kernel refused it
//! bench GROUP/NAME failed status 0x8b        the operation's process died
//! ```
//! Any other line is no measurement. A row without an answer when its guest has ended gets a second guest, for a busy
//! machine can make a deadline pass, and then counts as failed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use super::report::Lack;
use crate::exec::{self, Limits, Outcome, Port};
use crate::guest::GuestArgs;

/// After so many dead guests the rest counts as failed.
const MOST_CRASHES: usize = 8;
/// How often a row may lose its guest.
const TRIES: usize = 2;

/// The CPU of all measurements: without what QEMU counts as no real CPU does.
const CPU: &str = "max,la57=off,-erms,-fsrm";
/// Kernel parameters: neither kernel pays for what the other does not do.
const PARAMETERS: &str = "mitigations=off init_on_alloc=0";

/// What every guest has whose speed is of interest.
pub fn guest_choices() -> GuestArgs {
    GuestArgs { cpu: Some(CPU.to_owned()), append: PARAMETERS.to_owned(), ..GuestArgs::default() }
}

/// One value or why there is none.
pub type Answer = Result<f64, Lack>;

/// What a guest says.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The kernel's name for itself.
    Kernel(String),
    /// A row is being measured.
    Begin(String),
    /// A row has been measured.
    Answer(String, Answer),
}

/// What one kernel is to measure.
pub struct Job {
    /// `keel`, `linux` or a file.
    pub kernel: String,
    /// Number of CPUs.
    pub smp: u32,
    /// Guest time counts instructions.
    pub icount: bool,
    /// Root image.
    pub root: &'static str,
    /// Folder that the guest sees at /share.
    pub share: PathBuf,
    /// Disk images.
    pub disks: Vec<PathBuf>,
    /// The program and its arguments; the names of rows are appended.
    pub command: String,
    /// For all rows in one guest, and from one line of output to the next.
    pub limits: Limits,
    /// Rows, in the order in which the program measures them.
    pub names: Vec<String>,
}

impl Job {
    fn guest(&self) -> GuestArgs {
        GuestArgs {
            kernel: self.kernel.clone(),
            root: self.root.to_owned(),
            smp: self.smp,
            mem: Some(if self.root == "tiny" { 1024 } else { 2048 }),
            icount: self.icount,
            programs: Some(self.share.clone()),
            disks: self.disks.clone(),
            ..guest_choices()
        }
    }

    /// Measures all rows and hands each answer to `note` as it comes, exactly one for each name.
    /// Other events come as the guest sends them.
    ///
    /// An error means that no guest could be started at all; rows without an answer then have none.
    pub fn run(&self, note: &mut dyn FnMut(Event)) -> Result<()> {
        let guest = self.guest();
        let mut rest = self.names.clone();
        let mut lost: BTreeMap<String, usize> = BTreeMap::new();
        let mut crashes = 0;
        while !rest.is_empty() {
            if crashes == MOST_CRASHES {
                let why = Lack::Failed("not measured: too many guests died before it".to_owned());
                rest.drain(..).for_each(|name| note(Event::Answer(name, Err(why.clone()))));
                break;
            }
            let Some(why) = self.run_once(&guest, &mut rest, note)? else { continue };
            crashes += 1;
            let Some(name) = rest.first().cloned() else { break };
            let times = lost.entry(name.clone()).or_default();
            *times += 1;
            if *times == TRIES {
                rest.remove(0);
                note(Event::Answer(name, Err(Lack::Failed(why))));
            }
        }
        Ok(())
    }

    /// One guest; why the first row left has no answer, if one is left.
    fn run_once(
        &self,
        guest: &GuestArgs,
        rest: &mut Vec<String>,
        note: &mut dyn FnMut(Event),
    ) -> Result<Option<String>> {
        let command = format!("exec {} {}", self.command, rest.join(" "));
        let (mut text, mut noise) = (Vec::new(), String::new());
        let report = exec::run(guest, &command, self.limits, &mut |port, bytes| match port {
            Port::Stdout => {
                text.extend_from_slice(bytes);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let Some(event) = parse(&String::from_utf8_lossy(&line)) else { continue };
                    if let Event::Answer(name, _) = &event {
                        // A row that was not asked for, or asked for and answered, is garbage.
                        let Some(at) = rest.iter().position(|n| n == name) else { continue };
                        rest.remove(at);
                    }
                    note(event);
                }
            }
            Port::Stderr => noise.push_str(&String::from_utf8_lossy(bytes)),
            Port::Console | Port::Control => {}
        })?;
        if rest.is_empty() {
            return Ok(None);
        }
        Ok(Some(match report.outcome {
            Outcome::Failed(reason) => reason,
            Outcome::Exited(status) => {
                format!(
                    "no result; the program ended with status {status}\n{noise}\nlog: {}",
                    report.log.display()
                )
            }
        }))
    }
}

/// Understands one line of a guest.
fn parse(line: &str) -> Option<Event> {
    let line = line.trim_end();
    if let Some(kernel) = line.strip_prefix("kernel ") {
        return Some(Event::Kernel(kernel.to_owned()));
    }
    if let Some(name) = line.strip_prefix("begin ") {
        return Some(Event::Begin(name.to_owned()));
    }
    let mut words = line.strip_prefix("bench ")?.split_whitespace();
    let name = words.next()?.to_owned();
    let first = words.next()?;
    let others = words.collect::<Vec<_>>().join(" ");
    let answer = match first {
        "unsupported" => Err(Lack::Unsupported(others)),
        "failed" => Err(Lack::Failed(others)),
        number => match number.parse::<f64>() {
            Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
            _ => Err(Lack::Failed(format!("no number: {line}"))),
        },
    };
    Some(Event::Answer(name, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Answer) {
        assert_eq!(parse(line), Some(Event::Answer("a/b".to_owned(), expected)));
    }

    #[test]
    fn lines_become_events() {
        check("bench a/b 12.5 ns\r\n", Ok(12.5));
        check("bench a/b unsupported ENOSYS", Err(Lack::Unsupported("ENOSYS".into())));
        check("bench a/b failed status 0x8b", Err(Lack::Failed("status 0x8b".into())));
        assert_eq!(parse("begin a/b"), Some(Event::Begin("a/b".into())));
        assert_eq!(parse("kernel Linux 7.2"), Some(Event::Kernel("Linux 7.2".into())));
    }

    #[test]
    fn garbage_is_no_measurement() {
        for line in ["", "bench", "bench a/b", "\u{fffd}ench a/b 1 ns"] {
            assert_eq!(parse(line), None, "{line}");
        }
        for line in ["bench a/b x", "bench a/b NaN ns", "bench a/b -1 ns", "bench a/b 0 ns"] {
            assert!(matches!(parse(line), Some(Event::Answer(_, Err(Lack::Failed(_))))), "{line}");
        }
    }
}
