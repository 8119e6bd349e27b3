//! [`Record`]: how far a run came, in a file of one JSON line an event; locked, so that two runs do not meet in it.
//!
//! Lines are only ever appended, and synced before what they announce is relied upon. A last line that a crash tore is
//! cut off: what it said is then done once more, which is harmless. Any other damage is refused, never guessed.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// What a run copies; a record is of exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errand {
    pub(crate) server: String,
    pub(crate) source: String,
    pub(crate) target: String,
}

/// What is known of a file's target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// It was missing, and is about to be made: what is there may be ours, or somebody else's who was faster.
    Making,
    /// It is ours, and incomplete. At `version` it had the source's first `upto` bytes.
    Made { upto: u64, version: String },
    /// It is complete.
    Done { version: String },
    /// It is not ours.
    Forgotten,
}

/// A file of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) name: String,
    /// The source that its target is made from.
    pub(crate) source_version: String,
    pub(crate) stage: Stage,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    file: File,
    known: HashMap<String, Known>,
}

impl Record {
    /// Where the record of `errand` is if nobody says otherwise.
    pub(crate) fn default_path(errand: &Errand) -> Result<PathBuf> {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
        let state = state.ok_or_else(|| Failure::usage("there is no HOME to keep the run's record in: say --state"))?;
        // FNV-1a: the standard library's hash may differ between two builds of this program.
        let text = format!("{}\0{}\0{}", errand.server, errand.source, errand.target);
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(state.join(format!("mmapctl/{hash:016x}.jsonl")))
    }

    /// Opens the record of `errand`, or begins it.
    pub(crate) fn open(path: &Path, errand: &Errand) -> Result<Self> {
        let shown = path.display();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let cannot = || format!("cannot use {shown} as the run's record");
        let options = File::options().create(true).truncate(false).read(true).append(true).open(path);
        let mut file = options.with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::conflict(format!("the same run is under way: {shown} is in use")).into());
            }
            Err(TryLockError::Error(error)) => return Err(anyhow::Error::new(error).context(cannot())),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(cannot)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.set_len(whole as u64).with_context(cannot)?;
        let mut record = Self { path: path.to_owned(), file, known: HashMap::new() };
        let damaged = |line: usize| {
            Failure::failed(format!(
                "{shown} is no record of a run, or damaged in line {line}: remove it to begin anew"
            ))
        };
        let mut lines = text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate();
        match lines.next() {
            None => record.write(errand)?,
            Some((_, first)) => {
                let found: Errand = serde_json::from_slice(first).map_err(|_| damaged(1))?;
                if found != *errand {
                    let Errand { server, source, target } = found;
                    let message = format!("{shown} is the record of another run: {source} -> {target} on {server}");
                    return Err(Failure::usage(message).into());
                }
            }
        }
        for (index, line) in lines {
            let known: Known = serde_json::from_slice(line).map_err(|_| damaged(index + 1))?;
            record.known.insert(known.name.clone(), known);
        }
        Ok(record)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is known of the file.
    pub(crate) fn of(&self, name: &str) -> Option<&Known> {
        self.known.get(name).filter(|known| known.stage != Stage::Forgotten)
    }

    /// Notes where a file is; it stands when this answers.
    pub(crate) fn note(&mut self, name: &str, source_version: &str, stage: Stage) -> Result<()> {
        let known = Known { name: name.to_owned(), source_version: source_version.to_owned(), stage };
        self.write(&known)?;
        self.known.insert(known.name.clone(), known);
        Ok(())
    }

    /// Everything is copied: there is nothing to go on with.
    pub(crate) fn finish(self) -> Result<()> {
        std::fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errand() -> Errand {
        Errand { server: "s".into(), source: "/a".into(), target: "/b".into() }
    }

    #[test]
    fn a_record_outlives_a_kill_and_loses_only_the_line_that_was_torn() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/record");
        let mut record = Record::open(&path, &errand()).expect("it is begun");
        let made = Stage::Made { upto: 7, version: "v".into() };
        record.note("a", "1", Stage::Making).expect("it is written");
        record.note("a", "1", made.clone()).expect("it is written");
        record.note("b", "1", Stage::Forgotten).expect("it is written");
        assert!(Record::open(&path, &errand()).is_err(), "it is in use");
        drop(record);
        let mut file = File::options().append(true).open(&path).expect("it is there");
        file.write_all(br#"{"name":"a","source_ver"#).expect("it is written");
        let mut record = Record::open(&path, &errand()).expect("it is there");
        assert_eq!(record.of("a").map(|known| &known.stage), Some(&made));
        assert_eq!(record.of("b"), None);
        record.note("c", "1", Stage::Making).expect("it is written");
        drop(record);
        let record = Record::open(&path, &errand()).expect("the torn line is gone");
        assert!(record.of("c").is_some());
        record.finish().expect("it is ours");
        assert!(!path.exists());
    }

    #[test]
    fn a_record_of_another_run_or_a_damaged_one_is_refused_untouched() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("record");
        drop(Record::open(&path, &errand()).expect("it is begun"));
        let other = Errand { server: "other".into(), ..errand() };
        assert!(Record::open(&path, &other).expect_err("it is another's").to_string().contains("/a -> /b on s"));
        std::fs::write(&path, "a person's\nnotes\n").expect("it is written");
        assert!(Record::open(&path, &errand()).expect_err("it is none").to_string().contains("line 1"));
        assert_eq!(std::fs::read(&path).expect("it is there"), b"a person's\nnotes\n");
    }
}
