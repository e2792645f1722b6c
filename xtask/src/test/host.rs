//! Unit, property and documentation tests of every crate, by `cargo test` on this machine.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Tally, Verdict};
use crate::{paths, toolchain};

/// Programs for the guest: their tests do not run here.
const GUEST_ONLY: [&str; 2] = ["user-tests", "user-bench"];

/// Seconds for building and running them all.
const TIME_LIMIT: &str = "1200";

/// Runs `cargo test` and notes a verdict for each test in its output.
pub fn run(tally: &mut Tally) -> Result<()> {
    let mut cargo = with_time_limit(&toolchain::host_cargo());
    cargo.current_dir(paths::repo()).args(["test", "--workspace", "--no-fail-fast", "--color=never"]);
    for package in GUEST_ONLY {
        cargo.args(["--exclude", package]);
    }
    let (reader, writer) = std::io::pipe()?;
    cargo.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = cargo.spawn().context("cannot run cargo")?;
    drop(cargo); // it holds the pipe's writing end
    let mut output = Output::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if let Some((name, verdict)) = output.take(&line)
            && tally.wants(&name)
        {
            tally.note(&name, verdict);
        }
    }
    let status = child.wait()?;
    // Test failures have been noted one by one; what is left is code that does not compile, or a crash.
    if !status.success() && !output.failed {
        let text = output.lines.join("\n");
        tally.note(
            "host/cargo test",
            Verdict::Failed(format!("cargo test failed without a failing test\n{text}")),
        );
    }
    Ok(())
}

/// The same command, ended by timeout(1) when it takes too long: one test that hangs must not stop them all.
fn with_time_limit(cargo: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=10", TIME_LIMIT]).arg(cargo.get_program()).args(cargo.get_args());
    for (name, value) in cargo.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// Reads the output of `cargo test`.
#[derive(Default)]
struct Output {
    /// The test program whose lines follow.
    program: String,
    /// Whether a test failed.
    failed: bool,
    /// What was no test's result, for the report.
    lines: Vec<String>,
}

impl Output {
    fn take(&mut self, line: &str) -> Option<(String, Verdict)> {
        let text = line.trim();
        if let Some(rest) = text.strip_prefix("Running ") {
            self.program = program_name(rest);
        } else if let Some(rest) = text.strip_prefix("Doc-tests ") {
            self.program = format!("{rest} (doc)");
        }
        let result = text.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "));
        let verdict = match result.map(|(_, word)| word) {
            Some("ok") => Verdict::Passed,
            Some(word) if word.starts_with("ignored") => Verdict::Skipped,
            Some(word) if word.starts_with("FAILED") => {
                self.failed = true;
                Verdict::Failed("see the output of `cargo test`".to_owned())
            }
            _ => {
                self.keep(line);
                return None;
            }
        };
        let (name, _) = result?;
        Some((format!("host/{}/{name}", self.program), verdict))
    }

    /// Compiler errors and panics are shown when they come; the rest is kept for a failure.
    fn keep(&mut self, line: &str) {
        if line.starts_with("error") || line.contains("panicked at") {
            eprintln!("{line}");
        }
        if !line.trim_start().starts_with("Compiling") {
            self.lines.push(line.to_owned());
            let excess = self.lines.len().saturating_sub(60);
            self.lines.drain(..excess);
        }
    }
}

/// From `unittests src/lib.rs (target/debug/deps/vma_set-0123456789abcdef)` the name `vma_set`.
fn program_name(running: &str) -> String {
    let file = running.rsplit('/').next().unwrap_or(running).trim_end_matches(')');
    file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_named_after_its_program() {
        let mut output = Output::default();
        assert!(
            output.take("     Running unittests src/lib.rs (target/debug/deps/vma_set-0123abc)").is_none()
        );
        assert_eq!(
            output.take("test set::splits ... ok"),
            Some(("host/vma_set/set::splits".to_owned(), Verdict::Passed))
        );
        assert!(matches!(output.take("test set::merges ... FAILED"), Some((_, Verdict::Failed(_)))));
        assert!(output.failed);
    }
}
