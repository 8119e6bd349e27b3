//! Conflicts in a folder: the files, and what is believed of them. Blocking, for `spawn_blocking` only.
//!
//! Invariants: `ID.json` is written after `ID.pages` and removed before it, so that a description always has its
//! pages; nothing that was read is believed before it was checked, because people move files about. Knows no locks:
//! [`Aside`](super::Aside) sees to it that one conflict is changed by one caller at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::{Conflict, Damaged, KeptRun};
use crate::error::{Errno, Error, Result};
use crate::units::{MAX_OFFSET, PAGE_SIZE};

/// Longest id that is looked for.
const ID_MAX: usize = 64;

/// Whether `id` can be a conflict's: nothing that could lead out of the folder.
pub(super) fn is_id(id: &str) -> bool {
    (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

pub(super) fn write(folder: &Path, conflict: &Conflict, pages: &[Bytes]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut data = File::create_new(folder.join(format!("{}.pages", conflict.id)))?;
    for page in pages {
        data.write_all(page)?;
    }
    data.sync_all()?;
    let text = serde_json::to_vec_pretty(conflict)?;
    let beside = folder.join(format!("{}.json.new", conflict.id));
    let mut description = File::create_new(&beside)?;
    description.write_all(&text)?;
    description.sync_all()?;
    std::fs::rename(&beside, folder.join(format!("{}.json", conflict.id)))?;
    File::open(folder)?.sync_all()
}

/// Removes a conflict; it stays removed through a power failure.
pub(super) fn remove(folder: &Path, id: &str) -> io::Result<()> {
    std::fs::remove_file(folder.join(format!("{id}.json")))?;
    File::open(folder)?.sync_all()?;
    // From here on it is gone. Pages that cannot be removed are listed as a leftover.
    if let Err(error) = std::fs::remove_file(folder.join(format!("{id}.pages"))) {
        tracing::warn!(id, %error, "the pages of a conflict that was removed are still in the conflicts folder");
    }
    Ok(())
}

/// What is in the folder, by name.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Ids of conflicts that have a description, in order.
    pub(super) ids: BTreeSet<String>,
    /// Files that belong to none of them.
    pub(super) others: Vec<String>,
}

pub(super) fn names(folder: &Path) -> io::Result<Names> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Names::default()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort_unstable();
    let mut names = Names::default();
    names
        .ids
        .extend(all.iter().filter_map(|name| name.strip_suffix(".json")).filter(|id| is_id(id)).map(str::to_owned));
    let described = |name: &String| {
        let id = name.strip_suffix(".json").or_else(|| name.strip_suffix(".pages"));
        id.is_some_and(|id| names.ids.contains(id))
    };
    names.others = all.iter().filter(|name| !described(name)).cloned().collect();
    Ok(names)
}

/// What is wrong with a file that belongs to no conflict; `None` if it has found its conflict, or gone, meanwhile.
pub(super) fn judge(folder: &Path, name: &str) -> Option<Damaged> {
    let path = folder.join(name);
    let id = name.strip_suffix(".pages").or_else(|| name.strip_suffix(".json.new")).filter(|id| is_id(id));
    if let Some(id) = id {
        let is_whole = folder.join(format!("{id}.json")).exists();
        if is_whole || !path.exists() {
            return None;
        }
    }
    let why = match id {
        Some(_) => {
            "it is left over from a conflict whose keeping or removal was cut short: nothing that was acknowledged is in \
             it alone, so it can be removed"
        }
        None => "it is not a conflict's file: move it elsewhere",
    };
    Some(Damaged { file: name.escape_debug().to_string(), why: why.to_owned() })
}

/// The conflict `id`, if it is whole.
pub(super) fn describe(folder: &Path, id: &str) -> Result<Conflict> {
    let name = format!("{id}.json");
    let text = match std::fs::read(folder.join(&name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(super::no_such_conflict(id)),
        Err(source) => return Err(unreadable(&name, source)),
        Ok(text) => text,
    };
    let conflict: Conflict = serde_json::from_slice(&text).map_err(|error| damaged(&name, error.to_string()))?;
    let wrong = |what: &str| Err(damaged(&name, what));
    if conflict.id != id {
        return wrong("it describes another conflict than its name says");
    }
    if conflict.file_size > MAX_OFFSET {
        return wrong("it names a file larger than any");
    }
    let in_order = conflict.offsets.windows(2).all(|pair| pair[0] < pair[1]);
    let in_file = |offset: &u64| offset.is_multiple_of(PAGE_SIZE) && *offset < conflict.file_size;
    if !in_order || !conflict.offsets.iter().all(in_file) || conflict.offsets.is_empty() {
        return wrong("its offsets are not those of pages of its file, in order");
    }
    let pages = format!("{id}.pages");
    let length = std::fs::metadata(folder.join(&pages)).map_err(|source| unreadable(&pages, source))?.len();
    if length != conflict.bytes() {
        return Err(damaged(&pages, format!("it has {length} bytes where {} pages are kept", conflict.offsets.len())));
    }
    Ok(conflict)
}

/// The bytes of the kept pages `first..end`, one buffer for neighbours. What lies behind the file's end is cut off.
pub(super) fn read(folder: &Path, conflict: &Conflict, first: usize, end: usize) -> Result<Vec<KeptRun>> {
    let name = format!("{}.pages", conflict.id);
    let file = File::open(folder.join(&name)).map_err(|source| unreadable(&name, source))?;
    let mut at = first as u64 * PAGE_SIZE;
    let mut runs = Vec::new();
    for (offset, length) in conflict.runs(first, end) {
        let mut data = BytesMut::zeroed(usize::try_from(length).unwrap_or_default());
        file.read_exact_at(&mut data, at).map_err(|source| unreadable(&name, source))?;
        at += length.next_multiple_of(PAGE_SIZE);
        runs.push(KeptRun { offset, data: data.freeze() });
    }
    Ok(runs)
}

fn damaged(name: &str, what: impl std::fmt::Display) -> Error {
    let sentence =
        format!("conflicts/{name} of the state directory is damaged ({what}): restore it, or drop the conflict");
    Error::new(Errno::UClean, sentence).with("path", format!("conflicts/{name}"))
}

fn unreadable(name: &str, source: io::Error) -> Error {
    if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) {
        return damaged(name, source);
    }
    Error::new(Errno::Io, format!("cannot read conflicts/{name} of the state directory"))
        .with("path", format!("conflicts/{name}"))
        .caused_by(source)
}
