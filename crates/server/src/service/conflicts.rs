//! Conflicts on the wire: messages to the core's values and back. What goes to the wire cannot fail.

use std::time::{Duration, UNIX_EPOCH};

use mmap_core::aside::{Conflict, Damaged, KeptRun};
use mmap_core::manager::{AppliedConflict, ConflictPage, ConflictPart, ReadConflict};
use mmap_core::units::ByteRange;
use mmap_proto::v1;

pub(super) fn wanted(request: &v1::ReadConflictRequest) -> ReadConflict {
    ReadConflict { offset: request.offset, length: request.length, ranges_only: request.ranges_only }
}

pub(super) fn listed(page: ConflictPage) -> v1::ListConflictsResponse {
    let damaged = |Damaged { file, why }| v1::DamagedConflict { file, why };
    v1::ListConflictsResponse {
        conflicts: page.conflicts.into_iter().map(conflict).collect(),
        damaged: page.damaged.into_iter().map(damaged).collect(),
        next_page_token: page.next,
    }
}

pub(super) fn read(part: ConflictPart) -> v1::ReadConflictResponse {
    let bare = |range: ByteRange| v1::ConflictRange {
        offset: range.start(),
        length: range.len(),
        ..v1::ConflictRange::default()
    };
    let full = |run: KeptRun| v1::ConflictRange { offset: run.offset, length: run.data.len() as u64, data: run.data };
    let ranges = if part.runs.is_empty() {
        part.ranges.into_iter().map(bare).collect()
    } else {
        part.runs.into_iter().map(full).collect()
    };
    v1::ReadConflictResponse { conflict: Some(conflict(part.conflict)), ranges, next_offset: part.next_offset }
}

pub(super) fn applied(applied: AppliedConflict) -> v1::ApplyConflictResponse {
    let AppliedConflict { path, size, version, bytes } = applied;
    v1::ApplyConflictResponse { path, size, version, applied_bytes: bytes }
}

fn conflict(conflict: Conflict) -> v1::Conflict {
    // A description that people touched may name any time; one that no clock can show is none.
    let kept_at = UNIX_EPOCH.checked_add(Duration::from_secs(conflict.kept_at)).map(Into::into);
    v1::Conflict {
        bytes: conflict.bytes(),
        id: conflict.id,
        path: conflict.path,
        base_version: conflict.base_version,
        file_size: conflict.file_size,
        why: conflict.why,
        kept_at,
    }
}
