//! The end of a process, the one operation that touches several files at once.

use mmap_core::error::Errno;
use mmap_core::manager::MmapId;

use crate::ops::FILES;
use crate::reference::{PAGE, RefMapping};
use crate::run::Run;
use crate::world::{Trouble, errno};

impl Run {
    /// Ends a process: all of its files are synced or given up, or it lives on.
    pub(crate) async fn exit(&mut self, pid: u32, discard: bool, trouble: Trouble) {
        let mine: Vec<RefMapping> = self.model.mappings.iter().filter(|mapping| mapping.pid == pid).cloned().collect();
        let ranges = |file: usize| -> Vec<std::ops::Range<usize>> {
            mine.iter().filter(|m| m.file == file && m.shared_writable()).map(RefMapping::pages).collect()
        };
        let result = errno(self.world.manager.exit(pid, discard).await);
        if result == Err(Errno::Srch) {
            assert!(mine.is_empty());
            return;
        }
        if discard {
            let busy =
                (0..FILES).any(|file| ranges(file).into_iter().any(|pages| self.model.others_write(file, pages, pid)));
            if busy {
                assert_eq!(result.err(), Some(Errno::Busy));
                return;
            }
            for file in 0..FILES {
                for pages in ranges(file) {
                    self.model.discard(file, pages);
                }
            }
        } else {
            let mut bytes = 0;
            let (mut stale, mut failed) = (false, false);
            for file in 0..FILES {
                let target = &mut self.model.files[file];
                let wanted = |page: &usize| ranges(file).iter().any(|pages| pages.contains(page));
                let pages: Vec<usize> = target.dirty.iter().copied().filter(wanted).collect();
                if pages.is_empty() {
                    continue;
                }
                if target.is_behind() {
                    stale = true;
                    continue;
                }
                let mut only = target.clone();
                only.dirty = pages.iter().copied().collect();
                let content = only.composed(0..usize::MAX);
                let real = self.world.peek(file).await;
                if real == target.stored && real != content {
                    failed = true;
                    continue;
                }
                // With bytes that are the same as the store's it cannot be seen whether it was written: if the
                // exit failed for want of the store, the pages may still be unsynced; see below.
                bytes += pages.len() * PAGE;
                target.put(content);
                target.base = target.stamp;
                if result.is_ok() || trouble == Trouble::None {
                    target.dirty.retain(|page| !pages.contains(page));
                } else {
                    failed = true;
                }
            }
            match result {
                Ok(exited) => {
                    assert!(!stale && !failed);
                    assert_eq!(exited.synced_bytes, bytes as u64);
                }
                Err(Errno::Stale) => assert!(stale),
                Err(Errno::Io) => assert_ne!(trouble, Trouble::None),
                Err(error) => panic!("{error:?}"),
            }
            if result.is_err() {
                return self.resync_dirty(trouble).await;
            }
        }
        assert_eq!(result.unwrap().unmapped, mine.len() as u64);
        self.model.mappings.retain(|mapping| mapping.pid != pid);
    }

    /// After an exit that failed in part, which pages are still unsynced is read off the manager: the store's
    /// content has been compared already, so that only the count can differ.
    async fn resync_dirty(&mut self, trouble: Trouble) {
        if trouble == Trouble::None {
            return;
        }
        self.world.chaos.calm();
        for file in 0..FILES {
            if self.model.files[file].is_behind() {
                continue;
            }
            let writers: Vec<RefMapping> = self
                .model
                .mappings
                .iter()
                .filter(|mapping| mapping.file == file && mapping.shared_writable())
                .cloned()
                .collect();
            for mapping in writers {
                let result = self.world.manager.msync(mapping.pid, MmapId(mapping.id)).await.unwrap();
                let target = &mut self.model.files[file];
                assert!(result.bytes <= (target.dirty_in(mapping.pages()) * PAGE) as u64);
                let content = target.composed(mapping.pages());
                target.put(content);
                target.base = target.stamp;
                target.dirty.retain(|page| !mapping.pages().contains(page));
            }
        }
    }
}
