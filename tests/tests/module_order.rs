//! Repository rules as tests: the direction of modules and crates, and the shape of files.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use mmap_tests::paths;
use mmap_tests::rooms::{self, Sources};

const CRATES: [&str; 6] = ["core", "proto", "server", "client", "token", "cli"];
/// Lines of the longest file: two screens more than the 400 that a file should stay under.
const LINES_MAX: usize = 500;

#[test]
fn every_file_uses_only_what_stands_above_it() {
    let mut violations = Vec::new();
    for name in CRATES {
        let src = paths::workspace().join("crates").join(name).join("src");
        violations.extend(violations_below(&src).into_iter().map(|what| format!("crates/{name}/src/{what}")));
    }
    violations.extend(violations_below(&paths::workspace().join("tests/src")));
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

fn violations_below(src: &Path) -> Vec<String> {
    let sources = rooms::load(src).unwrap();
    let roots: Vec<&str> = ["lib.rs", "main.rs"].into_iter().filter(|root| sources.contains_key(*root)).collect();
    assert!(!roots.is_empty(), "{} has no root", src.display());
    roots.iter().flat_map(|root| rooms::violations(&sources, root).unwrap()).collect()
}

fn sample(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn the_order_check_finds_what_is_out_of_order() {
    let bad = sample(&[
        ("lib.rs", "pub mod low; pub mod high; pub use low::Item;"),
        ("low.rs", "use crate::high::Thing;\nfn f() { crate::high::call!(x); }\n"),
        ("high/mod.rs", "mod first; mod second; pub use first::One; struct Own;"),
        ("high/first.rs", "use super::second::{Two, deeper::Three};"),
        (
            "high/second.rs",
            "use super::{Own, One};\nuse crate::{Item, low::Item as Fine};\nmacro_rules! m { () => { super::One } }",
        ),
    ]);
    let found = rooms::violations(&bad, "lib.rs").unwrap();
    let expected = [
        "low.rs:1: crate::high::Thing is used, but high stands below low",
        "low.rs:2: crate::high::call is used, but high stands below low",
        "high/first.rs:1: crate::high::second::Two is used, but second stands below first",
        "high/first.rs:1: crate::high::second::deeper::Three is used, but second stands below first",
        "high/second.rs:1: crate::high::One is only passed on by high: import it from its own file",
        "high/second.rs:2: crate::Item is imported through the crate root",
        "high/second.rs:3: crate::high::One is only passed on by high: import it from its own file",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_order_check_lets_through_what_is_in_order() {
    let good = sample(&[
        ("lib.rs", "//! Says `crate::high` in a comment.\npub mod low; pub mod high;\n#[cfg(test)] mod tests;"),
        ("tests.rs", "mod deeper;"),
        ("tests/deeper.rs", "use super::*; use crate::low::B;"),
        (
            "low.rs",
            "pub(crate) struct A; macro_rules! m { () => { $crate::high::x } }\n\
                    #[cfg(test)] mod tests { use super::*; use crate::high::second::B; }",
        ),
        ("high/mod.rs", "mod first; mod second; use self::second::B; use first::C;"),
        (
            "high/first.rs",
            "use crate::low::{A, self}; mod inner { use super::A; fn f(&self) { self.g(\"crate::x\") } }",
        ),
        ("high/second.rs", "use super::first::C; use crate::low; pub(in crate::high) struct B;"),
    ]);
    assert_eq!(rooms::violations(&good, "lib.rs").unwrap(), Vec::<String>::new());

    let root_in_test = sample(&[
        ("lib.rs", "mod low; pub use low::A;"),
        ("low.rs", "#[cfg(test)]\nmod tests { use crate::A; }\nuse crate::low::B;"),
    ]);
    let found = rooms::violations(&root_in_test, "lib.rs").unwrap();
    assert_eq!(found, ["low.rs:2: crate::A is imported through the crate root"]);

    let missing = sample(&[("lib.rs", "mod gone;")]);
    assert!(rooms::violations(&missing, "lib.rs").is_err());
}

/// Crate edges, tests' own dependencies aside: the client's and the core's users know nothing of each other.
const EDGES: [(&str, &[&str]); 9] = [
    ("mmap-core", &[]),
    ("mmap-proto", &[]),
    ("mmap-fake", &["mmap-proto"]),
    ("mmap-server", &["mmap-core", "mmap-proto", "mmap-token"]),
    ("mmap-client", &["mmap-proto"]),
    ("mmap-token", &[]),
    ("mmap-cli", &["mmap-client", "mmap-token"]),
    ("mmap-tests", &["mmap-client", "mmap-core", "mmap-proto", "mmap-token"]),
    ("mmap-benches", &["mmap-client", "mmap-proto", "mmap-token"]),
];

#[test]
fn crates_depend_on_each_other_only_as_designed() {
    let output = Command::new(env!("CARGO"))
        .current_dir(paths::workspace())
        .args(["metadata", "--no-deps", "--format-version=1", "--locked"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let found: BTreeMap<&str, BTreeSet<&str>> = packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let normal = dependencies.filter(|dependency| dependency["kind"] != "dev");
            let ours = normal.map(|dependency| dependency["name"].as_str().unwrap());
            (package["name"].as_str().unwrap(), ours.filter(|name| names.contains(name)).collect())
        })
        .collect();
    let designed = EDGES.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    assert_eq!(found, designed);
}

fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["crates", "tests", "benches"].iter().map(|name| paths::workspace().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn opens_with_its_purpose(text: &str) -> bool {
    text.starts_with("//! ")
}

#[test]
fn every_file_opens_with_its_purpose_and_stays_readable() {
    assert!(opens_with_its_purpose("//! What it owns.\n") && !opens_with_its_purpose("use std::fs;\n//! Late.\n"));
    let files = rust_files();
    assert!(files.len() > 30, "only {} files found", files.len());
    let mut faults = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        if !opens_with_its_purpose(&text) {
            faults.push(format!("{} does not open with //!", file.display()));
        }
        let is_source = file.components().any(|part| part.as_os_str() == "src");
        if is_source && lines > LINES_MAX {
            faults.push(format!("{} has {lines} lines, more than {LINES_MAX}", file.display()));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
