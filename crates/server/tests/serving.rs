//! The server in-process: what every client finds, whatever the core does.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod support;

use std::time::Duration;

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use mmap_proto::v1;
use mmap_proto::v1::file_service_client::FileServiceClient;
use mmap_proto::v1::mmap_service_client::MmapServiceClient;
use mmap_proto::v1::process_service_client::ProcessServiceClient;
use support::{Running, reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const SERVICES: [&str; 3] = ["mmap.v1.MmapService", "mmap.v1.ProcessService", "mmap.v1.FileService"];

fn with_pid<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("mmap-pid", MetadataValue::from_static("7"));
    request
}

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_serves_for_the_whole_and_for_each_service() {
    let server = Running::start(&[]).await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "mmap.v1.stores", "mmap.v1.store:/"].iter().chain(&SERVICES) {
        let answer = health.check(check(service)).await.unwrap();
        assert_eq!(answer.metadata().get("mmap-node").unwrap(), "n1");
        assert_eq!(answer.into_inner().status, ServingStatus::Serving as i32);
    }
    assert_eq!(health.check(check("no.such.Service")).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let server = Running::start(&[]).await;
    macro_rules! listed {
        ($version:ident) => {{
            use tonic_reflection::pb::$version as pb;
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(server.channel().await);
            let list = pb::server_reflection_request::MessageRequest::ListServices(String::new());
            let request = pb::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
            let requests = tokio_stream::once(request);
            let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
            match answers.message().await.unwrap().unwrap().message_response.unwrap() {
                pb::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for names in [listed!(v1), listed!(v1alpha)] {
        for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
            assert!(names.iter().any(|name| name == service), "{service} is not among {names:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_malformed_request_is_refused_with_its_reason_and_field() {
    use tonic_types::StatusExt as _;
    let server = Running::start(&[]).await;
    let mut client = MmapServiceClient::new(server.channel().await);
    let read = v1::MmapReadRequest { mmap_id: 1, offset: 0, length: 1 };
    let cases = [
        (client.mmap_read(read).await.unwrap_err(), "mmap-pid"),
        (client.mmap_read(with_pid(v1::MmapReadRequest { length: 0, ..read })).await.unwrap_err(), "length"),
        (client.mmap_read(with_pid(v1::MmapReadRequest { offset: u64::MAX, ..read })).await.unwrap_err(), "length"),
        (
            client.mmap_read(with_pid(v1::MmapReadRequest { length: (4 << 20) + 1, ..read })).await.unwrap_err(),
            "length",
        ),
        (client.mmap_write(with_pid(v1::MmapWriteRequest::default())).await.unwrap_err(), "data"),
        (
            client.mmap(with_pid(v1::MmapRequest { path: "/../x".into(), ..Default::default() })).await.unwrap_err(),
            "path",
        ),
    ];
    for (status, field) in cases {
        assert_eq!(reason(&status), (Code::InvalidArgument, "EINVAL".to_owned()));
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, field);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_capability_that_is_not_known_is_refused_naming_the_known_ones() {
    let server = Running::start(&[]).await;
    let mut client = FileServiceClient::new(server.channel().await);
    let mut request = Request::new(v1::StatFileRequest { path: "/a".into() });
    request.metadata_mut().insert("mmap-capabilities", MetadataValue::from_static("FileRead, Everything"));
    let status = client.stat_file(request).await.unwrap_err();
    assert_eq!(reason(&status), (Code::InvalidArgument, "EINVAL".to_owned()));
    assert!(status.message().contains("`Everything`") && status.message().contains("SystemInfo"));
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_says_why_as_a_call_does() {
    let server = Running::start(&[]).await;
    let mut client = MmapServiceClient::new(server.channel().await);
    let mut chunks =
        client.mmap_read_stream(with_pid(v1::MmapReadStreamRequest::default())).await.unwrap().into_inner();
    let nameless = tokio_stream::once(v1::MmapWriteStreamRequest { data: "x".into(), ..Default::default() });
    let statuses = [
        chunks.message().await.unwrap_err(),
        client.mmap_write_stream(with_pid(nameless)).await.unwrap_err(),
        client.mmap_pipeline(Request::new(tokio_stream::pending())).await.unwrap_err(),
    ];
    for status in statuses {
        assert_eq!(reason(&status), (Code::InvalidArgument, "EINVAL".to_owned()));
    }
    server.stop().await;
}

#[tokio::test]
async fn an_attach_whose_pids_differ_is_refused() {
    let server = Running::start(&[]).await;
    let mut client = ProcessServiceClient::new(server.channel().await);
    let status = client.attach(with_pid(v1::AttachRequest { pid: Some(8), name: "a".into() })).await.unwrap_err();
    assert_eq!(reason(&status), (Code::InvalidArgument, "EINVAL".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_method_too_carries_the_nodes_name() {
    let server = Running::start(&[]).await;
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/mmap.v1.MmapService/Mremap");
    let status = client
        .unary::<v1::MmapReadRequest, v1::MmapReadResponse, _>(
            Request::new(v1::MmapReadRequest::default()),
            path,
            tonic_prost::ProstCodec::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.metadata().get("mmap-node").unwrap(), "n1");
    server.stop().await;
}

#[tokio::test]
async fn a_message_or_headers_beyond_the_limits_are_refused_and_the_server_goes_on() {
    let server = Running::start(&[]).await;
    let mut client = MmapServiceClient::new(server.channel().await);
    let long = v1::MmapRequest { path: "/x".repeat(5 << 20), ..Default::default() };
    assert_eq!(reason(&client.mmap(with_pid(long)).await.unwrap_err()).1, "EINVAL");
    let data = vec![0; (4 << 20) + 1];
    let write = v1::MmapWriteRequest { mmap_id: 1, offset: 0, data: data.into() };
    assert_eq!(reason(&client.mmap_write(with_pid(write)).await.unwrap_err()).1, "EINVAL");
    let mut garbage = with_pid(v1::MmapReadRequest { mmap_id: 1, offset: 0, length: 1 });
    for i in 0..256 {
        let key = tonic::metadata::MetadataKey::from_bytes(format!("x-{i}").as_bytes()).unwrap();
        garbage.metadata_mut().insert(key, MetadataValue::try_from("x".repeat(4096)).unwrap());
    }
    client.mmap_read(garbage).await.unwrap_err();
    let mut health = HealthClient::new(server.channel().await);
    assert_eq!(health.check(check("")).await.unwrap().into_inner().status, ServingStatus::Serving as i32);
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_is_none_is_the_callers_mistake() {
    let server = Running::start(&[]).await;
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/mmap.v1.MmapService/Mmap");
    // Field 1 of Mmap is its path, a string: these bytes are no UTF-8.
    let garbage = v1::MmapReadResponse { data: vec![0xff, 0xfe].into() };
    let codec = tonic_prost::ProstCodec::<v1::MmapReadResponse, v1::MmapResponse>::default();
    let status = client.unary(with_pid(garbage), path, codec).await.unwrap_err();
    assert_eq!(reason(&status), (Code::InvalidArgument, "EINVAL".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn messages_without_end_where_one_is_asked_for_are_refused() {
    let server = Running::start(&[]).await;
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/mmap.v1.FileService/StatFile");
    let codec = tonic_prost::ProstCodec::<v1::StatFileRequest, v1::StatFileResponse>::default();
    // Each message can be read, and is small enough.
    let endless = with_pid(futures::stream::repeat(v1::StatFileRequest { path: "x".repeat(1 << 20) }));
    let refused = timeout(Duration::from_secs(10), client.client_streaming(endless, path, codec));
    let status = refused.await.expect("it reads for as long as messages come").unwrap_err();
    assert_eq!(reason(&status), (Code::InvalidArgument, "EINVAL".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn a_port_and_a_socket_serve_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.sock");
    let addr = format!("unix:{}", path.display());
    let server = Running::start(&["--listen", &addr]).await;
    assert_eq!(server.addrs[1], addr);
    let socket = path.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    let channel = Endpoint::from_static("http://socket").connect_with_connector(connector).await.unwrap();
    for channel in [channel, server.channel().await] {
        let answer = HealthClient::new(channel).check(check("")).await.unwrap();
        assert_eq!(answer.into_inner().status, ServingStatus::Serving as i32);
    }
    server.stop().await;
    assert!(!path.exists(), "the socket goes with its server");
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once() {
    let server = Running::start(&["--max-connections", "1"]).await;
    let first = server.channel().await;
    HealthClient::new(first.clone()).check(check("")).await.unwrap();
    let mut second = tokio::net::TcpStream::connect(&server.addrs[0]).await.unwrap();
    let _ = second.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_secs(5), second.read_to_end(&mut bytes)).await.expect("it was not closed");
    assert!(read.is_err() || bytes.is_empty(), "{bytes:?}");
    HealthClient::new(first).check(check("")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_what_would_last_for_ever_and_is_clean() {
    let server = Running::start(&[]).await;
    let channel = server.channel().await;
    let mut watch = HealthClient::new(channel.clone()).watch(check("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
    let silent = tokio::net::TcpStream::connect(&server.addrs[0]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.ask_to_stop();
    assert_eq!(watch.message().await.unwrap().unwrap().status, ServingStatus::NotServing as i32);
    assert!(watch.next().await.is_none(), "the watch ends, so that it does not hold up the drain");
    let report = timeout(Duration::from_secs(5), server.ended()).await.expect("the drain hangs");
    assert!(report.is_clean());
    drop((silent, channel));
}

/// A stream that only its client can end.
async fn endless(server: &Running) -> impl Sized + use<> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let mut client = ServerReflectionClient::new(server.channel().await);
    client.server_reflection_info(tokio_stream::pending()).await.unwrap()
}

#[tokio::test]
async fn a_stream_that_does_not_end_holds_up_the_drain_for_a_third_of_the_time() {
    let server = Running::start(&["--shutdown-timeout", "900ms"]).await;
    let stream = endless(&server).await;
    let start = std::time::Instant::now();
    server.ask_to_stop();
    let report = timeout(Duration::from_secs(10), server.ended()).await.expect("the drain hangs");
    assert!(start.elapsed() >= Duration::from_millis(300), "the drain waits for what runs");
    assert!(report.is_clean(), "{report:?}");
    drop(stream);
}

#[tokio::test]
async fn a_second_request_to_stop_ends_the_drain_at_once_and_is_not_clean() {
    let server = Running::start(&["--shutdown-timeout", "10m"]).await;
    let stream = endless(&server).await;
    server.ask_to_stop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.ask_to_stop();
    let report = timeout(Duration::from_secs(10), server.ended()).await.expect("the drain goes on");
    assert!(!report.is_clean());
    drop(stream);
}
