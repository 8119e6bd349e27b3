//! Writing an object with one conditional PUT, and finding out what became of a PUT whose answer is in doubt.
//!
//! Invariant: a PUT names the version that its content is based on, so that the store itself refuses to
//! overwrite another one. Only [`Conditions::AskedBefore`] gives that up, and it is asked for by name.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use super::bucket::{Bucket, Made, fault, marked, under_way, update_version};
use super::options::Conditions;
use super::repeat::Repetitions;
use crate::units::ByteRange;
use crate::vfs::compose::{Piece, cut, fetches, pieces, zeros};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Base, CommitId, Stat, WriteBack};

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It took effect.
    Made(Stat),
    /// It has not taken effect, and what it is based on is still there.
    Unmade(StoreFault),
    /// It cannot be made again, or nobody knows.
    Refused(StoreFault),
}

/// Requests for missing parts of the base at a time.
const FETCHES_AT_ONCE: usize = 4;

impl Bucket {
    /// Writes the whole changed file with one PUT.
    pub(super) async fn put_whole(&self, path: &Path, change: &WriteBack) -> StoreResult<Stat> {
        let attributes = self.attributes_of(path, &change.base).await?;
        let payload = self.assemble(path, change, ByteRange::new(0, change.size)).await?;
        let made = Made { size: change.size, commit: change.commit, attributes: &attributes };
        let mut repetitions = Repetitions::new();
        loop {
            let mode = match (self.options.conditions, &change.base) {
                (Conditions::Required, Base::Missing) => PutMode::Create,
                (Conditions::Required, Base::At { version, .. }) => PutMode::Update(update_version(version)),
                (Conditions::AskedBefore, base) => {
                    self.check_base(path, base).await?;
                    PutMode::Overwrite
                }
            };
            let options = PutOptions { mode, attributes: marked(&attributes, change.commit), ..PutOptions::default() };
            let doubt = match self.store.put_opts(path, payload.clone(), options).await.map_err(fault) {
                Ok(put) => return self.stat_of_put(path, put, made).await,
                Err(doubt) => doubt,
            };
            match self.settle(path, change, doubt).await {
                Outcome::Made(stat) => return Ok(stat),
                Outcome::Refused(fault) => return Err(fault),
                // One that took effect late has the same mark, so to find it there is to have made it.
                Outcome::Unmade(_) if repetitions.next().await => {}
                Outcome::Unmade(fault) => return Err(fault),
            }
        }
    }

    /// What became of an attempt that the store answered with `doubt`: its reply may be lost and the client's
    /// repetition refused, because the first one took effect. The object's commit tells.
    pub(super) async fn settle(&self, path: &Path, change: &WriteBack, doubt: StoreFault) -> Outcome {
        if matches!(doubt, StoreFault::Denied(_) | StoreFault::Unsupported(_)) {
            return Outcome::Refused(doubt);
        }
        let now = self.head(path).await;
        match now {
            Ok(stat) if is_of(&stat, change.commit) => Outcome::Made(stat),
            now => outcome(doubt, &change.base, now),
        }
    }

    /// The bytes `part` of the changed file.
    pub(super) async fn assemble(&self, path: &Path, change: &WriteBack, part: ByteRange) -> StoreResult<PutPayload> {
        let pieces = pieces(change, part);
        let fetched = self.fetch_base(path, &change.base, fetches(&pieces)).await?;
        let mut chunks = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Known(data) => chunks.push(data),
                Piece::Zeros(length) => chunks.extend(zeros(length)),
                Piece::Base(range) => {
                    let found = fetched.iter().find(|(got, _)| got.contains(range));
                    let (got, bytes) = found.ok_or_else(|| {
                        StoreFault::Failed(format!("the bytes {range} of the base were not fetched"), None)
                    })?;
                    chunks.extend(cut(bytes, *got, range));
                }
            }
        }
        let payload: PutPayload = chunks.into_iter().collect();
        match payload.content_length() as u64 == part.len() {
            true => Ok(payload),
            // Patches that overlap or lie beyond the file's end would come out here, before they are stored.
            false => Err(StoreFault::Failed(format!("the bytes {part} of the change are not {}", part.len()), None)),
        }
    }

    async fn fetch_base(
        &self,
        path: &Path,
        base: &Base,
        ranges: Vec<ByteRange>,
    ) -> StoreResult<Vec<(ByteRange, Vec<Bytes>)>> {
        let Base::At { version, .. } = base else { return Ok(Vec::new()) };
        let gone = |fault| if matches!(fault, StoreFault::Missing) { StoreFault::Changed } else { fault };
        let fetch = |range| async move {
            let chunks = self.read_chunks(path, version, range).await.map_err(gone)?;
            Ok((range, chunks))
        };
        let fetches: Vec<_> = ranges.into_iter().map(fetch).collect();
        futures::stream::iter(fetches).buffered(FETCHES_AT_ONCE).try_collect().await
    }
}

fn is_of(stat: &Stat, commit: CommitId) -> bool {
    stat.commit == Some(commit)
}

/// What became of an attempt that is not what is there now.
fn outcome(doubt: StoreFault, base: &Base, now: StoreResult<Stat>) -> Outcome {
    let refused = matches!(doubt, StoreFault::Exists | StoreFault::Changed | StoreFault::Missing);
    match (now, base) {
        // 409: another change was under way. If it came to nothing, the same attempt can be made again.
        (Err(StoreFault::Missing), Base::Missing) if refused => Outcome::Unmade(under_way()),
        (Err(StoreFault::Missing), Base::Missing) => Outcome::Unmade(doubt),
        (Ok(stat), Base::At { version, .. }) if stat.version == *version => {
            Outcome::Unmade(if refused { under_way() } else { doubt })
        }
        (Ok(_), Base::Missing) if refused => Outcome::Refused(StoreFault::Exists),
        (Ok(_) | Err(StoreFault::Missing), Base::At { .. }) if refused => Outcome::Refused(StoreFault::Changed),
        // Nobody knows.
        (Err(unknown), _) if refused => Outcome::Refused(unknown),
        (Ok(_) | Err(_), _) => Outcome::Refused(doubt),
    }
}
