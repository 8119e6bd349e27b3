//! Reading ranges of one version of an object.
//!
//! Invariant: bytes are handed out only if the store said that they are of the version asked for, with
//! exactly the range asked for. A store that ignores If-Match is found out by the e_tag of its answer.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::GetOptions;
use object_store::path::Path;

use super::bucket::{Bucket, fault, under_way, update_version};
use super::repeat::repeated;
use crate::units::{BlockIndex, ByteRange};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::version::Version;

/// How often a body that ends too early is asked for: the first time and once more.
const ATTEMPTS: usize = 2;

/// Cuts what is received into one buffer a block, each an allocation of its own, and hands them out.
struct Blocks<'a> {
    /// What has not been handed out yet.
    rest: ByteRange,
    buffer: BytesMut,
    land: &'a mut (dyn FnMut(Bytes) + Send),
}

impl<'a> Blocks<'a> {
    fn new(range: ByteRange, land: &'a mut (dyn FnMut(Bytes) + Send)) -> Self {
        Self { rest: range, buffer: BytesMut::new(), land }
    }

    /// Bytes of the block that is being received.
    fn block_len(&self) -> usize {
        self.rest.within(BlockIndex::of(self.rest.start())).len()
    }

    fn push(&mut self, mut chunk: Bytes) {
        while !chunk.is_empty() && !self.rest.is_empty() {
            let length = self.block_len();
            if self.buffer.is_empty() {
                self.buffer.reserve(length);
            }
            let part = chunk.split_to((length - self.buffer.len()).min(chunk.len()));
            self.buffer.extend_from_slice(&part);
            if self.buffer.len() == length {
                self.rest = ByteRange::new(self.rest.start() + length as u64, self.rest.end());
                (self.land)(std::mem::take(&mut self.buffer).freeze());
            }
        }
    }
}

impl Bucket {
    /// Hands the bytes `range` to `land`, one buffer a block, as they come.
    pub(super) async fn each_block(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
        land: &mut (dyn FnMut(Bytes) + Send),
    ) -> StoreResult<()> {
        let mut blocks = Blocks::new(range, land);
        for _ in 0..ATTEMPTS {
            blocks.buffer.clear();
            let rest = blocks.rest;
            if self.read(path, version, rest, |chunk| blocks.push(chunk)).await? {
                return Ok(());
            }
            if blocks.rest.is_empty() {
                break;
            }
        }
        Err(wrong_length(range))
    }

    /// The bytes `range`, one buffer a block.
    pub(super) async fn read_blocks(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
    ) -> StoreResult<Vec<Bytes>> {
        let mut blocks = Vec::with_capacity(usize::try_from(range.block_count()).unwrap_or_default());
        self.each_block(path, version, range, &mut |block| blocks.push(block)).await?;
        Ok(blocks)
    }

    /// The bytes `range`, in the buffers that they were received in.
    pub(super) async fn read_chunks(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
    ) -> StoreResult<Vec<Bytes>> {
        for _ in 0..ATTEMPTS {
            let mut chunks = Vec::new();
            if self.read(path, version, range, |chunk| chunks.push(chunk)).await? {
                return Ok(chunks);
            }
        }
        Err(wrong_length(range))
    }

    /// Hands the bytes `range` to `push` as they are received. Answers whether all of them and no more came; what
    /// was handed out is right in any case.
    async fn read(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
        mut push: impl FnMut(Bytes) + Send,
    ) -> StoreResult<bool> {
        if range.is_empty() {
            return Ok(true);
        }
        let mut body = self.open(path, version, range).await?;
        let mut received = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(fault)?;
            received += chunk.len() as u64;
            if received > range.len() {
                return Ok(false);
            }
            push(chunk);
        }
        Ok(received == range.len())
    }

    /// Asks for the range; whatever answers is of the version and the range asked for.
    async fn open(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
    ) -> StoreResult<BoxStream<'static, object_store::Result<Bytes>>> {
        let asked = || async {
            let options = GetOptions::new().with_if_match(update_version(version).e_tag);
            let options = options.with_range(Some(range.start()..range.end()));
            match self.store.get_opts(path, options).await.map_err(fault) {
                Err(StoreFault::Exists) => Err(under_way()),
                answer => answer,
            }
        };
        let answer = match repeated(asked).await {
            Ok(answer) => answer,
            // A store that ignores If-Match answers 416 where the object became shorter.
            Err(StoreFault::Failed(what, source)) => {
                return Err(match self.head(path).await {
                    Ok(stat) if stat.version != *version => StoreFault::Changed,
                    Err(StoreFault::Missing) => StoreFault::Missing,
                    Ok(_) | Err(_) => StoreFault::Failed(what, source),
                });
            }
            Err(other) => return Err(other),
        };
        if self.stat_of(&answer.meta)?.version != *version {
            return Err(StoreFault::Changed);
        }
        if answer.range != (range.start()..range.end()) {
            let got = ByteRange::new(answer.range.start, answer.range.end);
            return Err(StoreFault::Corrupt(format!("the bytes {range} were asked for, and {got} came")));
        }
        Ok(answer.into_stream())
    }
}

fn wrong_length(asked: ByteRange) -> StoreFault {
    StoreFault::Corrupt(format!("the bytes {asked} were asked for, and more or fewer than these {} came", asked.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BLOCK_LEN, BLOCK_SIZE};

    #[test]
    fn a_stream_is_cut_into_one_allocation_a_block() {
        let bytes: Vec<u8> = (0..BLOCK_LEN * 2 + 100).map(|n| u8::try_from(n % 253).expect("small")).collect();
        let range = ByteRange::new(BLOCK_SIZE, BLOCK_SIZE + bytes.len() as u64);
        let mut done = Vec::new();
        let mut land = |block| done.push(block);
        let mut blocks = Blocks::new(range, &mut land);
        bytes.chunks(10_000).for_each(|chunk| blocks.push(Bytes::copy_from_slice(chunk)));
        assert!(blocks.rest.is_empty());
        assert_eq!(done.iter().map(Bytes::len).collect::<Vec<_>>(), [BLOCK_LEN, BLOCK_LEN, 100]);
        assert_eq!(done.concat(), bytes);
    }
}
