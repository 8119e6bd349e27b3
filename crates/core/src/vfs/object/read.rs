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

/// Where received bytes go.
trait Sink: Send {
    fn push(&mut self, chunk: Bytes);
}

/// One buffer a block, each an allocation of its own.
struct Blocks {
    range: ByteRange,
    at: u64,
    buffer: BytesMut,
    done: Vec<Bytes>,
}

/// The received buffers as they are.
struct Chunks(Vec<Bytes>);

impl Blocks {
    fn new(range: ByteRange) -> Self {
        let count = usize::try_from(range.block_count()).unwrap_or_default();
        Self { range, at: range.start(), buffer: BytesMut::new(), done: Vec::with_capacity(count) }
    }

    fn rest_of_block(&self) -> usize {
        let block = BlockIndex::of(self.at);
        ByteRange::new(self.at, self.range.end()).within(block).len()
    }
}

impl Sink for Blocks {
    fn push(&mut self, mut chunk: Bytes) {
        while !chunk.is_empty() {
            let rest = self.rest_of_block();
            if self.buffer.is_empty() {
                self.buffer = BytesMut::with_capacity(rest);
            }
            let part = chunk.split_to(rest.min(chunk.len()));
            self.buffer.extend_from_slice(&part);
            self.at += part.len() as u64;
            if part.len() == rest {
                self.done.push(std::mem::take(&mut self.buffer).freeze());
            }
        }
    }
}

impl Sink for Chunks {
    fn push(&mut self, chunk: Bytes) {
        self.0.push(chunk);
    }
}

impl Bucket {
    /// The bytes `range`, one buffer a block.
    pub(super) async fn read_blocks(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
    ) -> StoreResult<Vec<Bytes>> {
        Ok(self.read(path, version, range, Blocks::new).await?.done)
    }

    /// The bytes `range`, as they come.
    pub(super) async fn read_chunks(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
    ) -> StoreResult<Vec<Bytes>> {
        Ok(self.read(path, version, range, |_| Chunks(Vec::new())).await?.0)
    }

    async fn read<S: Sink>(
        &self,
        path: &Path,
        version: &Version,
        range: ByteRange,
        sink: impl Fn(ByteRange) -> S + Send + Sync,
    ) -> StoreResult<S> {
        if range.is_empty() {
            return Ok(sink(range));
        }
        let mut received = 0;
        for _ in 0..ATTEMPTS {
            let mut sink = sink(range);
            let mut body = self.open(path, version, range).await?;
            received = 0;
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(fault)?;
                received += chunk.len() as u64;
                if received > range.len() {
                    break;
                }
                sink.push(chunk);
            }
            if received == range.len() {
                return Ok(sink);
            }
        }
        let asked = range.len();
        Err(StoreFault::Corrupt(format!("the bytes {range} are {asked}, but {received} or more came")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BLOCK_LEN, BLOCK_SIZE};

    #[test]
    fn a_stream_is_cut_into_one_allocation_a_block() {
        let bytes: Vec<u8> = (0..BLOCK_LEN * 2 + 100).map(|n| u8::try_from(n % 253).expect("small")).collect();
        let range = ByteRange::new(BLOCK_SIZE, BLOCK_SIZE + bytes.len() as u64);
        let mut blocks = Blocks::new(range);
        bytes.chunks(10_000).for_each(|chunk| blocks.push(Bytes::copy_from_slice(chunk)));
        assert_eq!(blocks.done.iter().map(Bytes::len).collect::<Vec<_>>(), [BLOCK_LEN, BLOCK_LEN, 100]);
        assert_eq!(blocks.done.concat(), bytes);
    }
}
