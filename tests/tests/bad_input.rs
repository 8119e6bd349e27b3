//! Empty, absurd and hostile values for every field of every request: each gets the contract's error,
//! changes nothing, and leaves the server serving.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::PathBuf;
use std::sync::Arc;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::{self, expect, expect_any};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::shared::Shared;
use mmap_tests::snapshot::Snapshot;
use mmap_tests::wire::{Caller, map_request};
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};

const MAX: u64 = u64::MAX;
const MESSAGE_MAX: u64 = 4 << 20;
const FILE_SIZE: u64 = 10_000;

struct Server {
    mmapd: Mmapd,
    root: PathBuf,
}

/// The server that the tests of this file share; each test uses a file and pids of its own.
fn server() -> Arc<Server> {
    static SHARED: Shared<Server> = Shared::new();
    SHARED.get(|| {
        let setup = Setup::new();
        let root = setup.folder().join("root");
        std::fs::create_dir(&root).unwrap();
        let mmapd = setup.mount("/", &format!("file://{}", root.display())).start();
        Server { mmapd, root }
    })
}

/// A caller with a mapping of a file of 10,000 bytes, and what it may not change.
struct Scene {
    server: Arc<Server>,
    caller: Caller,
    file: String,
    id: u64,
    bytes: Vec<u8>,
}

impl Scene {
    async fn set(name: &str, pid: u32) -> Self {
        let server = server();
        let bytes = mmap_tests::random::Random::seeded(u64::from(pid)).bytes(10_000);
        std::fs::write(server.root.join(name), &bytes).unwrap();
        let caller = Caller::connect(server.mmapd.addr(), pid).await;
        let file = format!("/{name}");
        let id = caller.map_shared(&file, FILE_SIZE).await;
        Self { server, caller, file, id, bytes }
    }

    /// The caller's own state: other tests of this file change theirs meanwhile.
    async fn state(&self) -> (Vec<v1::MmapStatsResponse>, Vec<u8>) {
        let mut mappings = self.caller.list_mappings(None).await.unwrap();
        for mapping in &mut mappings {
            // Being read, and failing to be, is counted and cached: that is no change.
            (mapping.minor_faults, mapping.major_faults, mapping.resident_bytes) = (0, 0, 0);
        }
        let on_disk = std::fs::read(self.server.root.join(&self.file[1..])).unwrap();
        (mappings, on_disk)
    }

    /// Runs `call`, which has to fail for one of `reasons` and to change nothing.
    async fn refused<T: std::fmt::Debug>(
        &self,
        what: &str,
        reasons: &[Reason],
        call: impl Future<Output = Result<T, Status>>,
    ) {
        let before = self.state().await;
        let result = call.await;
        eprintln!("{what}");
        expect_any(reasons, result);
        assert!(self.state().await == before, "{what} changed something");
        let all = self.caller.read(self.id, 0, FILE_SIZE).await.unwrap();
        assert!(all == self.bytes, "{what} changed the mapping's bytes");
    }

    async fn invalid<T: std::fmt::Debug>(&self, what: &str, call: impl Future<Output = Result<T, Status>>) {
        self.refused(what, &[Reason::Inval], call).await;
    }
}

/// Paths that are never a file's, each with what is wrong with it.
fn bad_paths() -> Vec<(&'static str, String)> {
    vec![
        ("empty", String::new()),
        ("root", "/".to_owned()),
        ("relative", "a".to_owned()),
        ("parent", "/../etc/passwd".to_owned()),
        ("inner parent", "/a/../../etc/passwd".to_owned()),
        ("dot", "/./a".to_owned()),
        ("empty segment", "//a".to_owned()),
        ("slash at the end", "/a/".to_owned()),
        ("NUL", "/a\0b".to_owned()),
        ("newline", "/a\nb".to_owned()),
        ("escape sequence", "/\u{1b}[2J".to_owned()),
        ("C1 control", "/\u{85}".to_owned()),
        ("reserved", "/.mmapd-x".to_owned()),
        ("long segment", format!("/{}", "s".repeat(256))),
        ("long", "/abcdefg".repeat(513)),
        ("3 MB", "/abcdefg".repeat(3 << 17)),
    ]
}

#[tokio::test]
async fn a_bad_path_is_refused_by_every_method_that_takes_one() {
    let scene = Scene::set("paths", 2001).await;
    let caller = &scene.caller;
    for (what, path) in bad_paths() {
        let map = v1::MmapRequest { create: true, ..map_request(&path, 10) };
        scene.invalid(&format!("Mmap {what}"), caller.mmap(map)).await;
        scene.invalid(&format!("StatFile {what}"), caller.stat_file(&path)).await;
        let truncate = v1::TruncateFileRequest { path: path.clone(), size: 5, create: true, exclusive: false };
        scene.invalid(&format!("TruncateFile {what}"), caller.truncate(truncate)).await;
        scene.invalid(&format!("RemoveFile {what}"), caller.remove(&path)).await;
    }
}

#[tokio::test]
async fn a_symbolic_link_does_not_lead_out_of_the_mount() {
    let scene = Scene::set("links", 2002).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"not yours").unwrap();
    std::os::unix::fs::symlink(outside.path(), scene.server.root.join("folder-link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), scene.server.root.join("file-link")).unwrap();
    for path in ["/folder-link/secret", "/file-link"] {
        let reasons = [Reason::NoEnt, Reason::Inval, Reason::Acces, Reason::Io];
        let caller = &scene.caller;
        scene.refused(path, &reasons, caller.mmap(v1::MmapRequest { prot: 1, ..map_request(path, 9) })).await;
        scene.refused(path, &reasons, caller.stat_file(path)).await;
        let truncate = v1::TruncateFileRequest { path: path.to_owned(), ..Default::default() };
        scene.refused(path, &reasons, caller.truncate(truncate)).await;
    }
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"not yours");
    std::fs::remove_file(scene.server.root.join("folder-link")).unwrap();
    std::fs::remove_file(scene.server.root.join("file-link")).unwrap();
}

#[tokio::test]
async fn absurd_ranges_and_bits_to_map_are_refused() {
    let scene = Scene::set("ranges", 2003).await;
    let base = map_request(&scene.file, 10);
    let cases = [
        ("length 0", v1::MmapRequest { length: Some(0), ..base.clone() }),
        ("length u64::MAX", v1::MmapRequest { length: Some(MAX), ..base.clone() }),
        ("offset u64::MAX", v1::MmapRequest { offset: MAX, ..base.clone() }),
        ("both u64::MAX", v1::MmapRequest { offset: MAX, length: Some(MAX), ..base.clone() }),
        ("behind the largest offset", v1::MmapRequest { offset: i64::MAX as u64, ..base.clone() }),
        ("nothing left", v1::MmapRequest { offset: FILE_SIZE, length: None, ..base.clone() }),
        ("offset u64::MAX, no length", v1::MmapRequest { offset: MAX, length: None, ..base.clone() }),
        ("unknown bit", v1::MmapRequest { prot: 8, ..base.clone() }),
        ("all bits", v1::MmapRequest { prot: u32::MAX, ..base.clone() }),
        ("nothing to make", v1::MmapRequest { path: "/ranges-new".into(), length: None, create: true, ..base.clone() }),
    ];
    for (what, request) in cases {
        scene.invalid(what, scene.caller.mmap(request)).await;
    }
    // More than fits in memory cannot be faulted in.
    let huge = v1::TruncateFileRequest { path: "/ranges-huge".into(), size: 1 << 40, create: true, exclusive: true };
    scene.caller.truncate(huge).await.unwrap();
    let populate = v1::MmapRequest { path: "/ranges-huge".into(), length: None, populate: true, ..base };
    scene.refused("populate 1 TiB", &[Reason::NoMem], scene.caller.mmap(populate)).await;
}

#[tokio::test]
async fn absurd_ranges_to_read_and_write_are_refused() {
    let scene = Scene::set("accesses", 2004).await;
    let (caller, id) = (&scene.caller, scene.id);
    for (what, offset, length) in [
        ("read nothing", 0, 0),
        ("read u64::MAX", 0, MAX),
        ("read at u64::MAX", MAX, 1),
        ("read all of u64", MAX, MAX),
        ("read more than a message", 0, MESSAGE_MAX + 1),
        ("read behind the largest offset", i64::MAX as u64, 1),
    ] {
        scene.invalid(what, caller.read(id, offset, length)).await;
    }
    for (what, offset, data) in [
        ("write nothing", 0, vec![]),
        ("write nothing at u64::MAX", MAX, vec![]),
        ("write at u64::MAX", MAX, vec![1]),
        ("write behind the largest offset", i64::MAX as u64, vec![1]),
        ("write more than a message", 0, vec![1; 1 + usize::try_from(MESSAGE_MAX).unwrap()]),
    ] {
        scene.invalid(what, caller.write(id, offset, data)).await;
    }
    for (what, offset, length) in [("just behind", FILE_SIZE, 1), ("across the end", 1, FILE_SIZE), ("far", 1 << 60, 1)]
    {
        scene.refused(what, &[Reason::SegvMapErr], caller.read(id, offset, length)).await;
        if length < 10_000 {
            scene.refused(what, &[Reason::SegvMapErr], caller.write(id, offset, vec![1])).await;
        }
    }
    scene.refused("write across the end", &[Reason::SegvMapErr], caller.write(id, 1, vec![1; 10_000])).await;
}

#[tokio::test]
async fn absurd_syncs_and_unmaps_are_refused() {
    let scene = Scene::set("syncs", 2005).await;
    let (caller, id) = (&scene.caller, scene.id);
    let base = v1::MsyncRequest { mmap_id: id, ..Default::default() };
    let cases = [
        ("length 0", v1::MsyncRequest { length: Some(0), ..base }),
        ("length u64::MAX", v1::MsyncRequest { offset: Some(1), length: Some(MAX), ..base }),
        ("both u64::MAX", v1::MsyncRequest { offset: Some(MAX), length: Some(MAX), ..base }),
        ("unknown mode", v1::MsyncRequest { mode: 99, ..base }),
        ("negative mode", v1::MsyncRequest { mode: -1, ..base }),
        ("force and invalidate", v1::MsyncRequest { force: true, invalidate: true, ..base }),
    ];
    for (what, request) in cases {
        scene.invalid(what, caller.msync_with(request)).await;
    }
    let behind = v1::MsyncRequest { offset: Some(FILE_SIZE - 1), length: Some(2), ..base };
    scene.refused("behind the mapping", &[Reason::SegvMapErr], caller.msync_with(behind)).await;
    let at_the_end = v1::MsyncRequest { offset: Some(MAX), ..base };
    scene.refused("from u64::MAX on", &[Reason::Inval, Reason::SegvMapErr], caller.msync_with(at_the_end)).await;
}

#[tokio::test]
async fn an_id_that_is_not_the_callers_is_answered_as_one_that_never_was() {
    let scene = Scene::set("ids", 2006).await;
    let stranger = scene.caller.with_pid(2007);
    let mut answers = Vec::new();
    for id in [0, MAX, scene.id + 1_000_000, scene.id] {
        let bad = [Reason::BadF];
        scene.refused("read", &bad, stranger.read(id, 0, 1)).await;
        scene.refused("write", &bad, stranger.write(id, 0, vec![1])).await;
        scene.refused("msync", &bad, stranger.msync(id)).await;
        scene.refused("munmap", &bad, stranger.munmap(id)).await;
        let discard = v1::MunmapRequest { mmap_id: id, discard: true, force: true };
        scene.refused("munmap by force", &bad, stranger.munmap_with(discard)).await;
        let failure = expect(Reason::BadF, stranger.read(id, 0, 1).await);
        assert_eq!(failure.value("mmap_id"), id.to_string());
        answers.push(failure.message.replace(&id.to_string(), "ID"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "the answers tell which ids there are: {answers:?}");
    let admin = scene.caller.without_pid();
    assert!(admin.list_processes().await.unwrap().iter().all(|process| process.pid != 2007), "refusals made a process");
    for id in [0, MAX, scene.id + 1_000_000] {
        scene.refused("stats", &[Reason::BadF], scene.caller.stats(id)).await;
    }
}

#[tokio::test]
async fn absurd_lists_are_refused() {
    let scene = Scene::set("lists", 2008).await;
    let caller = &scene.caller;
    let long = "x".repeat(1 << 20);
    for token in ["garbage", "\0", "-1", "18446744073709551616", "../..", long.as_str()] {
        let page_token = token.to_owned();
        let what = &format!("token {token:.30}");
        let mappings = v1::ListMappingsRequest { page_token: page_token.clone(), ..Default::default() };
        scene.invalid(what, caller.mmap_service().list_mappings(caller.request(mappings))).await;
        let processes = v1::ListProcessesRequest { page_token: page_token.clone(), ..Default::default() };
        scene.invalid(what, caller.process_service().list_processes(caller.request(processes))).await;
        let files = v1::ListFilesRequest { page_token, ..Default::default() };
        scene.invalid(what, caller.file_service().list_files(caller.request(files))).await;
    }
    // A page larger than the limit is the limit, not an error.
    let huge = v1::ListFilesRequest { page_size: u32::MAX, ..Default::default() };
    assert!(!caller.file_service().list_files(caller.request(huge)).await.unwrap().into_inner().files.is_empty());
    let nobodys = v1::ListMappingsRequest { pid: Some(u32::MAX), ..Default::default() };
    let answer = caller.mmap_service().list_mappings(caller.request(nobodys)).await.unwrap().into_inner();
    assert_eq!((answer.mappings.len(), answer.next_page_token.as_str()), (0, ""));
    // A prefix is text: whatever it says, only files of the mount come back.
    for prefix in ["/../", "/..", "../../etc", "/\0", "//", long.as_str()] {
        let request = v1::ListFilesRequest { prefix: prefix.to_owned(), ..Default::default() };
        match caller.file_service().list_files(caller.request(request)).await {
            Ok(answer) => assert_eq!(answer.into_inner().files, [], "{prefix:.30}"),
            Err(status) => assert_eq!(failure::failure(&status).reason, Reason::Inval, "{prefix:.30}"),
        }
    }
}

#[tokio::test]
async fn absurd_truncations_are_refused() {
    let scene = Scene::set("truncations", 2009).await;
    let base = v1::TruncateFileRequest { path: scene.file.clone(), ..Default::default() };
    for (what, request) in [
        ("size u64::MAX", v1::TruncateFileRequest { size: MAX, ..base.clone() }),
        ("size behind the largest offset", v1::TruncateFileRequest { size: 1 << 63, ..base.clone() }),
        ("exclusive without create", v1::TruncateFileRequest { exclusive: true, ..base.clone() }),
    ] {
        scene.invalid(what, scene.caller.truncate(request)).await;
    }
}

#[tokio::test]
async fn absurd_attachments_are_refused() {
    let scene = Scene::set("attachments", 2010).await;
    let caller = &scene.caller;
    for (what, request) in [
        ("pid 0", v1::AttachRequest { pid: Some(0), ..Default::default() }),
        ("two pids that differ", v1::AttachRequest { pid: Some(2011), ..Default::default() }),
        ("a name of 256 bytes", v1::AttachRequest { name: "n".repeat(256), ..Default::default() }),
        ("a name of 1 MB", v1::AttachRequest { name: "n".repeat(1 << 20), ..Default::default() }),
    ] {
        let call = async { caller.process_service().attach(caller.request(request)).await.map(|_| ()) };
        scene.invalid(what, call).await;
    }
}

/// A request of every method, with `headers` instead of the caller's own.
async fn with_header(scene: &Scene, key: &'static str, values: &[MetadataValue<Ascii>], needs_pid: bool) -> Status {
    let mut request = scene.caller.request(v1::MmapReadRequest { mmap_id: scene.id, offset: 0, length: 1 });
    request.metadata_mut().remove(key);
    for value in values {
        request.metadata_mut().append(key, value.clone());
    }
    let refused = scene.caller.mmap_service().mmap_read(request).await;
    let mut request = scene.caller.request(v1::StatFileRequest { path: scene.file.clone() });
    request.metadata_mut().remove(key);
    for value in values {
        request.metadata_mut().append(key, value.clone());
    }
    let stat = scene.caller.file_service().stat_file(request).await;
    if needs_pid {
        assert!(stat.is_ok(), "StatFile needs no pid: {stat:?}");
    } else {
        expect(Reason::Inval, stat);
    }
    refused.unwrap_err()
}

#[tokio::test]
async fn garbage_in_the_headers_is_refused() {
    let scene = Scene::set("headers", 2012).await;
    let before = scene.state().await;
    let binary = |bytes: &'static [u8]| MetadataValue::try_from(bytes).unwrap();
    for value in [
        binary(b"0"),
        binary(b"-1"),
        binary(b"+1"),
        binary(b"4294967296"),
        binary(b"1.5"),
        binary(b"abc"),
        binary(b""),
        binary(b"0x10"),
        binary(b"1 2"),
        binary(b"\xff\xfe\xfd"),
    ] {
        let status = with_header(&scene, "mmap-pid", &[value], false).await;
        assert_eq!(failure::failure(&status).fields, ["mmap-pid"]);
    }
    let status = with_header(&scene, "mmap-pid", &[], true).await;
    assert_eq!(failure::failure(&status).fields, ["mmap-pid"]);
    for value in [binary(b"Root"), binary(b"fileread"), binary(b"FileRead;FileWrite"), binary(b"\xc3\x28\xff")] {
        let good = binary(b"FileRead");
        let status = with_header(&scene, "mmap-capabilities", &[good, value], false).await;
        let failure = failure::failure(&status);
        for known in ["FileRead", "FileWrite", "SystemInfo"] {
            assert!(failure.message.contains(known), "the known ones are not named: {failure:?}");
        }
    }
    assert!(scene.state().await == before);
}

#[tokio::test]
async fn capabilities_may_be_repeated_and_spaced() {
    let scene = Scene::set("capabilities", 2013).await;
    let mut request = scene.caller.request(v1::MmapStatsRequest { mmap_id: scene.id });
    request.metadata_mut().remove("mmap-capabilities");
    for value in ["FileRead", " FileWrite ,FileRead", "SystemInfo"] {
        request.metadata_mut().append("mmap-capabilities", value.parse().unwrap());
    }
    scene.caller.mmap_service().mmap_stats(request).await.unwrap();
}

#[tokio::test]
async fn everything_that_was_refused_has_left_the_files_of_the_mount_alone() {
    // On a server of its own, where nothing else happens: the whole of it is compared.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("only"), b"content").unwrap();
    let server = Setup::new().mount("/", &format!("file://{}", folder.path().display())).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let before = Snapshot::take(&caller, folder.path()).await;
    for (_, path) in bad_paths() {
        expect(Reason::Inval, caller.mmap(v1::MmapRequest { create: true, ..map_request(&path, 10) }).await);
        expect(Reason::Inval, caller.remove(&path).await);
    }
    expect(Reason::Inval, caller.mmap(v1::MmapRequest { prot: 64, ..map_request("/only", 7) }).await);
    expect(Reason::NoEnt, caller.mmap(map_request("/missing", 7)).await);
    expect(Reason::BadF, caller.write(1, 0, vec![1]).await);
    assert_eq!(Snapshot::take(&caller, folder.path()).await, before);
}
