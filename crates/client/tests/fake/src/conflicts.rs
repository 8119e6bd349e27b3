//! Conflicts as the fake server keeps them: each is one run of bytes.

use std::collections::BTreeMap;

use mmap_proto::{reason::Reason, v1};
use tonic::Status;

use crate::error::refuse;

const PAGE: u64 = 4096;

#[derive(Debug)]
struct Kept {
    path: String,
    offset: u64,
    data: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Conflicts {
    kept: BTreeMap<String, Kept>,
    damaged: Vec<String>,
}

impl Conflicts {
    pub(crate) fn put(&mut self, id: &str, path: &str, offset: u64, data: Vec<u8>) {
        self.kept.insert(id.to_owned(), Kept { path: path.to_owned(), offset, data });
    }

    pub(crate) fn put_damaged(&mut self, file: &str) {
        self.damaged.push(file.to_owned());
    }

    pub(crate) fn list(&self, token: &str, limit: usize) -> v1::ListConflictsResponse {
        let rest = self.kept.iter().filter(|(id, _)| id.as_str() > token);
        let conflicts: Vec<_> = rest.map(|(id, kept)| describe(id, kept)).take(limit).collect();
        let next = conflicts.last().filter(|_| conflicts.len() == limit).map(|last| last.id.clone());
        let damaged = if token.is_empty() { &self.damaged[..] } else { &[] };
        let why = "it is damaged".to_owned();
        let damaged = damaged.iter().map(|file| v1::DamagedConflict { file: file.clone(), why: why.clone() }).collect();
        v1::ListConflictsResponse { conflicts, damaged, next_page_token: next.unwrap_or_default() }
    }

    /// One page an answer, so that clients have to go on.
    pub(crate) fn read(&self, request: &v1::ReadConflictRequest) -> Result<v1::ReadConflictResponse, Status> {
        let kept = self.kept.get(&request.id).ok_or_else(|| missing(&request.id))?;
        let start = request.offset.max(kept.offset);
        let data = kept.data.get(index(start - kept.offset)..).unwrap_or_default();
        let data = &data[..data.len().min(index(PAGE))];
        let end = start + data.len() as u64;
        let bytes = if request.ranges_only { &[][..] } else { data };
        let range = v1::ConflictRange { offset: start, length: data.len() as u64, data: bytes.to_vec().into() };
        Ok(v1::ReadConflictResponse {
            conflict: Some(describe(&request.id, kept)),
            ranges: if data.is_empty() { Vec::new() } else { vec![range] },
            next_offset: (end < kept.offset + kept.data.len() as u64).then_some(end),
        })
    }

    pub(crate) fn take(&mut self, id: &str) -> Result<(String, u64, Vec<u8>), Status> {
        let kept = self.kept.remove(id).ok_or_else(|| missing(id))?;
        Ok((kept.path, kept.offset, kept.data))
    }
}

fn describe(id: &str, kept: &Kept) -> v1::Conflict {
    v1::Conflict {
        id: id.to_owned(),
        path: kept.path.clone(),
        base_version: "1".to_owned(),
        file_size: kept.offset + kept.data.len() as u64,
        why: "the file changed in its store".to_owned(),
        kept_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        bytes: (kept.data.len() as u64).next_multiple_of(PAGE),
    }
}

fn missing(id: &str) -> Status {
    refuse(Reason::NoEnt, format!("no such conflict: {id}"), &[("id", id.to_owned())])
}

/// Offsets of byte vectors that exist fit.
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
