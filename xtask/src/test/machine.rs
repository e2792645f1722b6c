//! hal's own tests on the virtual machine: a kernel built with `--features selftest` runs them instead of
//! booting, prints KTAP on its console and powers off.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::{Platform, Tally, Verdict};
use crate::exec::{self, Port};
use crate::kernel::{self, Flavour};

/// Time for all tests.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the tests on `platform`, if that is Keel.
pub fn run(tally: &mut Tally, platform: &Platform) -> Result<()> {
    if platform.kernel != "keel" {
        return Ok(());
    }
    let flavour = if platform.debug { Flavour::Debug } else { Flavour::Release };
    let mut guest = platform.guest("tiny", None);
    guest.kernel = kernel::build_selftest(flavour)?.display().to_string();
    let mut console = String::new();
    exec::run(&guest, "true", TIMEOUT, &mut |port, bytes| {
        if port == Port::Console {
            console.push_str(&String::from_utf8_lossy(bytes));
        }
    })?;
    let (results, is_complete) = parse(&console);
    let group = format!("machine/{platform}");
    for (name, passed) in results {
        let verdict = if passed { Verdict::Passed } else { Verdict::Failed(console.clone()) };
        let name = format!("{group}/{name}");
        if tally.wants(&name) {
            tally.note(&name, verdict);
        }
    }
    if !is_complete {
        tally.note(&format!("{group}/reaches its end"), Verdict::Failed(console));
    }
    Ok(())
}

/// Results by name, and whether the plan `1..N`, which comes last, counts as many.
fn parse(console: &str) -> (BTreeMap<String, bool>, bool) {
    let mut results = BTreeMap::new();
    let mut plan = None;
    for line in console.lines() {
        // The kernel's log puts the time before each line.
        let text = line.split_once("] ").map_or(line, |(_, text)| text).trim();
        if let Some(count) = text.strip_prefix("1..") {
            plan = count.parse::<usize>().ok();
            continue;
        }
        let (passed, rest) = match (text.strip_prefix("not ok "), text.strip_prefix("ok ")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => continue,
        };
        if let Some((_, name)) = rest.split_once(' ') {
            results.insert(name.to_owned(), passed);
        }
    }
    let is_complete = plan == Some(results.len());
    (results, is_complete)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn results_are_read_from_the_log() {
        let (results, is_complete) = parse(
            "[    0.1] KTAP version 1\r\n[    0.2] ok 1 frames\r\n[    0.3] not ok 2 user copies\r\n1..2\r\n",
        );
        assert_eq!(
            results.into_iter().collect::<Vec<_>>(),
            [("frames".into(), true), ("user copies".into(), false)]
        );
        assert!(is_complete);
    }

    #[test]
    fn a_missing_plan_is_no_end() {
        assert!(!parse("ok 1 frames\n").1);
    }
}
