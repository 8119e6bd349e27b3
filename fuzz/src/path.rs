//! The path parser. Whatever the text: a path that is taken prints as it was given and stays in its mount; one that is
//! not is refused with EINVAL and a sentence without control characters.

use std::path::{Component, Path};
use std::sync::OnceLock;

use mmap_core::error::Errno;
use mmap_core::limits::Limits;
use mmap_core::path::FilePath;
use mmap_core::vfs::{MountSpec, Vfs};

/// Parses `bytes` as a path, and as a mount.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match FilePath::parse(text) {
        Ok(path) => {
            assert!(is_good(text), "taken: {text:?}");
            assert_eq!((path.as_str(), path.to_string().as_str()), (text, text));
            located(&path);
        }
        Err(error) => {
            assert!(!is_good(text), "refused: {text:?}");
            assert_eq!((error.errno(), error.field()), (Errno::Inval, Some("path")));
            assert!(!error.message().chars().any(char::is_control), "{error}");
        }
    }
    if let Ok(spec) = MountSpec::parse(text) {
        let prefix = spec.prefix();
        assert!(prefix == "/" || is_good(prefix), "a mount at {prefix:?}");
    }
}

/// What the contract says of paths, in other words than the parser's.
fn is_good(text: &str) -> bool {
    let segments: Vec<&str> = text.split('/').collect();
    text.len() <= 4096
        && segments.len() >= 2
        && segments[0].is_empty()
        && segments[1..].iter().all(|segment| {
            (1..=255).contains(&segment.len()) && ![".", ".."].contains(segment) && !segment.starts_with(".mmapd-")
        })
        && !text.contains(char::is_control)
}

/// The path lies in the mount that has the longest prefix of it, and nowhere outside.
fn located(path: &FilePath) {
    static VFS: OnceLock<Vfs> = OnceLock::new();
    let vfs = VFS.get_or_init(|| {
        let folder = std::env::temp_dir();
        let specs = ["/=memory:", "/a=memory:", "/a/b=memory:"].map(|spec| MountSpec::parse(spec).unwrap());
        let folder = MountSpec::of_folder("/f", &folder).unwrap();
        Vfs::open(&[&specs[..], &[folder]].concat(), &Limits::default()).unwrap()
    });
    let text = path.as_str();
    let below = |prefix: &str| text == prefix || text.starts_with(&format!("{prefix}/"));
    let expected = ["/a/b", "/a", "/f"].into_iter().find(|prefix| below(prefix)).unwrap_or("/");
    match vfs.locate(path) {
        Ok(place) => {
            assert_eq!(place.mount.prefix(), expected, "{text}");
            assert_eq!(format!("{}/{}", expected.trim_end_matches('/'), place.name), text);
            assert!(Path::new(&place.name).components().all(|part| matches!(part, Component::Normal(_))), "{text}");
        }
        // A mount's own path, or a name that its store would have to rewrite.
        Err(error) => assert_eq!(error.errno(), Errno::Inval, "{text}: {error}"),
    }
}
