//! Speed beside Linux: no row may need clearly more instructions than docs/benchmarks.json says.
//!
//! Both kernels run, so a new compiler or emulator does not look like a change of Keel. A row that has a value in
//! the file must have one; a row that is new passes.

use anyhow::{Context, Result};

use super::Platform;
use super::tally::{Tally, Verdict};
use crate::bench;
use crate::bench::report::{Clock, Report, Row};

/// A row fails when its ratio is above so many times the one in the file.
const TOLERANCE: f64 = 1.25;
/// And above it by so much.
const SLACK: f64 = 0.05;

/// Measures and compares; the platform is always Keel with one CPU.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    let baseline = Report::read(&bench::data())
        .context("`cargo xtask bench --page` writes what speed is held against")?;
    let measured = bench::measure_quick(&|name| tally.wants(&format!("bench/{platform}/{name}")))?;
    for row in &measured.rows {
        let name = format!("bench/{platform}/{}", row.name);
        tally.note(&name, judge(row, find(&baseline, row)));
    }
    Ok(())
}

fn find<'a>(baseline: &'a Report, row: &Row) -> Option<&'a Row> {
    baseline.rows.iter().find(|r| r.name == row.name && r.smp == 1 && r.clock == Clock::Icount)
}

fn judge(row: &Row, baseline: Option<&Row>) -> Verdict {
    let before = baseline.and_then(Row::ratio);
    let broken = row.sides.iter().find_map(|side| side.lack.as_ref());
    match (before, row.ratio()) {
        (Some(before), Some(now)) if now > before * TOLERANCE && now > before + SLACK => {
            let [linux, keel] = [0, 1].map(|side| row.sides[side].median().unwrap_or_default());
            Verdict::Failed(format!(
                "{now:.2} of Linux, {before:.2} in docs/benchmarks.json (Linux {linux:.0}, Keel {keel:.0} instructions); \
                 `cargo xtask profile` shows where they go"
            ))
        }
        (_, Some(_)) => Verdict::Passed,
        (None, None) if !row.is_broken() => Verdict::Skipped,
        _ => Verdict::Failed(broken.map_or_else(|| "no value".to_owned(), |lack| lack.summary())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Lack, tests::row};

    fn at(ratio: f64) -> Row {
        row("a/x", Clock::Icount, false, [1000.0, 1000.0 * ratio])
    }

    #[test]
    fn only_a_clear_step_back_fails() {
        assert_eq!(judge(&at(0.6), Some(&at(0.5))), Verdict::Passed);
        assert!(matches!(judge(&at(0.7), Some(&at(0.5))), Verdict::Failed(_)));
        assert_eq!(judge(&at(0.06), Some(&at(0.03))), Verdict::Passed);
        assert_eq!(judge(&at(3.0), None), Verdict::Passed);
    }

    #[test]
    fn a_value_that_is_gone_fails() {
        let mut gone = at(0.5);
        gone.sides[1].values.clear();
        gone.sides[1].lack = Some(Lack::Unsupported("ENOSYS".into()));
        assert!(matches!(judge(&gone, Some(&at(0.5))), Verdict::Failed(_)));
        assert_eq!(judge(&gone, Some(&gone)), Verdict::Skipped);
    }
}
