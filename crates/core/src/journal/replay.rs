//! [`Survivors`]: what the records of a journal come to. Pure: no I/O.
//!
//! Invariants: facts about what is not known are passed over, because a checkpoint may have made what came
//! before them superfluous; nothing is guessed. It does not judge whether a path can still be served or the
//! memory suffices: whoever restores does.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::record::{BlockPages, Content, Record, Who};
use crate::caller::{MmapId, ProcessKey, Subject};
use crate::error::{Errno, Error, Result};
use crate::flags::{MapFlags, ProtFlags};
use crate::path::FilePath;
use crate::units::{ByteRange, MAX_OFFSET, PAGE_LEN, PAGE_SIZE, PageIndex};
use crate::vfs::{CommitId, Version};

/// Attempts of a file that are remembered, as many as a file in memory remembers.
const ATTEMPTS_MAX: usize = 64;

/// Pages by their place in the file.
pub type Pages = BTreeMap<PageIndex, Bytes>;

/// A process that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveProcess {
    /// What it called itself.
    pub name: String,
    /// It was attached once.
    pub leased: bool,
}

/// A mapping that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMapping {
    /// Whose it is.
    pub owner: ProcessKey,
    /// The file.
    pub path: FilePath,
    /// The file's bytes that it maps.
    pub range: ByteRange,
    /// Its protection.
    pub prot: ProtFlags,
    /// Shared or private.
    pub flags: MapFlags,
    /// A private mapping's own pages.
    pub own: Pages,
}

/// A file that is mapped or has unsynced pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveFile {
    /// What the store had, if it had the file.
    pub version: Option<Version>,
    /// Bytes of the file.
    pub size: u64,
    /// Unsynced pages.
    pub unsynced: Pages,
    /// Changes that may have reached the store, and the size that each makes.
    pub attempts: VecDeque<(CommitId, u64)>,
}

/// What a journal's records come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survivors {
    /// Processes.
    pub processes: BTreeMap<ProcessKey, LiveProcess>,
    /// Mappings by their ids.
    pub mappings: BTreeMap<MmapId, LiveMapping>,
    /// Files by their paths.
    pub files: BTreeMap<FilePath, LiveFile>,
}

impl Survivors {
    /// Takes the next record in.
    ///
    /// # Errors
    /// [`Errno::UClean`] if it is no record, or says what cannot be.
    pub fn apply(&mut self, record: &[u8]) -> Result<()> {
        let (record, images) = Record::read(record)?;
        match record {
            Record::Process { who, name, leased } => {
                self.processes.insert(key(&who), LiveProcess { name: name.into_owned(), leased });
            }
            Record::ProcessGone { who } => drop(self.processes.remove(&key(&who))),
            Record::Mapped { id, who, path, start, end, prot, shared } => {
                let mapping = mapping(&who, &path, (start, end), prot, shared)?;
                // Said again by a checkpoint: its own pages stay.
                let own = self.mappings.remove(&MmapId(id)).map(|known| known.own).unwrap_or_default();
                self.mappings.insert(MmapId(id), LiveMapping { own, ..mapping });
            }
            Record::Unmapped { id } => drop(self.mappings.remove(&MmapId(id))),
            Record::Written { content, blocks } => {
                let file = self.file(&content)?;
                insert(&mut file.unsynced, &blocks, images);
            }
            Record::Copied { id, blocks } => {
                if let Some(mapping) = self.mappings.get_mut(&MmapId(id)) {
                    insert(&mut mapping.own, &blocks, images);
                }
            }
            Record::Attempt { path, commit, size } => self.attempt(&path, commit, size)?,
            Record::Moved { content, stored, settled } => self.moved(&content, &stored, settled)?,
            Record::GivenUp { path, blocks } => {
                if let Some(file) = self.files.get_mut(&parse(&path)?) {
                    remove(&mut file.unsynced, &blocks);
                    file.attempts.clear();
                }
            }
        }
        Ok(())
    }

    /// Drops files that nobody maps and that have nothing unsynced.
    pub fn finish(&mut self) {
        let mapped: std::collections::BTreeSet<&FilePath> =
            self.mappings.values().map(|mapping| &mapping.path).collect();
        self.files.retain(|path, file| !file.unsynced.is_empty() || mapped.contains(path));
    }

    /// Bytes of unsynced and private pages.
    pub fn bytes(&self) -> u64 {
        let unsynced: usize = self.files.values().map(|file| file.unsynced.len()).sum();
        let own: usize = self.mappings.values().map(|mapping| mapping.own.len()).sum();
        (unsynced + own) as u64 * PAGE_SIZE
    }

    fn file(&mut self, content: &Content<'_>) -> Result<&mut LiveFile> {
        if content.size > MAX_OFFSET {
            return Err(impossible(format!("a file of {} bytes", content.size)));
        }
        let file = self.files.entry(parse(&content.path)?).or_default();
        file.version = content.version.as_deref().map(Version::new);
        file.size = content.size;
        Ok(file)
    }

    fn attempt(&mut self, path: &str, commit: u128, size: u64) -> Result<()> {
        let Some(file) = self.files.get_mut(&parse(path)?) else { return Ok(()) };
        let attempt = (CommitId(uuid::Uuid::from_u128(commit)), size);
        if file.attempts.contains(&attempt) {
            return Ok(());
        }
        if file.attempts.len() == ATTEMPTS_MAX {
            file.attempts.pop_front();
        }
        file.attempts.push_back(attempt);
        Ok(())
    }

    fn moved(&mut self, content: &Content<'_>, stored: &[BlockPages], settled: bool) -> Result<()> {
        let file = self.file(content)?;
        remove(&mut file.unsynced, stored);
        truncate(&mut file.unsynced, content.size);
        if settled {
            file.attempts.clear();
        }
        for mapping in self.mappings.values_mut().filter(|mapping| mapping.path.as_str() == content.path) {
            truncate(&mut mapping.own, content.size);
        }
        Ok(())
    }
}

fn mapping(who: &Who<'_>, path: &str, (start, end): (u64, u64), prot: u32, shared: bool) -> Result<LiveMapping> {
    let range = end.checked_sub(start).ok_or_else(|| impossible(format!("a mapping of {start} to {end}")))?;
    Ok(LiveMapping {
        owner: key(who),
        path: parse(path)?,
        range: ByteRange::checked(start, range).map_err(|error| unsayable(&error))?,
        prot: ProtFlags::from_bits(prot).map_err(|error| unsayable(&error))?,
        flags: if shared { MapFlags::Shared } else { MapFlags::Private },
        own: Pages::new(),
    })
}

fn key(who: &Who<'_>) -> ProcessKey {
    let subject = if who.subject.is_empty() { Subject::LOCAL } else { Subject::named(&who.subject) };
    ProcessKey { subject, pid: who.pid }
}

fn parse(path: &str) -> Result<FilePath> {
    FilePath::parse(path).map_err(|error| unsayable(&error))
}

/// What a caller could not have asked for, and so no record says.
fn unsayable(error: &Error) -> Error {
    impossible(error.message().to_owned())
}

fn impossible(what: String) -> Error {
    Error::new(Errno::UClean, format!("a journal record says what cannot be: {what}"))
}

fn insert(pages: &mut Pages, blocks: &[BlockPages], images: &[u8]) {
    let places = blocks.iter().flat_map(|block| block.pages());
    for (page, image) in places.zip(images.chunks_exact(PAGE_LEN)) {
        pages.insert(page, Bytes::copy_from_slice(image));
    }
}

fn remove(pages: &mut Pages, blocks: &[BlockPages]) {
    for page in blocks.iter().flat_map(|block| block.pages()) {
        pages.remove(&page);
    }
}

/// Drops what lies behind `size`: pages wholly behind it, and the rest of the page that it cuts.
fn truncate(pages: &mut Pages, size: u64) {
    pages.split_off(&PageIndex(size.div_ceil(PAGE_SIZE)));
    let keep = (size % PAGE_SIZE) as usize;
    if keep != 0
        && let Some(page) = pages.get_mut(&PageIndex::of(size))
        && page[keep..].iter().any(|byte| *byte != 0)
    {
        let mut cut = bytes::BytesMut::from(&page[..keep]);
        cut.resize(PAGE_LEN, 0);
        *page = cut.freeze();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::write_image;

    fn say(survivors: &mut Survivors, record: &Record<'_>, images: &[u8]) {
        let mut bytes = Vec::new();
        record.write_head(&mut bytes);
        images.iter().for_each(|byte| write_image(&mut bytes, &[*byte; PAGE_LEN]));
        survivors.apply(&bytes).unwrap();
    }

    fn content(version: &'static str, size: u64) -> Content<'static> {
        Content { path: "/f".into(), version: Some(version.into()), size }
    }

    fn written(version: &'static str, mask: u16) -> Record<'static> {
        Record::Written { content: content(version, 5 * PAGE_SIZE), blocks: vec![BlockPages(0, mask)].into() }
    }

    fn mapped(id: u64) -> Record<'static> {
        let who = Who { subject: "".into(), pid: 7 };
        Record::Mapped {
            id,
            who,
            path: "/f".into(),
            start: 0,
            end: 5 * PAGE_SIZE,
            prot: 3,
            shared: id.is_multiple_of(2),
        }
    }

    fn unsynced(survivors: &Survivors) -> Vec<(u64, u8)> {
        survivors.files.values().flat_map(|file| &file.unsynced).map(|(page, data)| (page.0, data[0])).collect()
    }

    #[test]
    fn later_images_win_and_stored_pages_are_no_longer_unsynced() {
        let mut survivors = Survivors::default();
        say(&mut survivors, &written("v1", 0b111), &[1, 2, 3]);
        say(&mut survivors, &written("v1", 0b010), &[9]);
        say(&mut survivors, &Record::Attempt { path: "/f".into(), commit: 5, size: 5 * PAGE_SIZE }, &[]);
        assert_eq!(unsynced(&survivors), [(0, 1), (1, 9), (2, 3)]);
        assert_eq!(survivors.files.values().next().unwrap().attempts.len(), 1);
        let stored = vec![BlockPages(0, 0b101)].into();
        say(&mut survivors, &Record::Moved { content: content("v2", 5 * PAGE_SIZE), stored, settled: true }, &[]);
        assert_eq!(unsynced(&survivors), [(1, 9)]);
        let file = survivors.files.values().next().unwrap();
        assert_eq!((&file.version, file.attempts.len()), (&Some(Version::new("v2")), 0));
    }

    #[test]
    fn a_truncation_drops_unsynced_and_private_pages_behind_it_and_the_rest_of_the_page_that_it_cuts() {
        let mut survivors = Survivors::default();
        say(&mut survivors, &mapped(1), &[]);
        say(&mut survivors, &Record::Copied { id: 1, blocks: vec![BlockPages(0, 0b110)].into() }, &[4, 5]);
        say(&mut survivors, &written("v1", 0b111), &[1, 2, 3]);
        let moved = Record::Moved { content: content("v2", PAGE_SIZE + 1), stored: vec![].into(), settled: false };
        say(&mut survivors, &moved, &[]);
        assert_eq!(unsynced(&survivors), [(0, 1), (1, 2)]);
        let own = &survivors.mappings[&MmapId(1)].own;
        assert_eq!((own.len(), &own[&PageIndex(1)][..3]), (1, &[4, 0, 0][..]));
    }

    #[test]
    fn saying_everything_again_changes_nothing() {
        let mut once = Survivors::default();
        let facts = [(mapped(1), vec![]), (mapped(2), vec![]), (written("v1", 0b11), vec![1, 2])];
        for (record, images) in &facts {
            say(&mut once, record, images);
        }
        let mut twice = once.clone();
        for (record, images) in &facts {
            say(&mut twice, record, images);
        }
        assert_eq!(once, twice);
    }

    #[test]
    fn what_nobody_maps_and_has_nothing_unsynced_does_not_survive() {
        let mut survivors = Survivors::default();
        say(&mut survivors, &mapped(2), &[]);
        say(&mut survivors, &written("v1", 1), &[1]);
        say(&mut survivors, &Record::GivenUp { path: "/f".into(), blocks: vec![BlockPages(0, 1)].into() }, &[]);
        survivors.finish();
        assert_eq!(survivors.files.len(), 1, "it is mapped");
        say(&mut survivors, &Record::Unmapped { id: 2 }, &[]);
        survivors.finish();
        assert_eq!((survivors.files.len(), survivors.mappings.len()), (0, 0));
    }

    #[test]
    fn facts_about_what_is_not_known_are_passed_over() {
        let mut survivors = Survivors::default();
        say(&mut survivors, &Record::Unmapped { id: 3 }, &[]);
        say(&mut survivors, &Record::Copied { id: 3, blocks: vec![BlockPages(0, 1)].into() }, &[1]);
        say(&mut survivors, &Record::GivenUp { path: "/f".into(), blocks: vec![].into() }, &[]);
        assert_eq!(survivors, Survivors::default());
    }

    #[test]
    fn a_record_that_says_what_cannot_be_is_damage_and_nobodys_wrong_request() {
        let said = |start, end, prot| {
            let who = Who { subject: "".into(), pid: 7 };
            let record = Record::Mapped { id: 1, who, path: "/f".into(), start, end, prot, shared: true };
            let mut bytes = Vec::new();
            record.write_head(&mut bytes);
            Survivors::default().apply(&bytes).map_err(|error| error.errno())
        };
        assert_eq!(said(0, 1, 3), Ok(()));
        for (start, end, prot) in [(1, 0, 3), (1, 1, 3), (0, u64::MAX, 3), (0, 1, 0x61)] {
            assert_eq!(said(start, end, prot), Err(Errno::UClean), "{start} to {end}, prot {prot:#x}");
        }
    }
}
