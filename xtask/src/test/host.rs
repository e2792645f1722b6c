//! Unit, property and documentation tests of every crate, on this machine.
//!
//! `cargo test --no-run` builds the programs; each is then run under timeout(1), so that one that hangs is
//! one failure and the others still run.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use cargo_metadata::Message;

use super::tally::{TRIES, Tally, Verdict};
use crate::{paths, toolchain, ui};

/// Programs for the guest: their tests do not run here.
const GUEST_ONLY: [&str; 2] = ["user-tests", "user-bench"];

/// Seconds for building everything.
const BUILD_LIMIT_S: u32 = 1500;
/// Seconds for one test program.
const PROGRAM_LIMIT_S: u32 = 120;
/// Seconds for all documentation tests.
const DOC_LIMIT_S: u32 = 600;

/// Builds and runs the tests, and notes a verdict for each.
pub fn run(tally: &Tally) -> Result<()> {
    let step = ui::Step::new("building the tests of this machine");
    let programs = build()?;
    step.done(&format!("{} programs", programs.len()));
    for program in &programs {
        run_tries(
            tally,
            &|| {
                let mut test = with_time_limit(PROGRAM_LIMIT_S, &Command::new(&program.file));
                test.current_dir(&program.folder);
                test
            },
            &program.name,
        );
    }
    run_tries(
        tally,
        &|| {
            let mut cargo = with_time_limit(DOC_LIMIT_S, &cargo_test());
            cargo.args(["--doc", "--no-fail-fast"]);
            cargo
        },
        "doc",
    );
    Ok(())
}

fn cargo_test() -> Command {
    let mut cargo = toolchain::host_cargo();
    cargo.args(["test", "--workspace", "--color=never"]);
    for package in GUEST_ONLY {
        cargo.args(["--exclude", package]);
    }
    cargo
}

/// One program with tests.
struct Program {
    file: PathBuf,
    /// Its name without the hash.
    name: String,
    /// The crate's folder, where `cargo test` would run it.
    folder: PathBuf,
}

fn build() -> Result<Vec<Program>> {
    let mut cargo = with_time_limit(BUILD_LIMIT_S, &cargo_test());
    cargo.current_dir(paths::repo()).args(["--no-run", "--message-format=json-render-diagnostics"]);
    cargo.stdin(Stdio::null()).stdout(Stdio::piped());
    let errors = tempfile("host-build.log")?;
    cargo.stderr(std::fs::File::create(&errors)?);
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let mut programs = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for message in Message::parse_stream(BufReader::new(stdout)) {
            if let Message::CompilerArtifact(artifact) = message?
                && let (true, Some(file)) = (artifact.profile.test, artifact.executable)
            {
                let folder =
                    artifact.manifest_path.parent().map_or_else(paths::repo, |p| p.as_std_path().into());
                programs.push(Program { name: program_name(file.as_str()), file: file.into(), folder });
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let text = std::fs::read_to_string(&errors).unwrap_or_default();
        anyhow::bail!("the tests do not build ({status}):\n{}", text.trim_end());
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

fn tempfile(name: &str) -> Result<PathBuf> {
    Ok(paths::logs()?.join(format!("{}-{name}", std::process::id())))
}

/// Runs a program until its verdicts are the expected ones, [`TRIES`] times at most.
fn run_tries(tally: &Tally, command: &dyn Fn() -> Command, name: &str) {
    let mut first: Vec<(String, Verdict)> = Vec::new();
    for left in (0..TRIES).rev() {
        let mut verdicts = run_once(command(), name);
        verdicts.retain(|(name, _)| tally.selects(name));
        let is_bad = |(name, verdict): &&(String, Verdict)| !tally.expects(name, verdict);
        if left > 0 && verdicts.iter().any(|v| is_bad(&v)) {
            first.extend(verdicts.iter().filter(is_bad).cloned());
            continue;
        }
        for (name, verdict) in &verdicts {
            if let Some((_, before)) =
                first.iter().find(|(n, _)| n == name).filter(|_| tally.expects(name, verdict))
            {
                tally.note_flaky(name, before);
            }
            tally.note(name, verdict.clone());
        }
        // A program that hung or crashed once has a verdict of its own, which a good run does not have.
        for (name, before) in first.iter().filter(|(n, _)| verdicts.iter().all(|(v, _)| v != n)) {
            tally.note_flaky(name, before);
        }
        return;
    }
}

/// Runs a program; a verdict for each of its tests, and one for itself when it did not end well.
fn run_once(mut command: Command, name: &str) -> Vec<(String, Verdict)> {
    let mut verdicts = Vec::new();
    let (output, success) = match output_of(&mut command) {
        Ok(ended) => ended,
        Err(error) => (format!("{error:#}"), false),
    };
    let mut reader = Output { program: name.to_owned(), failed: false };
    for line in output.lines() {
        verdicts.extend(reader.take(line));
    }
    for (test, verdict) in &mut verdicts {
        if let Verdict::Failed(why) = verdict {
            *why = excerpt(&output, test);
        }
    }
    if !success && !reader.failed {
        let lines: Vec<&str> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        let why = format!("it crashed, or ran for more than {PROGRAM_LIMIT_S} s; its last lines:\n{tail}");
        verdicts.push((format!("host/{name}"), Verdict::Failed(why)));
    }
    verdicts
}

/// What the program says about the failed test.
fn excerpt(output: &str, test: &str) -> String {
    let short = test.splitn(3, '/').nth(2).unwrap_or(test);
    let begin = output.find(&format!("---- {short} stdout ----")).unwrap_or(0);
    output[begin..].lines().take(40).collect::<Vec<_>>().join("\n")
}

/// Both outputs of `command`, and whether it ended well.
fn output_of(command: &mut Command) -> Result<(String, bool)> {
    let (mut reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    command.stdout(Stdio::null()).stderr(Stdio::null()); // it holds the pipe's writing ends
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    Ok((String::from_utf8_lossy(&output).into_owned(), child.wait()?.success()))
}

/// The same command, ended by timeout(1) when it takes too long.
fn with_time_limit(seconds: u32, command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited
        .args(["--kill-after=10", &seconds.to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// Reads the output of test programs.
struct Output {
    /// The test program whose lines follow.
    program: String,
    /// Whether a test failed.
    failed: bool,
}

impl Output {
    fn take(&mut self, line: &str) -> Option<(String, Verdict)> {
        let text = line.trim();
        if let Some(rest) = text.strip_prefix("Doc-tests ") {
            self.program = format!("{rest} (doc)");
        }
        let (name, word) = text.strip_prefix("test ")?.rsplit_once(" ... ")?;
        let verdict = match word {
            "ok" => Verdict::Passed,
            word if word.starts_with("ignored") => Verdict::Skipped,
            word if word.starts_with("FAILED") => {
                self.failed = true;
                Verdict::Failed(String::new())
            }
            _ => return None,
        };
        Some((format!("host/{}/{name}", self.program), verdict))
    }
}

/// From `target/debug/deps/vma_set-0123456789abcdef` the name `vma_set`.
fn program_name(file: &str) -> String {
    let file = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
    file.rsplit_once('-').map_or(&*file, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_named_after_its_program() {
        let mut output = Output { program: program_name("target/debug/deps/vma_set-0123abc"), failed: false };
        assert_eq!(
            output.take("test set::splits ... ok"),
            Some(("host/vma_set/set::splits".to_owned(), Verdict::Passed))
        );
        assert!(matches!(output.take("test set::merges ... FAILED"), Some((_, Verdict::Failed(_)))));
        assert!(output.failed);
    }
}
