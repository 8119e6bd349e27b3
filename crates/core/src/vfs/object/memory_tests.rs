//! What an upload in parts holds in memory, counted byte by byte on a store that makes its content up.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::BoxStream;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::options::PART_MIN;
use super::*;
use crate::vfs::store::{Base, CommitId, Patch};

const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 1024 * MIB;
/// Bytes that come from the store at a time.
const CHUNK: u64 = 256 * 1024;

/// Bytes that came from the store and are still there.
#[derive(Debug, Default)]
struct Held {
    now: AtomicU64,
    most: AtomicU64,
}

/// A buffer that is counted as long as anybody refers to it.
struct Counted(Vec<u8>, Arc<Held>);

impl Counted {
    fn bytes(content: Vec<u8>, held: &Arc<Held>) -> Bytes {
        let now = held.now.fetch_add(content.len() as u64, Ordering::Relaxed) + content.len() as u64;
        held.most.fetch_max(now, Ordering::Relaxed);
        Bytes::from_owner(Self(content, Arc::clone(held)))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.now.fetch_sub(self.0.len() as u64, Ordering::Relaxed);
    }
}

/// A store with one object of 1 GiB, each MiB of which has a byte of its own.
#[derive(Debug, Default)]
struct Huge {
    held: Arc<Held>,
    /// Bytes uploaded, all of them checked.
    uploaded: Arc<AtomicU64>,
}

impl fmt::Display for Huge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Huge")
    }
}

fn byte_at(offset: u64) -> u8 {
    u8::try_from(offset / MIB % 251).expect("small")
}

#[derive(Debug)]
struct Upload(Arc<AtomicU64>);

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let uploaded = Arc::clone(&self.0);
        Box::pin(async move {
            // As long as a network would hold it.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            for chunk in &data {
                let at = uploaded.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                let last = at + chunk.len() as u64 - 1;
                let expected = if chunk.len() == 4096 { [0xEE; 2] } else { [byte_at(at), byte_at(last)] };
                assert_eq!([chunk[0], chunk[chunk.len() - 1]], expected, "the bytes at {at}");
            }
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Ok(PutResult { e_tag: Some("\"two\"".into()), version: None, extensions: Default::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        unreachable!("nothing fails")
    }
}

#[async_trait]
impl ObjectStore for Huge {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        unreachable!("it is too large for one PUT")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload(Arc::clone(&self.uploaded))))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let range = match options.range {
            Some(object_store::GetRange::Bounded(range)) => range,
            _ => 0..SIZE,
        };
        let (held, end) = (Arc::clone(&self.held), range.end);
        let chunks = futures::stream::iter((range.start..end).step_by(256 << 10)).map(move |at| {
            let small = |length: u64| usize::try_from(length).expect("small");
            let mut content = vec![byte_at(at); small((end - at).min(CHUNK))];
            let next = (at / MIB + 1) * MIB;
            content.iter_mut().skip(small(next - at)).for_each(|byte| *byte = byte_at(next));
            Ok(Counted::bytes(content, &held))
        });
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: SIZE,
            e_tag: Some("\"one\"".into()),
            version: None,
        };
        let payload = GetResultPayload::Stream(chunks.boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::new(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        futures::stream::empty().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("nothing is listed")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("nothing is copied")
    }
}

#[tokio::test]
async fn a_change_of_one_gib_holds_two_parts_in_memory_at_most() {
    let huge = Arc::new(Huge::default());
    let layout = ObjectLayout::new(huge.clone(), Path::ROOT, ObjectOptions::default());
    // At a chunk's start, so that what is around it comes in whole chunks.
    let patches = vec![Patch { offset: 300 * MIB, data: Bytes::from_static(&[0xEE; 4096]), dirty: true }];
    let base = Base::At { version: Version::new("\"one\""), size: SIZE };
    let change = WriteBack { base, size: SIZE, patches, commit: CommitId::random() };
    let stat = layout.write_back("huge", change).await.expect("it is written");
    assert_eq!((stat.size, huge.uploaded.load(Ordering::Relaxed)), (SIZE, SIZE));
    let (now, most) = (huge.held.now.load(Ordering::Relaxed), huge.held.most.load(Ordering::Relaxed));
    println!("a change of 4 KiB in 1 GiB held {most} bytes of it at most");
    assert_eq!(now, 0, "it is still held");
    assert!(most >= PART_MIN, "nothing was counted");
    assert!(most <= 2 * PART_MIN, "{most} bytes were held, more than two parts");
}
