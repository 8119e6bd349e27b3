//! Tables as Markdown, padded so that they read well in a terminal too.

use crate::rows::{Measure, Row, Table, Target, Unit, Verdict, Who};
use crate::stats::{Spread, digits};

/// A table of texts: the first column to the left, the others to the right.
fn padded(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column == 0 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
            text.push_str(&cell);
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = if column == 0 {
                    format!("|:{}-", "-".repeat(*width))
                } else {
                    format!("|{}-:", "-".repeat(*width))
                };
                text.push_str(&line);
            }
            text.push_str("|\n");
        }
    }
    text
}

fn middle(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| digits(spread.middle))
}

fn range(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| format!("{}..{}", digits(spread.low), digits(spread.high)))
}

/// The rows of a table, each with what ours is beside it.
pub fn table(table: &Table) -> String {
    let cpu = |side: &str| format!("{side} CPU µs/{}", table.unit.cpu_is_for());
    let head = ["", table.unit.label(), "min..max", &cpu("client"), &cpu("server"), "ours ÷ it"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut remarks = String::new();
    for row in &table.rows {
        rows.push(cells(table, row));
        if let Some(gap) = &row.gap {
            remarks.push_str(&format!("\n{}: not run: {gap}\n", row.name));
        }
        if let Some(note) = &row.note {
            remarks.push_str(&format!("\n{}: {note}\n", row.name));
        }
    }
    format!("{}{remarks}", padded(&rows))
}

fn cells(table: &Table, row: &Row) -> Vec<String> {
    let name = if row.who == Who::Ours { format!("**{}**", row.name) } else { row.name.clone() };
    if row.samples.is_empty() {
        return [&name, "not run", "", "", "", ""].map(str::to_owned).to_vec();
    }
    let ours = table.ours().filter(|_| row.who != Who::Ours).and_then(Row::value);
    let ratio = ours.zip(row.value()).map(|(ours, it)| ours.middle / it.middle);
    let ratio = ratio.map_or_else(String::new, digits);
    vec![name, middle(row.value()), range(row.value()), middle(row.client_cpu()), middle(row.server_cpu()), ratio]
}

/// What came of targets, one line each.
pub fn targets<'a>(judged: impl IntoIterator<Item = (&'a Table, &'a Target)>) -> String {
    let mut rows = vec![["target", "wanted", "measured", ""].map(str::to_owned).to_vec()];
    for (table, target) in judged {
        let bound = format!("{} {}", if target.is_least { "at least" } else { "at most" }, digits(target.bound));
        let unit = match (&target.peer, target.measure) {
            (Some(_), _) => String::new(),
            (None, Measure::ServerCpu) => " µs".to_owned(),
            (None, Measure::Value) => format!(" {}", table.unit.label()),
        };
        let (measured, verdict) = match table.judge(target) {
            Verdict::Met(ratio) => (format!("{}{unit}", digits(ratio)), "met"),
            Verdict::Missed(ratio) => (format!("{}{unit}", digits(ratio)), "**missed**"),
            Verdict::NotMeasured => (String::new(), "**not measured**"),
        };
        rows.push(vec![target.what.clone(), bound + &unit, measured, verdict.to_owned()]);
    }
    if rows.len() == 1 { String::new() } else { padded(&rows) }
}

/// Whether a table can be drawn: something was measured, and it is no mixture of units.
pub fn has_plot(table: &Table) -> bool {
    table.unit != Unit::Count && table.rows.iter().filter(|row| !row.samples.is_empty()).count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Sample;

    fn sample() -> Table {
        let row = |name: &str, who, values: &[f64]| Row {
            name: name.to_owned(),
            who,
            samples: values.iter().map(|value| Sample { client_cpu: Some(1.5), ..Sample::of(*value) }).collect(),
            gap: None,
            note: None,
        };
        let mut table = Table::new("t", "T", Unit::OpsPerSecond)
            .target(Target::at_least("ours / peer", "ours", "peer", 1.5))
            .target(Target::at_least("ours / other", "ours", "other", 1.5));
        table.rows = vec![row("ours", Who::Ours, &[2000.0]), row("peer", Who::Peer, &[900.0, 1000.0, 1200.0])];
        table.rows.push(Row { gap: Some("it is not installed".to_owned()), ..row("other", Who::Peer, &[]) });
        table
    }

    #[test]
    fn a_table_shows_medians_spreads_cpu_ratios_and_gaps() {
        let text = table(&sample());
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(
            lines[0][1..7],
            ["", "operations/s", "min..max", "client CPU µs/op", "server CPU µs/op", "ours ÷ it"]
        );
        assert_eq!(lines[2][1..7], ["**ours**", "2,000", "2,000..2,000", "1.50", "–", ""]);
        assert_eq!(lines[3][1..7], ["peer", "1,000", "900..1,200", "1.50", "–", "2.00"]);
        assert_eq!(lines[4][1..3], ["other", "not run"]);
        assert!(text.contains("other: not run: it is not installed"), "{text}");
    }

    #[test]
    fn targets_say_what_was_wanted_and_whether_it_is_met() {
        let table = sample();
        let text = targets(table.targets.iter().map(|target| (&table, target)));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(lines[2][1..5], ["ours / peer", "at least 1.50", "2.00", "met"]);
        assert_eq!(lines[3][1..5], ["ours / other", "at least 1.50", "", "**not measured**"]);
        assert_eq!(targets([]), "");
    }
}
