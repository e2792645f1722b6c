//! The result as an SVG chart: a bar for each row, its length the ratio, a line where both kernels are equal.

use std::fmt::Write;

use super::report::{Report, Row};

const ROW: u32 = 16;
const NAMES: u32 = 250;
const PLOT: u32 = 480;
const RIGHT: u32 = 170;
/// The ratio at the right edge; longer bars are cut and say their number.
const LONGEST: f64 = 1.5;

/// The chart as a file's text.
pub fn render(report: &Report) -> String {
    let means = report.means();
    let lines = report.rows.len() + means.len() * 2;
    let height = ROW * (u32::try_from(lines).unwrap_or(0) + 5);
    let width = NAMES + PLOT + RIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"14\">{} beside {}: shorter is faster, the line is equal</text>\n",
        escape(&report.kernels[1]),
        escape(&report.kernels[0]),
    );
    let mut y = ROW * 2;
    for (group, count, mean) in means {
        y += ROW;
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{}: geometric mean {mean:.2} of {count} rows</text>",
            y + 11,
            escape(&group)
        );
        y += ROW;
        for row in report.rows.iter().filter(|row| row.group() == group) {
            bar(&mut svg, row, y);
            y += ROW;
        }
    }
    // Groups of which nothing could be judged.
    let judged: Vec<String> = report.means().into_iter().map(|(group, ..)| group).collect();
    for row in report.rows.iter().filter(|row| !judged.iter().any(|group| group == row.group())) {
        bar(&mut svg, row, y);
        y += ROW;
    }
    let one = NAMES + scale(1.0);
    let _ = writeln!(
        svg,
        "<line x1=\"{one}\" y1=\"{}\" x2=\"{one}\" y2=\"{y}\" stroke=\"#333\" stroke-dasharray=\"3 2\"/>",
        ROW * 2
    );
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, row: &Row, y: u32) {
    let clock = if row.clock == super::report::Clock::Time { " (time)" } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}{clock}</text>",
        NAMES - 6,
        y + 11,
        escape(&row.title())
    );
    let (label, length) = match row.ratio() {
        Some(ratio) => {
            let colour = match ratio {
                _ if row.judged().is_none() => "#bbbbbb",
                ratio if ratio <= 0.7 => "#2a7f4f",
                ratio if ratio <= 1.0 => "#d9a400",
                _ => "#c0392b",
            };
            let length = scale(ratio);
            let _ = writeln!(
                svg,
                "<rect x=\"{NAMES}\" y=\"{}\" width=\"{length}\" height=\"{}\" fill=\"{colour}\"/>",
                y + 2,
                ROW - 4
            );
            (format!("{ratio:.2}"), length)
        }
        None => {
            let why = row.sides.iter().rev().find_map(|side| side.lack.as_ref());
            (why.map_or_else(|| "no value".to_owned(), super::report::Lack::summary), 0)
        }
    };
    let label: String = label.chars().take(70).collect();
    let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{}</text>", NAMES + length + 4, y + 11, escape(&label));
}

/// A ratio's length in the plot.
fn scale(ratio: f64) -> u32 {
    (ratio.clamp(0.0, LONGEST) / LONGEST * f64::from(PLOT)) as u32
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::report::{Clock, tests::row};
    use super::*;

    #[test]
    fn every_row_has_a_bar_or_says_why_not() {
        let mut report = Report::default();
        report.rows.push(row("a/fast", Clock::Icount, false, [100.0, 50.0]));
        report.rows.push(row("a/slow", Clock::Icount, false, [100.0, 900.0]));
        report.rows.push(row("b/none<", Clock::Icount, false, [100.0, 1.0]));
        report.rows[2].sides[1].values.clear();
        let svg = render(&report);
        assert!(svg.contains("a/fast") && svg.contains(">9.00<") && svg.contains("b/none&lt;"));
        assert_eq!(svg.matches("<rect x=").count(), 2);
    }
}
