//! What a measurement comes to: samples, rows, tables, and the targets that a table is held against.
//!
//! This is the format of `docs/bench/results.json`. Samples are kept as they were measured; medians, spreads and
//! ratios are computed from them whenever they are shown.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::stats::Spread;

/// What a table's values are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Operations a second.
    OpsPerSecond,
    /// GiB a second.
    GibPerSecond,
    /// Nanoseconds an operation.
    Nanoseconds,
    /// Microseconds an operation.
    Microseconds,
    /// Milliseconds an operation.
    Milliseconds,
    /// Instructions an operation.
    Instructions,
    /// A count an operation: allocations, requests, copied bytes.
    Count,
}

impl Unit {
    /// How it is written at a column and an axis.
    pub fn label(self) -> &'static str {
        match self {
            Self::OpsPerSecond => "operations/s",
            Self::GibPerSecond => "GiB/s",
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Instructions => "instructions",
            Self::Count => "count",
        }
    }

    /// Whether more of it is better.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::OpsPerSecond | Self::GibPerSecond)
    }

    /// What CPU time beside it is told for: an operation, or a MiB where an operation has no size of its own.
    pub fn cpu_is_for(self) -> &'static str {
        if self == Self::GibPerSecond { "MiB" } else { "op" }
    }
}

/// Whose row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// This project's.
    Ours,
    /// Another program that does the same.
    Peer,
    /// The bare transport, store or machine, which does less: what can be reached at best.
    Ceiling,
}

/// One round of one row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// In the table's unit.
    pub value: f64,
    /// Microseconds of CPU of this process for an operation (or a MiB, see [`Unit::cpu_is_for`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cpu: Option<f64>,
    /// The same of the server's processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cpu: Option<f64>,
}

impl Sample {
    /// A value without CPU times.
    pub fn of(value: f64) -> Self {
        Self { value, client_cpu: None, server_cpu: None }
    }
}

/// What was measured of one contestant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is, in words.
    pub name: String,
    /// Whose.
    pub who: Who,
    /// One a round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// Why there are none, and how to get them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
    /// What has to be known about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// The values of all rounds.
    pub fn value(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|sample| sample.value))
    }

    /// CPU of this process for an operation.
    pub fn client_cpu(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| sample.client_cpu))
    }

    /// CPU of the server for an operation.
    pub fn server_cpu(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| sample.server_cpu))
    }
}

/// Which number of a row a target is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The value itself.
    Value,
    /// The server's CPU time for an operation.
    ServerCpu,
}

/// What a ratio, or a number by itself, must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What is compared, in words.
    pub what: String,
    /// The row that is judged.
    pub ours: String,
    /// The row it is divided by; without one its own number is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Which of their numbers.
    pub measure: Measure,
    /// The bound.
    pub bound: f64,
    /// Whether the bound is the least, or the most.
    pub is_least: bool,
}

impl Target {
    /// The row `ours` must have at least `bound` times what `peer` has.
    pub fn at_least(what: &str, ours: &str, peer: &str, bound: f64) -> Self {
        Self {
            what: what.to_owned(),
            ours: ours.to_owned(),
            peer: Some(peer.to_owned()),
            measure: Measure::Value,
            bound,
            is_least: true,
        }
    }

    /// The row `ours` must have at most `bound` times what `peer` has.
    pub fn at_most(what: &str, ours: &str, peer: &str, bound: f64) -> Self {
        Self { is_least: false, ..Self::at_least(what, ours, peer, bound) }
    }

    /// The row `ours` must have at most `bound`, in the table's unit.
    pub fn at_most_alone(what: &str, ours: &str, bound: f64) -> Self {
        Self { peer: None, ..Self::at_most(what, ours, "", bound) }
    }

    /// The same about the server's CPU time.
    #[must_use]
    pub fn of_server_cpu(self) -> Self {
        Self { measure: Measure::ServerCpu, ..self }
    }
}

/// How a target came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// This is the ratio, and it is as it should be.
    Met(f64),
    /// This is the ratio, and it is not.
    Missed(f64),
    /// A row of it was not measured.
    NotMeasured,
}

/// Rows that were measured in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Short, unique in its topic: what is said to measure this table alone.
    pub id: String,
    /// For people.
    pub title: String,
    /// Of all its values.
    pub unit: Unit,
    /// What has to be known to read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// In the order in which they are shown.
    pub rows: Vec<Row>,
    /// What it is held against.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Where and when it was measured.
    pub machine: Option<Machine>,
}

impl Table {
    /// An empty one.
    pub fn new(id: &str, title: &str, unit: Unit) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            unit,
            note: None,
            rows: Vec::new(),
            targets: Vec::new(),
            machine: None,
        }
    }

    /// Adds what has to be known to read it.
    #[must_use]
    pub fn note(mut self, note: &str) -> Self {
        self.note = Some(note.to_owned());
        self
    }

    /// Adds a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// The row of this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// The row that the others are compared with: the first of ours that was measured.
    pub fn ours(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.who == Who::Ours && !row.samples.is_empty())
    }

    /// How a target came out: the ratio of the medians, or the median itself.
    pub fn judge(&self, target: &Target) -> Verdict {
        let number = |name: &str| {
            let row = self.row(name)?;
            let spread = match target.measure {
                Measure::Value => row.value(),
                Measure::ServerCpu => row.server_cpu(),
            };
            spread.map(|spread| spread.middle)
        };
        let ours = number(&target.ours);
        let ratio = match &target.peer {
            None => ours,
            Some(peer) => ours.zip(number(peer)).map(|(ours, peer)| ours / peer),
        };
        match ratio {
            None => Verdict::NotMeasured,
            Some(ratio) if target.is_least == (ratio >= target.bound) || ratio == target.bound => Verdict::Met(ratio),
            Some(ratio) => Verdict::Missed(ratio),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |name: &str, who, values: &[f64]| Row {
            name: name.to_owned(),
            who,
            samples: values
                .iter()
                .map(|value| Sample { server_cpu: Some(value * 2.0), ..Sample::of(*value) })
                .collect(),
            gap: None,
            note: None,
        };
        let mut table = Table::new("t", "T", Unit::OpsPerSecond);
        table.rows = vec![row("peer", Who::Peer, &[10.0, 20.0, 30.0]), row("ours", Who::Ours, &[18.0])];
        table.rows.push(Row { gap: Some("not here".to_owned()), ..row("gap", Who::Peer, &[]) });
        table
    }

    #[test]
    fn a_target_is_judged_by_the_ratio_of_the_medians() {
        let table = table();
        assert_eq!(table.judge(&Target::at_least("", "ours", "peer", 0.9)), Verdict::Met(0.9));
        assert_eq!(table.judge(&Target::at_least("", "ours", "peer", 0.91)), Verdict::Missed(0.9));
        assert_eq!(table.judge(&Target::at_most("", "ours", "peer", 0.9)), Verdict::Met(0.9));
        assert_eq!(table.judge(&Target::at_most("", "ours", "peer", 0.8)), Verdict::Missed(0.9));
        assert_eq!(table.judge(&Target::at_most_alone("", "ours", 17.0)), Verdict::Missed(18.0));
        assert_eq!(table.judge(&Target::at_most_alone("", "ours", 35.0).of_server_cpu()), Verdict::Missed(36.0));
    }

    #[test]
    fn a_target_whose_row_is_missing_or_a_gap_is_not_measured() {
        let table = table();
        assert_eq!(table.judge(&Target::at_least("", "ours", "gap", 1.0)), Verdict::NotMeasured);
        assert_eq!(table.judge(&Target::at_least("", "nobody", "peer", 1.0)), Verdict::NotMeasured);
    }

    #[test]
    fn a_table_comes_back_from_json_as_it_was() {
        let table = table().target(Target::at_most("x", "ours", "peer", 1.5)).note("n");
        let text = serde_json::to_string(&table).expect("a table is plain data");
        assert_eq!(serde_json::from_str::<Table>(&text).expect("what was written"), table);
    }
}
