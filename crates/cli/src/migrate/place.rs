//! [`Place`]: a side of a run. Names are relative to it, with `/` between their parts, on both kinds of sides.
//!
//! A local folder's symbolic links are not followed. A server's names are not believed: one that leads out of a local
//! folder is refused.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use mmap_client::{Client, Mapping, PIECE, Process, Prot, Reason};

use crate::{exit::Failure, transfer::IN_FLIGHT};

/// What makes an operand one of the server where a local one would be expected.
const SERVER: &str = "mmap:";
/// The most that a server gives in one page.
const PAGE: u32 = 1000;

/// A folder here or on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An absolute path.
    Local(PathBuf),
    /// A path without a `/` at its end, so that the root is empty.
    Server(String),
}

/// A file as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) size: u64,
    /// Two that are equal mean the same content.
    pub(crate) version: String,
    /// There are writes that this version does not have yet.
    pub(crate) is_unsynced: bool,
}

/// A file's bytes. Cheap to share between reads.
#[derive(Debug)]
pub(crate) enum Reader {
    Local(Arc<File>),
    Server(Mapping),
    Empty,
}

/// What was found in a place: names, and what is no file that can be copied.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) names: Vec<String>,
    pub(crate) bytes: u64,
    pub(crate) refused: Vec<(String, String)>,
}

impl Place {
    /// A side that is local unless it says `mmap:`.
    pub(crate) fn local_or_server(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix(SERVER) {
            return Self::server(path);
        }
        let path = std::path::absolute(text).with_context(|| format!("{text:?} is no path"))?;
        Ok(Self::Local(path))
    }

    /// A side that is the server's, with or without `mmap:`.
    pub(crate) fn server(text: &str) -> Result<Self> {
        let path = text.strip_prefix(SERVER).unwrap_or(text);
        if !path.starts_with('/') {
            return Err(Failure::usage(format!("{text:?} is no path of the server: it begins with `/`")).into());
        }
        Ok(Self::Server(path.trim_end_matches('/').to_owned()))
    }

    /// For people, and to tell one run from another.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Local(path) => path.display().to_string(),
            Self::Server(path) => format!("{SERVER}{path}/"),
        }
    }

    /// Whether one lies in the other, so that a run would read what it writes.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Local(one), Self::Local(other)) => one.starts_with(other) || other.starts_with(one),
            (Self::Server(one), Self::Server(other)) => {
                let (one, other) = (format!("{one}/"), format!("{other}/"));
                one.starts_with(&other) || other.starts_with(&one)
            }
            (Self::Local(_), Self::Server(_)) | (Self::Server(_), Self::Local(_)) => false,
        }
    }

    /// The server's path of a file.
    pub(super) fn remote(prefix: &str, name: &str) -> String {
        format!("{prefix}/{name}")
    }

    /// The local path of a file, if its name stays below the folder.
    pub(super) fn local(folder: &Path, name: &str) -> Result<PathBuf> {
        let is_plain = !name.is_empty()
            && !name.ends_with('/')
            && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain {
            return Err(Failure::failed(format!("{name:?} is no name that a local file can have here")).into());
        }
        Ok(folder.join(name))
    }

    /// Every file below, in order; and the folder that they are relative to, for a place that is a single file.
    pub(crate) async fn find(&self, client: &Client) -> Result<(Self, Found)> {
        let mut found = Found::default();
        match self {
            Self::Local(path) => {
                let path = path.clone();
                let (folder, mut found) = tokio::task::spawn_blocking(move || find_local(&path)).await??;
                found.names.sort_unstable();
                Ok((Self::Local(folder), found))
            }
            Self::Server(path) => {
                let prefix = format!("{path}/");
                let mut token = None;
                loop {
                    let page = client.list_files_page(&prefix, PAGE, token.as_deref()).await?;
                    for file in page.items {
                        found.bytes += file.size;
                        found.names.extend(file.path.strip_prefix(&prefix).map(str::to_owned));
                    }
                    token = page.next;
                    if token.is_none() {
                        break;
                    }
                }
                match path.rsplit_once('/') {
                    // No folder with files in it: a file then.
                    Some((folder, name)) if found.names.is_empty() => {
                        found.bytes = client.stat_file(path.as_str()).await?.size;
                        found.names.push(name.to_owned());
                        Ok((Self::Server(folder.to_owned()), found))
                    }
                    _ => Ok((self.clone(), found)),
                }
            }
        }
    }

    /// The file as it is now, if it is there.
    pub(crate) async fn identify(&self, client: &Client, name: &str) -> Result<Option<Identity>> {
        match self {
            Self::Server(prefix) => stat(client, &Self::remote(prefix, name)).await,
            Self::Local(folder) => identify_local(&Self::local(folder, name)?),
        }
    }

    /// Its bytes.
    pub(crate) async fn open(&self, process: &Process, name: &str, size: u64) -> Result<Reader> {
        Ok(match self {
            _ if size == 0 => Reader::Empty,
            Self::Server(prefix) => {
                let map = process.map(Self::remote(prefix, name)).length(size).prot(Prot::READ).shared();
                Reader::Server(map.await?)
            }
            Self::Local(folder) => {
                let path = Self::local(folder, name)?;
                let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                Reader::Local(Arc::new(file))
            }
        })
    }

    /// Removes the file.
    pub(crate) async fn remove(&self, client: &Client, name: &str) -> Result<()> {
        match self {
            Self::Server(prefix) => Ok(client.remove_file(Self::remote(prefix, name)).await?),
            Self::Local(folder) => {
                let path = Self::local(folder, name)?;
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
            }
        }
    }
}

impl Reader {
    /// `length` bytes from `at` on.
    pub(crate) async fn read(&self, at: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            Self::Server(mapping) => Ok(mapping.read(at, length).await?),
            Self::Local(file) => read_local(file, at, length).await,
        }
    }

    /// The bytes from `at` to `end`, in pieces and in order.
    pub(crate) fn pieces(&self, at: u64, end: u64) -> Result<BoxStream<'_, Result<Bytes>>> {
        Ok(match self {
            Self::Empty => stream::empty().boxed(),
            Self::Server(mapping) => {
                let pieces = mapping.read_stream(at, end - at)?.chunk_length(PIECE as u64);
                pieces.map_err(anyhow::Error::from).boxed()
            }
            Self::Local(file) => {
                let reads = pieces(at, end).map(|(at, length)| read_local(file, at, length));
                stream::iter(reads).buffered(IN_FLIGHT).boxed()
            }
        })
    }

    /// Ends it: a mapped file cannot be removed.
    pub(crate) async fn close(self) -> Result<()> {
        if let Self::Server(mapping) = self {
            mapping.unmap().await.map_err(mmap_client::Error::from)?;
        }
        Ok(())
    }
}

/// From `from` to `end` as (start, length) of at most [`PIECE`] each.
pub(super) fn pieces(from: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    let step = PIECE as u64;
    (0..end.saturating_sub(from).div_ceil(step)).map(move |index| {
        let at = from + index * step;
        (at, usize::try_from((end - at).min(step)).unwrap_or(PIECE))
    })
}

pub(super) async fn read_local(file: &Arc<File>, at: u64, length: usize) -> Result<Bytes> {
    let file = Arc::clone(file);
    let read = tokio::task::spawn_blocking(move || {
        let mut data = BytesMut::zeroed(length);
        file.read_exact_at(&mut data, at).map(|()| data.freeze())
    });
    read.await?.map_err(|error| {
        if error.kind() == ErrorKind::UnexpectedEof {
            return Failure::conflict("the local file became shorter while it was read").into();
        }
        anyhow::Error::new(error).context("cannot read the local file")
    })
}

async fn stat(client: &Client, path: &str) -> Result<Option<Identity>> {
    match client.stat_file(path).await {
        Ok(file) => Ok(Some(Identity { size: file.size, version: file.version, is_unsynced: file.dirty_bytes > 0 })),
        Err(error) if error.reason() == Some(Reason::NoEnt) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn identify_local(path: &Path) -> Result<Option<Identity>> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata.with_context(|| format!("cannot look at {}", path.display()))?,
    };
    let (size, seconds, nanos, inode) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
    Ok(Some(Identity { size, version: format!("{size}-{seconds}.{nanos}-{inode}"), is_unsynced: false }))
}

fn find_local(path: &Path) -> Result<(PathBuf, Found)> {
    let mut found = Found::default();
    let cannot = |path: &Path| format!("cannot read {}", path.display());
    let metadata = path.metadata().with_context(|| cannot(path))?;
    if !metadata.is_dir() {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Failure::usage(format!("{} is no file and no folder", path.display())).into());
        };
        take(Path::new(name), path, &mut found);
        return Ok((folder.to_owned(), found));
    }
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| cannot(&folder))? {
            let entry = entry.with_context(|| cannot(&folder))?;
            let here = entry.path();
            if entry.file_type().with_context(|| cannot(&here))?.is_dir() {
                folders.push(here);
            } else {
                take(here.strip_prefix(path).unwrap_or(&here), &here, &mut found);
            }
        }
    }
    Ok((path.to_owned(), found))
}

/// Notes a file, or why it is none that can be copied.
fn take(name: &Path, path: &Path, found: &mut Found) {
    let shown = name.display().to_string();
    match (name.to_str(), path.symlink_metadata()) {
        (Some(name), Ok(metadata)) if metadata.is_file() => {
            found.bytes += metadata.len();
            found.names.push(name.to_owned());
        }
        (None, _) => found.refused.push((shown, "its name is not UTF-8, which every path of the server is".to_owned())),
        (_, Ok(_)) => found.refused.push((shown, "it is no regular file, and links are not followed".to_owned())),
        (_, Err(error)) => found.refused.push((shown, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_server_cannot_lead_out_of_a_local_folder() {
        let folder = Path::new("/folder");
        assert_eq!(Place::local(folder, "a/b").expect("it is plain"), Path::new("/folder/a/b"));
        for name in ["", "../x", "a/../../x", "/etc/passwd", "a/"] {
            assert!(Place::local(folder, name).is_err(), "{name}");
        }
    }

    #[test]
    fn pieces_cover_a_range_without_gap_or_overlap() {
        let mut next = 10;
        for (at, length) in pieces(10, 3 * PIECE as u64 + 5) {
            assert_eq!(at, next);
            next += length as u64;
        }
        assert_eq!(next, 3 * PIECE as u64 + 5);
        assert_eq!(pieces(7, 7).count(), 0);
    }

    #[test]
    fn sides_that_lie_in_each_other_are_known() {
        let server = |path: &str| Place::server(path).expect("it is one");
        assert!(server("/").overlaps(&server("/log")));
        assert!(server("/log/a").overlaps(&server("mmap:/log/")));
        assert!(!server("/log").overlaps(&server("/logs")));
        assert!(!server("/log").overlaps(&Place::Local("/log".into())));
        assert!(Place::server("log").is_err());
    }
}
