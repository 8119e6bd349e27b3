//! Unit tests of what one subject may have: another one is served whatever it does.

use std::sync::Arc;

use super::*;
use crate::error::Errno;
use crate::flags::{MapFlags, ProtFlags};
use crate::limits::{Limits, SubjectLimits};
use crate::state::StateDir;
use crate::units::BLOCK_SIZE;
use crate::vfs::object::ObjectLayout;
use crate::vfs::{Mount, Vfs};

/// Blocks that one subject may have unsynced.
const DIRTY: u64 = 8;

fn manager() -> Arc<MmapManager> {
    let bytes = Some(DIRTY * BLOCK_SIZE);
    let subject = SubjectLimits { mappings: Some(3), private: bytes, dirty: bytes };
    let limits = Limits { max_message: 256 * 1024, subject, ..Limits::with_memory(16 << 20) };
    let mount = Mount::with_store("/", Arc::new(ObjectLayout::in_memory())).unwrap();
    MmapManager::open(Vfs::new(vec![mount]).unwrap(), StateDir::none(), limits).unwrap()
}

fn caller(name: &str, pid: u32) -> Caller {
    Caller { subject: Subject::named(name), ..Caller::from(pid) }
}

async fn map(manager: &Arc<MmapManager>, caller: &Caller, path: &str, flags: MapFlags) -> Result<MmapId> {
    let request = MapRequest {
        path: path.to_owned(),
        offset: 0,
        length: Some(32 * BLOCK_SIZE),
        prot: ProtFlags::read_write(),
        flags,
        create: Create::IfMissing,
        populate: Populate::OnDemand,
    };
    Ok(manager.map(caller, request).await?.id)
}

/// Writes a page of each block until that is refused: how many there were, and why.
async fn write_on(manager: &MmapManager, caller: &Caller, id: MmapId) -> (u64, Option<Error>) {
    for block in 0..32 {
        if let Err(error) = manager.write(caller, id, block * BLOCK_SIZE, &[7; 4096]).await {
            return (block, Some(error));
        }
    }
    (32, None)
}

fn limit(error: &Error) -> &str {
    error.details().iter().find(|(key, _)| *key == "limit").map(|(_, value)| value.as_str()).unwrap()
}

#[tokio::test]
async fn a_subject_has_its_mappings_over_all_of_its_processes_and_another_has_its_own() {
    let manager = manager();
    let (noisy, beside, quiet) = (caller("noisy", 1), caller("noisy", 2), caller("quiet", 1));
    let first = map(&manager, &noisy, "/a", MapFlags::Shared).await.unwrap();
    for who in [&noisy, &beside] {
        map(&manager, who, "/a", MapFlags::Shared).await.unwrap();
    }
    let error = map(&manager, &beside, "/a", MapFlags::Shared).await.unwrap_err();
    assert_eq!((error.errno(), limit(&error)), (Errno::NoMem, "subject_mappings"));
    assert!(error.retry_delay().is_some());
    map(&manager, &quiet, "/a", MapFlags::Shared).await.unwrap();
    manager.munmap(&noisy, first).await.unwrap();
    map(&manager, &beside, "/a", MapFlags::Shared).await.unwrap();
    manager.exit(&beside, false).await.unwrap();
    for _ in 0..2 {
        map(&manager, &noisy, "/a", MapFlags::Shared).await.unwrap();
    }
}

#[tokio::test]
async fn a_subject_that_has_as_much_unsynced_as_it_may_is_refused_until_it_syncs_and_another_writes_on() {
    let manager = manager();
    let (noisy, quiet) = (caller("noisy", 1), caller("quiet", 1));
    let id = map(&manager, &noisy, "/a", MapFlags::Shared).await.unwrap();
    let (written, error) = write_on(&manager, &noisy, id).await;
    let error = error.unwrap();
    assert_eq!((written, error.errno(), limit(&error)), (DIRTY, Errno::DQuot, "subject_dirty"));
    assert!(error.retry_delay().is_some());
    manager.write(&noisy, id, 0, &[8; 4096]).await.expect("what is unsynced already costs no more");
    let other = map(&manager, &quiet, "/b", MapFlags::Shared).await.unwrap();
    assert_eq!(write_on(&manager, &quiet, other).await.0, DIRTY, "its own limit, and not the other's use");
    manager.msync(&noisy, id).await.unwrap();
    assert_eq!(write_on(&manager, &noisy, id).await.0, DIRTY);
}

#[tokio::test]
async fn a_subjects_private_pages_have_their_limit_and_come_back_with_the_mapping() {
    let manager = manager();
    let (noisy, quiet) = (caller("noisy", 1), caller("quiet", 1));
    for round in 0..3 {
        let id = map(&manager, &noisy, "/a", MapFlags::Private).await.unwrap();
        // A page of each block: 32 are less than may be, so more are written.
        assert!(write_on(&manager, &noisy, id).await.1.is_none());
        let mut error = None;
        for page in 0..DIRTY * 16 {
            error = error.or(manager.write(&noisy, id, 4096 * page, &[9; 4096]).await.err());
        }
        let error = error.unwrap();
        assert_eq!((error.errno(), limit(&error)), (Errno::NoMem, "subject_private"), "round {round}");
        let other = map(&manager, &quiet, "/a", MapFlags::Private).await.unwrap();
        assert!(write_on(&manager, &quiet, other).await.1.is_none());
        manager.munmap(&noisy, id).await.unwrap();
        manager.munmap(&quiet, other).await.unwrap();
    }
}
