//! Bytes on their way between a mapping and a local file or pipe: one stream each way, a progress bar.
//!
//! A few pieces are in memory at a time, whatever the file's size.

use std::io;

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use futures::{TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mmap_client::{Mapping, PIECE};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::exit::Failure;

/// Requests at a time where single pieces are copied. 8 MiB: enough to keep a store 50 ms away busy at 160 MiB/s.
pub(crate) const IN_FLIGHT: usize = 8;

/// A bar on standard error, if that is a terminal and a person reads it.
pub(crate) fn progress(size: u64, is_json: bool) -> ProgressBar {
    let target = if is_json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(size), target);
    let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
    // The template is a constant; the default style would do if it were wrong.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Writes exactly `size` bytes of `source` to the mapping's start.
pub(crate) async fn upload(
    source: impl AsyncRead + Unpin + Send,
    mapping: &Mapping,
    size: u64,
    bar: &ProgressBar,
) -> Result<()> {
    let pieces = stream::try_unfold((source, size), |(mut source, left)| async move {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        if length == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::zeroed(length);
        match source.read_exact(&mut piece).await {
            Ok(_) => Ok(Some((piece.freeze(), (source, left - length as u64)))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Failure::failed("the local file became shorter while it was read").into())
            }
            Err(error) => Err(anyhow::Error::new(error).context("cannot read the local file")),
        }
    });
    let pieces = pieces.inspect_ok(|piece| bar.inc(piece.len() as u64));
    mapping.write_stream(0, pieces).await.map(|_| ())
}

/// Writes the mapping's `length` bytes to `sink`, in order.
pub(crate) async fn download(
    mapping: &Mapping,
    length: u64,
    sink: &mut (impl AsyncWrite + Unpin + Send),
    bar: &ProgressBar,
) -> Result<()> {
    let mut pieces = mapping.read_stream(0, length)?;
    while let Some(data) = pieces.try_next().await? {
        sink.write_all(&data).await?;
        bar.inc(data.len() as u64);
    }
    Ok(sink.flush().await?)
}

/// Everything that standard input (or another pipe) has, in an unnamed file: a file's size must be known before it
/// is mapped.
pub(crate) async fn spool(mut source: impl AsyncRead + Unpin + Send) -> Result<(tokio::fs::File, u64)> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile().context("cannot make a temporary file")?);
    let size = tokio::io::copy(&mut source, &mut file).await.context("cannot read the input")?;
    file.flush().await.context("cannot write the temporary file")?;
    tokio::io::AsyncSeekExt::rewind(&mut file).await.context("cannot read the temporary file")?;
    Ok((file, size))
}
