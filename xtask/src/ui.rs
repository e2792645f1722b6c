//! What the user sees while work goes on: a spinner or bar on a terminal, plain lines elsewhere.
//!
//! All of it goes to standard error: standard output belongs to results.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// One long step, shown until [`Step::done`] or drop.
pub struct Step {
    bar: ProgressBar,
    text: String,
    start: Instant,
}

impl Step {
    /// Shows that `text` is going on.
    pub fn new(text: impl Into<String>) -> Step {
        let text = text.into();
        let bar = ProgressBar::new_spinner().with_message(text.clone());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Step { bar, text, start: Instant::now() }
    }

    /// Shows the latest news of the step, e.g. the last line that a tool printed.
    pub fn news(&self, line: &str) {
        let line: String = line.chars().filter(|c| !c.is_control()).take(90).collect();
        self.bar.set_message(format!("{}: {line}", self.text));
    }

    /// Ends the step and leaves one line with its time.
    pub fn done(self, result: &str) {
        self.bar.finish_and_clear();
        say(&format!("{}: {result} ({:.1} s)", self.text, self.start.elapsed().as_secs_f64()));
    }

    /// Ends the step without a line.
    pub fn clear(self) {
        self.bar.finish_and_clear();
    }
}

/// Prints one line for the user.
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// Runs `command` with its output shown as the news of `step`; on failure the error holds all of it.
pub fn run(step: &Step, command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (mut reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| {
        format!("cannot run {name}: is it installed? `cargo xtask setup` installs what is missing")
    })?;
    // `command` still holds the writing ends: without this the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let len = reader.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        output.extend_from_slice(&buffer[..len]);
        let text = String::from_utf8_lossy(&buffer[..len]);
        if let Some(line) = text.split(['\n', '\r']).rfind(|l| !l.trim().is_empty()) {
            step.news(line.trim());
        }
    }
    let status = child.wait()?;
    let output = String::from_utf8_lossy(&output).into_owned();
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", output.trim_end());
    }
    Ok(output)
}

/// Runs `command` and returns its standard output.
pub fn capture(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("cannot run {name}: is it installed? `cargo xtask setup` installs what is missing")
    })?;
    if !output.status.success() {
        bail!("{name} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
