//! Calls one by one: data, lists, headers, deadlines, errors, and what can carry them.

use std::time::{Duration, Instant};

use mmap_client::{Capability, Client, ErrorKind, MappingInfo, PIECE, Prot, Reason, Sharing, Truncate};
use mmap_fake::{Fake, fault::Fault};
use tonic::{Code, Request, Status, transport::Endpoint};

use crate::support::{attach, builder, connect, fake, map, within};

#[tokio::test]
async fn what_is_written_is_read_and_synced() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    assert_eq!((mapping.length(), mapping.file_size(), mapping.pid()), (8192, 8192, 42));
    mapping.write(100, &b"Hello"[..]).await.expect("it writes");
    let mut buffer = [0; 7];
    mapping.read_into(99, &mut buffer).await.expect("it reads");
    assert_eq!(&buffer, b"\0Hello\0");
    assert_eq!(&fake.stored("/data/file").expect("it is there")[100..105], [0; 5]);
    let synced = mapping.msync().await.expect("it syncs");
    assert_eq!((synced.bytes, synced.version.as_str()), (8192, "2"));
    assert_eq!(&fake.stored("/data/file").expect("it is there")[100..105], b"Hello");
    assert_eq!(mapping.unmap().await.expect("it unmaps"), 0);
}

#[tokio::test]
async fn long_reads_and_writes_go_over_streams() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let length = 3 * PIECE + 17;
    let data: Vec<u8> =
        (0..length).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).expect("masked")).collect();
    fake.put_file("/data/long", vec![0; length + 100]);
    let mapping = process.map("/data/long").prot(Prot::READ_WRITE).await.expect("it maps");
    mapping.write_all(50, data.clone()).await.expect("it writes");
    assert_eq!((fake.calls("MmapWrite"), fake.calls("MmapWriteStream")), (0, 1));
    assert!(mapping.read_all(50, length).await.expect("it reads") == data, "the bytes differ");
    assert_eq!((fake.calls("MmapRead"), fake.calls("MmapReadStream")), (0, 1));
    assert_eq!(mapping.read_all(0, 0).await.expect("nothing is asked for"), b"");
    let error = mapping.read_all(u64::MAX, 2).await.expect_err("no such range");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Usage, Some(Reason::Inval)));
    let error = mapping.read_all(0, length + 101).await.expect_err("longer than the mapping");
    assert_eq!(error.reason(), Some(Reason::SegvMapErr));
}

#[tokio::test]
async fn private_writes_are_the_mappings_own() {
    let fake = fake();
    fake.put_file("/data/file", *b"file");
    let process = attach(&connect(&fake).await).await;
    let private = process.map("/data/file").prot(Prot::READ_WRITE).private().await.expect("it maps");
    private.write(0, "mine").await.expect("it writes");
    assert_eq!(private.read(0, 4).await.expect("it reads"), "mine");
    let shared = process.map("/data/file").offset(1).length(2).await.expect("it maps");
    assert_eq!(shared.read(0, 2).await.expect("it reads"), "il");
    let stats: MappingInfo = shared.stats().await.expect("it has the capability");
    assert_eq!((stats.offset, stats.length, stats.prot, stats.sharing), (1, 2, Prot::READ, Sharing::Shared));
    assert_eq!(private.stats().await.expect("it has the capability").sharing, Sharing::Private);
}

#[tokio::test]
async fn an_error_tells_code_reason_values_and_node() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = process.map("/data/file").length(10).create().await.expect("it maps");
    for (offset, length, reason, code) in
        [(8, 3, Reason::SegvMapErr, Code::OutOfRange), (0, 0, Reason::Inval, Code::InvalidArgument)]
    {
        let error = mapping.read(offset, length).await.expect_err("no such range");
        assert_eq!((error.reason(), error.code(), error.kind()), (Some(reason), code, ErrorKind::Server));
        assert_eq!(error.metadata()["offset"], offset.to_string());
        assert_eq!(error.node(), Some("fake"));
    }
    let error = mapping.write(0, "x").await.expect_err("it is read-only");
    assert_eq!((error.reason(), error.code()), (Some(Reason::SegvAccErr), Code::PermissionDenied));
}

#[tokio::test]
async fn lists_go_on_over_their_pages() {
    let fake = fake();
    for name in 0..7 {
        fake.put_file(&format!("/data/{name}"), [name]);
    }
    let client = connect(&fake).await;
    let files = client.list_files("/data/").await.expect("it lists");
    assert_eq!(
        files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["/data/0", "/data/1", "/data/2", "/data/3", "/data/4", "/data/5", "/data/6"]
    );
    assert_eq!(fake.calls("ListFiles"), 3);

    let process = attach(&client).await;
    let _mappings = (map(&process).await, map(&process).await, map(&process).await, map(&process).await);
    let first = process.mappings(None).await.expect("one's own need no capability");
    let second = process.mappings(first.next.as_deref()).await.expect("it lists");
    assert_eq!((first.items.len(), second.items.len(), second.next), (3, 1, None));
    assert_eq!(client.list_mappings(Some(42), None).await.expect("it lists").items.len(), 3);
    assert!(client.list_mappings(Some(41), None).await.expect("it lists").items.is_empty());
    assert_eq!(client.list_processes(None).await.expect("it lists").items[0].mappings, 4);
}

#[tokio::test]
async fn files_are_made_sized_and_removed() {
    let fake = fake();
    let client = connect(&fake).await;
    let missing = client.truncate_file("/f", 5, Truncate::Existing).await.expect_err("it is not there");
    assert_eq!(missing.reason(), Some(Reason::NoEnt));
    client.truncate_file("/f", 5, Truncate::CreateNew).await.expect("it is new");
    let there = client.truncate_file("/f", 5, Truncate::CreateNew).await.expect_err("it is there");
    assert_eq!(there.reason(), Some(Reason::Exist));
    client.truncate_file("/f", 9, Truncate::Create).await.expect("it is there");
    let file = client.stat_file("/f").await.expect("it is there");
    assert_eq!((file.path.as_str(), file.size), ("/f", 9));
    client.remove_file("/f").await.expect("it is there");
    assert_eq!(fake.stored("/f"), None);
}

#[tokio::test]
async fn capabilities_are_claimed_as_told() {
    let fake = fake();
    fake.put_file("/f", *b"x");
    let plain = Client::connect(fake.address()).await.expect("it listens");
    plain.stat_file("/f").await.expect("FileRead is a default");
    assert_eq!(fake.last_header("StatFile", "mmap-capabilities").as_deref(), Some("FileRead,FileWrite"));
    let refused = plain.list_processes(None).await.expect_err("SystemInfo is not");
    assert_eq!((refused.reason(), refused.metadata()["capability"].as_str()), (Some(Reason::Acces), "SystemInfo"));

    let bare = Client::builder().capabilities([]).connect(fake.address()).await.expect("it listens");
    bare.stat_file("/f").await.expect_err("nothing is claimed");
    assert_eq!(fake.last_header("StatFile", "mmap-capabilities"), None);
}

#[tokio::test]
async fn a_call_without_an_answer_ends_at_its_deadline_and_tells_it_to_the_server() {
    let fake = fake();
    let client = connect(&fake).await.with_deadline(Duration::from_millis(200));
    for _ in 0..5 {
        fake.plan("StatFile", Fault::Hang);
    }
    // Client and server see the deadline at about the same time; whoever is first, the error is the same.
    for round in 1..=5 {
        let start = Instant::now();
        let error = within(client.stat_file("/f")).await.expect_err("it hangs");
        assert_eq!((error.kind(), error.reason()), (ErrorKind::Deadline, Some(Reason::TimedOut)), "{error:?}");
        assert!((Duration::from_millis(190)..Duration::from_secs(5)).contains(&start.elapsed()));
        assert_eq!(fake.calls("StatFile"), round, "a deadline that passed is not repeated");
    }
    fake.plan("StatFile", Fault::Bare(Code::DeadlineExceeded));
    let error = client.stat_file("/f").await.expect_err("the server's library was first");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Deadline, Some(Reason::TimedOut)));
    let sent = fake.last_header("StatFile", "grpc-timeout").expect("it is sent");
    assert!(sent.ends_with('u') || sent.ends_with('n') || sent.ends_with('m'), "{sent}");
}

#[tokio::test]
async fn absurd_deadlines_are_taken() {
    let fake = fake();
    fake.put_file("/f", *b"x");
    let client = connect(&fake).await;
    client.with_deadline(Duration::MAX).stat_file("/f").await.expect("for ever is a deadline");
    let error = client.with_deadline(Duration::ZERO).stat_file("/f").await.expect_err("no time at all");
    assert_eq!(error.kind(), ErrorKind::Deadline);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_by_connect() {
    let mut fake = fake();
    fake.stop();
    let error = Client::connect(fake.address()).await.expect_err("nobody listens");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Connect, Code::Unavailable));
    assert!(error.message().contains(fake.address()), "{error}");
    let error = Client::connect("not an address").await.expect_err("it is none");
    assert_eq!(error.kind(), ErrorKind::Usage);
    let lazy = builder().retry(mmap_client::RetryPolicy::NEVER).connect_lazy(fake.address()).expect("it is an address");
    assert_eq!(lazy.ping().await.expect_err("nobody listens").kind(), ErrorKind::Connect);
}

#[tokio::test]
async fn calls_go_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = Fake::start_unix(&folder.path().join("socket")).expect("a socket");
    let client = connect(&fake).await;
    assert!(fake.address().starts_with("unix:/"));
    assert!(client.ping().await.expect("it answers").serving);
    let process = attach(&client).await;
    map(&process).await.write(0, "x").await.expect("it writes");
}

#[tokio::test]
async fn calls_go_over_a_channel_and_through_an_interceptor_of_the_callers_own() {
    let fake = fake();
    let channel = Endpoint::from_shared(format!("http://{}", fake.address())).expect("a URI").connect_lazy();
    assert!(Client::from_channel(channel.clone()).ping().await.expect("it answers").serving);

    let add = |name: &'static str| {
        move |mut request: Request<()>| {
            request.metadata_mut().insert(name, "told".parse().expect("ASCII"));
            Ok::<_, Status>(request)
        }
    };
    let client = Client::builder()
        .capabilities([Capability::FileRead])
        .interceptor(add("x-first"))
        .interceptor(add("x-second"))
        .service(channel);
    client.stat_file("/f").await.expect_err("it is not there");
    for header in ["x-first", "x-second"] {
        assert_eq!(fake.last_header("StatFile", header).as_deref(), Some("told"));
    }
    assert_eq!(fake.last_header("StatFile", "mmap-capabilities").as_deref(), Some("FileRead"));

    // Any tower service will do, and an interceptor may refuse.
    let refusing = Client::builder()
        .interceptor(|_: Request<()>| Err::<Request<()>, _>(Status::unauthenticated("no token yet")))
        .service(tower::ServiceBuilder::new().service(connect_channel(&fake)));
    let error = refusing.stat_file("/f").await.expect_err("it is refused here");
    assert_eq!((error.code(), error.message()), (Code::Unauthenticated, "no token yet"));
}

fn connect_channel(fake: &Fake) -> tonic::transport::Channel {
    Endpoint::from_shared(format!("http://{}", fake.address())).expect("a URI").connect_lazy()
}

#[tokio::test]
async fn futures_of_calls_can_be_spawned() {
    let fake = fake();
    let client = connect(&fake).await;
    let process = attach(&client).await;
    let done = tokio::spawn(async move {
        let mapping = process.map("/data/file").length(10).prot(Prot::READ_WRITE).create().await?;
        mapping.write_all(0, "0123456789").await?;
        mapping.sync().range(0, 5).await?;
        let read = mapping.read_all(0, 10).await?;
        mapping.unmap().await?;
        client.list_files("").await?;
        process.exit().await?;
        Ok::<_, mmap_client::Error>(read)
    });
    assert_eq!(done.await.expect("no panic").expect("no error"), b"0123456789");
}
