//! [`Run`]: the manager and the reference side by side; each step is done on both and compared.

use mmap_core::error::Errno;
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::manager::{Caller, Create, MapRequest, MmapId, OnChange, Populate, SyncRequest, SyncWait, Unsynced};

use crate::ops::{FILES, Op};
use crate::reference::{PAGE, RefMapping, Reference};
use crate::world::{Trouble, World, errno, path};

/// Both sides of the comparison.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) model: Reference,
}

impl Run {
    /// All files but one are there from the start.
    pub(crate) async fn new() -> Self {
        let mut model = Reference::default();
        model.files.resize_with(FILES, Default::default);
        let mut run = Self { world: World::new(), model };
        for (file, size) in [3 * PAGE + 5, 2 * 65_536 + 77, 150_000].into_iter().enumerate() {
            run.outside(file, Some(patterned(size, 1))).await;
        }
        run
    }

    /// Does one operation on both sides, and compares.
    pub(crate) async fn step(&mut self, op: Op, trouble: Trouble) {
        self.world.fail(trouble);
        match op {
            Op::Map { .. } => self.map(op, trouble).await,
            Op::Read { mapping, offset, len } => self.read(mapping, offset, len, trouble).await,
            Op::Write { mapping, offset, len, byte } => self.write(mapping, offset, &vec![byte; len], trouble).await,
            Op::Sync { mapping, range, on_change } => self.sync(mapping, range, on_change, trouble).await,
            Op::Unmap { mapping, how } => self.unmap(mapping, how, trouble).await,
            Op::Exit { pid, discard } => self.exit(pid, discard, trouble).await,
            Op::Truncate { file, size, create } => self.truncate(file, size, create, trouble).await,
            Op::Remove { file } => self.remove(file, trouble).await,
            Op::Outside { file, content } => {
                self.outside(file, content.map(|(size, byte)| patterned(size, byte))).await;
            }
        }
        self.world.chaos.calm();
        for file in 0..FILES {
            assert!(self.world.peek(file).await == self.model.files[file].stored, "file {file} in the store differs");
        }
    }

    /// Somebody else changes or removes the file.
    async fn outside(&mut self, file: usize, content: Option<Vec<u8>>) {
        self.world.put(file, content.as_deref()).await;
        if content.is_some() || self.model.files[file].stored.is_some() {
            self.model.files[file].put(content);
        }
    }

    /// Learns from the manager whether it has noticed an outside change of a file without unsynced pages.
    async fn learn(&mut self, file: usize) {
        let target = &self.model.files[file];
        if !target.is_behind() || !target.dirty.is_empty() {
            return;
        }
        if let Some(mapping) = self.model.mappings.iter().find(|mapping| mapping.file == file)
            && !self.world.is_behind(mapping.id, file).await
        {
            self.model.notice(file);
        }
    }

    /// The store was asked: without unsynced pages the file is the new content.
    fn asked(&mut self, file: usize) {
        if self.model.files[file].dirty.is_empty() {
            self.model.notice(file);
        }
    }

    async fn map(&mut self, op: Op, trouble: Trouble) {
        let Op::Map { pid, file, start, len, prot, shared, create, populate } = op else { unreachable!() };
        let prot = ProtFlags::from_bits(prot).unwrap();
        let request = MapRequest {
            path: path(file),
            offset: start as u64,
            length: Some(len as u64),
            prot,
            flags: if shared { MapFlags::Shared } else { MapFlags::Private },
            create: if create { Create::IfMissing } else { Create::Never },
            populate: if populate { Populate::Now } else { Populate::OnDemand },
        };
        let result = errno(self.world.manager.map(pid, request).await);
        if result == Err(Errno::Io) {
            assert_ne!(trouble, Trouble::None);
            let landed = self.world.peek(file).await;
            if landed != self.model.files[file].stored {
                assert!(create && landed == Some(vec![0; start + len]));
                // It was seen to be missing before it was made. That it is made shows as soon as the store is asked,
                // and unsynced pages are on zeros then, as if the answer had come.
                self.asked(file);
                self.model.files[file].put(landed);
                self.world.chaos.calm();
                let _ = self.world.manager.stat_file(1, &path(file)).await;
                self.rebased(file);
            }
            return self.learn(file).await;
        }
        let behind_populate = populate && self.model.files[file].is_conflict();
        if result == Err(Errno::Stale) {
            assert!(behind_populate);
            return;
        }
        self.asked(file);
        let target = &mut self.model.files[file];
        if target.stored.is_none() && (create || target.dirty.is_empty()) {
            if !create {
                assert_eq!(result, Err(Errno::NoEnt));
                return;
            }
            // Making it is what a conflict with a removed file needs, too: the unsynced pages are on zeros now.
            target.put(Some(vec![0; start + len]));
            self.rebased(file);
        }
        if self.model.files[file].stored.is_none() {
            assert_eq!(result, Err(Errno::NoEnt));
            return;
        }
        let mapped = result.unwrap();
        assert_eq!((mapped.length, mapped.file_size), (len as u64, self.model.files[file].size() as u64));
        let own = (!shared).then(Default::default);
        let (read, write) = (prot.can_read(), prot.can_write());
        self.model.mappings.push(RefMapping { id: mapped.id.0, pid, file, start, len, read, write, own });
    }

    fn pick(&self, mapping: usize) -> Option<usize> {
        (!self.model.mappings.is_empty()).then(|| mapping % self.model.mappings.len())
    }

    async fn read(&mut self, mapping: usize, offset: usize, len: usize, trouble: Trouble) {
        let Some(index) = self.pick(mapping) else { return };
        let mapping = self.model.mappings[index].clone();
        let (manager, id, at) = (&self.world.manager, MmapId(mapping.id), offset as u64);
        let tried = errno(manager.try_read(&Caller::from(mapping.pid), id, at, len as u64));
        let result = manager.read(mapping.pid, id, at, len as u64).await;
        let result = errno(result.map(|bytes| bytes.into_bytes().to_vec()));
        match tried {
            Ok(Some(tried)) => {
                assert!(result == Ok(tried.into_bytes().to_vec()), "the form that does not wait differs")
            }
            Ok(None) => {}
            Err(tried) => assert_eq!(result, Err(tried)),
        }
        self.learn(mapping.file).await;
        match result {
            Err(Errno::Io) => assert_ne!(trouble, Trouble::None),
            Err(Errno::Stale) => assert!(self.model.files[mapping.file].is_conflict()),
            result => {
                let mapping = self.model.mappings[index].clone();
                assert!(result == self.model.read(&mapping, offset, len), "a read differs: {:?}", result.err());
            }
        }
    }

    async fn write(&mut self, mapping: usize, offset: usize, data: &[u8], trouble: Trouble) {
        let Some(index) = self.pick(mapping) else { return };
        let mapping = self.model.mappings[index].clone();
        let (id, caller) = (MmapId(mapping.id), Caller::from(mapping.pid));
        // In three slices, which meet anywhere.
        let (head, tail) = data.split_at(offset % data.len());
        let slices = [head, &tail[..tail.len() / 2], &tail[tail.len() / 2..]];
        let result = match self.world.manager.try_write(&caller, id, offset as u64, &slices) {
            Ok(None) => self.world.manager.begin_write(&caller, id, offset as u64, &slices).await,
            Ok(Some(written)) => Ok(written),
            Err(error) => Err(error),
        };
        let result = match result {
            Ok(written) => written.wait().await,
            Err(error) => Err(error),
        };
        // A write that the manager took over may have noticed an outside change first.
        self.learn(mapping.file).await;
        let target = &self.model.files[mapping.file];
        match errno(result) {
            Err(Errno::Io) => assert_ne!(trouble, Trouble::None),
            Err(Errno::Stale) => assert!(target.is_conflict()),
            Ok(written) => {
                if target.is_behind()
                    && target.dirty.is_empty()
                    && !self.world.is_behind(mapping.id, mapping.file).await
                {
                    self.model.notice(mapping.file);
                }
                assert_eq!(self.model.check(&mapping, offset, data.len(), mapping.write), Ok(()));
                assert_eq!(written, data.len() as u64);
                self.model.write(index, offset, data);
            }
            Err(error) => {
                assert_eq!(self.model.check(&mapping, offset, data.len(), mapping.write), Err(error));
            }
        }
    }

    /// The unsynced pages of a file lie on the store's content now.
    fn rebased(&mut self, file: usize) {
        let target = &mut self.model.files[file];
        let size = target.stored.as_ref().map_or(0, Vec::len);
        let composed = target.composed(0..usize::MAX);
        let old = target.size();
        target.dirty.retain(|page| page * PAGE < size);
        target.view = composed;
        target.base = target.stamp;
        if size < old {
            self.model.cut_own(file, size);
        }
    }

    /// What a plain sync of `pages` must come to: bytes, or a failure. Applies it.
    async fn synced(
        &mut self,
        file: usize,
        pages: std::ops::Range<usize>,
        result: Result<u64, Errno>,
        force: bool,
        trouble: Trouble,
    ) {
        let dirty = self.model.files[file].dirty_in(pages.clone());
        if dirty == 0 {
            assert_eq!(result, Ok(0));
            return;
        }
        if result == Err(Errno::Io) {
            assert_ne!(trouble, Trouble::None);
            return self.landed_perhaps(file, pages).await;
        }
        if self.model.files[file].is_conflict() {
            if !force {
                assert_eq!(result, Err(Errno::Stale));
                return;
            }
            if self.model.files[file].stored.is_none() {
                assert_eq!(result, Err(Errno::NoEnt));
                return;
            }
            self.rebased(file);
        }
        let target = &mut self.model.files[file];
        let dirty = target.dirty_in(pages.clone());
        assert_eq!(result, Ok((dirty * PAGE) as u64));
        if dirty > 0 {
            let content = target.composed(pages.clone());
            target.put(content);
            target.base = target.stamp;
            target.dirty.retain(|page| !pages.contains(page));
        }
    }

    /// A write-back failed: the store has the old content or all of the new, and nothing is clean.
    async fn landed_perhaps(&mut self, file: usize, pages: std::ops::Range<usize>) {
        let real = self.world.peek(file).await;
        let target = &mut self.model.files[file];
        if real == target.stored && !target.is_behind() {
            return;
        }
        if target.is_behind() {
            // A forced sync may have put the pages onto the new content before it failed.
            let behind = match self.model.mappings.iter().find(|mapping| mapping.file == file) {
                Some(mapping) => self.world.is_behind(mapping.id, file).await && real == self.model.files[file].stored,
                None => true,
            };
            if behind {
                return;
            }
            self.rebased(file);
        }
        let target = &mut self.model.files[file];
        if real != target.stored {
            assert!(real == target.composed(pages), "a failed write-back left a mixture in the store");
            target.put(real);
            target.base = target.stamp;
        }
    }

    async fn sync(&mut self, mapping: usize, range: Option<(usize, usize)>, on_change: OnChange, trouble: Trouble) {
        let Some(index) = self.pick(mapping) else { return };
        let mapping = self.model.mappings[index].clone();
        let request = SyncRequest {
            offset: range.map(|(offset, _)| offset as u64),
            length: range.map(|(_, len)| len as u64),
            wait: SyncWait::Stored,
            on_change,
        };
        let result = self.world.manager.sync(mapping.pid, MmapId(mapping.id), request).await;
        let result = errno(result.map(|synced| synced.bytes));
        let (offset, len) = range.unwrap_or((0, mapping.len));
        if offset + len > mapping.len {
            assert_eq!(result, Err(Errno::SegvMapErr));
            return;
        }
        let start = mapping.start + offset;
        let pages = start / PAGE..(start + len).div_ceil(PAGE);
        if on_change == OnChange::Invalidate {
            return self.invalidated(&mapping, pages, result, trouble).await;
        }
        if !mapping.shared_writable() {
            assert_eq!(result, Ok(0));
            return;
        }
        self.synced(mapping.file, pages, result, on_change == OnChange::Force, trouble).await;
        self.learn(mapping.file).await;
    }

    async fn invalidated(
        &mut self,
        mapping: &RefMapping,
        pages: std::ops::Range<usize>,
        result: Result<u64, Errno>,
        trouble: Trouble,
    ) {
        let file = mapping.file;
        if result == Err(Errno::Io) {
            assert_ne!(trouble, Trouble::None);
            self.landed_perhaps(file, pages).await;
            return self.learn(file).await;
        }
        let target = &self.model.files[file];
        if !target.is_conflict() {
            self.asked(file);
            return self.synced(file, pages, result, false, trouble).await;
        }
        if target.dirty_in(pages.clone()) != target.dirty.len() {
            assert_eq!(result, Err(Errno::Stale));
        } else if self.model.others_write(file, pages, mapping.pid) {
            assert_eq!(result, Err(Errno::Busy));
        } else {
            assert_eq!(result, Ok(0));
            self.model.files[file].dirty.clear();
            self.model.notice(file);
        }
    }

    async fn unmap(&mut self, mapping: usize, how: Unsynced, trouble: Trouble) {
        let Some(index) = self.pick(mapping) else { return };
        let mapping = self.model.mappings[index].clone();
        let result = errno(self.world.manager.unmap(mapping.pid, MmapId(mapping.id), how).await);
        let gone = result.is_ok();
        if !mapping.shared_writable() {
            assert_eq!(result, Ok(0));
        } else {
            match how {
                Unsynced::Sync | Unsynced::SyncForce => {
                    let force = how == Unsynced::SyncForce;
                    self.synced(mapping.file, mapping.pages(), result, force, trouble).await;
                }
                Unsynced::Discard if self.model.others_write(mapping.file, mapping.pages(), mapping.pid) => {
                    assert_eq!(result, Err(Errno::Busy));
                }
                Unsynced::Discard | Unsynced::DiscardForce => {
                    assert_eq!(result, Ok(0));
                    self.model.discard(mapping.file, mapping.pages());
                }
            }
        }
        if gone {
            self.model.mappings.remove(index);
        }
        self.learn(mapping.file).await;
    }

    async fn truncate(&mut self, file: usize, size: usize, create: bool, trouble: Trouble) {
        let make = if create { Create::IfMissing } else { Create::Never };
        let result = errno(self.world.manager.truncate_file(1, &path(file), size as u64, make).await);
        if result.as_ref().err() == Some(&Errno::Io) {
            assert_ne!(trouble, Trouble::None);
            // Whether it took effect shows as soon as the store is asked.
            self.world.chaos.calm();
            let _ = self.world.manager.stat_file(1, &path(file)).await;
            let real = self.world.peek(file).await;
            if real == self.model.files[file].stored {
                return self.learn(file).await;
            }
        }
        let target = &self.model.files[file];
        if target.stored.is_none() && !create {
            assert_eq!(result.err(), Some(Errno::NoEnt));
            self.asked(file);
            return;
        }
        if target.is_conflict() && target.stored.is_some() {
            assert_eq!(result.err(), Some(Errno::Stale));
            return;
        }
        if let Ok(truncated) = result {
            assert_eq!(truncated.size, size as u64);
        }
        self.asked(file);
        let target = &mut self.model.files[file];
        let made = target.stored.is_none();
        let mut content = target.stored.clone().unwrap_or_default();
        if made || content.len() != size {
            content.resize(size, 0);
            target.put(Some(content));
        }
        self.rebased(file);
        let target = &mut self.model.files[file];
        if let Some(view) = &mut target.view {
            view.truncate(size);
        }
    }

    async fn remove(&mut self, file: usize, trouble: Trouble) {
        let result = errno(self.world.manager.remove_file(1, &path(file)).await);
        if result == Err(Errno::Io) {
            assert_ne!(trouble, Trouble::None);
            return self.learn(file).await;
        }
        self.asked(file);
        let target = &mut self.model.files[file];
        if target.stored.is_none() {
            assert_eq!(result, Err(Errno::NoEnt));
        } else if self.model.mappings.iter().any(|mapping| mapping.file == file) || !target.dirty.is_empty() {
            assert_eq!(result, Err(Errno::Busy));
        } else {
            assert_eq!(result, Ok(()));
            target.put(None);
            self.model.notice(file);
        }
    }
}

/// Content in which no page is like the next, and no byte is zero: zeros would hide bytes that got lost.
fn patterned(size: usize, byte: u8) -> Vec<u8> {
    (0..size).map(|position| byte.wrapping_add(u8::try_from(position / 512 % 251).unwrap()) | 1).collect()
}
