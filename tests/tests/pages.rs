//! The project's pages say what is so: each promise of docs/SEMANTICS.md names tests that exist, and links
//! between the pages lead somewhere.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mmap_tests::paths;

/// Every Rust file of the workspace.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of functions that an attribute marks as tests; those of proptest count too.
fn tests_of(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    (1..lines.len()).filter_map(move |index| {
        let name = lines[index].strip_prefix("async ").unwrap_or(lines[index]).strip_prefix("fn ")?;
        let marked = lines[..index].iter().rev().take_while(|line| line.starts_with('#') || line.starts_with("//"));
        marked.clone().any(|line| line.contains("test")).then(|| name.split('(').next()).flatten()
    })
}

/// The test names that a promise lists.
fn promised(page: &str) -> Vec<(usize, Vec<&str>)> {
    let mut promises: Vec<(usize, Vec<&str>)> = Vec::new();
    for line in page.lines() {
        if let Some((number, rest)) = line.split_once(". **")
            && let Ok(number) = number.parse()
            && !rest.is_empty()
        {
            promises.push((number, Vec::new()));
        }
        if let (Some(names), Some((_, tests))) = (line.trim().strip_prefix("Tests: "), promises.last_mut()) {
            tests.extend(names.split('`').skip(1).step_by(2));
        }
    }
    promises
}

#[test]
fn every_promise_names_tests_that_exist() {
    let mut files = Vec::new();
    sources(paths::workspace(), &mut files);
    let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let known: BTreeSet<&str> = texts.iter().flat_map(|text| tests_of(text)).collect();
    let page = std::fs::read_to_string(paths::workspace().join("docs/SEMANTICS.md")).unwrap();
    let promises = promised(&page);
    assert_eq!(promises.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=14).collect::<Vec<_>>());
    for (number, tests) in promises {
        assert!(!tests.is_empty(), "promise {number} names no test");
        for test in tests {
            assert!(known.contains(test), "promise {number} names {test}, which is no test");
        }
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/SEMANTICS.md",
        "docs/ERRORS.md",
        "docs/CONFIGURATION.md",
        "docs/METRICS.md",
        "docs/TELEMETRY.md",
        "docs/SECURITY.md",
    ] {
        let file = paths::workspace().join(page);
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{page}: {error}"));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            let found = target.contains("://") || file.parent().unwrap().join(target).exists();
            assert!(found, "{page} links to {link}, which is not there");
        }
    }
}

#[test]
fn the_reading_of_the_page_can_fail() {
    let page = "1. **A.** Text\n   Tests: `one`, `two`\n2. **B.** Text\n";
    assert_eq!(promised(page), [(1, vec!["one", "two"]), (2, vec![])]);
    let text = "#[test]\nfn one() {}\nfn helper() {}\n#[tokio::test]\nasync fn two() {}\n";
    assert_eq!(tests_of(text).collect::<Vec<_>>(), ["one", "two"]);
}
