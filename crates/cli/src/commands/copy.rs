//! `put`, `get` and `cat`: whole files and parts of them, through mappings.
//!
//! Nothing is overwritten silently, neither here nor there: that takes `--force`. A local file appears whole or not at
//! all. What `put` reports is in the store.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use mmap_client::{Mapping, Process, Prot, Truncate};
use serde_json::json;
use tokio::fs::File;

use crate::{
    context::Context,
    exit::Failure,
    output,
    transfer::{self, download, progress, upload},
    units::{human_size, parse_size},
};

/// Copy a local file to the server, and sync it
///
/// A file that is there already is left alone, unless --force is given: it then is written over in place, which is
/// not one instant for those who read it. A new file that could not be written in full is removed again.
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The local file; `-` is standard input
    local: PathBuf,
    /// Where it goes; with a `/` at its end, the folder for it
    remote: String,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

impl Put {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (source, size) = open(&self.local).await?;
        let remote = self.remote()?;
        let how = if self.force { Truncate::Create } else { Truncate::CreateNew };
        let client = context.client.with_deadline(context.store_timeout());
        let made = client.truncate_file(remote.as_str(), size, how).await?;
        let after_failure = if self.force { AfterFailure::Keep } else { AfterFailure::Discard };
        let version = if size == 0 { Ok(made) } else { fill(context, source, &remote, size, after_failure).await };
        let version = match version {
            Ok(version) => version,
            Err(error) if self.force => return Err(error),
            Err(error) => return Err(undo(context, &remote, error).await),
        };
        if context.is_json() {
            return output::json(&json!({ "path": remote, "size": size, "version": version }));
        }
        output::line(&format!("{} -> {remote}: {}, synced", self.local.display(), human_size(size)))
    }

    fn remote(&self) -> Result<String> {
        if !self.remote.ends_with('/') {
            return Ok(self.remote.clone());
        }
        let name = self.local.file_name().filter(|_| !is_dash(&self.local)).and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::usage("the remote file needs a name here, not only a folder"))?;
        Ok(format!("{}{name}", self.remote))
    }
}

/// What becomes of the bytes that were written when a `put` fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterFailure {
    /// They stay, and are synced: others may write to the file as well.
    Keep,
    /// They are given up: the file is our own, and is removed next.
    Discard,
}

async fn fill(context: &Context, source: File, remote: &str, size: u64, after_failure: AfterFailure) -> Result<String> {
    let bar = progress(size, context.is_json());
    let write = async |mapping: &Mapping| {
        upload(source, mapping, size, &bar).await?;
        bar.set_message("syncing");
        Ok(mapping.sync().deadline(context.store_timeout()).await?.version)
    };
    let version = context
        .with_process("put", async |process| {
            let mapping = process.map(remote).length(size).prot(Prot::READ_WRITE).shared().await?;
            let written: Result<String> = write(&mapping).await;
            if written.is_err() && after_failure == AfterFailure::Discard {
                // Dropping the mapping would sync it. Should this fail too, the first failure is the one to tell.
                let _ = mapping.unmap_discard().await;
                return written;
            }
            let unmapped = mapping.unmap().await.map_err(mmap_client::Error::from);
            let version = written?;
            unmapped?;
            Ok(version)
        })
        .await;
    bar.finish_and_clear();
    version
}

/// Removes what `put` made and could not fill; a file half zeros must not be taken for the real one.
async fn undo(context: &Context, remote: &str, error: anyhow::Error) -> anyhow::Error {
    match context.client.remove_file(remote).await {
        Ok(()) => error,
        Err(failed) => error.context(format!("{remote} is incomplete and could not be removed again ({failed})")),
    }
}

/// The file and its size. What is no regular file (standard input, a pipe) is spooled first.
async fn open(local: &Path) -> Result<(File, u64)> {
    if is_dash(local) {
        return transfer::spool(tokio::io::stdin()).await;
    }
    let named = || format!("cannot read {}", local.display());
    let file = File::open(local).await.with_context(named)?;
    let metadata = file.metadata().await.with_context(named)?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{} is a folder: put takes one file", local.display())).into());
    }
    if metadata.is_file() { Ok((file, metadata.len())) } else { transfer::spool(file).await }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Copy a file of the server here
///
/// A large file is read in pieces, each at one instant, but not all at the same: do not write it meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The file
    remote: String,
    /// Where it goes: a file, a folder, or `-` for standard output
    local: PathBuf,
    /// Write over a local file that is there
    #[arg(long)]
    force: bool,
}

impl Get {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if is_dash(&self.local) {
            return print(context, "get", &self.remote, 0, None).await;
        }
        let target = self.target()?;
        let is_there = || Failure::conflict(format!("{} is there already: --force writes over it", target.display()));
        if !self.force && target.symlink_metadata().is_ok() {
            return Err(is_there().into());
        }
        let cannot = || format!("cannot write {}", target.display());
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Beside the target and renamed when it is whole. The mode is what an ordinary new file gets.
        let mut builder = tempfile::Builder::new();
        let part = builder.prefix(".mmapctl-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder);
        let part = part.with_context(cannot)?;
        let mut sink = File::from_std(part.reopen().with_context(cannot)?);
        let size = copy_out(context, "get", &self.remote, 0, None, &mut sink).await?;
        if self.force {
            part.persist(&target).map_err(|error| error.error).with_context(cannot)?;
        } else if let Err(error) = part.persist_noclobber(&target) {
            let appeared = error.error.kind() == std::io::ErrorKind::AlreadyExists;
            return Err(if appeared { is_there().into() } else { anyhow::Error::new(error.error).context(cannot()) });
        }
        if context.is_json() {
            return output::json(&json!({ "path": self.remote, "size": size, "local": target }));
        }
        output::line(&format!("{} -> {}: {}", self.remote, target.display(), human_size(size)))
    }

    fn target(&self) -> Result<PathBuf> {
        if !self.local.is_dir() {
            return Ok(self.local.clone());
        }
        let name = self.remote.rsplit('/').next().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Failure::usage(format!("{} is no file's path", self.remote)))?;
        Ok(self.local.join(name))
    }
}

/// Print a file, or a part of it
#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// The file
    path: String,
    /// Start here, as 4096 or 64MiB
    #[arg(long, default_value = "0", value_parser = parse_size)]
    offset: u64,
    /// Print at most so many bytes, as 4096 or 64MiB [default: all]
    #[arg(long, value_parser = parse_size)]
    length: Option<u64>,
}

impl Cat {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        print(context, "cat", &self.path, self.offset, self.length).await
    }
}

async fn print(context: &Context, name: &str, path: &str, offset: u64, length: Option<u64>) -> Result<()> {
    copy_out(context, name, path, offset, length, &mut tokio::io::stdout()).await.map(|_| ())
}

/// Copies what there is of `length` bytes from `offset` on, as head and tail do. Answers how many that were.
async fn copy_out(
    context: &Context,
    name: &str,
    path: &str,
    offset: u64,
    length: Option<u64>,
    sink: &mut (impl tokio::io::AsyncWrite + Unpin + Send),
) -> Result<u64> {
    let left = context.client.stat_file(path).await?.size.saturating_sub(offset);
    let length = length.map_or(left, |length| length.min(left));
    if length == 0 {
        return Ok(0);
    }
    context
        .with_process(name, async |process: &Process| {
            let mapping: Mapping = process.map(path).offset(offset).length(length).prot(Prot::READ).shared().await?;
            let bar = progress(length, context.is_json());
            download(&mapping, length, sink, &bar).await?;
            bar.finish_and_clear();
            mapping.unmap().await.map_err(mmap_client::Error::from)?;
            Ok(length)
        })
        .await
}
