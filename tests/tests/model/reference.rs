//! The reference: files, processes and mappings as plain byte vectors. It says what each operation must come
//! to; it knows nothing of blocks, caches, commits or versions beyond "the store changed since".

use std::collections::{BTreeMap, BTreeSet};

use mmap_core::error::Errno;

pub(crate) const PAGE: usize = 4096;

/// A file as everybody who maps it sees it, and as the store has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefFile {
    /// In the store: content, and a stamp that changes with each change.
    pub(crate) stored: Option<Vec<u8>>,
    pub(crate) stamp: u64,
    /// What mappings see, and the stamp it is based on. `None`: known to be missing.
    pub(crate) view: Option<Vec<u8>>,
    pub(crate) base: u64,
    /// Unsynced pages.
    pub(crate) dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct RefMapping {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// A private mapping's own pages.
    pub(crate) own: Option<BTreeMap<usize, Vec<u8>>>,
}

impl RefMapping {
    pub(crate) fn shared_writable(&self) -> bool {
        self.own.is_none() && self.write
    }

    pub(crate) fn pages(&self) -> std::ops::Range<usize> {
        self.start / PAGE..(self.start + self.len).div_ceil(PAGE)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Reference {
    pub(crate) files: Vec<RefFile>,
    pub(crate) mappings: Vec<RefMapping>,
}

impl RefFile {
    pub(crate) fn size(&self) -> usize {
        self.view.as_ref().map_or(0, Vec::len)
    }

    /// The store has something else than what mappings see.
    pub(crate) fn is_behind(&self) -> bool {
        self.base != self.stamp
    }

    pub(crate) fn is_conflict(&self) -> bool {
        self.is_behind() && !self.dirty.is_empty()
    }

    /// The store's content with the unsynced pages of `pages` on it.
    pub(crate) fn composed(&self, pages: std::ops::Range<usize>) -> Option<Vec<u8>> {
        let mut content = self.stored.clone()?;
        let view = self.view.as_deref().unwrap_or_default();
        for &page in self.dirty.range(pages) {
            // What lies behind the new end is kept aside.
            if page * PAGE >= content.len() {
                continue;
            }
            // A page replaces a page, with the zeros that it has behind the end it was written before.
            let (from, to) = ((page * PAGE).min(content.len()), ((page + 1) * PAGE).min(content.len()));
            let old = view.get(page * PAGE..).unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
            content[from..to].iter_mut().zip(old).for_each(|(byte, old)| *byte = old);
        }
        Some(content)
    }

    pub(crate) fn dirty_in(&self, pages: std::ops::Range<usize>) -> usize {
        self.dirty.range(pages).count()
    }

    /// Somebody changed the store.
    pub(crate) fn put(&mut self, content: Option<Vec<u8>>) {
        self.stored = content;
        self.stamp += 1;
    }
}

impl Reference {
    /// The file's mappings see the store's content now.
    pub(crate) fn notice(&mut self, file: usize) {
        let target = &mut self.files[file];
        let old = target.size();
        target.view = target.stored.clone();
        target.base = target.stamp;
        let size = target.size();
        target.dirty.retain(|page| page * PAGE < size);
        if size < old {
            self.cut_own(file, size);
        }
    }

    /// Drops what private mappings have behind a new end.
    pub(crate) fn cut_own(&mut self, file: usize, size: usize) {
        for mapping in self.mappings.iter_mut().filter(|mapping| mapping.file == file) {
            if let Some(own) = &mut mapping.own {
                own.retain(|page, _| page * PAGE < size);
                if !size.is_multiple_of(PAGE)
                    && let Some(page) = own.get_mut(&(size / PAGE))
                {
                    page[size % PAGE..].fill(0);
                }
            }
        }
    }

    /// The bytes that a read of the mapping sees, or why it fails.
    pub(crate) fn read(&self, mapping: &RefMapping, offset: usize, len: usize) -> Result<Vec<u8>, Errno> {
        self.check(mapping, offset, len, mapping.read)?;
        let file = &self.files[mapping.file];
        let view = file.view.as_deref().unwrap_or_default();
        let byte = |position: usize| {
            let own = mapping.own.as_ref().and_then(|own| own.get(&(position / PAGE)));
            own.map_or_else(|| view.get(position).copied().unwrap_or(0), |page| page[position % PAGE])
        };
        let start = mapping.start + offset;
        Ok((start..start + len).map(byte).collect())
    }

    pub(crate) fn check(&self, mapping: &RefMapping, offset: usize, len: usize, allowed: bool) -> Result<(), Errno> {
        if offset + len > mapping.len {
            return Err(Errno::SegvMapErr);
        }
        if !allowed {
            return Err(Errno::SegvAccErr);
        }
        let end = mapping.start + offset + len;
        if end > self.files[mapping.file].size().next_multiple_of(PAGE) {
            return Err(Errno::SigBus);
        }
        Ok(())
    }

    /// Writes through mapping number `index`.
    pub(crate) fn write(&mut self, index: usize, offset: usize, data: &[u8]) {
        let mapping = self.mappings[index].clone();
        let start = mapping.start + offset;
        let size = self.files[mapping.file].size();
        for (position, byte) in (start..).zip(data).filter(|(position, _)| *position < size) {
            let page = position / PAGE;
            if mapping.own.is_some() {
                let base = || {
                    let view = self.files[mapping.file].view.as_deref().unwrap_or_default();
                    let mut page_bytes = vec![0; PAGE];
                    let from = page * PAGE;
                    let to = (from + PAGE).min(view.len());
                    page_bytes[..to - from].copy_from_slice(&view[from..to]);
                    page_bytes
                };
                let fresh = base();
                if let Some(own) = &mut self.mappings[index].own {
                    own.entry(page).or_insert(fresh)[position % PAGE] = *byte;
                }
            } else {
                let file = &mut self.files[mapping.file];
                file.dirty.insert(page);
                if let Some(view) = &mut file.view {
                    view[position] = *byte;
                }
            }
        }
    }

    /// Whether a process other than `pid` may write an unsynced page of `pages` through a shared mapping.
    pub(crate) fn others_write(&self, file: usize, pages: std::ops::Range<usize>, pid: u32) -> bool {
        let others: Vec<_> = self
            .mappings
            .iter()
            .filter(|mapping| mapping.file == file && mapping.pid != pid && mapping.shared_writable())
            .collect();
        self.files[file].dirty.range(pages).any(|page| others.iter().any(|other| other.pages().contains(page)))
    }

    /// Unsynced pages are given up: the store's bytes show.
    pub(crate) fn discard(&mut self, file: usize, pages: std::ops::Range<usize>) {
        let target = &mut self.files[file];
        let doomed: Vec<usize> = target.dirty.range(pages).copied().collect();
        for page in doomed {
            target.dirty.remove(&page);
            let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(target.size()));
            // Only while the file is not behind is it known which bytes show; see the caller.
            if let (false, Some(view), Some(stored)) = (target.base != target.stamp, &mut target.view, &target.stored) {
                view[from..to].copy_from_slice(&stored[from..to]);
            }
        }
    }
}
