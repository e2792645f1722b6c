//! What was measured, as data: rows with the values of two kernels, and the JSON that keeps them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Why a kernel has no value in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lack {
    /// The kernel or the machine refused: the error's name.
    Unsupported(String),
    /// It died, hung or printed what cannot be read.
    Failed(String),
}

impl Lack {
    /// One line.
    pub fn summary(&self) -> String {
        match self {
            Lack::Unsupported(why) => format!("not there: {why}"),
            Lack::Failed(why) => format!("failed: {}", why.lines().next().unwrap_or_default()),
        }
    }
}

/// What a row's values count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Guest instructions, exactly repeatable.
    Icount,
    /// Time on this machine.
    Time,
}

/// One kernel's side of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// One value a run.
    #[serde(default)]
    pub values: Vec<f64>,
    /// Why there is none, or not in every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<Lack>,
}

impl Side {
    /// The value that counts.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            len if len % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// The distance from the lowest to the highest value, as a part of the median.
    pub fn spread(&self) -> Option<f64> {
        let median = self.median()?;
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.values.iter().copied().fold(0.0, f64::max);
        Some((high - low) / median)
    }
}

/// One operation with a number of CPUs, on both kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `group/operation`.
    pub name: String,
    /// Number of CPUs.
    pub smp: u32,
    /// What is counted.
    pub clock: Clock,
    /// Unit of the values; what is lower is better in each.
    pub unit: String,
    /// Mostly clears or copies memory: instructions say little, time decides.
    #[serde(default)]
    pub bulk: bool,
    /// The first and the second kernel.
    pub sides: [Side; 2],
}

impl Row {
    fn is(&self, name: &str, smp: u32, clock: Clock) -> bool {
        self.name == name && self.smp == smp && self.clock == clock
    }

    /// The part of the name before the slash.
    pub fn group(&self) -> &str {
        self.name.split_once('/').map_or(self.name.as_str(), |(group, _)| group)
    }

    /// The name, with the number of CPUs when it is not 1.
    pub fn title(&self) -> String {
        if self.smp == 1 { self.name.clone() } else { format!("{}, {} CPUs", self.name, self.smp) }
    }

    /// The second kernel's value over the first's: below 1 the second is faster.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.sides[1].median()? / self.sides[0].median()?)
    }

    /// The ratio, when the row counts in means and checks.
    pub fn judged(&self) -> Option<f64> {
        if self.bulk && self.clock == Clock::Icount { None } else { self.ratio() }
    }

    /// Whether one side broke, which no measurement should.
    pub fn is_broken(&self) -> bool {
        self.sides.iter().any(|side| matches!(side.lack, Some(Lack::Failed(_))))
    }
}

/// A run's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What the sides are called.
    pub kernels: [String; 2],
    /// What each said of itself (uname).
    pub versions: [String; 2],
    /// The emulator.
    pub machine: String,
    /// All rows, in the order of measurement.
    pub rows: Vec<Row>,
    /// What kept whole parts from being measured.
    #[serde(default)]
    pub problems: Vec<String>,
}

impl Report {
    /// Reads what [`Report::write`] wrote.
    pub fn read(path: &Path) -> Result<Report> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} holds no results", path.display()))
    }

    /// Writes the results as JSON, over the old file in one step.
    pub fn write(&self, path: &Path) -> Result<()> {
        let part = path.with_extension("part");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&part, text).and_then(|()| fs::rename(&part, path)).with_context(|| {
            format!("cannot write {}: is there no room? The table above holds all values", path.display())
        })
    }

    /// The row of an operation.
    pub fn find(&self, name: &str, smp: u32, clock: Clock) -> Option<&Row> {
        self.rows.iter().find(|row| row.is(name, smp, clock))
    }

    /// The row of an operation, to be changed.
    pub fn find_mut(&mut self, name: &str, smp: u32, clock: Clock) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.is(name, smp, clock))
    }

    /// Takes the values that an interrupted run of the same kernels had for these rows; how many.
    pub fn take_values(&mut self, before: Report) -> usize {
        if before.kernels != self.kernels {
            return 0;
        }
        self.versions = before.versions;
        let mut count = 0;
        for old in before.rows {
            if let Some(row) = self.find_mut(&old.name, old.smp, old.clock) {
                row.sides = old.sides.map(|side| Side { lack: None, ..side });
                count += row.sides.iter().map(|side| side.values.len()).sum::<usize>();
            }
        }
        count
    }

    /// Puts the rows of a partial run in their places: over the old ones, or behind the last of their group.
    pub fn merge(&mut self, part: &Report) {
        for (version, new) in self.versions.iter_mut().zip(&part.versions).filter(|(_, new)| !new.is_empty())
        {
            version.clone_from(new);
        }
        self.problems.clone_from(&part.problems);
        for row in &part.rows {
            if let Some(old) = self.find_mut(&row.name, row.smp, row.clock) {
                old.clone_from(row);
                continue;
            }
            let last = self.rows.iter().rposition(|other| other.group() == row.group());
            self.rows.insert(last.map_or(self.rows.len(), |last| last + 1), row.clone());
        }
    }

    /// Groups in the order of their first rows, each with the number of judged rows and their geometric mean.
    pub fn means(&self) -> Vec<(String, usize, f64)> {
        let mut order: Vec<&str> = Vec::new();
        let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for row in &self.rows {
            let Some(ratio) = row.judged() else { continue };
            if !order.contains(&row.group()) {
                order.push(row.group());
            }
            let sum = sums.entry(row.group()).or_default();
            *sum = (sum.0 + 1, sum.1 + ratio.ln());
        }
        order
            .into_iter()
            .filter_map(|group| {
                let (count, sum) = sums.get(group)?;
                Some((group.to_owned(), *count, (sum / *count as f64).exp()))
            })
            .collect()
    }

    /// Rows where the second kernel is slower.
    pub fn slower(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.judged().is_some_and(|ratio| ratio > 1.0))
    }

    /// Rows whose guests or programs broke.
    pub fn broken(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_broken())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A row with one value a side.
    pub fn row(name: &str, clock: Clock, bulk: bool, values: [f64; 2]) -> Row {
        let sides = values.map(|value| Side { values: vec![value], lack: None });
        Row { name: name.to_owned(), smp: 1, clock, unit: "ns".to_owned(), bulk, sides }
    }

    #[test]
    fn the_median_of_an_even_number_is_in_between() {
        let side = |values: &[f64]| Side { values: values.to_vec(), lack: None };
        assert_eq!(side(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(side(&[4.0, 1.0]).median(), Some(2.5));
        assert_eq!(side(&[]).median(), None);
        assert_eq!(side(&[8.0, 10.0, 12.0]).spread(), Some(0.4));
    }

    #[test]
    fn bulk_rows_count_by_time_only() {
        let mut report = Report::default();
        report.rows.push(row("a/x", Clock::Icount, false, [100.0, 50.0]));
        report.rows.push(row("a/y", Clock::Icount, true, [100.0, 900.0]));
        report.rows.push(row("a/y", Clock::Time, true, [100.0, 200.0]));
        let means = report.means();
        assert_eq!((means[0].0.as_str(), means[0].1), ("a", 2));
        assert!((means[0].2 - 1.0).abs() < 1e-9);
        assert_eq!(report.slower().count(), 1);
    }

    #[test]
    fn a_partial_run_takes_its_places() {
        let mut report = Report::default();
        for name in ["a/x", "a/y", "b/z"] {
            report.rows.push(row(name, Clock::Icount, false, [1.0, 1.0]));
        }
        let mut part = Report::default();
        part.rows.push(row("a/y", Clock::Icount, false, [1.0, 2.0]));
        part.rows.push(row("a/y", Clock::Time, false, [1.0, 3.0]));
        report.merge(&part);
        let found: Vec<_> =
            report.rows.iter().map(|row| (row.name.as_str(), row.sides[1].values[0])).collect();
        assert_eq!(found, [("a/x", 1.0), ("a/y", 2.0), ("a/y", 3.0), ("b/z", 1.0)]);
    }

    #[test]
    fn a_run_goes_on_with_the_values_it_had() {
        let mut before = Report::default();
        before.rows.push(row("a/x", Clock::Icount, false, [1.0, 1.0]));
        before.rows[0].sides[1] = Side { values: Vec::new(), lack: Some(Lack::Failed("it died".into())) };
        let mut report = Report::default();
        report.rows.push(Row { sides: Default::default(), ..before.rows[0].clone() });
        assert_eq!(report.take_values(before.clone()), 1);
        assert_eq!(report.rows[0].sides, [before.rows[0].sides[0].clone(), Side::default()]);
        report.kernels = ["a".to_owned(), "b".to_owned()];
        assert_eq!(report.take_values(before), 0);
    }

    #[test]
    fn json_keeps_everything() {
        let mut report = Report::default();
        report.rows.push(row("a/x", Clock::Time, true, [1.0, 2.0]));
        report.rows[0].sides[1].lack = Some(Lack::Unsupported("ENOSYS".into()));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
