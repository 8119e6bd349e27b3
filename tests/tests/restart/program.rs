//! A program on the client library goes on after its server was ended and started again: the same pid, the same
//! mappings, every acknowledged write, no more than a reconnect.

use std::time::Duration;

use mmap_client::{AttachOptions, Client, ErrorKind, Mapping, Process, ProcessState, Prot};
use mmap_tests::mmapd::{Ended, Mmapd};
use mmap_tests::wire::{Caller, eventually};

use super::{PAGE, Place};

const SOON: Duration = Duration::from_secs(20);
const PAGE_AT: u64 = PAGE as u64;

/// A program with a shared and a private mapping of the file `f`, both with unsynced writes.
struct Program {
    process: Process,
    shared: Mapping,
    private: Mapping,
}

impl Program {
    async fn start(addr: &str) -> Self {
        let client = Client::connect(addr).await.unwrap();
        let process = client.attach(AttachOptions { name: "survivor".into(), pid: None }).await.unwrap();
        let map = || process.map("/f").length(3 * PAGE_AT).prot(Prot::READ_WRITE);
        let shared = map().create().shared().await.unwrap();
        let private = map().private().await.unwrap();
        shared.write(10, "before").await.unwrap();
        private.write(PAGE_AT, "mine").await.unwrap();
        Self { process, shared, private }
    }

    /// It has what it had, and does everything to the end.
    async fn go_on(self, admin: &Caller, place: &Place) {
        let Self { process, shared, private } = self;
        let (pid, ids) = (process.pid(), [shared.id(), private.id()]);
        assert_eq!(shared.read(10, 6).await.unwrap(), "before");
        assert_eq!(private.read(PAGE_AT, 4).await.unwrap(), "mine");
        assert_eq!(private.read(10, 6).await.unwrap(), "before", "a page of its own it never wrote shows the file");
        eventually("it is attached again", SOON, async || {
            let all = admin.list_processes().await.unwrap();
            all.iter().any(|one| one.pid == pid && one.attached && one.name == "survivor").then_some(())
        })
        .await;
        assert_eq!((process.state(), process.pid()), (ProcessState::Alive, pid));
        let mapped: Vec<u64> = process.mappings(None).await.unwrap().items.iter().map(|mapping| mapping.id).collect();
        assert_eq!(mapped, ids);

        shared.write(2 * PAGE_AT, "after").await.unwrap();
        private.write(0, "own").await.unwrap();
        shared.msync().await.unwrap();
        let stored = place.content("f");
        assert_eq!((&stored[10..16], &stored[2 * PAGE..2 * PAGE + 5]), (&b"before"[..], &b"after"[..]));
        assert_eq!((&stored[..3], &stored[PAGE..PAGE + 4]), (&[0; 3][..], &[0; 4][..]), "private is private");
        let new = process.map("/f").await.unwrap();
        assert!(new.id() > ids[1], "an id is never used again");
        shared.write(0, "last").await.unwrap();
        assert_eq!(shared.unmap().await.unwrap(), PAGE_AT);
        assert_eq!(process.exit().await.unwrap().unmapped, 2);
        assert_eq!(&place.content("f")[..4], b"last");
        assert!(admin.list_processes().await.unwrap().is_empty());
    }
}

/// Free now; the servers of a test are started on it one after the other.
fn port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn goes_on(level: &str, listen: impl Fn(&Place) -> String, end: impl Fn(Mmapd) -> Ended) {
    let place = Place::new();
    let address = listen(&place);
    let start = || place.folder_setup().listen(&address).args(["--durability", level]).start();
    let server = start();
    let program = Program::start(server.addr()).await;
    end(server);
    let server = start();
    let admin = Caller::connect(server.addr(), 1).await.without_pid();
    program.go_on(&admin, &place).await;
    let ended = server.sigterm();
    assert!(ended.status.success(), "{ended:?}");
}

fn socket(place: &Place) -> String {
    format!("unix:{}", place.path().join("socket").display())
}

fn stopped(server: Mmapd) -> Ended {
    let ended = server.sigterm();
    assert!(ended.status.success(), "{ended:?}");
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_on_a_socket_goes_on_after_its_server_was_killed() {
    goes_on("process", socket, Mmapd::sigkill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_on_a_port_goes_on_after_its_server_was_killed() {
    goes_on("disk", |_| port(), Mmapd::sigkill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_on_a_port_goes_on_after_its_server_was_stopped() {
    goes_on("process", |_| port(), stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_on_a_socket_goes_on_after_its_server_was_stopped() {
    goes_on("disk", socket, stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_waits_for_a_server_that_is_away_longer_than_the_grace_time() {
    let place = Place::new();
    let address = socket(&place);
    let start = || place.folder_setup().listen(&address).args(["--process-grace", "2s"]).start();
    let server = start();
    let program = Program::start(server.addr()).await;
    server.sigkill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let server = start();
    let admin = Caller::connect(server.addr(), 1).await.without_pid();
    program.go_on(&admin, &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_writes_all_the_time_repeats_at_most_the_write_under_way() {
    const LENGTH: u64 = 100;
    let place = Place::new();
    let address = socket(&place);
    let start = || place.folder_setup().listen(&address).start();
    let mut server = start();
    let client = Client::connect(server.addr()).await.unwrap();
    let process = client.attach(AttachOptions::default()).await.unwrap();
    let mapping = process.map("/f").length(LENGTH * 1000).prot(Prot::READ_WRITE).create().shared().await.unwrap();
    let (acknowledged, seen) = tokio::sync::watch::channel(0);
    let writing = tokio::spawn(async move {
        let mut repeated = 0;
        for number in 0..1000_u64 {
            let data = format!("{number:099}\n");
            while let Err(error) = mapping.write(number * LENGTH, data.clone()).await {
                // Anything else would be more than a reconnect.
                assert_eq!(error.kind(), ErrorKind::Transport, "{error:?}");
                println!("write {number} is repeated: {error}");
                repeated += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            acknowledged.send_replace(number + 1);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (mapping, repeated)
    });
    for kill in 1..=3 {
        let mut seen = seen.clone();
        tokio::time::timeout(SOON, seen.wait_for(|count| *count > kill * 200)).await.unwrap().unwrap();
        server.sigkill();
        server = start();
    }
    let (mapping, repeated) = tokio::time::timeout(SOON * 3, writing).await.unwrap().unwrap();
    assert!(repeated <= 3, "{repeated} writes were repeated for 3 kills");
    mapping.msync().await.unwrap();
    let expected: String = (0..1000).map(|number| format!("{number:099}\n")).collect();
    assert!(place.content("f") == expected.as_bytes());
}
