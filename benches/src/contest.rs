//! The rows of one table, measured in turn: every round each row once, every second round in reverse.
//!
//! A row that fails, by an error or a panic, becomes a gap with that reason, and the others go on.

use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::machine::Machine;
use crate::markdown;
use crate::options::Options;
use crate::rows::{Row, Sample, Table, Who};
use crate::stats::digits;

type Round<'a> = Box<dyn FnMut() -> Result<Sample, String> + 'a>;

/// A table that is being measured.
#[must_use = "it measures when it is run"]
pub struct Contest<'a> {
    table: Table,
    rounds: Vec<Option<Round<'a>>>,
    is_interrupted: &'a dyn Fn() -> bool,
    done: &'a mut Vec<Table>,
    most: usize,
}

impl<'a> Contest<'a> {
    /// A table without rows, which is put into `done` when it was measured.
    pub fn new(
        table: Table,
        options: &Options,
        is_interrupted: &'a dyn Fn() -> bool,
        done: &'a mut Vec<Table>,
    ) -> Self {
        Self { table, rounds: Vec::new(), is_interrupted, done, most: options.rounds }
    }

    /// Adds a row; `round` measures it once.
    pub fn row(&mut self, name: &str, who: Who, round: impl FnMut() -> Result<Sample, String> + 'a) {
        self.push(name, who, None, Some(Box::new(round)));
    }

    /// Adds a row that cannot be measured: why, and how to get it.
    pub fn gap(&mut self, name: &str, who: Who, why: &str) {
        self.push(name, who, Some(why.to_owned()), None);
    }

    /// Measures so many rounds at most, for what takes long.
    pub fn at_most_rounds(&mut self, rounds: usize) {
        self.most = self.most.min(rounds);
    }

    /// Adds what has to be known about the last row.
    pub fn note(&mut self, note: &str) {
        if let Some(row) = self.table.rows.last_mut() {
            row.note = Some(note.to_owned());
        }
    }

    fn push(&mut self, name: &str, who: Who, gap: Option<String>, round: Option<Round<'a>>) {
        self.table.rows.push(Row { name: name.to_owned(), who, samples: Vec::new(), gap, note: None });
        self.rounds.push(round);
    }

    /// Measures all rows, says so meanwhile on standard error, and prints the table. The first round warms up and is
    /// not counted.
    pub fn run(self) {
        self.measure(true);
    }

    /// As [`run`](Self::run), but every round counts: for what must be cold, or takes long.
    pub fn run_without_warm_up(self) {
        self.measure(false);
    }

    fn measure(mut self, warms_up: bool) {
        self.table.machine = Some(Machine::now());
        eprintln!("{}: {} rows, {} rounds", self.table.id, self.table.rows.len(), self.most);
        for round in usize::from(!warms_up)..=self.most {
            let mut order: Vec<usize> = (0..self.rounds.len()).collect();
            if round % 2 == 0 {
                order.reverse();
            }
            for at in order {
                if (self.is_interrupted)() {
                    eprintln!("{}: interrupted, not kept", self.table.id);
                    return;
                }
                self.one(at, round);
            }
        }
        self.print();
        self.done.push(self.table);
    }

    fn one(&mut self, at: usize, round: usize) {
        let row = &mut self.table.rows[at];
        let Some(measure) = &mut self.rounds[at] else { return };
        let outcome = catch_unwind(AssertUnwindSafe(measure)).unwrap_or_else(|panic| Err(text_of(&*panic)));
        match outcome {
            Ok(sample) if round == 0 => eprintln!("  warm-up  {}: {}", row.name, digits(sample.value)),
            Ok(sample) => {
                eprintln!("  round {round}  {}: {}", row.name, digits(sample.value));
                row.samples.push(sample);
            }
            Err(why) => {
                eprintln!("  round {round}  {}: failed: {why}", row.name);
                row.samples.clear();
                row.gap = Some(format!("it failed: {why}"));
                self.rounds[at] = None;
            }
        }
    }

    fn print(&self) {
        let table = &self.table;
        let targets = markdown::targets(table.targets.iter().map(|target| (table, target)));
        let text = format!("\n### {}\n\n{}\n{targets}", table.title, markdown::table(table));
        // Who closed standard output does not want the table, and the results are written all the same.
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

/// What a panic said.
pub fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::rows::Unit;

    fn options() -> Options {
        Options { rounds: 3, is_quick: true, wanted: Vec::new() }
    }

    #[test]
    fn rows_are_measured_in_turn_and_the_warm_up_does_not_count() {
        let (order, mut done, options) = (RefCell::new(String::new()), Vec::new(), options());
        let mut contest = Contest::new(Table::new("t", "T", Unit::Count), &options, &|| false, &mut done);
        for name in ["a", "b"] {
            let order = &order;
            contest.row(name, Who::Ours, move || {
                order.borrow_mut().push_str(name);
                Ok(Sample::of(1.0))
            });
        }
        contest.run();
        assert_eq!(order.into_inner(), "baabbaab");
        assert_eq!(done[0].rows.iter().map(|row| row.samples.len()).collect::<Vec<_>>(), [3, 3]);
    }

    #[test]
    fn a_row_that_fails_or_panics_is_a_gap_and_the_others_go_on() {
        let (mut done, options) = (Vec::new(), options());
        let mut contest = Contest::new(Table::new("t", "T", Unit::Count), &options, &|| false, &mut done);
        let mut rounds = 0;
        contest.row("fails later", Who::Peer, || {
            rounds += 1;
            if rounds > 2 { Err("it is gone".to_owned()) } else { Ok(Sample::of(1.0)) }
        });
        contest.row("panics", Who::Peer, || panic!("it broke"));
        contest.gap("missing", Who::Peer, "install it");
        contest.row("works", Who::Ours, || Ok(Sample::of(2.0)));
        contest.run_without_warm_up();
        let gaps: Vec<_> = done[0].rows.iter().map(|row| row.gap.as_deref()).collect();
        assert_eq!(gaps, [Some("it failed: it is gone"), Some("it failed: it broke"), Some("install it"), None]);
        let samples: Vec<_> = done[0].rows.iter().map(|row| row.samples.len()).collect();
        assert_eq!(samples, [0, 0, 0, 3]);
    }

    #[test]
    fn what_was_interrupted_is_not_kept() {
        let (mut done, options) = (Vec::new(), options());
        let mut contest = Contest::new(Table::new("t", "T", Unit::Count), &options, &|| true, &mut done);
        contest.row("a", Who::Ours, || Ok(Sample::of(1.0)));
        contest.run();
        assert!(done.is_empty());
    }
}
