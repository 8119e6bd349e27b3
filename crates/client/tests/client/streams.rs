//! Ranges of any length over streams: what breaks, and what goes on.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mmap_client::{Error, ErrorKind, Mapping, PIECE, Process, Prot, Reason};
use mmap_fake::{Fake, fault::Fault};
use tonic::Code;

use crate::support::{attach, connect, fake, within};

const LENGTH: usize = 3 * PIECE + 17;

struct Scene {
    fake: Fake,
    _process: Process,
    mapping: Mapping,
    data: Vec<u8>,
}

async fn scene() -> Scene {
    let fake = fake();
    let data: Vec<u8> =
        (0..LENGTH).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).expect("masked")).collect();
    fake.put_file("/data/long", data.clone());
    let process = attach(&connect(&fake).await).await;
    let mapping = process.map("/data/long").prot(Prot::READ_WRITE).await.expect("it maps");
    Scene { fake, _process: process, mapping, data }
}

#[tokio::test]
async fn a_read_stream_that_breaks_goes_on_at_the_byte_that_it_had_reached() {
    let scene = scene().await;
    scene.fake.plan("MmapReadStream", Fault::Cut(2, Reason::Io));
    scene.fake.plan("MmapReadStream", Fault::Cut(1, Reason::Io));
    scene.fake.plan("MmapReadStream", Fault::Refuse(Reason::Io, std::time::Duration::ZERO));
    let pieces = scene.mapping.read_stream(5, LENGTH as u64 - 5).expect("in range").chunk_length(100_000);
    let pieces: Vec<Bytes> = within(pieces.try_collect()).await.expect("it reads");
    assert!(pieces.concat() == scene.data[5..], "the bytes differ");
    assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() == 100_000));
    assert_eq!(scene.fake.calls("MmapReadStream"), 4);
}

#[tokio::test]
async fn a_read_stream_ends_with_the_first_error_of_the_server() {
    let scene = scene().await;
    let mut pieces = scene.mapping.read_stream(0, LENGTH as u64 + 1).expect("in range");
    let mut length = 0;
    let error = loop {
        match pieces.next().await.expect("an error comes before the end") {
            Ok(piece) => length += piece.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::SegvMapErr));
    assert!(length < LENGTH);
    assert!(pieces.next().await.is_none());
    assert_eq!(scene.fake.calls("MmapReadStream"), 1);
    let error = scene.mapping.read_stream(u64::MAX, 2).expect_err("no such range");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Usage, Some(Reason::Inval)));
    let nothing: Vec<Bytes> = scene.mapping.read_stream(9, 0).expect("in range").try_collect().await.expect("no call");
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn what_a_write_stream_sends_is_written_in_its_order() {
    let scene = scene().await;
    let pieces = [&b"one "[..], b"", b"two ", b"three"].map(Bytes::from_static);
    let sent = stream::iter(pieces).map(Ok::<_, Error>);
    assert_eq!(scene.mapping.write_stream(3, sent).await.expect("it writes"), 13);
    assert_eq!(scene.mapping.read(3, 13).await.expect("it reads"), "one two three");
    assert_eq!(scene.mapping.write_stream(3, stream::empty::<Result<Bytes, Error>>()).await.expect("nothing"), 0);
}

#[tokio::test]
async fn a_write_stream_that_breaks_is_never_repeated() {
    let scene = scene().await;
    scene.fake.plan("MmapWriteStream", Fault::Cut(1, Reason::Io));
    let pieces = stream::repeat_with(|| Ok::<_, Error>(Bytes::from(vec![9; 1000]))).take(3);
    let error = within(scene.mapping.write_stream(0, pieces)).await.expect_err("it breaks");
    assert_eq!((error.code(), error.is_surely_without_effect()), (Code::Unavailable, false));
    assert_eq!(scene.fake.calls("MmapWriteStream"), 1);
    let error = scene.mapping.write_all(0, vec![9; LENGTH + 1]).await.expect_err("longer than the mapping");
    assert_eq!(error.reason(), Some(Reason::SegvMapErr));
    assert_eq!(scene.fake.calls("MmapWriteStream"), 2);
}

#[tokio::test]
async fn an_error_of_what_is_to_be_written_ends_the_write() {
    #[derive(Debug)]
    enum Why {
        Ours,
        Theirs,
    }
    impl From<Error> for Why {
        fn from(_: Error) -> Self {
            Self::Theirs
        }
    }
    let scene = scene().await;
    let pieces = stream::iter([Ok(Bytes::from_static(b"x")), Err(Why::Ours)]);
    let error = within(scene.mapping.write_stream(0, pieces)).await.expect_err("the second piece is one");
    assert!(matches!(error, Why::Ours));
    let pieces = stream::iter([Ok::<_, Why>(Bytes::from_static(b"x"))]);
    let error = within(scene.mapping.write_stream(LENGTH as u64, pieces)).await.expect_err("no such range");
    assert!(matches!(error, Why::Theirs));
}

#[tokio::test]
async fn a_server_without_streams_is_asked_for_pieces() {
    let scene = scene().await;
    for method in ["MmapReadStream", "MmapWriteStream"] {
        for _ in 0..9 {
            scene.fake.plan(method, Fault::Bare(Code::Unimplemented));
        }
    }
    let data: Vec<u8> = scene.data.iter().map(|byte| !byte).collect();
    within(scene.mapping.write_all(0, data.clone())).await.expect("it writes");
    assert!(within(scene.mapping.read_all(0, LENGTH)).await.expect("it reads") == data, "the bytes differ");
    assert_eq!((scene.fake.calls("MmapRead"), scene.fake.calls("MmapWrite")), (4, 4));
}
