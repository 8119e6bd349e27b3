//! [`FilePath`]: a validated path. To parse it is to validate it; a path is never repaired.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Bytes of the longest path, as PATH_MAX on Linux.
pub const PATH_MAX: usize = 4096;
/// Bytes of the longest segment, as NAME_MAX on Linux.
pub const NAME_MAX: usize = 255;
/// Names that begin so are the server's own (probes, files being written beside) and never a file's.
pub const RESERVED_PREFIX: &str = ".mmapd-";

/// An absolute path of a file: `/`-separated, no `.`, `..` or empty segments, no control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Arc<str>);

impl FilePath {
    /// The path that `text` says.
    ///
    /// # Errors
    /// [`Errno::Inval`](crate::error::Errno::Inval) with what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > PATH_MAX {
            let length = text.len();
            return Err(Error::invalid("path", format!("the path has {length} bytes, more than {PATH_MAX}"))
                .with("length", length)
                .with("max", PATH_MAX));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(bad(text, "does not begin with /"));
        };
        if rest.is_empty() {
            return Err(bad(text, "is a folder: name a file in it"));
        }
        for segment in rest.split('/') {
            check_segment(segment).map_err(|what| bad(text, what))?;
        }
        Ok(Self(text.into()))
    }

    /// The path as text, with its leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is wrong with one segment of a path, if anything.
///
/// # Errors
/// A phrase that goes behind the path in a sentence.
pub(crate) fn check_segment(segment: &str) -> std::result::Result<(), &'static str> {
    match segment {
        "" => return Err("has an empty segment: neither // nor a / at the end is allowed"),
        "." | ".." => return Err("has a . or .. segment"),
        _ => {}
    }
    if segment.len() > NAME_MAX {
        return Err("has a segment of more than 255 bytes");
    }
    if segment.chars().any(char::is_control) {
        return Err("has a control character");
    }
    if segment.starts_with(RESERVED_PREFIX) {
        return Err("has a segment that begins with .mmapd-, which is reserved for the server");
    }
    Ok(())
}

fn bad(text: &str, what: &'static str) -> Error {
    // Control characters are escaped, so that a hostile path cannot forge log lines or terminal sequences.
    let shown = text.escape_debug().to_string();
    Error::invalid("path", format!("the path {shown} {what}")).with("path", shown)
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Errno;

    #[test]
    fn a_good_path_stays_as_it_is() {
        for text in ["/a", "/data/file.bin", "/ü/ß ?#%20*[x]", "/..a/.b/c..", "/a b"] {
            assert_eq!(FilePath::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_bad_path_is_refused_and_never_repaired() {
        let long_segment = format!("/{}", "x".repeat(256));
        let long_path = "/abc".repeat(1025);
        for text in [
            "",
            "/",
            "a",
            "a/b",
            "/a/",
            "//a",
            "/a//b",
            "/.",
            "/a/./b",
            "/..",
            "/a/../b",
            "/a\0b",
            "/a\nb",
            "/a\u{7f}",
            "/\u{85}",
            "/.mmapd-x",
            "/a/.mmapd-probe/b",
            &long_segment,
            &long_path,
        ] {
            let error = FilePath::parse(text).unwrap_err();
            assert_eq!((error.errno(), error.field()), (Errno::Inval, Some("path")), "{text:?}");
            assert!(!error.message().contains('\0') && !error.message().contains('\n'));
        }
    }
}
