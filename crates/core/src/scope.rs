//! [`PathScope`]: which files a caller may look at, and which it may change.
//!
//! A prefix covers whole segments: `/data` covers `/data` and `/data/x`, never `/database`. Case matters. What a scope
//! says comes on top of capabilities, and never gives one.

use std::sync::Arc;

use crate::error::{Errno, Error, Result};
use crate::path::FilePath;

/// What may be done below a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// Look.
    Read,
    /// Look and change.
    ReadWrite,
}

/// Some files and the rights to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGrant {
    /// Without a `/` at its end: empty for all files.
    prefix: String,
    rights: Rights,
}

impl PathGrant {
    /// The rights to the file `prefix` and all below it; `/` is everything.
    ///
    /// # Errors
    /// [`Errno::Inval`] if the prefix is no path.
    pub fn new(prefix: &str, rights: Rights) -> Result<Self> {
        match prefix {
            "/" => Ok(Self { prefix: String::new(), rights }),
            _ => FilePath::parse(prefix).map(|path| Self { prefix: path.as_str().to_owned(), rights }),
        }
    }

    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A part of the sorted list of all paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// What its paths begin with.
    pub prefix: String,
    /// Only the path that is the prefix itself.
    pub exact: bool,
}

/// The files that a caller may name. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathScope(Option<Arc<[PathGrant]>>);

impl PathScope {
    /// All files.
    pub const ALL: Self = Self(None);

    /// What `grants` cover; nothing if there are none.
    pub fn of(grants: impl IntoIterator<Item = PathGrant>) -> Self {
        Self(Some(grants.into_iter().collect()))
    }

    /// Whether it leaves nothing out.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it has the rights to the path.
    pub fn covers(&self, path: &str, rights: Rights) -> bool {
        let Some(grants) = &self.0 else { return true };
        grants.iter().any(|grant| grant.rights >= rights && grant.covers(path))
    }

    /// # Errors
    /// [`Errno::Acces`] if it does not have the rights to the path.
    pub fn require(&self, path: &FilePath, rights: Rights) -> Result<()> {
        if self.covers(path.as_str(), rights) {
            return Ok(());
        }
        let what = match rights {
            Rights::Read => "does not cover",
            Rights::ReadWrite => "does not allow to change",
        };
        Err(Error::new(Errno::Acces, format!("the token {what} {path}")).with("path", path))
    }

    /// The parts of the sorted list of all paths that begin with `prefix` which it covers, in their order, none twice.
    pub fn spans(&self, prefix: &str) -> Vec<Span> {
        let Some(grants) = &self.0 else { return vec![Span { prefix: prefix.to_owned(), exact: false }] };
        let mut prefixes: Vec<&str> = grants.iter().map(|grant| grant.prefix.as_str()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let is_covered = |inner: &str| grants.iter().any(|grant| grant.prefix != inner && grant.covers(inner));
        let mut spans = Vec::new();
        for granted in prefixes.iter().copied().filter(|granted| !is_covered(granted)) {
            let below = format!("{granted}/");
            if below.starts_with(prefix) {
                spans.push(Span { prefix: below, exact: false });
            } else if prefix.starts_with(&below) {
                spans.push(Span { prefix: prefix.to_owned(), exact: false });
            }
            if !granted.is_empty() && granted.starts_with(prefix) {
                spans.push(Span { prefix: granted.to_owned(), exact: true });
            }
        }
        // `/data` and `/data/` are not neighbours: `/data-x` stands between them.
        spans.sort_unstable();
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(grants: &[(&str, Rights)]) -> PathScope {
        PathScope::of(grants.iter().map(|(prefix, rights)| PathGrant::new(prefix, *rights).expect(prefix)))
    }

    #[test]
    fn a_prefix_covers_whole_segments_and_case_matters() {
        let scope = scope(&[("/data", Rights::Read)]);
        for (path, covered) in [
            ("/data", true),
            ("/data/x", true),
            ("/data/x/y", true),
            ("/database", false),
            ("/data-x", false),
            ("/dat", false),
            ("/Data/x", false),
            ("/other/data/x", false),
        ] {
            assert_eq!(scope.covers(path, Rights::Read), covered, "{path}");
            assert!(!scope.covers(path, Rights::ReadWrite), "{path}");
        }
    }

    #[test]
    fn of_several_grants_the_widest_counts_and_none_cover_nothing() {
        let scope = scope(&[("/", Rights::Read), ("/mine", Rights::ReadWrite)]);
        assert!(scope.covers("/x", Rights::Read) && !scope.covers("/x", Rights::ReadWrite));
        assert!(scope.covers("/mine/x", Rights::ReadWrite));
        assert!(!PathScope::of([]).covers("/x", Rights::Read));
        assert!(PathScope::ALL.covers("/x", Rights::ReadWrite));
    }

    #[test]
    fn a_prefix_that_is_no_path_is_refused() {
        for prefix in ["", "data", "/data/", "/data/../x", "//", "/a\nb"] {
            assert!(PathGrant::new(prefix, Rights::Read).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_path() {
        let path = FilePath::parse("/b").expect("a path");
        let error = scope(&[("/a", Rights::Read)]).require(&path, Rights::Read).expect_err("out of scope");
        assert_eq!((error.errno(), error.details()), (Errno::Acces, &[("path", "/b".to_owned())][..]));
    }

    #[test]
    fn the_spans_of_a_list_are_in_the_order_of_paths_and_show_nothing_else() {
        let scope = scope(&[("/data", Rights::Read), ("/data-x", Rights::Read), ("/data/in", Rights::ReadWrite)]);
        let shown = |prefix| -> Vec<String> {
            let mark = |span: Span| format!("{}{}", span.prefix, if span.exact { "$" } else { "" });
            scope.spans(prefix).into_iter().map(mark).collect()
        };
        assert_eq!(shown(""), ["/data$", "/data-x$", "/data-x/", "/data/"]);
        assert_eq!(shown("/data/in/"), ["/data/in/"]);
        assert_eq!(shown("/data/i"), ["/data/i"]);
        assert_eq!(shown("/dat"), ["/data$", "/data-x$", "/data-x/", "/data/"]);
        assert_eq!(shown("/other"), [""; 0]);
        assert_eq!(super::PathScope::of([PathGrant::new("/", Rights::Read).expect("all")]).spans("/a").len(), 1);
        assert_eq!(PathScope::ALL.spans("/a"), [Span { prefix: "/a".into(), exact: false }]);
    }
}
