//! State directories that a server must not start on, or only with what is left of them: each refusal is a sentence
//! that says what to do, the exit code is not 0, and nothing was touched.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mmap_proto::v1;
use mmap_tests::mmapd::{Ended, Mmapd, Setup};
use mmap_tests::require::{Missing, available};
use mmap_tests::wire::{Caller, map_request};
use tempfile::TempDir;

const PAGE: usize = 4096;
const PID: u32 = 7;
const REFUSAL_DEADLINE: Duration = Duration::from_secs(30);
const WRONG: i32 = 2;
const FAILED: i32 = 1;

/// A state directory and a folder mounted at `/data`.
struct Place {
    folder: TempDir,
}

/// The bytes of every file of the state directory but those that any start may write.
type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        Self { folder }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn setup(&self) -> Setup {
        Setup::new().state_dir(&self.state())
    }

    fn mounted(&self) -> Setup {
        self.setup().mount("/data", &format!("file://{}", self.folder.path().join("files").display()))
    }

    fn files(&self) -> Files {
        let mut files = Files::new();
        collect(&self.state(), &mut files);
        files
    }

    /// The segment that holds a page of `fill`, and where in it.
    fn find(&self, fill: u8) -> (PathBuf, usize) {
        let page = vec![fill; PAGE];
        for (path, bytes) in self.files().into_iter().filter(|(path, _)| path.extension() == Some("wal".as_ref())) {
            if let Some(at) = bytes.windows(PAGE).position(|window| window == page) {
                return (path, at);
            }
        }
        panic!("no segment has the page of {fill}");
    }

    /// Starts a server that has to refuse, and to leave everything as it is.
    fn refused(&self, setup: Setup, code: i32, words: &[&str]) {
        let before = self.files();
        let ended = setup.run_to_end(REFUSAL_DEADLINE);
        check_refusal(&ended, code, words);
        assert!(before == self.files(), "the state directory was touched: {:?}", changed(&before, &self.files()));
    }
}

fn collect(folder: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if !["lock", "next-mmap-id"].map(Some).contains(&path.file_name().and_then(|name| name.to_str())) {
            let bytes = std::fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
}

fn changed<'a>(before: &'a Files, after: &'a Files) -> Vec<&'a PathBuf> {
    let all = before.keys().chain(after.keys());
    all.filter(|path| before.get(*path) != after.get(*path)).collect()
}

#[track_caller]
fn check_refusal(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(code), "{ended:?}");
    assert!(ended.stdout.is_empty() && !ended.stderr.contains("panicked"), "{ended:?}");
    let told = ended.stderr.lines().find(|line| line.starts_with("mmapd: ")).unwrap_or_default();
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told:?}: {ended:?}");
    }
}

/// Writes three pages, of A, B and C, in this order, each acknowledged, and kills the server: the mapping.
async fn three_writes(server: Mmapd) -> u64 {
    let caller = Caller::connect(server.addr(), PID).await;
    let id = caller.map_shared("/data/f", 4 * PAGE as u64).await;
    for (index, fill) in (0..).zip(*b"ABC") {
        caller.write(id, index * PAGE as u64, vec![fill; PAGE]).await.unwrap();
    }
    server.sigkill();
    id
}

/// The first byte of each page of the mapping.
async fn pages(server: &Mmapd, id: u64) -> Vec<u8> {
    let content = Caller::connect(server.addr(), PID).await.read(id, 0, 4 * PAGE as u64).await.unwrap();
    content.chunks(PAGE).map(|page| page[0]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_an_acknowledged_record_is_refused_until_its_loss_is_accepted() {
    let place = Place::new();
    let id = three_writes(place.mounted().start()).await;
    let (segment, at) = place.find(b'B');
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[at + 1000] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    let name = segment.display().to_string();
    place.refused(place.mounted(), FAILED, &[&name, "damaged", "was acknowledged", "--accept-journal-loss"]);

    let damaged = std::fs::read(&segment).unwrap();
    let server = place.mounted().args(["--accept-journal-loss"]).start();
    assert_eq!(pages(&server, id).await, [b'A', 0, 0, 0], "everything before the damage, and nothing behind it");
    let told = server.stderr();
    assert!(told.contains("LOST: ") && told.contains("bytes of the journal"), "{told}");
    let kept = format!("{name}.damaged");
    assert!(std::fs::read(kept).unwrap() == damaged, "what could not be read is kept");
    // It was said once, and is not damaged any more.
    server.sigkill();
    let server = place.mounted().start();
    assert_eq!(pages(&server, id).await, [b'A', 0, 0, 0]);
    assert!(!server.stderr().contains("LOST"), "{}", server.stderr());
}

/// CRC-32 as in zlib, of `parts` one after the other.
fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_of_a_newer_format_is_refused() {
    let place = Place::new();
    three_writes(place.mounted().start()).await;
    let (segment, _) = place.find(b'B');
    let mut bytes = std::fs::read(&segment).unwrap();
    // The head: 8 bytes of magic, the version, the checksum of everything else, and 24 bytes more.
    assert_eq!(crc32(&[&bytes[..12], &bytes[16..40]]).to_le_bytes(), bytes[12..16]);
    bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
    let crc = crc32(&[&bytes[..12], &bytes[16..40]]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&segment, &bytes).unwrap();
    let words = [segment.to_str().unwrap(), "format 9", "start the version that wrote it"];
    place.refused(place.mounted(), WRONG, &words);
    place.refused(place.mounted().args(["--accept-journal-loss"]), WRONG, &words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_segment_of_ours_is_refused() {
    let place = Place::new();
    three_writes(place.mounted().start()).await;
    let (segment, _) = place.find(b'B');
    std::fs::write(segment.with_file_name("00000000000000ff.wal"), "a shopping list").unwrap();
    place.refused(place.mounted(), FAILED, &["00000000000000ff.wal", "no journal segment of mmapd", "move it out"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_in_use_is_refused_and_its_server_goes_on() {
    let place = Place::new();
    let server = place.mounted().start();
    let caller = Caller::connect(server.addr(), PID).await;
    let id = caller.map_shared("/data/f", 100).await;
    caller.write(id, 0, &b"mine"[..]).await.unwrap();
    let state = place.state().display().to_string();
    place.refused(place.mounted(), FAILED, &[&state, "in use by another server", "name another directory"]);
    assert_eq!(caller.read(id, 0, 4).await.unwrap(), "mine");
    caller.msync(id).await.unwrap();
    assert!(server.sigterm().status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_state_directory_is_refused() {
    let place = Place::new();
    let id = three_writes(place.mounted().start()).await;
    let before = place.files();
    let setup = place.mounted();
    let plain = setup.command();
    let unshare = |end: &str| {
        // The directory once more, above itself: modes alone would not keep root from writing.
        let script = format!("mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"{end}");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script]).arg(place.state());
        command
    };
    if !unshare("").output().is_ok_and(|output| output.status.success()) {
        available::<()>(Err(Missing {
            component: "a mount namespace (unshare --map-root-user --mount)".to_owned(),
            remedy: "run as root, or allow unprivileged user namespaces".to_owned(),
        }));
        return;
    }
    let mut command = unshare(" && exec timeout 30 \"$@\"");
    let output = command.arg(plain.get_program()).args(plain.get_args()).output().unwrap();
    let ended = Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    let state = place.state().display().to_string();
    check_refusal(&ended, FAILED, &[&state, "cannot be written", "--state-dir"]);
    assert!(before == place.files());
    assert_eq!(pages(&place.mounted().start(), id).await, [b'A', b'B', b'C', 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn level_memory_over_a_journal_is_refused() {
    let place = Place::new();
    let id = three_writes(place.mounted().start()).await;
    let words = [place.state().join("journal").display().to_string(), "--durability process".to_owned()];
    place.refused(place.mounted().args(["--durability", "memory"]), WRONG, &words.each_ref().map(String::as_str));
    assert_eq!(pages(&place.mounted().start(), id).await, [b'A', b'B', b'C', 0]);
}

/// Makes a server of 1 GiB hold unsynced pages in `blocks` blocks of a file of each mount.
async fn sparse_writes(server: &Mmapd, paths: &[&str], blocks: u64) {
    let caller = Caller::connect(server.addr(), PID).await;
    for path in paths {
        let id = caller.map_shared(path, blocks << 16).await;
        for block in 0..blocks {
            caller.write(id, block << 16, &b"sparse"[..]).await.unwrap();
        }
    }
}

/// Every one of these writes is there, in memory or (over the soft limit of unsynced bytes) stored by now.
async fn check_sparse(server: &Mmapd, path: &str, blocks: u64) {
    let caller = Caller::connect(server.addr(), PID).await;
    let mappings = caller.list_mappings(None).await.unwrap();
    assert_eq!((mappings.len(), mappings[0].path.as_str()), (1, path));
    for block in 0..blocks {
        assert_eq!(caller.read(mappings[0].id, block << 16, 7).await.unwrap(), &b"sparse\0"[..], "block {block}");
    }
}

/// The number of MiB that a refusal asks for.
fn asked_for(ended: &Ended) -> u64 {
    let (_, rest) = ended.stderr.split_once("start with --memory ").unwrap_or_else(|| panic!("{ended:?}"));
    rest.split_once("MiB").unwrap().0.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_budget_that_the_journal_does_not_fit_into_is_refused_and_the_one_asked_for_suffices() {
    let place = Place::new();
    let server = place.mounted().args(["--memory", "1GiB"]).start();
    sparse_writes(&server, &["/data/f"], 160).await;
    server.sigkill();
    let small = || place.mounted().args(["--memory", "34MiB"]);
    place.refused(small(), FAILED, &["journal", "too small", "start with --memory"]);
    let enough = asked_for(&small().run_to_end(REFUSAL_DEADLINE));
    let server = place.mounted().args(["--memory".to_owned(), format!("{enough}MiB")]).start();
    check_sparse(&server, "/data/f", 160).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_budget_asked_for_suffices_for_one_of_two_mounts_too() {
    let place = Place::new();
    let other = place.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let mounted = || place.mounted().mount("/other", &format!("file://{}", other.display()));
    let server = mounted().args(["--memory", "1GiB"]).start();
    // Of 34 MiB a quarter is for unsynced blocks, and three quarters of that for each of two mounts: 102 blocks.
    sparse_writes(&server, &["/data/f"], 120).await;
    server.sigkill();
    let small = || mounted().args(["--memory", "34MiB"]);
    place.refused(small(), FAILED, &["journal", "too small", "start with --memory"]);
    let enough = asked_for(&small().run_to_end(REFUSAL_DEADLINE));
    let server = mounted().args(["--memory".to_owned(), format!("{enough}MiB")]).start();
    check_sparse(&server, "/data/f", 120).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_budget_that_private_pages_do_not_fit_into_is_refused_and_the_one_asked_for_suffices() {
    let place = Place::new();
    let server = place.mounted().args(["--memory", "1GiB"]).start();
    let caller = Caller::connect(server.addr(), PID).await;
    caller.map_shared("/data/f", 8 << 20).await;
    let private = v1::MmapRequest { shared: false, ..map_request("/data/f", 8 << 20) };
    let id = caller.mmap(private).await.unwrap().mmap_id;
    for mebibyte in 0..6 {
        caller.write(id, mebibyte << 20, vec![b'p'; 1 << 20]).await.unwrap();
    }
    server.sigkill();
    let small = || place.mounted().args(["--memory", "34MiB"]);
    place.refused(small(), FAILED, &["journal", "private", "start with --memory"]);
    let enough = asked_for(&small().run_to_end(REFUSAL_DEADLINE));
    let server = place.mounted().args(["--memory".to_owned(), format!("{enough}MiB")]).start();
    let caller = Caller::connect(server.addr(), PID).await;
    assert_eq!(caller.stats(id).await.unwrap().private_bytes, 6 << 20);
    assert_eq!(caller.read(id, (6 << 20) - 1, 2).await.unwrap(), &b"p\0"[..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_the_journal_needs_and_that_is_missing_is_refused() {
    let place = Place::new();
    let id = three_writes(place.mounted().start()).await;
    let elsewhere = || place.setup().mount("/elsewhere", "memory:");
    let bytes = (3 * PAGE).to_string();
    place.refused(elsewhere(), FAILED, &["/data/f", &bytes, "journal", "mount its store as before"]);
    // Mappings need it, too, without any unsynced byte.
    let server = place.mounted().start();
    Caller::connect(server.addr(), PID).await.msync(id).await.unwrap();
    server.sigkill();
    place.refused(elsewhere(), FAILED, &["/data/f", "journal", "mount its store as before"]);
    assert_eq!(pages(&place.mounted().start(), id).await, [b'A', b'B', b'C', 0]);
}

/// What a crash leaves of the last record: `damage` does it to its segment, from the middle of its page on.
async fn a_torn_tail_is_no_complaint(damage: impl Fn(&Path, usize)) {
    let place = Place::new();
    let id = three_writes(place.mounted().start()).await;
    let (segment, at) = place.find(b'C');
    damage(&segment, at + PAGE / 2);
    let server = place.mounted().start();
    assert_eq!(pages(&server, id).await, [b'A', b'B', 0, 0]);
    let told = server.stderr();
    assert!(!told.contains("LOST") && !told.contains("ERROR") && !told.contains("WARN"), "{told}");
    assert_eq!(Caller::connect(server.addr(), PID).await.msync(id).await.unwrap().synced_bytes, 2 * PAGE as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_record_that_was_cut_off_is_not_there_and_no_complaint() {
    a_torn_tail_is_no_complaint(|segment, at| {
        std::fs::File::options().write(true).open(segment).unwrap().set_len(at as u64).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_record_that_was_half_written_is_not_there_and_no_complaint() {
    a_torn_tail_is_no_complaint(|segment, at| {
        let mut bytes = std::fs::read(segment).unwrap();
        bytes[at..].fill(0);
        std::fs::write(segment, bytes).unwrap();
    })
    .await;
}
