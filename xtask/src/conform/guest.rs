//! Test programs in guests: many in one boot, a fresh guest after each that the kernel did not survive.
//!
//! A shell script in the guest runs the cases of a list and prints a line before and after each:
//!
//! ```text
//!   \x1e begin kselftest/pidfd/pidfd_test
//!   (what the program prints)
//!   \x1e end 0
//! ```
//! A panic, a hang or silence ends only the case that was running; its mark says so and its log is kept. A guest that
//! does not get as far as a case says nothing about any: it is started again.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::ktap::{Mark, Parser};
use crate::exec::{self, Limits, Outcome, Port};
use crate::guest::GuestArgs;
use crate::test::batch::Lines;
use crate::{paths, ui};

/// The recipe of the root that all cases run on.
pub const ROOT: &str = "conform";
/// The byte before a line of the script.
const MARKER: char = '\u{1e}';
/// Beyond a case's own limit, for a busy machine.
const GRACE: Duration = Duration::from_secs(40);
/// Most wall time that a second of a busy guest takes: by then its own limit should have ended the case.
const SLOWNESS: u64 = 2;
/// Most of one case's output that is kept.
const MOST_OUTPUT: usize = 4 << 20;
/// What a kernel prints when something is wrong with it.
const WARNINGS: [&str; 5] = ["WARNING: ", "BUG: ", "Oops", "kernel panic", "lock order"];

/// Whether a line of the kernel's log says that something is wrong with it.
pub fn is_warning(line: &str) -> bool {
    WARNINGS.iter().any(|word| line.contains(word))
}

/// After so many dead guests in a row the rest of a list is given up.
const MOST_CRASHES: usize = 8;
/// After so many guests that did not get as far as their first case, none will.
const MOST_STARTS: usize = 3;

/// Runs what the list names; `limit` seconds, a folder below /share, a name, and the command.
const SCRIPT: &str = r#"
exec 2>&1
ulimit -c 0
# Some stressors send signals to processes that are not theirs.
trap : ALRM HUP INT TERM USR1 USR2
while IFS='	' read -r limit folder name command; do
    cd "/share/$folder" || cd /
    # Where systemd mounts control groups, and how.
    case $folder in
    */cgroup) mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup ;;
    esac
    printf '\n\036 begin %s\n' "$name"
    setsid timeout -k 5 "$limit" sh -c "exec stdbuf --output=L $command" </dev/null 3<&- &
    pid=$!
    wait $pid
    status=$?
    while [ $status -gt 128 ] && kill -0 $pid 2>/dev/null; do
        wait $pid
        status=$?
    done
    printf '\n\036 end %s\n' "$status"
    pkill -KILL -s $pid
    case $folder in
    */cgroup) umount /sys/fs/cgroup ;;
    esac
done </share/list
"#;

/// One program to run.
#[derive(Clone, Debug)]
pub struct Case {
    /// Suite, directory and program.
    pub name: String,
    /// The folder below the share in which it runs.
    pub folder: String,
    /// What the shell executes.
    pub command: String,
    /// Its limit.
    pub seconds: u64,
}

/// What became of one program.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Ending {
    /// Its exit status as a mark.
    pub mark: Option<Mark>,
    /// Its lines.
    pub lines: BTreeMap<String, Mark>,
    /// The kernel's warnings while it ran, or why the guest died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<String>,
    /// Seconds of wall time.
    pub seconds: f64,
}

/// Runs the cases, handing each ending to `note`. `folders` are what the guest gets at /share; what
/// each case prints is kept in `outputs`.
pub fn run(
    guest: &GuestArgs,
    folders: &[(String, PathBuf)],
    outputs: &Path,
    cases: &[Case],
    note: &mut dyn FnMut(&Case, Ending),
) -> Result<()> {
    let share = Share::new(folders)?;
    let guest = GuestArgs { programs: Some(share.0.clone()), ..guest.clone() };
    let mut rest: VecDeque<Case> = cases.iter().cloned().collect();
    let (mut crashes, mut lost) = (0, 0);
    while !rest.is_empty() {
        if crashes == MOST_CRASHES {
            ui::say(&format!("{MOST_CRASHES} guests died: {} tests are given up", rest.len()));
            for case in rest.drain(..) {
                note(&case, Ending { mark: Some(Mark::Missing), ..Ending::default() });
            }
            break;
        }
        share.write_list(&rest)?;
        let before = rest.len();
        match run_once(&guest, outputs, &mut rest, note)? {
            Died::Never => {}
            Died::BeforeAnyCase(why) => {
                lost += 1;
                if lost == MOST_STARTS {
                    bail!("{} tests were not run, for no guest got as far as the first: {why}", rest.len());
                }
            }
            Died::InCase(why) => {
                let Some(case) = rest.pop_front() else { break };
                crashes = if rest.len() + 1 == before { crashes + 1 } else { 1 };
                note(&case, why);
            }
        }
    }
    Ok(())
}

/// How a guest ended.
enum Died {
    /// It ran all cases.
    Never,
    /// Too early to say anything about a case; why.
    BeforeAnyCase(String),
    /// In the first case that is left.
    InCase(Ending),
}

/// One guest.
fn run_once(
    guest: &GuestArgs,
    outputs: &Path,
    rest: &mut VecDeque<Case>,
    note: &mut dyn FnMut(&Case, Ending),
) -> Result<Died> {
    let total: u64 = rest.iter().map(|case| case.seconds).sum();
    let longest = rest.iter().map(|case| case.seconds).max().unwrap_or_default();
    let limits = Limits {
        total: Duration::from_secs(300 + total * SLOWNESS) + GRACE,
        idle: Some(Duration::from_secs(longest * SLOWNESS) + GRACE),
    };
    let mut reader = Reader::new(outputs);
    let report = exec::run(guest, "exec bash /share/run", limits, &mut |port, bytes| match port {
        Port::Stdout => {
            for ending in reader.feed(bytes) {
                if let Some(case) = rest.pop_front() {
                    note(&case, ending);
                }
            }
        }
        Port::Console => reader.console(bytes),
        Port::Stderr | Port::Control => {}
    })?;
    if rest.is_empty() {
        return Ok(Died::Never);
    }
    let why = match report.outcome {
        Outcome::Failed(why) => why,
        Outcome::Exited(status) => format!("the list ended early with status {status}"),
    };
    if reader.name.is_empty() {
        let first = why.lines().next().unwrap_or_default();
        return Ok(Died::BeforeAnyCase(format!("{first}; log: {}", report.log.display())));
    }
    let is_late = why.starts_with("the command ran out of time");
    let mut ending = reader.take(if is_late { Mark::Timeout } else { Mark::Crash });
    ending.kernel.push(why.lines().next().unwrap_or_default().to_owned());
    if let Some(at) = why.find("PANIC").or_else(|| why.find("kernel panic")) {
        ending.kernel.extend(why[at..].lines().take(3).map(|l| l.trim().to_owned()));
    }
    ending.kernel.push(format!("log: {}", report.log.display()));
    Ok(Died::InCase(ending))
}

/// Turns the guest's output into endings.
struct Reader {
    parser: Parser,
    outputs: PathBuf,
    lines: Lines,
    log: Lines,
    output: String,
    warnings: Vec<String>,
    name: String,
    start: Instant,
}

impl Reader {
    fn new(outputs: &Path) -> Reader {
        Reader {
            parser: Parser::new(),
            outputs: outputs.to_owned(),
            lines: Lines::default(),
            log: Lines::default(),
            output: String::new(),
            warnings: Vec::new(),
            name: String::new(),
            start: Instant::now(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<Ending> {
        let mut endings = Vec::new();
        for line in self.lines.feed(bytes) {
            match line.trim_start().strip_prefix(MARKER).map(str::trim) {
                Some(text) if text.starts_with("begin ") => {
                    self.name = text["begin ".len()..].to_owned();
                    self.output.clear();
                    self.warnings.clear();
                    self.start = Instant::now();
                }
                Some(text) if text.starts_with("end ") => {
                    let mark = match text["end ".len()..].parse() {
                        Ok(0) => Mark::Pass,
                        Ok(4) => Mark::Skip,
                        Ok(124 | 137) if self.start.elapsed() > Duration::from_secs(4) => Mark::Timeout,
                        _ => Mark::Fail,
                    };
                    endings.push(self.take(mark));
                }
                _ if self.output.len() < MOST_OUTPUT => {
                    self.output.push_str(&line);
                    self.output.push('\n');
                }
                _ => {}
            }
        }
        endings
    }

    fn console(&mut self, bytes: &[u8]) {
        for line in self.log.feed(bytes) {
            if is_warning(&line) && self.warnings.len() < 8 {
                let text = line.split_once("] ").map_or(line.as_str(), |(_, text)| text);
                self.warnings.push(text.trim().to_owned());
            }
        }
    }

    fn take(&mut self, mark: Mark) -> Ending {
        let output = std::mem::take(&mut self.output);
        let file = self.outputs.join(format!("{}.txt", self.name.replace('/', ".")));
        let _ = fs::write(file, &output); // lost output is no lost result
        Ending {
            mark: Some(mark),
            lines: self.parser.read(&output),
            kernel: std::mem::take(&mut self.warnings),
            seconds: (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        }
    }
}

/// The folder that becomes the guest's /share, removed on drop.
struct Share(PathBuf);

impl Share {
    fn new(folders: &[(String, PathBuf)]) -> Result<Share> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let share = Share(paths::logs()?.join(format!("conform-{}-{number}", std::process::id())));
        paths::make_dir(&share.0)?;
        for (name, from) in folders {
            link_tree(from, &share.0.join(name))?;
        }
        fs::write(share.0.join("run"), SCRIPT)?;
        Ok(share)
    }

    fn write_list(&self, cases: &VecDeque<Case>) -> Result<()> {
        let line = |c: &Case| format!("{}\t{}\t{}\t{}\n", c.seconds, c.folder, c.name, c.command);
        fs::write(self.0.join("list"), cases.iter().map(line).collect::<String>())?;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies a tree, links and modes kept.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            paths::make_dir(&target)?;
        } else if entry.file_type().is_symlink() {
            let _ = std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target);
        } else if fs::hard_link(entry.path(), &target).is_err() && !target.exists() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_read_between_markers() {
        let mut reader = Reader::new(Path::new("/nonexistent"));
        let text = "noise\n\u{1e} begin a/b\nok 1 x\nnot ok 2 y\nno newline\n\u{1e} end 1\n";
        let endings = reader.feed(text.as_bytes());
        assert_eq!(endings.len(), 1);
        assert_eq!(endings[0].mark, Some(Mark::Fail));
        assert_eq!(endings[0].lines.len(), 2);
    }

    #[test]
    fn warnings_of_the_kernel_belong_to_the_program_that_runs() {
        let mut reader = Reader::new(Path::new("/nonexistent"));
        reader.feed("\u{1e} begin a/b\n".as_bytes());
        reader.console(b"[    1.0] WARNING: CPU: 0\n[    1.1] fine\n");
        assert_eq!(reader.feed("\u{1e} end 0\n".as_bytes())[0].kernel, ["WARNING: CPU: 0"]);
    }
}
