//! What a test does when a component that it needs is not on this machine: it fails where everything has
//! to be there, and elsewhere says aloud what was not checked and how to get it.

use std::path::PathBuf;

/// A component that is not there.
#[derive(Debug)]
pub struct Missing {
    /// Its name.
    pub component: String,
    /// How to get it.
    pub remedy: String,
}

/// Whether a missing component is a failure: on the continuous integration, and wherever it is asked for.
pub fn everything_is_required() -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    set("CI") || set("MMAP_TEST_REQUIRE_ALL")
}

/// The component, or `None` after saying that the test is skipped.
///
/// # Panics
/// Where every component is required.
pub fn available<T>(component: Result<T, Missing>) -> Option<T> {
    match component {
        Ok(component) => Some(component),
        Err(Missing { component, remedy }) => {
            assert!(!everything_is_required(), "{component} is missing: {remedy}");
            eprintln!("SKIPPED: {component} is missing: {remedy}");
            None
        }
    }
}

/// The program of this name on the search path.
pub fn program(name: &str, remedy: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Missing { component: name.to_owned(), remedy: remedy.to_owned() })
}
