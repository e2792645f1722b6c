//! Commands that must work in the guest as on Linux: `user/scenarios/*.toml`, and `user/programs/*.toml` on a root of
//! their own, which is large: these run only when a filter begins with `programs/`.
//!
//! ```toml
//! root = "debian"                  # of the whole file; the default
//!
//! [[scenario]]
//! name = "sort orders numbers"     # unique in the file
//! run = "printf '10\n9\n' | sort -n"
//! output = "9\n10\n"               # the exact output, or
//! matches = "^9"                   # a regular expression that is found in it (multi-line mode), or neither
//! status = 0                       # the default
//! seconds = 60                     # the default limit
//! linux = true                     # the default: Linux must do the same
//! ```
//! Output is what the command writes to standard output and error together. All scenarios of a file run in
//! one guest, in order, each by a shell of its own in an empty folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use regex::RegexBuilder;
use serde::Deserialize;

use super::Platform;
use super::batch::{self, Batch, Event, Patience};
use super::tally::{Tally, Verdict};
use crate::paths;

/// What introduces a line of the runner; no program prints it.
const MARK: &str = "@@keel";

/// One file of scenarios.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "default_root")]
    root: String,
    mem: Option<u32>,
    scenario: Vec<Scenario>,
}

/// One command with what must come of it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    name: String,
    run: String,
    output: Option<String>,
    matches: Option<String>,
    #[serde(default)]
    status: i32,
    #[serde(default = "default_seconds")]
    seconds: u64,
    #[serde(default = "default_linux")]
    linux: bool,
}

fn default_root() -> String {
    "debian".to_owned()
}

fn default_seconds() -> u64 {
    60
}

fn default_linux() -> bool {
    true
}

/// Runs every file's scenarios on `platform`.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    run_folder(tally, platform, "scenario", "user/scenarios")
}

/// Runs the scenarios of large programs on `platform`.
pub fn run_programs(tally: &Tally, platform: &Platform) -> Result<()> {
    run_folder(tally, platform, "programs", "user/programs")
}

fn run_folder(tally: &Tally, platform: &Platform, kind: &str, folder: &str) -> Result<()> {
    for (stem, file) in super::session::read_folder::<File>(folder)? {
        let scenarios: Vec<Scenario> =
            file.scenario.into_iter().filter(|s| s.linux || platform.kernel != "linux").collect();
        let names: Vec<String> = scenarios.iter().map(|s| s.name.clone()).collect();
        let group = format!("{kind}/{platform}/{stem}");
        if !names.iter().any(|name| tally.selects(&format!("{group}/{name}"))) {
            continue;
        }
        let share = paths::logs()?.join(format!("share-{}-{platform}-{stem}", std::process::id()));
        write_scripts(&share, &scenarios)?;
        let mut guest = platform.guest(&file.root, file.mem);
        guest.programs = Some(share.clone());
        let longest = scenarios
            .iter()
            .filter(|s| tally.selects(&format!("{group}/{}", s.name)))
            .map(|s| s.seconds)
            .max()
            .unwrap_or(0);
        let patience = Patience {
            total: Duration::from_secs(
                120 + scenarios.iter().map(|s| s.seconds).sum::<u64>().min(longest.max(900)),
            ),
            idle: Duration::from_secs(longest + 30),
        };
        let result = batch::run(tally, &group, &guest, names, patience, &mut Runner::new(scenarios));
        let _ = fs::remove_dir_all(share);
        result?;
    }
    Ok(())
}

/// One shell script for each scenario, in the folder that becomes /share.
fn write_scripts(share: &Path, scenarios: &[Scenario]) -> Result<()> {
    let _ = fs::remove_dir_all(share);
    paths::make_dir(share)?;
    for (idx, scenario) in scenarios.iter().enumerate() {
        fs::write(share.join(format!("{idx}.sh")), &scenario.run)
            .context("cannot write a scenario's script")?;
    }
    Ok(())
}

/// Runs scripts one after the other and reads their output between marks.
struct Runner {
    scenarios: Vec<Scenario>,
    output: String,
}

impl Runner {
    fn new(scenarios: Vec<Scenario>) -> Runner {
        Runner { scenarios, output: String::new() }
    }
}

impl Batch for Runner {
    fn command(&self, names: &[&str]) -> String {
        let by_name: BTreeMap<&str, usize> =
            self.scenarios.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect();
        let mut script = String::new();
        for idx in names.iter().filter_map(|name| by_name.get(name)) {
            let seconds = self.scenarios[*idx].seconds;
            script.push_str(&format!(
                "mkdir -p /tmp/s{idx}; cd /tmp/s{idx}; echo '{MARK} begin {idx}'; \
                 timeout {seconds} sh /share/{idx}.sh </dev/null 2>&1; printf '\\n{MARK} end {idx} %d\\n' $?; cd /; rm -rf /tmp/s{idx}\n"
            ));
        }
        script
    }

    fn read(&mut self, line: &str) -> Event {
        let Some(mark) = line.strip_prefix(MARK) else {
            self.output.push_str(line);
            self.output.push('\n');
            return Event::Nothing;
        };
        let output = std::mem::take(&mut self.output);
        let mut words = mark.split_whitespace();
        let (Some("end"), Some(Ok(idx)), Some(Ok(status))) =
            (words.next(), words.next().map(str::parse::<usize>), words.next().map(str::parse::<i32>))
        else {
            return Event::Nothing;
        };
        let Some(scenario) = self.scenarios.get(idx) else { return Event::Nothing };
        // The newline before the mark is ours.
        let output = output.strip_suffix('\n').unwrap_or(&output);
        Event::Ended(scenario.name.clone(), judge(scenario, output, status))
    }

    fn reset(&mut self) {
        self.output.clear();
    }
}

fn judge(scenario: &Scenario, output: &str, status: i32) -> Verdict {
    let shown = || format!("the output was:\n{output}");
    if status != scenario.status {
        let late = if status == 124 { " (ran out of time)" } else { "" };
        return Verdict::Failed(format!("status {status}{late} instead of {}; {}", scenario.status, shown()));
    }
    if let Some(expected) = &scenario.output
        && output != expected
    {
        return Verdict::Failed(format!("the output differs; expected:\n{expected}\n{}", shown()));
    }
    if let Some(pattern) = &scenario.matches {
        match RegexBuilder::new(pattern).multi_line(true).build() {
            Ok(regex) if regex.is_match(output) => {}
            Ok(_) => return Verdict::Failed(format!("nothing matches {pattern}; {}", shown())),
            Err(error) => return Verdict::Failed(format!("the scenario's expression is wrong: {error}")),
        }
    }
    Verdict::Passed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(text: &str) -> Runner {
        Runner::new(toml::from_str::<File>(text).unwrap().scenario)
    }

    #[test]
    fn output_between_marks_is_judged() {
        let mut runner = runner("[[scenario]]\nname = 'a'\nrun = 'echo hi'\noutput = \"hi\\n\"\n");
        assert!(matches!(runner.read("@@keel begin 0"), Event::Nothing));
        runner.read("hi");
        runner.read("");
        assert!(matches!(runner.read("@@keel end 0 0"), Event::Ended(n, Verdict::Passed) if n == "a"));
    }

    #[test]
    fn a_wrong_status_fails() {
        let mut runner = runner("[[scenario]]\nname = 'a'\nrun = 'false'\n");
        assert!(matches!(runner.read("@@keel end 0 1"), Event::Ended(_, Verdict::Failed(_))));
    }
}
