//! A table as a plot: horizontal bars of the medians, with the spread of the rounds as a line over each.
//!
//! The plot has no background of its own and its colours change with the reader's, so that it reads well on light
//! and dark pages. Values that lie far apart have a logarithmic axis, which says so.

use std::fmt::Write as _;

use crate::rows::{Row, Table, Unit, Who};
use crate::stats::{Spread, digits};

const WIDTH: f64 = 860.0;
/// Where the bars begin: names stand left of it.
const LEFT: f64 = 330.0;
/// Where the longest bar ends: values stand right of it.
const RIGHT: f64 = 760.0;
const TOP: f64 = 44.0;
const PITCH: f64 = 26.0;
const BAR: f64 = 16.0;
/// From this ratio of the greatest to the smallest on, the axis is logarithmic.
const LOG_FROM: f64 = 50.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:15px}\
.a{fill:#59636e;font-size:12px}.g{stroke:#d1d9e0}.ours{fill:#1f6feb}.peer{fill:#bf6a02}.ceiling{fill:#8c959f}\
.s{stroke:#1f2328;stroke-width:1.5}.gap{font-style:italic;fill:#59636e}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.a,.gap{fill:#9198a1}.g{stroke:#3d444d}.ours{fill:#58a6ff}\
.peer{fill:#e3a04f}.ceiling{fill:#6e7681}.s{stroke:#e6edf3}}";

/// From values to places on the page.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    fn over(spreads: &[Spread]) -> Self {
        let high = spreads.iter().map(|spread| spread.high).fold(f64::MIN_POSITIVE, f64::max);
        let low = spreads.iter().map(|spread| spread.low).filter(|low| *low > 0.0).fold(high, f64::min);
        if high / low < LOG_FROM {
            return Self { low: 0.0, high, is_log: false };
        }
        Self { low: 10f64.powf(low.log10().floor()), high, is_log: true }
    }

    fn x(self, value: f64) -> f64 {
        let part = match self.is_log {
            true if value <= self.low => 0.0,
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => value / self.high,
        };
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// Values that the axis names.
    fn marks(self) -> Vec<f64> {
        let first = |step: f64| std::iter::successors(Some(0.0), move |mark| Some(mark + step));
        if self.is_log {
            let powers = std::iter::successors(Some(self.low), |mark| Some(mark * 10.0));
            return powers.take_while(|mark| *mark <= self.high * 1.0001).collect();
        }
        let magnitude = 10f64.powf(self.high.log10().floor());
        let steps = [0.2, 0.5, 1.0, 2.0].map(|step| step * magnitude);
        let step = steps.into_iter().find(|step| self.high / step <= 6.0).unwrap_or(magnitude * 2.0);
        first(step).take_while(|mark| *mark <= self.high * 1.0001).collect()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn class(who: Who) -> &'static str {
    match who {
        Who::Ours => "ours",
        Who::Peer => "peer",
        Who::Ceiling => "ceiling",
    }
}

/// The plot of a table.
pub fn plot(table: &Table) -> String {
    let spreads: Vec<Spread> = table.rows.iter().filter_map(Row::value).collect();
    let axis = Axis::over(&spreads);
    let bottom = table.rows.iter().fold(TOP, |y, _| y + PITCH);
    let height = bottom + 66.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         <text class=\"t\" x=\"8\" y=\"24\">{title}</text>\n",
        title = escaped(&table.title)
    );
    for mark in axis.marks() {
        let x = axis.x(mark);
        let _ = writeln!(
            svg,
            "<line class=\"g\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text class=\"a\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            mark_text(mark)
        );
    }
    let mut y = TOP;
    for row in &table.rows {
        bar(&mut svg, row, axis, y);
        y += PITCH;
    }
    legend(&mut svg, table.unit, axis, bottom);
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, row: &Row, axis: Axis, y: f64) {
    let (text_y, top) = (y + 17.0, y + (PITCH - BAR) / 2.0);
    let name = escaped(&row.name);
    let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{text_y:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0);
    let Some(Spread { low, middle, high }) = row.value() else {
        let _ = writeln!(svg, "<text class=\"gap\" x=\"{:.1}\" y=\"{text_y:.1}\">not run</text>", LEFT + 6.0);
        return;
    };
    let (from, to, end, y) = (axis.x(low), axis.x(high), axis.x(middle), y + PITCH / 2.0);
    let _ = writeln!(
        svg,
        "<rect class=\"{}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\
         <line class=\"s\" x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{:.1}\" y=\"{text_y:.1}\">{}</text>",
        class(row.who),
        (end - LEFT).max(1.0),
        to.max(end) + 6.0,
        digits(middle)
    );
}

fn legend(svg: &mut String, unit: Unit, axis: Axis, bottom: f64) {
    let scale = if axis.is_log { ", logarithmic" } else { "" };
    let better = if unit.is_rate() { "more is better" } else { "less is better" };
    let y = bottom + 38.0;
    let _ = writeln!(
        svg,
        "<text class=\"a\" x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}{scale}; {better}; the line spans all rounds</text>",
        f64::midpoint(LEFT, RIGHT),
        unit.label()
    );
    for (x, who, name) in [(8.0, Who::Ours, "mmapd"), (86.0, Who::Peer, "peer"), (150.0, Who::Ceiling, "bare ceiling")]
    {
        let _ = writeln!(
            svg,
            "<rect class=\"{}\" x=\"{x}\" y=\"{:.1}\" width=\"11\" height=\"11\" rx=\"2\"/>\
             <text class=\"a\" x=\"{:.1}\" y=\"{y:.1}\">{name}</text>",
            class(who),
            y - 10.0,
            x + 16.0
        );
    }
}

fn mark_text(mark: f64) -> String {
    match mark {
        _ if mark >= 1e9 => format!("{}G", mark / 1e9),
        _ if mark >= 1e6 => format!("{}M", mark / 1e6),
        _ if mark >= 1e4 => format!("{}k", mark / 1e3),
        // Sums of steps such as 0.2 are not exact.
        _ => format!("{}", (mark * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Sample;

    fn row(name: &str, values: &[f64]) -> Row {
        let samples = values.iter().map(|value| Sample::of(*value)).collect();
        Row { name: name.to_owned(), who: Who::Peer, samples, gap: None, note: None }
    }

    #[test]
    fn bars_grow_with_their_values_and_a_gap_has_none() {
        let mut table = Table::new("t", "A < B", Unit::OpsPerSecond);
        table.rows = vec![row("half", &[50.0]), row("whole", &[100.0]), row("none", &[])];
        let svg = plot(&table);
        assert!(svg.contains("width=\"215.0\"") && svg.contains("width=\"430.0\""), "{svg}");
        assert_eq!((svg.matches("height=\"16\"").count(), svg.matches("not run").count()), (2, 1));
        assert!(svg.contains("A &lt; B") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("operations/s; more is better"));
    }

    #[test]
    fn values_far_apart_have_a_logarithmic_axis_that_says_so() {
        let mut table = Table::new("t", "T", Unit::Nanoseconds);
        table.rows = vec![row("small", &[10.0]), row("large", &[1000.0])];
        let svg = plot(&table);
        assert!(svg.contains("ns, logarithmic; less is better"), "{svg}");
        let marks = Axis { low: 10.0, high: 1000.0, is_log: true }.marks();
        assert_eq!(marks.iter().map(|mark| mark_text(*mark)).collect::<Vec<_>>(), ["10", "100", "1000"]);
    }

    #[test]
    fn a_linear_axis_has_a_few_round_marks() {
        for high in [0.7, 3.0, 17.0, 99.0, 640_000.0] {
            let marks = Axis { low: 0.0, high, is_log: false }.marks();
            assert!((3..=7).contains(&marks.len()), "{high}: {marks:?}");
        }
    }

    #[test]
    fn a_table_of_nothing_is_drawn_without_a_number_that_is_none() {
        let mut table = Table::new("t", "T", Unit::Nanoseconds);
        table.rows = vec![row("none", &[])];
        assert!(!plot(&table).contains("NaN") && !plot(&table).contains("inf"));
    }
}
