//! A crash at every step of every kind of change, and of the finishing after a crash: killed, or without power.
//! Afterwards a file is as it was or as it was to be, and as it was to be if the change had answered.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::copy::Cancelled;
use super::faults::FaultyDisk;
use super::root::Root;
use super::*;
use crate::vfs::store::{Base, CommitId, Patch};

/// Files above it are changed in place here.
const REWRITE_MAX: u64 = 4096;
/// Power failures for each step.
const SEEDS: u64 = 12;

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    /// With the seed of what is lost.
    Power(u64),
}

fn ends() -> impl Iterator<Item = End> {
    std::iter::once(End::Kill).chain((1..=SEEDS).map(End::Power))
}

/// A change and what the file is before and after it.
struct Case {
    what: &'static str,
    before: Option<Vec<u8>>,
    /// None: it is removed.
    after: Option<Vec<u8>>,
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index / 7 + seed * 31) % 251).expect("small")).collect()
}

fn cases() -> Vec<Case> {
    let large = bytes(20_000, 1);
    let mut patched = large.clone();
    patched[100..700].fill(0xAA);
    patched[9_000..12_500].fill(0xBB);
    let mut grown = patched.clone();
    grown.resize(26_000, 0);
    grown[25_000..25_100].fill(0xCC);
    let mut cut = patched[..11_000].to_vec();
    cut[10_999] = 1;
    let case = |what, before, after| Case { what, before, after };
    vec![
        case("create", None, Some(bytes(3000, 2))),
        case("replace", Some(bytes(3000, 1)), Some(bytes(3500, 2))),
        case("change in place", Some(large.clone()), Some(patched)),
        case("change in place and grow", Some(large.clone()), Some(grown)),
        case("change in place and cut", Some(large.clone()), Some(cut)),
        case("grow", Some(large.clone()), Some([&large[..], &[0; 5000]].concat())),
        case("cut", Some(large.clone()), Some(large[..5001].to_vec())),
        case("cut to a small one", Some(large.clone()), Some(large[..50].to_vec())),
        case("remove", Some(large), None),
    ]
}

/// The patches that make `after` of `before`.
fn patches(before: &[u8], after: &[u8]) -> Vec<Patch> {
    let mut patches = Vec::new();
    for (index, part) in after.chunks(500).enumerate() {
        let old = before.get(index * 500..).unwrap_or_default();
        let zeros = old.is_empty() && part.iter().all(|byte| *byte == 0);
        if old.get(..part.len()) != Some(part) && !zeros {
            let data = Bytes::copy_from_slice(part);
            patches.push(Patch { offset: index as u64 * 500, data, dirty: true });
        }
    }
    patches
}

struct Scene {
    folder: TempDir,
    aside: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), aside: tempfile::tempdir().expect("a folder") }
    }

    fn disk(&self, stop_at: Option<usize>) -> Arc<FaultyDisk> {
        FaultyDisk::new(self.aside.path(), stop_at)
    }

    fn root(&self, disk: &Arc<FaultyDisk>) -> Root {
        let root = Root::open(self.folder.path(), false, disk.disk()).expect("it opens");
        Root { rewrite_max: REWRITE_MAX, ..root }
    }

    fn make(&self, case: &Case) {
        if let Some(before) = &case.before {
            fs::write(self.folder.path().join("file"), before).expect("it is made");
        }
    }

    fn content(&self) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join("file")).ok()
    }

    /// What lies in the server's own folders.
    fn leftovers(&self) -> usize {
        let count = |name| fs::read_dir(self.folder.path().join(name)).map_or(0, |entries| entries.count());
        count(".mmapd-tmp") + count(".mmapd-redo")
    }
}

/// Makes the change, and says whether it answered.
fn run(root: &Root, case: &Case) -> StoreResult<Option<CommitId>> {
    let (name, cancelled) = (Path::new("file"), Cancelled::default());
    let Some(after) = &case.after else { return root.remove(name, &cancelled).map(|()| None) };
    let base = match &case.before {
        None => Base::Missing,
        Some(_) => {
            let stat = root.stat(name, &cancelled)?;
            Base::At { version: stat.version, size: stat.size }
        }
    };
    let patches = patches(case.before.as_deref().unwrap_or_default(), after);
    let change = WriteBack { base, size: after.len() as u64, patches, commit: CommitId::random() };
    let commit = change.commit;
    root.write_back(name, change, &cancelled).map(|_| Some(commit))
}

/// Ends the process of `disk`.
fn end(disk: &FaultyDisk, end: End) {
    if let End::Power(seed) = end {
        let mut state = seed;
        disk.lose_power(|| {
            // SplitMix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        });
    }
}

fn check(scene: &Scene, case: &Case, answered: Option<Option<CommitId>>, when: &str) {
    let disk = scene.disk(None);
    let root = scene.root(&disk);
    root.finish_all();
    remove_leftovers(&root);
    let content = scene.content();
    let (old, new) = (content == case.before, content == case.after);
    assert!(old || new, "{when}: neither the old content nor the new");
    assert_eq!(scene.leftovers(), 0, "{when}: something is left");
    if let Some(commit) = answered {
        assert!(new, "{when}: it had answered, and is gone");
        if let Some(commit) = commit {
            let stat = root.stat(Path::new("file"), &Cancelled::default()).expect("it is there");
            assert_eq!(stat.commit, Some(commit), "{when}: its mark is gone");
        }
    }
}

#[test]
fn a_crash_at_any_step_of_a_change_leaves_the_old_content_or_the_new() {
    for case in cases() {
        for how in ends() {
            for stop_at in 0.. {
                let scene = Scene::new();
                scene.make(&case);
                let disk = scene.disk(Some(stop_at));
                let answered = run(&scene.root(&disk), &case).ok();
                end(&disk, how);
                check(&scene, &case, answered, &format!("{} stopped at step {stop_at}, {how:?}", case.what));
                if disk.steps() <= stop_at {
                    assert!(answered.is_some(), "{} was not stopped and failed", case.what);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_crash_at_any_step_of_finishing_after_a_crash_leaves_the_old_content_or_the_new() {
    let in_place = |case: &Case| case.what.contains("in place");
    for case in cases().into_iter().filter(in_place) {
        let mut finished = 0;
        for (stop_at, how) in (0..40).flat_map(|stop_at| ends().map(move |how| (stop_at, how))) {
            for again in 0.. {
                let scene = Scene::new();
                scene.make(&case);
                let disk = scene.disk(Some(stop_at));
                let answered = run(&scene.root(&disk), &case).ok();
                end(&disk, how);
                let second = scene.disk(Some(again));
                scene.root(&second).finish_all();
                end(&second, how);
                finished += usize::from(second.steps() > 0);
                check(&scene, &case, answered, &format!("{} stopped at {stop_at} and {again}, {how:?}", case.what));
                if second.steps() <= again {
                    break;
                }
            }
        }
        assert!(finished > 100, "{}: only {finished} crashes left something to finish", case.what);
    }
}
