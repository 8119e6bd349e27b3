//! [`Target`]: a file that is being made. On the server it has its name from the start and grows nowhere; here it is
//! written beside its name and renamed when it is whole.
//!
//! What is there already is ours only if the record says so; `prepare` decides, and is the only place that does.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use mmap_client::{Client, Mapping, PIECE, Process, Prot, Truncate};
use tempfile::TempPath;

use super::{
    place::{Identity, Place, Reader, identify_local, read_local},
    record::{Known, Record, Stage},
};
use crate::exit::Failure;

/// Who makes targets, and how.
pub(crate) struct Maker<'a> {
    pub(crate) client: &'a Client,
    pub(crate) process: &'a Process,
    pub(crate) place: &'a Place,
    pub(crate) force: bool,
    /// How long a request may take that writes to the store.
    pub(crate) store_timeout: Duration,
}

/// See the module.
pub(crate) enum Target {
    Server { path: String, mapping: Option<Mapping>, version: String, store_timeout: Duration },
    Local { path: PathBuf, part: TempPath, file: Arc<File>, force: bool },
}

/// What there is to do for a file.
pub(crate) enum Plan {
    /// It is complete, and its source has not changed since.
    Skip,
    /// The source's first `from` bytes are there. A blank one has zeros behind them, else what is there is compared.
    Copy { target: Target, from: u64, is_blank: bool },
}

/// What becomes of what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    /// Nothing is.
    Missing,
    /// It goes: it is ours, or was asked to be written over.
    Wipe,
    /// It is ours and stays, from so many bytes on unsure.
    GoOn(u64),
    /// It is complete.
    Skip,
    /// It is ours if it has nothing but zeros, as a file that was just made.
    OursIfZero,
}

impl Maker<'_> {
    /// Decides what to do for the file `name`, and begins it.
    pub(crate) async fn prepare(&self, name: &str, source: &Identity, record: &mut Record) -> Result<Plan> {
        let known = record.of(name).cloned();
        match self.place {
            Place::Server(prefix) => {
                let path = Place::remote(prefix, name);
                let there = self.place.identify(self.client, name).await?;
                let what = self.judge(&path, known.as_ref(), source, there.as_ref())?;
                let version = there.map_or_else(String::new, |there| there.version);
                self.on_server((path, version), name, source, what, record).await
            }
            Place::Local(folder) => self.here(&Place::local(folder, name)?, name, source, known.as_ref(), record),
        }
    }

    fn judge(&self, path: &str, known: Option<&Known>, source: &Identity, there: Option<&Identity>) -> Result<There> {
        let Some(there) = there else { return Ok(There::Missing) };
        let same_source = known.is_some_and(|known| known.source_version == source.version);
        let same_size = there.size == source.size;
        match known.map(|known| &known.stage) {
            Some(Stage::Made { upto, version }) if same_source && same_size => {
                // What a killed run had written and not synced may have been synced since: then it is compared.
                Ok(There::GoOn(if *version == there.version { *upto } else { 0 }))
            }
            Some(Stage::Made { .. }) => Ok(There::Wipe),
            Some(Stage::Done { version }) if *version == there.version => {
                Ok(if same_source { There::Skip } else { There::Wipe })
            }
            Some(Stage::Making) if same_size => Ok(There::OursIfZero),
            Some(Stage::Done { .. }) if !self.force => {
                let message = format!("{path} was changed since it was copied: --force writes over it");
                Err(Failure::conflict(message).into())
            }
            _ if self.force => Ok(There::Wipe),
            _ => Err(is_there(path)),
        }
    }

    async fn on_server(
        &self,
        (path, mut version): (String, String),
        name: &str,
        source: &Identity,
        there: There,
        record: &mut Record,
    ) -> Result<Plan> {
        let client = self.client.with_deadline(self.store_timeout);
        let (mut from, mut is_blank) = (0, true);
        match there {
            There::Skip => return Ok(Plan::Skip),
            There::Missing => {
                record.note(name, &source.version, Stage::Making)?;
                version = client.truncate_file(path.as_str(), source.size, Truncate::CreateNew).await?;
            }
            There::Wipe => {
                record.note(name, &source.version, Stage::Made { upto: 0, version: String::new() })?;
                client.truncate_file(path.as_str(), 0, Truncate::Existing).await?;
                version = client.truncate_file(path.as_str(), source.size, Truncate::Existing).await?;
            }
            There::GoOn(upto) => (from, is_blank) = (upto, false),
            There::OursIfZero => {
                let reader = self.place.open(self.process, name, source.size).await?;
                let is_zero = is_zero(&reader, source.size).await?;
                reader.close().await?;
                if !is_zero && !self.force {
                    return Err(is_there(&path));
                }
                is_blank = is_zero;
            }
        }
        record.note(name, &source.version, Stage::Made { upto: from, version: version.clone() })?;
        let mapping = if source.size == 0 {
            None
        } else {
            Some(self.process.map(path.as_str()).length(source.size).prot(Prot::READ_WRITE).shared().await?)
        };
        let target = Target::Server { path, mapping, version, store_timeout: self.store_timeout };
        Ok(Plan::Copy { target, from, is_blank })
    }

    fn here(
        &self,
        path: &Path,
        name: &str,
        source: &Identity,
        known: Option<&Known>,
        record: &mut Record,
    ) -> Result<Plan> {
        let shown = path.display().to_string();
        let part = part_of(path)?;
        let there = identify_local(path)?;
        let is_ours = known.is_some_and(|known| matches!(known.stage, Stage::Making | Stage::Made { .. }));
        let part_size = identify_local(&part)?.map(|part| part.size);
        if part_size.is_some() && !is_ours {
            let message = format!("{} is there from another run: remove it if that is not under way", part.display());
            return Err(Failure::conflict(message).into());
        }
        if let (Some(Known { stage: Stage::Made { upto, version }, .. }), Some(there), None) =
            (known, &there, part_size)
            && (*upto, version) == (source.size, &there.version)
            && known.is_some_and(|known| known.source_version == source.version)
        {
            // A run was killed between the rename, which changes no version, and its note.
            record.note(name, &source.version, Stage::Done { version: version.clone() })?;
            return Ok(Plan::Skip);
        }
        if let Some(there) = &there
            && self.judge(&shown, known.filter(|_| !is_ours), source, Some(there))? == There::Skip
        {
            return Ok(Plan::Skip);
        }
        let same_source = known.is_some_and(|known| known.source_version == source.version);
        let from = match known.map(|known| &known.stage) {
            Some(Stage::Made { upto, .. }) if same_source && part_size == Some(source.size) => Some(*upto),
            _ => None,
        };
        let cannot = || format!("cannot write {}", part.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        record.note(name, &source.version, Stage::Making)?;
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(&part).with_context(cannot)?;
        if from.is_none() {
            file.set_len(0).and_then(|()| file.set_len(source.size)).with_context(cannot)?;
        }
        record.note(name, &source.version, Stage::Made { upto: from.unwrap_or(0), version: String::new() })?;
        let part = TempPath::try_from_path(&part).with_context(cannot)?;
        let target = Target::Local { path: path.to_owned(), part, file: Arc::new(file), force: self.force };
        Ok(Plan::Copy { target, from: from.unwrap_or(0), is_blank: from.is_none() })
    }
}

impl Target {
    /// What it is called.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Server { path, .. } => path.clone(),
            Self::Local { path, .. } => path.display().to_string(),
        }
    }

    /// What is there.
    pub(crate) async fn read(&self, at: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::Server { mapping: Some(mapping), .. } => Ok(mapping.read(at, length).await?),
            Self::Server { mapping: None, .. } => Ok(Bytes::new()),
            Self::Local { file, .. } => read_local(file, at, length).await,
        }
    }

    pub(crate) async fn write(&self, at: u64, data: Bytes) -> Result<()> {
        match self {
            Self::Server { mapping: Some(mapping), .. } => Ok(mapping.write(at, data).await?),
            Self::Server { mapping: None, .. } => Ok(()),
            Self::Local { file, path, .. } => {
                let file = Arc::clone(file);
                let written = tokio::task::spawn_blocking(move || file.write_all_at(&data, at)).await?;
                written.with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }

    /// What was written is where it stays. Answers the version that has it.
    pub(crate) async fn sync(&mut self) -> Result<String> {
        match self {
            Self::Server { mapping: Some(mapping), version, store_timeout, .. } => {
                *version = mapping.sync().deadline(*store_timeout).await?.version;
                Ok(version.clone())
            }
            Self::Server { mapping: None, version, .. } => Ok(version.clone()),
            Self::Local { file, part, path, .. } => {
                let file = Arc::clone(file);
                let synced = tokio::task::spawn_blocking(move || file.sync_all()).await?;
                synced.with_context(|| format!("cannot sync {}", path.display()))?;
                Ok(identify_local(part)?.map_or_else(String::new, |part| part.version))
            }
        }
    }

    /// Lets the next reads see the store, and not what the server remembers.
    pub(crate) async fn look_anew(&self) -> Result<()> {
        if let Self::Server { mapping: Some(mapping), store_timeout, .. } = self {
            mapping.sync().invalidate().deadline(*store_timeout).await?;
        }
        Ok(())
    }

    /// Gives a synced file its name. Answers what it is then.
    pub(crate) async fn finish(self, client: &Client, size: u64) -> Result<Identity> {
        match self {
            Self::Server { path, mapping, version, .. } => {
                if let Some(mapping) = mapping {
                    mapping.unmap().await.map_err(mmap_client::Error::from)?;
                }
                let file = client.stat_file(path.as_str()).await?;
                if file.size != size || file.version != version {
                    return Err(Failure::conflict(format!("{path} was changed by somebody else meanwhile")).into());
                }
                Ok(Identity { size, version, is_unsynced: false })
            }
            Self::Local { path, part, force, .. } => {
                let renamed = if force { part.persist(&path) } else { part.persist_noclobber(&path) };
                if let Err(failed) = renamed {
                    // It stays for the next run; should that fail, the next run begins the file anew.
                    let _ = failed.path.keep();
                    if failed.error.kind() == ErrorKind::AlreadyExists {
                        return Err(is_there(&path.display().to_string()));
                    }
                    return Err(anyhow::Error::new(failed.error).context(format!("cannot write {}", path.display())));
                }
                if let Some(folder) = path.parent() {
                    File::open(folder).and_then(|folder| folder.sync_all()).context("cannot sync the folder")?;
                }
                identify_local(&path)?.ok_or_else(|| Failure::conflict(format!("{} is gone", path.display())).into())
            }
        }
    }

    /// Leaves it as it is, to go on later.
    pub(crate) fn keep(self) {
        if let Self::Local { part, .. } = self {
            // If it cannot be kept the next run begins the file anew.
            let _ = part.keep();
        }
    }

    /// Removes it: a file of two contents must not be taken for either.
    pub(crate) async fn undo(self, client: &Client) -> Result<()> {
        match self {
            Self::Server { path, mapping, .. } => {
                if let Some(mapping) = mapping {
                    mapping.unmap_discard().await.map_err(mmap_client::Error::from)?;
                }
                Ok(client.remove_file(path).await?)
            }
            Self::Local { part, .. } => Ok(part.close()?),
        }
    }
}

fn is_there(path: &str) -> anyhow::Error {
    Failure::conflict(format!("{path} is there already: --force writes over it")).into()
}

fn part_of(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).context("the file has no name")?;
    Ok(path.with_file_name(format!(".{name}.mmapctl-part")))
}

async fn is_zero(reader: &Reader, size: u64) -> Result<bool> {
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(PIECE);
        if reader.read(at, length).await?.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}
