//! Files in the stores, mapped or not: stat, list, truncate, remove.

use std::sync::Arc;

use super::MmapManager;
use super::api::{Caller, Create, FileStats, MountStatus, Page, PageRequest, Truncated};
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::file::MakeFile;
use crate::path::FilePath;
use crate::scope::{PathScope, Span};
use crate::units::MAX_OFFSET;
use crate::vfs::{Stat, no_such_file};

impl MmapManager {
    /// Tells a file's size, version and state.
    ///
    /// # Errors
    /// EINVAL, EACCES, ENOENT, EIO.
    pub async fn stat_file(&self, caller: impl Into<Caller>, path: &str) -> Result<FileStats> {
        let caller = caller.into();
        let path = FilePath::parse(path)?;
        caller.may_look(&path)?;
        let file = self.files.acquire(&path)?;
        match file.refresh().await? {
            Some(stat) => Ok(self.file_stats(&path, &stat)),
            None => Err(no_such_file(&path)),
        }
    }

    fn file_stats(&self, path: &FilePath, stat: &Stat) -> FileStats {
        let known = self.files.get(path);
        FileStats {
            path: path.as_str().to_owned(),
            size: stat.size,
            version: stat.version.as_str().to_owned(),
            modified: stat.modified,
            mapped_by: known.as_ref().map_or(0, |file| file.mapped_by() as u64),
            dirty_bytes: known.as_ref().map_or(0, |file| file.dirty_bytes()),
        }
    }

    /// Lists the files whose paths begin with `prefix` and that the caller may look at, in the order of their paths.
    ///
    /// # Errors
    /// EINVAL (a token that is none), EACCES, EIO.
    pub async fn list_files(
        &self,
        caller: impl Into<Caller>,
        prefix: &str,
        page: PageRequest,
    ) -> Result<Page<FileStats>> {
        let caller = caller.into();
        let size = self.page_size(&page);
        let after = match page.token.as_str() {
            "" => None,
            token => Some(FilePath::parse(token).map_err(|_| super::info::bad_token(token))?),
        };
        caller.capabilities.require(Capability::FileRead)?;
        let after = after.as_ref().map(FilePath::as_str);
        let mut files = self.list_spans(&caller.paths, prefix, after, size + 1).await?;
        let more = files.len() > size;
        files.truncate(size);
        let next = if more { files.last().map(|(path, _)| path.as_str().to_owned()) } else { None };
        let items = files.iter().map(|(path, stat)| self.file_stats(path, stat)).collect();
        Ok(Page { items, next: next.unwrap_or_default() })
    }

    /// As [`Vfs::list`](crate::vfs::Vfs::list), of what is in scope. What is not is never looked at, so that neither a
    /// page's length nor its token tells of it.
    async fn list_spans(
        &self,
        scope: &PathScope,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(FilePath, Stat)>> {
        let mut files = Vec::new();
        for Span { prefix, exact } in scope.spans(prefix) {
            let left = limit - files.len();
            if left == 0 {
                break;
            }
            let listed = self.files.vfs().list(&prefix, after, if exact { 1 } else { left }).await?;
            files.extend(listed.into_iter().filter(|(path, _)| !exact || path.as_str() == prefix));
        }
        Ok(files)
    }

    /// Sets a file's size; it is in the store when this answers.
    ///
    /// # Errors
    /// EINVAL, EACCES, ENOENT, EEXIST, EROFS, ESTALE, EIO, EUCLEAN.
    pub async fn truncate_file(
        self: &Arc<Self>,
        caller: impl Into<Caller>,
        path: &str,
        size: u64,
        create: Create,
    ) -> Result<Truncated> {
        let caller = caller.into();
        let path = FilePath::parse(path)?;
        if size > MAX_OFFSET {
            return Err(Error::invalid("size", format!("size {size} is beyond the largest offset {MAX_OFFSET}"))
                .with("size", size)
                .with("max", MAX_OFFSET));
        }
        caller.may_change(&path)?;
        self.check_open()?;
        let file = self.files.acquire(&path)?;
        let make = match create {
            Create::Never => MakeFile::Never,
            Create::IfMissing => MakeFile::IfMissing,
            Create::Exclusive => MakeFile::Exclusive,
        };
        let (size, version) = file.truncate(size, make).await?;
        Ok(Truncated { size, version: version.as_str().to_owned() })
    }

    /// Removes a file.
    ///
    /// # Errors
    /// EINVAL, EACCES, ENOENT, EBUSY, EROFS, EIO.
    pub async fn remove_file(self: &Arc<Self>, caller: impl Into<Caller>, path: &str) -> Result<()> {
        let caller = caller.into();
        let path = FilePath::parse(path)?;
        caller.may_change(&path)?;
        self.check_open()?;
        self.files.acquire(&path)?.remove().await
    }

    /// How the mounts are: asks each store for a sign of life, and probes those that were not probed yet.
    pub async fn check_mounts(&self) -> Vec<MountStatus> {
        let checks = self.files.vfs().mounts().iter().map(|mount| async move {
            MountStatus {
                prefix: mount.prefix().to_owned(),
                url: mount.url().to_owned(),
                answer: mount.check().await.map_err(|error| error.message().to_owned()),
            }
        });
        futures::future::join_all(checks).await
    }
}
