//! The real `mmapd` from start to end: what it prints, where it listens, what it refuses, and what SIGTERM
//! leaves behind. On the wire through the generated stubs alone.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use mmap_proto::v1;
use mmap_tests::binaries::binary;
use mmap_tests::daemon::{Daemon, Stream};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::require::available;
use mmap_tests::venv::Venv;
use mmap_tests::wire::{Caller, map_request};

/// How long a server that is not to serve may take to say so.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_is_mapped_written_synced_read_and_unmapped() {
    let server = Setup::new().start();
    let caller = Caller::connect(server.addr(), 7).await;
    let id = caller.map_shared("/notes/hello.txt", 4096).await;
    assert_eq!(caller.write(id, 10, &b"Hello, mmap!"[..]).await.unwrap(), 12);
    let other = caller.with_pid(8);
    let others = other.map_shared("/notes/hello.txt", 4096).await;
    assert_eq!(other.read(others, 10, 12).await.unwrap(), "Hello, mmap!", "shared before any msync");
    let on_disk = server.default_files().join("notes/hello.txt");
    assert_eq!(std::fs::read(&on_disk).unwrap(), vec![0; 4096], "not in the store before msync");
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, 4096);
    let bytes = std::fs::read(&on_disk).unwrap();
    assert_eq!((&bytes[10..22], bytes.len()), (&b"Hello, mmap!"[..], 4096));
    let stats = caller.stats(id).await.unwrap();
    assert_eq!((stats.id, stats.owner_pid, stats.length, stats.dirty_bytes), (id, 7, 4096, 0));
    assert_eq!((stats.path.as_str(), stats.flags()), ("/notes/hello.txt", v1::Map::Shared));
    assert_eq!(stats.prot, Some(v1::mmap_stats_response::Prot { read: true, write: true, exec: false }));
    assert_eq!(caller.munmap(id).await.unwrap(), 0);
    assert!(caller.read(id, 0, 1).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_address_printed_for_a_port_of_0_and_for_a_socket_can_be_dialled() {
    let setup = Setup::new();
    let socket = setup.folder().join("mmapd.sock");
    let listen = format!("unix:{}", socket.display());
    let server = setup.listen("127.0.0.1:0").listen(&listen).start();
    assert_eq!(server.addrs().len(), 2);
    assert!(server.addrs().contains(&listen), "{:?}", server.addrs());
    for addr in server.addrs() {
        let caller = Caller::connect(addr, 1).await;
        caller.map_shared("/both", 10).await;
    }
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can reach the socket: {mode:o}");
    let ended = server.sigterm();
    assert!(ended.status.success(), "{ended:?}");
    assert!(!socket.exists(), "the socket's file stays behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_socket_file_that_a_killed_server_left_does_not_keep_the_next_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", folder.path().join("mmapd.sock").display());
    let first = Setup::new().listen(&listen).start();
    first.sigkill();
    let second = Setup::new().listen(&listen).start();
    Caller::connect(second.addr(), 1).await.map_shared("/again", 1).await;

    let third = Setup::new().listen(&listen).run_to_end(REFUSAL_DEADLINE);
    assert!(!third.status.success(), "a socket that is in use was taken over: {third:?}");
    Caller::connect(second.addr(), 2).await.map_shared("/still", 1).await;
}

#[test]
fn listening_beyond_loopback_is_refused_without_insecure() {
    let ended = Setup::new().listen("0.0.0.0:0").run_to_end(REFUSAL_DEADLINE);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--insecure") && ended.stderr.contains("0.0.0.0"), "{ended:?}");
    assert_eq!(ended.stdout, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_arguments_it_serves_a_folder_in_an_empty_home() {
    let home = tempfile::tempdir().unwrap();
    // The one thing set is the port: that of the default may be taken by another program on this machine.
    let mut command = Command::new(binary("mmapd"));
    command.env_clear().env("HOME", home.path()).env("MMAPD_LISTEN", "127.0.0.1:0").current_dir("/");
    let mut daemon = Daemon::start("mmapd", &mut command);
    let addr = daemon
        .wait_for_lines(1, REFUSAL_DEADLINE, |line| line.strip_prefix("mmapd listening on ").map(str::to_owned))
        .concat();
    Caller::connect(&addr, 1).await.map_shared("/first", 100).await;
    let file = home.path().join(".local/share/mmapd/files/first");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 100);
    let shown = daemon.text(Stream::Stderr);
    for needed in [addr.as_str(), ".local/share/mmapd", "mmapctl"] {
        assert!(shown.contains(needed), "{needed} is not shown:\n{shown}");
    }
    daemon.signal("TERM");
    assert!(daemon.wait_exit(REFUSAL_DEADLINE).success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sigterm_syncs_what_is_dirty_and_ends_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::new().mount("/", &format!("file://{}", folder.path().display())).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/dirty", 10_000).await;
    caller.write(id, 4095, &b"kept"[..]).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("dirty")).unwrap(), vec![0; 10_000]);
    let ended = server.sigterm();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let bytes = std::fs::read(folder.path().join("dirty")).unwrap();
    assert_eq!((&bytes[4095..4099], bytes.len()), (&b"kept"[..], 10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sigterm_without_a_journal_says_what_could_not_be_synced_and_ends_with_1() {
    let Some(moto) = available(Moto::start()) else { return };
    let setup = Setup::new().mount("/data", &moto.mount_url("gone")).envs(Moto::ENV);
    let server = setup.args(["--durability", "memory", "--shutdown-timeout", "3s"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/data/unlucky", 100).await;
    caller.write(id, 0, &b"lost"[..]).await.unwrap();
    drop(moto);
    let ended = server.sigterm();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("/data/unlucky") && ended.stderr.contains("4096"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sigterm_ends_the_streams_of_attached_processes() {
    let server = Setup::new().start();
    let caller = Caller::connect(server.addr(), 5).await;
    let attached = caller.process_service().attach(caller.request(v1::AttachRequest::default())).await.unwrap();
    let mut stream = attached.into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().pid, 5);
    let started = std::time::Instant::now();
    let ended = tokio::task::spawn_blocking(|| server.sigterm()).await.unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "an attached process holds the end up");
}

#[test]
fn a_state_directory_in_use_is_refused_with_a_sentence() {
    let state = tempfile::tempdir().unwrap();
    let first = Setup::new().state_dir(state.path()).start();
    let second = Setup::new().state_dir(state.path()).run_to_end(REFUSAL_DEADLINE);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.stderr.contains(&state.path().display().to_string()), "{second:?}");
    assert!(second.stderr.contains("in use"), "{second:?}");
    assert!(!second.stderr.contains("panicked"), "{second:?}");
    drop(first);
    // The lock goes with the process, however it ended.
    let third = Setup::new().state_dir(state.path()).start();
    assert!(third.sigterm().status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_id_is_never_reused_across_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let server = Setup::new().state_dir(state.path()).start();
        let caller = Caller::connect(server.addr(), 1).await;
        for _ in 0..3 {
            let id = caller.map_shared("/file", 10).await;
            assert!(id > last, "{id} after {last}");
            last = id;
        }
        server.sigkill();
    }
}

#[test]
fn a_wrong_setting_is_refused_with_a_sentence_and_2() {
    for (args, needed) in [
        (["--mount", "/x=ftp://host"], "ftp"),
        (["--memory", "lots"], "lots"),
        (["--listen", "nowhere"], "nowhere"),
        (["--durability", "safe"], "memory, process, disk"),
        (["--mount", "x=memory:"], "x"),
        (["--config", "/does/not/exist.toml"], "/does/not/exist.toml"),
    ] {
        let ended = Setup::new().args(args).run_to_end(REFUSAL_DEADLINE);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(needed) && !ended.stderr.contains("panicked"), "{args:?}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_port_in_use_is_refused_with_a_sentence() {
    let first = Setup::new().start();
    let second = Setup::new().listen(first.addr()).run_to_end(REFUSAL_DEADLINE);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.stderr.contains(first.addr()) && second.stderr.contains("--listen"), "{second:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_read_only_mount_is_read_and_never_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("fixed"), b"stays as it is").unwrap();
    let server = Setup::new().mount("/", &format!("file://{}?ro", folder.path().display())).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let request = v1::MmapRequest { prot: 1, ..map_request("/fixed", 14) };
    let id = caller.mmap(request).await.unwrap().mmap_id;
    assert_eq!(caller.read(id, 0, 14).await.unwrap(), "stays as it is");
    // A private mapping may be written: its pages never reach the file.
    let private = v1::MmapRequest { shared: false, ..map_request("/fixed", 14) };
    let private = caller.mmap(private).await.unwrap().mmap_id;
    caller.write(private, 0, &b"STAYS"[..]).await.unwrap();
    assert_eq!(caller.read(private, 0, 14).await.unwrap(), "STAYS as it is");
    assert!(server.sigterm().status.success());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["fixed"]);
    assert_eq!(std::fs::read(folder.path().join("fixed")).unwrap(), b"stays as it is");
}

/// One call by `buf curl`, which finds the schema through the server's reflection.
fn buf_curl(venv: &Venv, server: &Mmapd, method: &str, data: &str) -> String {
    let url = format!("http://{}/{method}", server.addr());
    let output = venv
        .command("buf")
        .args(["curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", data, &url])
        .output()
        .unwrap();
    assert!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn health_and_reflection_are_served() {
    let Some(venv) = available(Venv::get()) else { return };
    let server = Setup::new().start();
    for service in ["", "mmap.v1.MmapService", "mmap.v1.ProcessService", "mmap.v1.FileService"] {
        let answer = buf_curl(&venv, &server, "grpc.health.v1.Health/Check", &format!("{{\"service\":{service:?}}}"));
        assert!(answer.contains("\"SERVING\""), "{service}: {answer}");
    }
    let url = format!("http://{}", server.addr());
    for protocol in ["grpc-v1", "grpc-v1alpha"] {
        let output = venv
            .command("buf")
            .args(["curl", "--http2-prior-knowledge", "--protocol", "grpc", "--list-methods"])
            .args(["--reflect-protocol", protocol, &url])
            .output()
            .unwrap();
        let methods = String::from_utf8(output.stdout).unwrap();
        for method in ["mmap.v1.MmapService/Msync", "mmap.v1.ProcessService/Attach", "grpc.health.v1.Health/Check"] {
            assert!(methods.contains(method), "{protocol}: {methods}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_follows_the_store() {
    let (Some(venv), Some(moto)) = (available(Venv::get()), available(Moto::start())) else { return };
    let server = Setup::new().mount("/data", &moto.mount_url("health")).envs(Moto::ENV).start();
    let serves = |service: &str| {
        let answer = buf_curl(&venv, &server, "grpc.health.v1.Health/Check", &format!("{{\"service\":{service:?}}}"));
        answer.contains("\"SERVING\"")
    };
    let stores = ["mmap.v1.stores", "mmap.v1.store:/data"];
    assert!(serves("") && stores.iter().all(|store| serves(store)));
    drop(moto);
    let deadline = Duration::from_secs(60);
    mmap_tests::wire::eventually("the store that is gone is NOT_SERVING", deadline, async || {
        (!stores.iter().any(|store| serves(store))).then_some(())
    })
    .await;
    assert!(serves("") && serves("mmap.v1.MmapService"), "a load balancer leaves the server where it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_answer_names_the_serving_node() {
    let server = Setup::new().args(["--node", "node-seven"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let request = caller.request(v1::ListFilesRequest::default());
    let answer = caller.file_service().list_files(request).await.unwrap();
    assert_eq!(answer.metadata().get("mmap-node").unwrap(), "node-seven");
    let refused = caller.stat_file("/missing").await.unwrap_err();
    assert_eq!(refused.metadata().get("mmap-node").unwrap(), "node-seven");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_write_of_the_largest_message_asked_for_is_taken_and_survives_a_kill() {
    const SIZE: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let start = || Setup::new().state_dir(folder.path()).args(["--max-message", "16MiB", "--memory", "512MiB"]).start();
    let server = start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/large", SIZE + 100).await;
    // At no page's beginning, so that it touches a page more than it fills.
    caller.write(id, 50, vec![7; 16 << 20]).await.unwrap();
    server.sigkill();
    let server = start();
    let caller = Caller::connect(server.addr(), 1).await;
    assert!(caller.read(id, 50, SIZE).await.unwrap() == vec![7; 16 << 20]);
}
