//! The result as a table for a terminal.

use std::fmt::Write;

use super::report::{Clock, Report, Row, Side};

/// The table, the means and what is to be said about rows.
pub fn render(report: &Report) -> String {
    let mut lines: Vec<[String; 6]> =
        vec![["operation", "unit", &report.kernels[0], &report.kernels[1], "ratio", ""].map(str::to_owned)];
    lines.extend(report.rows.iter().map(cells));
    let mut text = align(&lines);
    let means = report.means();
    if !means.is_empty() {
        text.push_str("\ngeometric mean of the ratios (below 1: the second kernel is faster)\n");
        for (group, count, mean) in means {
            let _ = writeln!(text, "  {group:<10} {mean:.2}  ({count} rows)");
        }
    }
    if report.rows.iter().any(|row| row.bulk && row.clock == Clock::Icount) {
        text.push_str("* clears or copies much memory: instructions say little, the row by time counts\n");
    }
    text
}

fn cells(row: &Row) -> [String; 6] {
    let mark = if row.bulk && row.clock == Clock::Icount { "*" } else { "" };
    let clock = if row.clock == Clock::Time { " by time" } else { "" };
    let ratio = row.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}{mark}"));
    let notes: Vec<String> = row
        .sides
        .iter()
        .zip(["", ""])
        .filter_map(|(side, _)| side.lack.as_ref().map(super::report::Lack::summary))
        .collect();
    [
        format!("{}{clock}", row.title()),
        row.unit.clone(),
        value(row, &row.sides[0]),
        value(row, &row.sides[1]),
        ratio,
        notes.join("; "),
    ]
}

/// A value with its spread when there were several runs.
pub fn value(row: &Row, side: &Side) -> String {
    let Some(median) = side.median() else { return "-".to_owned() };
    let spread = side.spread().filter(|_| row.clock == Clock::Time && side.values.len() > 1);
    let spread = spread.map(|spread| format!(" ±{:.0}%", spread * 50.0)).unwrap_or_default();
    format!("{}{spread}", number(median))
}

/// Thousands are separated; a small number keeps a digit after the point.
pub fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Columns side by side: names to the left, numbers to the right.
fn align(lines: &[[String; 6]]) -> String {
    let width = |idx: usize| lines.iter().map(|line| line[idx].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (idx, cell) in line.iter().enumerate() {
            let width = widths[idx];
            let _ = match idx {
                2..=4 => write!(row, "{cell:>width$}  "),
                _ => write!(row, "{cell:<width$}  "),
            };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::row;
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(7.25), "7.2");
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(1_234_567.0), "1,234,567");
    }

    #[test]
    fn a_row_without_a_value_says_why() {
        let mut report = Report { kernels: ["linux".into(), "keel".into()], ..Report::default() };
        let mut missing = row("local/tcp", Clock::Icount, false, [5.0, 1.0]);
        missing.sides[1] = Side {
            values: vec![],
            lack: Some(super::super::report::Lack::Unsupported("EAFNOSUPPORT".into())),
        };
        report.rows.push(missing);
        assert!(render(&report).contains("local/tcp  ns      5.0     -      -  not there: EAFNOSUPPORT"));
    }
}
