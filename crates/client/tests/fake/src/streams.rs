//! Streams of data over single reads and writes, and how they are cut.

use futures::{StreamExt, stream, stream::BoxStream};
use mmap_proto::v1;
use tonic::{Status, Streaming};

/// Bytes a piece where the client does not say.
const CHUNK: u64 = 256 << 10;

/// When a stream is cut, and by what.
pub(crate) type Cut = Option<(usize, Status)>;

/// The pieces of a range, each by `read`, until the cut.
pub(crate) fn pieces(
    request: v1::MmapReadStreamRequest,
    cut: Cut,
    read: impl Fn(v1::MmapReadRequest) -> Result<bytes::Bytes, Status> + Send + 'static,
) -> Result<BoxStream<'static, Result<v1::MmapReadStreamResponse, Status>>, Status> {
    let v1::MmapReadStreamRequest { mmap_id, offset, length, chunk_length } = request;
    let chunk = chunk_length.unwrap_or(CHUNK);
    let end = offset.checked_add(length).filter(|end| *end > offset && chunk > 0);
    let end = end.ok_or_else(|| Status::invalid_argument("nothing to read"))?;
    let starts = (0..length.div_ceil(chunk)).map(move |index| offset + index * chunk);
    let pieces = starts.map(move |offset| {
        let length = chunk.min(end - offset);
        let data = read(v1::MmapReadRequest { mmap_id, offset, length })?;
        Ok(v1::MmapReadStreamResponse { offset, data })
    });
    let (after, cut) = cut.unzip();
    Ok(stream::iter(pieces.take(after.unwrap_or(usize::MAX)).chain(cut.map(Err))).boxed())
}

/// Writes what comes by `write`, until the cut.
pub(crate) async fn writes(
    mut messages: Streaming<v1::MmapWriteStreamRequest>,
    cut: Cut,
    write: impl Fn(v1::MmapWriteRequest) -> Result<u64, Status> + Send,
) -> Result<u64, Status> {
    let (mut written, mut mapping, mut count) = (0, 0, 0);
    while let Some(v1::MmapWriteStreamRequest { mmap_id, offset, data }) = messages.message().await? {
        if let Some((after, status)) = &cut
            && count >= *after
        {
            return Err(status.clone());
        }
        count += 1;
        mapping = if mmap_id == 0 { mapping } else { mmap_id };
        written += write(v1::MmapWriteRequest { mmap_id: mapping, offset, data })?;
    }
    Ok(written)
}
