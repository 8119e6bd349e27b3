//! Writing an object with one conditional PUT, and finding out what became of a PUT whose answer is in doubt.
//!
//! Invariant: a PUT names the version that its content is based on, so that the store itself refuses to
//! overwrite another one. Only [`Conditions::AskedBefore`] gives that up, and it is asked for by name.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use super::bucket::{Bucket, Made, fault, marked, update_version};
use super::options::Conditions;
use crate::units::ByteRange;
use crate::vfs::compose::{Piece, cut, fetches, pieces, zeros};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Base, CommitId, Stat, WriteBack};

/// Requests for missing parts of the base at a time.
const FETCHES_AT_ONCE: usize = 4;

impl Bucket {
    /// Writes the whole changed file with one PUT.
    pub(super) async fn put_whole(&self, path: &Path, change: &WriteBack) -> StoreResult<Stat> {
        let attributes = self.attributes_of(path, &change.base).await?;
        let payload = self.assemble(path, change, ByteRange::new(0, change.size)).await?;
        let mode = match (self.options.conditions, &change.base) {
            (Conditions::Required, Base::Missing) => PutMode::Create,
            (Conditions::Required, Base::At { version, .. }) => PutMode::Update(update_version(version)),
            (Conditions::AskedBefore, base) => {
                self.check_base(path, base).await?;
                PutMode::Overwrite
            }
        };
        let options = PutOptions { mode, attributes: marked(&attributes, change.commit), ..PutOptions::default() };
        let made = Made { size: change.size, commit: change.commit, attributes: &attributes };
        match self.store.put_opts(path, payload, options).await.map_err(fault) {
            Ok(put) => self.stat_of_put(path, put, made).await,
            Err(doubt) => self.settle(path, change, doubt).await,
        }
    }

    /// What became of an attempt that the store answered with `doubt`: its reply may be lost and the client's
    /// repetition refused, because the first one took effect. The object's commit tells.
    pub(super) async fn settle(&self, path: &Path, change: &WriteBack, doubt: StoreFault) -> StoreResult<Stat> {
        if matches!(doubt, StoreFault::Denied(_) | StoreFault::Unsupported(_)) {
            return Err(doubt);
        }
        let now = self.head(path).await;
        match now {
            Ok(stat) if is_of(&stat, change.commit) => Ok(stat),
            now => Err(refusal(doubt, &change.base, now)),
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

/// The fault of an attempt that did not take effect.
fn refusal(doubt: StoreFault, base: &Base, now: StoreResult<Stat>) -> StoreFault {
    match (doubt, base) {
        // 409: another change was under way. If it came to nothing, the same attempt can be made again.
        (StoreFault::Exists | StoreFault::Changed | StoreFault::Missing, Base::Missing) => match now {
            Ok(_) => StoreFault::Exists,
            Err(_) => StoreFault::Failed("another change of the object was under way".into(), None),
        },
        (StoreFault::Exists | StoreFault::Changed | StoreFault::Missing, Base::At { version, .. }) => match now {
            Ok(stat) if stat.version == *version => {
                StoreFault::Failed("another change of the object was under way".into(), None)
            }
            Ok(_) | Err(_) => StoreFault::Changed,
        },
        (other, _) => other,
    }
}
