//! Everything measured so far, in one JSON file; and the page and the plots that are made from it.
//!
//! A run replaces the tables that it measured and leaves the others: each table says when it was measured, and on
//! which machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::rows::Table;
use crate::{markdown, svg};

/// The file of everything measured, below the folder of documents.
const RESULTS: &str = "bench/results.json";
/// The page made from it.
const PAGE: &str = "BENCHMARKS.md";
/// Topics stand in this order on the page; others behind them.
const ORDER: [&str; 8] = ["wire", "redis", "store", "cold", "mounts", "core", "knobs", "fair"];

/// The tables of a bench target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Topic {
    name: String,
    title: String,
    tables: Vec<Table>,
}

/// Everything measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    topics: Vec<Topic>,
}

impl Results {
    /// What is below `docs`; nothing if nothing was measured yet.
    ///
    /// # Errors
    /// The file cannot be read, or is not what is written here.
    pub fn load(docs: &Path) -> Result<Self, String> {
        let file = docs.join(RESULTS);
        match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    /// Puts tables in the place of those of the same id. `is_whole` says that the topic has no others.
    pub fn merge(&mut self, name: &str, title: &str, tables: Vec<Table>, is_whole: bool) {
        let at = self.topics.iter().position(|topic| topic.name == name).unwrap_or_else(|| {
            self.topics.push(Topic { name: name.to_owned(), title: String::new(), tables: Vec::new() });
            self.topics.len() - 1
        });
        let topic = &mut self.topics[at];
        title.clone_into(&mut topic.title);
        if is_whole {
            topic.tables = tables;
        } else {
            for table in tables {
                match topic.tables.iter_mut().find(|old| old.id == table.id) {
                    Some(old) => *old = table,
                    None => topic.tables.push(table),
                }
            }
        }
        let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
        self.topics.sort_by_key(|topic| place(&topic.name));
    }

    /// Writes the file, the page and the plots below `docs`, and removes plots of tables that are gone.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, docs: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|error| format!("the results have no JSON: {error}"))?;
        put(&docs.join(RESULTS), &(json + "\n"))?;
        put(&docs.join(PAGE), &self.page())?;
        let mut plots = BTreeSet::new();
        for (topic, table) in self.tables().filter(|(_, table)| markdown::has_plot(table)) {
            let name = plot_name(topic, table);
            put(&docs.join("bench").join(&name), &svg::plot(table))?;
            plots.insert(name);
        }
        let failed = |error: std::io::Error| format!("{}: {error}", docs.join("bench").display());
        for entry in fs::read_dir(docs.join("bench")).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".svg") && !plots.contains(&name) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn tables(&self) -> impl Iterator<Item = (&Topic, &Table)> {
        self.topics.iter().flat_map(|topic| topic.tables.iter().map(move |table| (topic, table)))
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "# Measurements\n\nMade by `benches/run` from `bench/results.json`; do not edit. In each table the rows \
             were measured in turn, round by round, in one run; shown are the medians, the smallest and greatest \
             round, and the CPU time of both sides. Client and servers share one machine. **Bold** is mmapd; \
             \"ours ÷ it\" is its first row's median by the other's. How it is measured: \
             [ARCHITECTURE.md](../ARCHITECTURE.md).\n",
        );
        let judged = self.tables().flat_map(|(_, table)| table.targets.iter().map(move |target| (table, target)));
        let targets = markdown::targets(judged);
        if !targets.is_empty() {
            page.push_str(&format!("\n## Targets\n\n{targets}"));
        }
        for topic in &self.topics {
            page.push_str(&format!("\n## {}\n\n`cargo bench -p mmap-benches --bench {}`", topic.title, topic.name));
            let machine = topic.tables.iter().find_map(|table| table.machine.as_ref());
            let told = machine.map(Machine::text);
            page.push_str(&told.as_ref().map_or_else(|| "\n".to_owned(), |told| format!(" on {told}\n")));
            for table in &topic.tables {
                page.push_str(&section(topic, table, told.as_deref()));
            }
        }
        page
    }
}

fn section(topic: &Topic, table: &Table, told: Option<&str>) -> String {
    let mut text = format!("\n### {}\n\n", table.title);
    if let Some(note) = &table.note {
        text.push_str(&format!("{note}\n\n"));
    }
    text.push_str(&markdown::table(table));
    if markdown::has_plot(table) {
        text.push_str(&format!("\n![{}](bench/{})\n", table.title, plot_name(topic, table)));
    }
    if let Some(machine) = &table.machine {
        let rounds = table.rows.iter().map(|row| row.samples.len()).max().unwrap_or(0);
        text.push_str(&format!(
            "\n`{}`, {} UTC, {rounds} rounds, load average at the start {}",
            table.id, machine.date, machine.load
        ));
        let other = Some(machine.text()).filter(|text| Some(text.as_str()) != told);
        text.push_str(&other.map_or_else(|| "\n".to_owned(), |text| format!(", on {text}\n")));
    }
    text
}

fn plot_name(topic: &Topic, table: &Table) -> String {
    format!("{}-{}.svg", topic.name, table.id)
}

/// Written beside and renamed: a run that is ended leaves the old file or the new one.
fn put(file: &Path, text: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let beside = file.with_extension("new");
    fs::write(&beside, text).and_then(|()| fs::rename(&beside, file)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Row, Sample, Target, Unit, Who};

    fn table(id: &str, value: f64) -> Table {
        let row = |name: &str, who| Row {
            name: name.to_owned(),
            who,
            samples: vec![Sample::of(value)],
            gap: None,
            note: None,
        };
        let mut table = Table::new(id, &format!("Table {id}"), Unit::OpsPerSecond);
        table.rows = vec![row("ours", Who::Ours), row("peer", Who::Peer)];
        table.machine = Some(Machine::now());
        table.target(Target::at_least("ours / peer", "ours", "peer", 0.5))
    }

    fn ids(results: &Results) -> Vec<(&str, &str)> {
        results.tables().map(|(topic, table)| (topic.name.as_str(), table.id.as_str())).collect()
    }

    #[test]
    fn a_run_of_some_tables_replaces_these_and_a_whole_run_all_of_its_topic() {
        let mut results = Results::default();
        results.merge("knobs", "Knobs", vec![table("k", 1.0)], true);
        results.merge("wire", "Wire", vec![table("a", 1.0), table("b", 1.0)], true);
        results.merge("wire", "Wire", vec![table("b", 2.0)], false);
        assert_eq!(ids(&results), [("wire", "a"), ("wire", "b"), ("knobs", "k")]);
        assert_eq!(results.topics[0].tables[1].rows[0].samples, [Sample::of(2.0)]);
        results.merge("wire", "Wire", vec![table("b", 3.0)], true);
        assert_eq!(ids(&results), [("wire", "b"), ("knobs", "k")]);
    }

    #[test]
    fn the_page_and_the_plots_are_made_and_old_plots_removed() {
        let docs = tempfile::tempdir().expect("the temporary folder can be written");
        let mut results = Results::load(docs.path()).expect("there is none yet");
        results.merge("wire", "Wire", vec![table("a", 1.0)], true);
        results.write(docs.path()).expect("the folder is ours");
        assert!(docs.path().join("bench/wire-a.svg").exists());
        let mut results = Results::load(docs.path()).expect("what was written");
        results.merge("wire", "Wire", vec![table("b", 1.0)], true);
        results.write(docs.path()).expect("the folder is ours");
        assert!(!docs.path().join("bench/wire-a.svg").exists() && docs.path().join("bench/wire-b.svg").exists());
        let page = fs::read_to_string(docs.path().join(PAGE)).expect("it was written");
        for part in ["## Targets", "| met |", "### Table b", "](bench/wire-b.svg)", "1 rounds"] {
            assert!(page.contains(part), "{part} is missing in:\n{page}");
        }
    }

    #[test]
    fn a_damaged_file_is_told_and_not_overwritten() {
        let docs = tempfile::tempdir().expect("the temporary folder can be written");
        put(&docs.path().join(RESULTS), "{").expect("the folder is ours");
        assert!(Results::load(docs.path()).is_err_and(|error| error.contains("results.json")));
    }
}
