//! [`Told`]: what a request is about, for the span of its call.

use mmap_proto::v1;

use crate::traces::About;

/// A request that can be told on a span.
pub(crate) trait Told {
    /// What it is about.
    fn about(&self) -> About<'_>;
}

macro_rules! told {
    ($($request:ident: |$it:ident| $about:expr,)*) => {
        $(impl Told for v1::$request {
            fn about(&self) -> About<'_> {
                let $it = self;
                $about
            }
        })*
    };
}

told! {
    MmapRequest: |it| About { offset: Some(it.offset), bytes: it.length, ..About::path(&it.path) },
    MmapReadRequest: |it| About::part(it.mmap_id, it.offset, it.length),
    MmapWriteRequest: |it| About::part(it.mmap_id, it.offset, it.data.len() as u64),
    MsyncRequest: |it| About { offset: it.offset, bytes: it.length, ..About::mapping(it.mmap_id) },
    MunmapRequest: |it| About::mapping(it.mmap_id),
    MmapStatsRequest: |it| About::mapping(it.mmap_id),
    ListMappingsRequest: |_it| About::default(),
    AttachRequest: |_it| About::default(),
    ExitRequest: |_it| About::default(),
    ListProcessesRequest: |_it| About::default(),
    StatFileRequest: |it| About::path(&it.path),
    ListFilesRequest: |it| About::path(&it.prefix),
    TruncateFileRequest: |it| About { bytes: Some(it.size), ..About::path(&it.path) },
    RemoveFileRequest: |it| About::path(&it.path),
    ListWaitingRequest: |_it| About::default(),
    ListConflictsRequest: |_it| About::default(),
    ReadConflictRequest: |_it| About::default(),
    ApplyConflictRequest: |_it| About::default(),
    DropConflictRequest: |_it| About::default(),
}
