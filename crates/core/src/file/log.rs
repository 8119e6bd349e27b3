//! What a file says in the journal: each change of its state that must survive the server.
//!
//! Invariant: a record is appended under the file's lock, in the moment of the change that it tells of, so that
//! the journal's order is the order of the changes. Nothing here waits or touches the disk. Without a journal
//! (level `memory`) nothing is said.
//!
//! A file that nobody maps and that has nothing unsynced is not the journal's concern.

use std::borrow::Cow;

use bytes::Bytes;
use smallvec::SmallVec;

use super::registered::{MapUse, Registered};
use crate::block::DirtyBlock;
use crate::caller::MmapId;
use crate::journal::record::{BlockPages, Content, Record, Who, write_image};
use crate::journal::{Journal, Lsn, Room};
use crate::path::FilePath;
use crate::units::{PAGE_LEN, PAGES_PER_BLOCK, PageIndex, PageMask};
use crate::vfs::{CommitId, Version};

/// Where a file says what happens to it.
#[derive(Clone, Debug)]
pub(super) struct FileLog {
    journal: Option<Journal>,
    path: FilePath,
}

impl FileLog {
    pub(super) fn new(journal: Option<Journal>, path: FilePath) -> Self {
        Self { journal, path }
    }

    fn path(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.path.as_str())
    }

    /// Whether there is anybody to say it to.
    pub(super) fn is_silent(&self) -> bool {
        self.journal.is_none()
    }

    fn content<'a>(&'a self, version: Option<&'a Version>, size: u64) -> Content<'a> {
        Content { path: self.path(), version: version.map(|version| version.as_str().into()), size }
    }

    fn say(&self, room: Option<Room>, record: &Record<'_>, images: impl FnOnce(&mut Vec<u8>)) -> Lsn {
        let Some(journal) = &self.journal else { return Lsn::NONE };
        journal.append(room, |out| {
            record.write_head(out);
            images(out);
        })
    }

    /// Unsynced pages of blocks, as they are now.
    pub(super) fn written(
        &self,
        room: Option<Room>,
        base: Option<&Version>,
        size: u64,
        blocks: &[(BlockPages, &DirtyBlock)],
    ) -> Lsn {
        let pages: SmallVec<[BlockPages; 4]> = blocks.iter().map(|(pages, _)| *pages).collect();
        let record = Record::Written { content: self.content(base, size), blocks: Cow::Borrowed(&pages) };
        self.say(room, &record, |out| {
            for (pages, block) in blocks {
                write_images(out, block, PageMask(pages.1));
            }
        })
    }

    /// A private mapping's own pages, as they are now.
    pub(super) fn copied(&self, room: Option<Room>, id: MmapId, pages: &[(PageIndex, Bytes)]) -> Lsn {
        let blocks = gathered(pages.iter().map(|(page, _)| *page));
        self.say(room, &Record::Copied { id: id.0, blocks: Cow::Owned(blocks) }, |out| {
            for (_, data) in pages {
                write_image(out, data);
            }
        })
    }

    /// The file has this content now; `stored` are pages that are not unsynced any more.
    pub(super) fn moved(&self, base: Option<&Version>, size: u64, stored: &[BlockPages], settled: bool) -> Lsn {
        let content = self.content(base, size);
        self.say(None, &Record::Moved { content, stored: Cow::Borrowed(stored), settled }, |_| {})
    }

    /// A change that makes the file this large is about to be sent to the store.
    pub(super) fn attempt(&self, commit: CommitId, size: u64) -> Lsn {
        self.say(None, &Record::Attempt { path: self.path(), commit: commit.0.as_u128(), size }, |_| {})
    }

    /// Unsynced pages were given up.
    pub(super) fn given_up(&self, blocks: &[BlockPages]) -> Lsn {
        self.say(None, &Record::GivenUp { path: self.path(), blocks: Cow::Borrowed(blocks) }, |_| {})
    }

    /// A mapping is there.
    pub(super) fn mapped(&self, id: MmapId, mapping: &Registered) -> Lsn {
        let who = Who { subject: mapping.owner.subject.name().into(), pid: mapping.owner.pid };
        let record = Record::Mapped {
            id: id.0,
            who,
            path: self.path(),
            start: mapping.range.start(),
            end: mapping.range.end(),
            prot: mapping.prot.bits(),
            shared: !matches!(mapping.usage, MapUse::Private(_)),
        };
        self.say(None, &record, |_| {})
    }

    /// A mapping is gone.
    pub(super) fn unmapped(&self, id: MmapId) -> Lsn {
        self.say(None, &Record::Unmapped { id: id.0 }, |_| {})
    }
}

/// Pages, in order, block by block.
fn gathered(pages: impl Iterator<Item = PageIndex>) -> Vec<BlockPages> {
    let mut blocks: Vec<BlockPages> = Vec::new();
    for page in pages {
        let (block, bit) = (page.0 / u64::from(PAGES_PER_BLOCK), 1 << (page.0 % u64::from(PAGES_PER_BLOCK)));
        match blocks.last_mut() {
            Some(last) if last.0 == block => last.1 |= bit,
            _ => blocks.push(BlockPages(block, bit)),
        }
    }
    blocks
}

fn write_images(out: &mut Vec<u8>, block: &DirtyBlock, pages: PageMask) {
    for run in pages.runs() {
        for start in run.step_by(PAGE_LEN) {
            write_image(out, block.data().get(start..).unwrap_or_default());
        }
    }
}
