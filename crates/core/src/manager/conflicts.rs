//! Conflicts: unsynced pages that could be neither stored nor dropped, and what a person decides about them.
//!
//! Invariant: a conflict is removed only after the store has its pages, or because that was asked for.

use std::sync::Arc;

use super::MmapManager;
use super::api::{Caller, PageRequest};
use crate::aside::{Claim, Conflict, Damaged, KeptRun, Listing, no_such_conflict};
use crate::capability::Capability;
use crate::error::{Errno, Error, Result};
use crate::path::FilePath;
use crate::units::{ByteRange, PAGE_SIZE};

/// Runs of pages in one answer at most: some 250 KiB of offsets and lengths.
const RUNS_MAX: usize = 10_000;

/// A page of the list of conflicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictPage {
    /// In the order of their ids, which is about that of time.
    pub conflicts: Vec<Conflict>,
    /// Files in the conflicts folder that are no whole conflict.
    pub damaged: Vec<Damaged>,
    /// Opaque; empty at the end.
    pub next: String,
}

/// Which pages of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadConflict {
    /// From the kept page that this byte of the file lies in, or the next one behind it.
    pub offset: u64,
    /// Kept bytes, in whole pages; as many as fit into an answer if absent.
    pub length: Option<u64>,
    /// Say where they lie, and bring no bytes.
    pub ranges_only: bool,
}

/// Some pages of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictPart {
    /// What it is.
    pub conflict: Conflict,
    /// Neighbouring pages: where they lie, how many bytes they have.
    pub ranges: Vec<ByteRange>,
    /// Their bytes; none if only the ranges were asked for.
    pub runs: Vec<KeptRun>,
    /// Where to go on, if there are more.
    pub next_offset: Option<u64>,
}

/// What an apply made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedConflict {
    /// The file.
    pub path: String,
    /// Its bytes now.
    pub size: u64,
    /// Opaque.
    pub version: String,
    /// Bytes that were put onto it.
    pub bytes: u64,
}

impl MmapManager {
    /// Unsynced pages that were kept aside, because they could neither be stored nor dropped. Blocks.
    ///
    /// # Errors
    /// EIO if the state directory cannot be read.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        Ok(self.shared.aside.list_blocking(None, usize::MAX)?.conflicts)
    }

    /// Lists the conflicts of files that the caller may look at, in the order of their ids. A page may be shorter than
    /// it was asked to be.
    ///
    /// # Errors
    /// EINVAL (a token that is none), EACCES, EIO.
    pub async fn list_conflicts(&self, caller: impl Into<Caller>, page: PageRequest) -> Result<ConflictPage> {
        let caller = caller.into();
        let after = match page.token.as_str() {
            "" => None,
            token if Conflict::is_id(token) => Some(token.to_owned()),
            token => return Err(super::info::bad_token(token)),
        };
        caller.capabilities.require(Capability::FileRead)?;
        let Listing { mut conflicts, mut damaged, next } = self.shared.aside.list(after, self.page_size(&page)).await?;
        conflicts.retain(|conflict| caller.sees(&conflict.path));
        if !caller.paths.is_all() {
            // Whose they are nobody can say.
            damaged.clear();
        }
        Ok(ConflictPage { conflicts, damaged, next: next.unwrap_or_default() })
    }

    /// Reads a conflict: what it is, where its pages lie, and their bytes.
    ///
    /// # Errors
    /// EINVAL, EACCES, ENOENT, EUCLEAN (it is damaged), EIO.
    pub async fn read_conflict(&self, caller: impl Into<Caller>, id: &str, what: ReadConflict) -> Result<ConflictPart> {
        let caller = caller.into();
        if what.length == Some(0) {
            return Err(Error::invalid("length", "length is 0: name at least one byte").with("length", 0));
        }
        caller.capabilities.require(Capability::FileRead)?;
        let conflict = seen(&caller, self.shared.aside.get(id).await?)?;
        let first = conflict.offsets.partition_point(|offset| offset + PAGE_SIZE <= what.offset);
        let most = if what.ranges_only { u64::MAX } else { self.shared.limits.max_message.max(PAGE_SIZE) / PAGE_SIZE };
        let pages = what.length.map_or(u64::MAX, |length| length.div_ceil(PAGE_SIZE)).min(most);
        let end = first.saturating_add(usize::try_from(pages).unwrap_or(usize::MAX)).min(conflict.offsets.len());
        let mut spans = conflict.runs(first, end);
        spans.truncate(RUNS_MAX);
        let count: u64 = spans.iter().map(|(_, length)| length.div_ceil(PAGE_SIZE)).sum();
        let end = first + usize::try_from(count).unwrap_or_default();
        let runs = if what.ranges_only { Vec::new() } else { self.shared.aside.read(&conflict, first, end).await? };
        let ranges = spans.into_iter().map(|(offset, length)| ByteRange::new(offset, offset + length)).collect();
        let next_offset = conflict.offsets.get(end).copied();
        Ok(ConflictPart { conflict, ranges, runs, next_offset })
    }

    /// Puts a conflict's pages onto its file's present content, stores that in one change, and removes the conflict.
    ///
    /// # Errors
    /// EINVAL, EACCES, ENOENT, EBUSY (another call applies or drops it), ENOMEM (larger than this server's memory
    /// allows), EDQUOT, ESTALE (the file has unsynced writes of an older version), EROFS, EUCLEAN (the conflict is
    /// damaged), EIO. The conflict stays.
    pub async fn apply_conflict(self: &Arc<Self>, caller: impl Into<Caller>, id: &str) -> Result<AppliedConflict> {
        let caller = caller.into();
        caller.capabilities.require(Capability::FileWrite)?;
        self.check_open()?;
        let claim = self.claim_conflict(id)?;
        let manager = Arc::clone(self);
        // To its end also when the caller goes away: what the store has must not stay listed.
        self.shared.finish(async move { manager.apply_claimed(&caller, &claim).await }).await
    }

    fn claim_conflict(&self, id: &str) -> Result<Claim> {
        if Conflict::is_id(id) { self.shared.aside.claim(id) } else { Err(no_such_conflict(id)) }
    }

    async fn apply_claimed(&self, caller: &Caller, claim: &Claim) -> Result<AppliedConflict> {
        let aside = &self.shared.aside;
        let conflict = seen(caller, aside.get(claim.id()).await?)?;
        let path = FilePath::parse(&conflict.path).map_err(|error| {
            let sentence = format!("conflict {} is of no valid path ({})", conflict.id, error.message());
            Error::new(Errno::UClean, sentence).with("path", &conflict.path).with("id", &conflict.id)
        })?;
        caller.may_change(&path)?;
        let most = self.shared.limits.dirty_bytes();
        if conflict.bytes() > most {
            let (id, bytes) = (&conflict.id, conflict.bytes());
            let sentence = format!(
                "conflict {id} has {bytes} bytes, more than the {most} of unsynced pages that this server may hold: \
                 start it with a larger memory budget"
            );
            return Err(Error::new(Errno::NoMem, sentence)
                .with("limit", "dirty_bytes")
                .with("max", most)
                .with("id", id));
        }
        let file = self.files.acquire(&path)?;
        let _memory = self.shared.reserve_dirty(file.parts(), conflict.bytes(), caller.deadline).await?;
        let runs = aside.read(&conflict, 0, conflict.offsets.len()).await?;
        let bytes = runs.iter().map(|run| run.data.len() as u64).sum();
        let (size, version) = file.apply(runs, conflict.file_size).await?;
        tracing::info!(%path, id = claim.id(), bytes, "a conflict was applied");
        let version = version.as_str().to_owned();
        aside.remove(claim).await.map_err(|error| {
            let sentence =
                format!("{path} has the conflict's pages at version {version}, but {}: drop it", error.message());
            Error::new(error.errno(), sentence).with("id", claim.id()).with("version", &version).caused_by(error)
        })?;
        Ok(AppliedConflict { path: conflict.path, size, version, bytes })
    }

    /// Removes a conflict and its pages for good, a damaged one too.
    ///
    /// # Errors
    /// EACCES, ENOENT, EBUSY (another call applies or drops it), EIO.
    pub async fn drop_conflict(self: &Arc<Self>, caller: impl Into<Caller>, id: &str) -> Result<()> {
        let caller = caller.into();
        caller.capabilities.require(Capability::FileWrite)?;
        self.check_open()?;
        let claim = self.claim_conflict(id)?;
        let aside = Arc::clone(&self.shared.aside);
        let work = async move {
            match aside.get(claim.id()).await {
                // What nobody can apply any more can still be dropped.
                Err(error) if error.errno() == Errno::UClean && caller.paths.is_all() => {
                    tracing::warn!(id = claim.id(), ?error, "a damaged conflict is dropped");
                }
                Err(error) => return Err(error),
                Ok(conflict) => {
                    let Conflict { path, id, .. } = seen(&caller, conflict)?;
                    // Of a path that is none any more no more than its text is known.
                    match FilePath::parse(&path) {
                        Ok(path) => caller.may_change(&path)?,
                        Err(_) if caller.paths.is_all() => {}
                        Err(_) => return Err(no_such_conflict(&id)),
                    }
                    tracing::warn!(%path, %id, "a conflict is dropped");
                }
            }
            aside.remove(&claim).await
        };
        self.shared.finish(work).await
    }
}

/// A conflict of a file that the caller may not look at is none: its id tells nobody of its path.
fn seen(caller: &Caller, conflict: Conflict) -> Result<Conflict> {
    if caller.sees(&conflict.path) { Ok(conflict) } else { Err(no_such_conflict(&conflict.id)) }
}
