//! hal's own tests on the virtual machine: a kernel built with `--features selftest` runs them instead of
//! booting, prints KTAP on its console and powers off.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::Platform;
use super::tally::{TRIES, Tally, Verdict};
use crate::exec::{self, Port};
use crate::kernel::{self, Flavour};

/// Time for all tests.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the tests on `platform`, if that is Keel; all of them again when one fails.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    if platform.kernel != "keel" {
        return Ok(());
    }
    let group = format!("machine/{platform}");
    let end = format!("{group}/reaches its end");
    let mut first: BTreeMap<String, Verdict> = BTreeMap::new();
    for left in (0..TRIES).rev() {
        let console = run_once(platform)?;
        let (results, is_complete) = parse(&console);
        let failed = |passed| if passed { Verdict::Passed } else { Verdict::Failed(console.clone()) };
        let mut verdicts: Vec<(String, Verdict)> =
            results.into_iter().map(|(name, passed)| (format!("{group}/{name}"), failed(passed))).collect();
        verdicts.push((end.clone(), failed(is_complete)));
        verdicts.retain(|(name, _)| tally.selects(name));
        if left > 0 && verdicts.iter().any(|(name, verdict)| !tally.expects(name, verdict)) {
            let bad = verdicts.into_iter().filter(|(name, verdict)| !tally.expects(name, verdict));
            bad.for_each(|(name, verdict)| {
                first.entry(name).or_insert(verdict);
            });
            continue;
        }
        for (name, verdict) in verdicts {
            if let Some(before) = first.get(&name)
                && tally.expects(&name, &verdict)
            {
                tally.note_flaky(&name, before);
            }
            tally.note(&name, verdict);
        }
        break;
    }
    Ok(())
}

/// Boots once; what the kernel printed.
fn run_once(platform: &Platform) -> Result<String> {
    let flavour = if platform.debug { Flavour::Debug } else { Flavour::Release };
    let mut guest = platform.guest("tiny", None);
    guest.kernel = kernel::build_selftest(flavour)?.display().to_string();
    let mut console = String::new();
    exec::run(&guest, "true", TIMEOUT, &mut |port, bytes| {
        if port == Port::Console {
            console.push_str(&String::from_utf8_lossy(bytes));
        }
    })?;
    Ok(console)
}

/// Results by name, and whether the plan `1..N`, which comes last, counts as many.
///
/// Several results may have one name: it passes when all of them do.
fn parse(console: &str) -> (BTreeMap<String, bool>, bool) {
    let mut results = BTreeMap::new();
    let mut plan = None;
    let mut seen = 0;
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
            seen += 1;
            *results.entry(name.to_owned()).or_insert(true) &= passed;
        }
    }
    let is_complete = plan == Some(seen);
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
    fn results_of_one_name_are_one_test() {
        let (results, is_complete) = parse("ok 1 moves\nnot ok 2 moves\nok 3 moves\n1..3\n");
        assert_eq!(results.into_iter().collect::<Vec<_>>(), [("moves".into(), false)]);
        assert!(is_complete);
    }

    #[test]
    fn a_missing_plan_is_no_end() {
        assert!(!parse("ok 1 frames\n").1);
    }
}
