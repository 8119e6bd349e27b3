//! What an operator meets: a state directory that cannot be used, a folder that goes away, a disk that is full, a
//! store that dies and comes back, two servers on one folder, and a server that is asked twice to end.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::daemon::{Daemon, START_DEADLINE, Stream};
use mmap_tests::failure::expect;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::require::{Missing, available};
use mmap_tests::wire::{Caller, eventually};

/// How long a server that cannot start may take to say so.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(20);
/// A health check comes every 5 s, and what waits to be stored is tried again as often.
const SOON: Duration = Duration::from_secs(30);

fn folder_server(folder: &Path) -> Mmapd {
    Setup::new().mount("/", &format!("file://{}", folder.display())).start()
}

#[test]
fn a_state_directory_that_is_a_file_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    std::fs::write(&file, b"precious").unwrap();
    let ended = Setup::new().state_dir(&file).run_to_end(REFUSAL_DEADLINE);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&file.display().to_string()) && ended.stderr.contains("--state-dir"), "{ended:?}");
    assert!(!ended.stderr.contains("panicked") && ended.stdout.is_empty(), "{ended:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_server_that_was_killed_starts_again_on_its_state_directory_and_folder() {
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", folder.path().display());
    let setup = || Setup::new().state_dir(state.path()).mount("/", &url).start();
    setup().sigkill();
    // What a killed server leaves of a write that was under way.
    let leftover = folder.path().join(".mmapd-tmp/leftover");
    std::fs::create_dir_all(leftover.parent().unwrap()).unwrap();
    std::fs::write(&leftover, b"half a file").unwrap();
    let again = setup();
    assert!(!leftover.exists(), "half a file of a killed server is removed");
    assert!(again.sigterm().status.success());
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once_and_says_what_is_lost() {
    let Some(moto) = available(Moto::start()) else { return };
    let setup = Setup::new().mount("/data", &moto.mount_url("files")).envs(Moto::ENV);
    let mut daemon = Daemon::start("mmapd", &mut setup.command());
    let addr =
        daemon.wait_for_lines(1, START_DEADLINE, |line| line.strip_prefix("mmapd listening on ").map(str::to_owned));
    let caller = Caller::connect(&addr[0], 1).await;
    let id = caller.map_shared("/data/unlucky", 100).await;
    caller.write(id, 0, &b"lost"[..]).await.unwrap();
    moto.pause();
    daemon.signal("TERM");
    daemon.wait_for_lines(1, REFUSAL_DEADLINE, |line| line.contains("stopping").then_some(()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(daemon.is_running(), "the first waits for the store");
    let started = Instant::now();
    daemon.signal("TERM");
    let status = daemon.wait_exit(REFUSAL_DEADLINE);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let told = daemon.text(Stream::Stderr);
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("/data/unlucky: 4096 unsynced bytes") && told.contains("second signal"), "{told}");
}

#[tokio::test]
async fn what_an_ended_process_left_is_stored_when_the_store_is_back() {
    let Some(moto) = available(Moto::start()) else { return };
    let setup = Setup::new().mount("/data", &moto.mount_url("files")).envs(Moto::ENV);
    let server = setup.args(["--store-timeout", "1s", "--process-grace", "100ms"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let stream = caller.process_service().attach(caller.request(v1::AttachRequest::default())).await.unwrap();
    let id = caller.map_shared("/data/late", 100).await;
    caller.write(id, 0, &b"late but stored"[..]).await.unwrap();
    moto.pause();
    drop(stream);
    let admin = caller.without_pid();
    eventually("the process ends although its store is away", SOON, async || {
        admin.list_processes().await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(admin.list_mappings(None).await.unwrap(), []);
    moto.resume();
    eventually("its bytes are in the store", SOON, async || {
        (admin.stat_file("/data/late").await.ok()?.dirty_bytes == 0).then_some(())
    })
    .await;
    assert!(moto.object("files/late").starts_with(b"late but stored"));
}

#[tokio::test]
async fn two_servers_on_one_folder_see_each_others_changes_and_overwrite_none() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder_server(folder.path()), folder_server(folder.path()));
    let (one, two) = (Caller::connect(one.addr(), 1).await, Caller::connect(two.addr(), 1).await);
    let (first, second) = (one.map_shared("/both", 8192).await, two.map_shared("/both", 8192).await);
    one.write(first, 0, &b"one"[..]).await.unwrap();
    assert_eq!(two.read(second, 0, 3).await.unwrap(), [0; 3].as_slice(), "not synced yet");
    one.msync(first).await.unwrap();
    // Seen at the next mapping, by the older one too.
    let again = two.map_shared("/both", 8192).await;
    assert_eq!(two.read(again, 0, 3).await.unwrap(), "one");
    assert_eq!(two.read(second, 0, 3).await.unwrap(), "one");
    // Both write, one is first, and the other learns it.
    one.write(first, 0, &b"ONE"[..]).await.unwrap();
    two.write(second, 4096, &b"TWO"[..]).await.unwrap();
    one.msync(first).await.unwrap();
    expect(Reason::Stale, two.msync(second).await);
    assert_eq!(std::fs::read(folder.path().join("both")).unwrap()[4096], 0);
    let force = v1::MsyncRequest { mmap_id: second, force: true, ..Default::default() };
    two.msync_with(force).await.unwrap();
    let stored = std::fs::read(folder.path().join("both")).unwrap();
    assert_eq!((&stored[..3], &stored[4096..4099]), (&b"ONE"[..], &b"TWO"[..]));
    // A fetch of the first notices it, too: nothing of it is in its memory any more.
    one.msync_with(v1::MsyncRequest { mmap_id: first, invalidate: true, ..Default::default() }).await.unwrap();
    assert_eq!(one.read(first, 4096, 3).await.unwrap(), "TWO");
}

/// Calls until it succeeds; EIO says that it may be repeated, as where the store changes all the time.
async fn repeated<T: std::fmt::Debug>(mut call: impl AsyncFnMut() -> Result<T, tonic::Status>) {
    let started = Instant::now();
    while let Err(status) = call().await {
        assert!(started.elapsed() < SOON, "{status:?}");
        assert!(expect(Reason::Io, Err::<T, _>(status)).has_retry_delay);
    }
}

/// Writes and syncs a page of `/contended` again and again, whoever else does.
async fn contend(server: &Mmapd, offset: u64) {
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/contended", 8192).await;
    let force = v1::MsyncRequest { mmap_id: id, force: true, ..Default::default() };
    for round in 1..=40_u8 {
        repeated(async || caller.write(id, offset, vec![round; 10]).await).await;
        repeated(async || caller.msync_with(force).await).await;
    }
}

#[tokio::test]
async fn two_servers_that_force_their_pages_into_one_file_lose_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder_server(folder.path()), folder_server(folder.path()));
    tokio::join!(contend(&one, 0), contend(&two, 4096));
    let stored = std::fs::read(folder.path().join("contended")).unwrap();
    assert_eq!((&stored[..10], &stored[4096..4106]), (&[40; 10][..], &[40; 10][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_folder_that_goes_away_costs_nothing_that_is_unsynced() {
    let above = tempfile::tempdir().unwrap();
    let (here, away) = (above.path().join("here"), above.path().join("away"));
    std::fs::create_dir(&here).unwrap();
    let server = folder_server(&here);
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/kept", 100).await;
    caller.write(id, 0, &b"kept"[..]).await.unwrap();
    // The folder that was mounted is emptied and removed, as by somebody who cleans up.
    std::fs::create_dir(&away).unwrap();
    std::fs::rename(here.join("kept"), away.join("kept")).unwrap();
    std::fs::remove_dir_all(&here).unwrap();
    let failure = expect(Reason::Stale, caller.msync(id).await);
    assert_eq!(failure.value("path"), "/kept");
    assert_eq!(caller.read(id, 0, 4).await.unwrap(), "kept");
    assert_eq!(caller.stats(id).await.unwrap().dirty_bytes, 4096);
    expect(Reason::Stale, caller.munmap(id).await);
    let ended = server.sigterm();
    // Not stored, but in the journal, and the operator is told so.
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("in the journal, for the next start: /kept: 4096 unsynced bytes"), "{ended:?}");
    assert!(!ended.stderr.contains("were synced"), "{ended:?}");
}

/// A server with a small file system of its own, in a mount namespace of its own, which ends with it.
struct SmallDisk {
    daemon: Daemon,
    addr: String,
    /// The small file system, as seen from outside of the namespace.
    disk: PathBuf,
    _folder: Setup,
}

impl SmallDisk {
    /// `None`, said aloud, where the system gives no namespaces; that is no component that one could install.
    fn start(args: &[&str]) -> Option<Self> {
        let setup = Setup::new();
        let disk = setup.folder().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let unshare = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(&disk);
            command
        };
        let mount = "mount -t tmpfs -o size=4m none \"$0\"";
        if !unshare(mount).output().is_ok_and(|output| output.status.success()) {
            return available(Err(Missing {
                component: "a mount namespace (unshare --map-root-user --mount)".to_owned(),
                remedy: "run as root, or allow unprivileged user namespaces".to_owned(),
            }));
        }
        let url = format!("/=file://{}", disk.display());
        let setup = setup.args(["--mount", &url]).args(args.iter().copied());
        let plain = setup.command();
        let mut command = unshare(&format!("{mount} && exec \"$@\""));
        command.arg(plain.get_program()).args(plain.get_args()).current_dir(setup.folder());
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        let mut daemon = Daemon::start("mmapd on a small disk", &mut command);
        let listening = |line: &str| line.strip_prefix("mmapd listening on ").map(str::to_owned);
        let addr = daemon.wait_for_lines(1, START_DEADLINE, listening).concat();
        let inside = disk.strip_prefix("/").unwrap();
        let disk = PathBuf::from(format!("/proc/{}/root", daemon.pid())).join(inside);
        Some(Self { daemon, addr, disk, _folder: setup })
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let filler = std::fs::File::create(self.disk.join("filler")).unwrap();
        let error = std::io::copy(&mut std::io::repeat(b'f'), &mut &filler).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    fn free(&self) {
        std::fs::remove_file(self.disk.join("filler")).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_eio_and_what_was_not_stored_is_once_there_is_room() {
    let Some(mut small) = SmallDisk::start(&[]) else { return };
    let caller = Caller::connect(&small.addr, 1).await;
    let id = caller.map_shared("/file", 1 << 20).await;
    let old: Vec<u8> = vec![b'o'; 1 << 20];
    caller.write(id, 0, old.clone()).await.unwrap();
    caller.msync(id).await.unwrap();
    caller.write(id, 100_000, vec![b'n'; 300_000]).await.unwrap();
    small.fill();
    let dirty = caller.stats(id).await.unwrap().dirty_bytes;
    for failure in [
        expect(Reason::Io, caller.msync(id).await),
        expect(Reason::Io, caller.munmap(id).await),
        expect(Reason::Io, caller.exit(false).await),
    ] {
        assert!(failure.message.contains("no room") && failure.has_retry_delay, "{failure:?}");
        assert!(failure.value("path").starts_with('/'), "{failure:?}");
    }
    assert!(std::fs::read(small.disk.join("file")).unwrap() == old, "the file is as it was");
    let stats = caller.stats(id).await.unwrap();
    assert_eq!((stats.dirty_bytes, caller.read(id, 100_000, 1).await.unwrap().as_ref()), (dirty, &b"n"[..]));
    small.free();
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, dirty);
    let mut expected = old;
    expected[100_000..400_000].fill(b'n');
    assert!(std::fs::read(small.disk.join("file")).unwrap() == expected);
    let mut names: Vec<_> = std::fs::read_dir(&small.disk).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name != ".mmapd-tmp");
    assert_eq!(names, ["file"]);
    small.daemon.signal("TERM");
    assert!(small.daemon.wait_exit(REFUSAL_DEADLINE).success());
}
