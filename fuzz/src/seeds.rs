//! Writes the seeds of the corpora: inputs that a fuzzer would need long to come upon, such as real requests and
//! journals that are broken in one way each. `fuzz/run` does not need it: what it writes is in the repository.

use std::path::Path;

use mmap_core::journal::record::{BlockPages, Content, Record, Who};
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op;
use prost::Message;

use crate::methods::METHODS;

/// Writes them, and ends the program.
pub fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
    };
    paths(|name, bytes| put("path", name, bytes));
    requests(|name, bytes| put("requests", name, bytes));
    tokens(|name, bytes| put("token", name, bytes));
    journals(|name, bytes| put("journal", name, bytes));
    operations(|name, bytes| put("operations", name, bytes));
    std::process::exit(0)
}

fn paths(put: impl Fn(&str, &[u8])) {
    let texts = [
        "/a",
        "/a/b/c.dat",
        "/a/../b",
        "/.mmapd-probe",
        "/a//b",
        "/a/",
        "/\u{85}",
        "/a/b",
        "/f/x",
        "/=memory:",
        "/data=s3://bucket/prefix?region=eu-west-1&layout=log",
        "/srv=file:///srv?ro",
        "/..a/%2e%2e/ü#?*[x]",
        "/x=gs://b/p?endpoint=http://127.0.0.1:9000&allow_http&unsafe-overwrite",
    ];
    texts.iter().enumerate().for_each(|(number, text)| put(&number.to_string(), text.as_bytes()));
    put("long", format!("/{}", ["x".repeat(255).as_str(); 15].join("/")).as_bytes());
}

fn tokens(put: impl Fn(&str, &[u8])) {
    let claims = r#"{"sub":"a","aud":"mmapd","exp":1800000060,"capabilities":["FileRead"]}"#;
    let scoped = r#"{"sub":"a","aud":["x","mmapd"],"exp":1800000060,"paths":[{"prefix":"/data","rights":"rw"}]}"#;
    put("foreign", b"\0eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjoxODAwMDAwMDYwfQ.");
    put("signed", format!("\x01{}\0{claims}", r#"{"alg":"EdDSA","kid":"k1"}"#).as_bytes());
    put("scoped", format!("\x01{}\0{scoped}", r#"{"alg":"EdDSA"}"#).as_bytes());
    put("confused", format!("\x01{}\0{claims}", r#"{"alg":"RS256","kid":"k1"}"#).as_bytes());
    put("critical", format!("\x01{}\0{claims}", r#"{"alg":"EdDSA","crit":["exp"]}"#).as_bytes());
    put("changed", b"\x02\0\x30A");
    let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    put("keys", format!("\x03{keys}").as_bytes());
    put("secret", format!("\x03{}", r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#).as_bytes());
    put("pem", b"\x03-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n");
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat()
}

fn call(method: &str, flags: u8, frame: u8, body: &[u8]) -> Vec<u8> {
    let number = METHODS.iter().position(|path| path.ends_with(&format!("/{method}"))).unwrap();
    [&[u8::try_from(number).unwrap(), flags, frame][..], &prefixed(body)].concat()
}

fn unary(method: &str, message: &impl Message) -> Vec<u8> {
    call(method, 0, 0, &message.encode_to_vec())
}

fn map(path: &str, shared: bool) -> v1::MmapRequest {
    v1::MmapRequest {
        path: path.into(),
        offset: 0,
        length: Some(9000),
        prot: 3,
        shared,
        create: true,
        populate: !shared,
    }
}

fn read(offset: u64, length: u64) -> v1::MmapReadRequest {
    v1::MmapReadRequest { mmap_id: 4, offset, length }
}

fn write(offset: u64, data: &[u8]) -> v1::MmapWriteRequest {
    v1::MmapWriteRequest { mmap_id: 4, offset, data: data.to_vec().into() }
}

/// The first mapping of an input is number 4: three were made before it.
fn requests(put: impl Fn(&str, &[u8])) {
    let shared = unary("Mmap", &map("/a", true));
    let sync = v1::MsyncRequest { mmap_id: 4, ..Default::default() };
    let munmap = v1::MunmapRequest { mmap_id: 4, discard: false, force: false };
    let stats = v1::MmapStatsRequest { mmap_id: 4 };
    let life = [
        shared.clone(),
        unary("MmapWrite", &write(4090, b"over a page's border")),
        unary("MmapRead", &read(4000, 200)),
        unary("Msync", &sync),
        unary("MmapStats", &stats),
        unary("ListMappings", &v1::ListMappingsRequest::default()),
        unary("Munmap", &munmap),
    ];
    put("life", &life.concat());
    let private = unary("Mmap", &map("/b", false));
    put(
        "private",
        &[private, unary("MmapWrite", &write(8990, b"the end")), unary("MmapRead", &read(8192, 4096))].concat(),
    );
    let ops = [
        Op::MmapWrite(write(10, b"first")),
        Op::MmapRead(read(0, 30)),
        Op::Mmap(map("/c", true)),
        Op::Msync(sync),
        Op::MmapStats(stats),
        Op::MmapRead(read(9000, 1)),
        Op::Munmap(munmap),
    ];
    let piped: Vec<u8> = (1..)
        .zip(ops)
        .flat_map(|(tag, op)| prefixed(&v1::MmapPipelineRequest { tag, op: Some(op) }.encode_to_vec()))
        .collect();
    put("pipeline", &[shared.clone(), call("MmapPipeline", 0, 0, &piped)].concat());
    put(
        "pipeline-in-pieces",
        &[shared.clone(), call("MmapPipeline", 1, 7, &piped), call("MmapPipeline", 0, 3, &piped)].concat(),
    );
    let raw = [&[0, 0, 0, 0, 9][..], &read(1, 2).encode_to_vec(), &[1, 2, 3]].concat();
    put("raw", &[shared.clone(), call("MmapRead", 0x40, 2, &raw), call("MmapPipeline", 0x40, 0, &raw)].concat());
    let chunk = |offset, data: &[u8]| {
        prefixed(&v1::MmapWriteStreamRequest { mmap_id: 4, offset, data: data.to_vec().into() }.encode_to_vec())
    };
    let chunks = [chunk(0, &[7; 5000]), chunk(5000, &[8; 4000])].concat();
    let whole = v1::MmapReadStreamRequest { mmap_id: 4, offset: 0, length: 9000, chunk_length: Some(1000) };
    put("streams", &[shared.clone(), call("MmapWriteStream", 0, 0, &chunks), unary("MmapReadStream", &whole)].concat());
    let truncate = v1::TruncateFileRequest { path: "/a".into(), size: 100, create: false, exclusive: false };
    let files = [
        shared.clone(),
        unary("StatFile", &v1::StatFileRequest { path: "/a".into() }),
        unary("TruncateFile", &truncate),
        unary("MmapRead", &read(0, 4096)),
        unary("ListFiles", &v1::ListFilesRequest { prefix: "/".into(), page_size: 1, page_token: String::new() }),
        unary("RemoveFile", &v1::RemoveFileRequest { path: "/b".into() }),
    ];
    put("files", &files.concat());
    let processes = [
        shared,
        unary("MmapWrite", &write(0, b"kept")),
        unary("Attach", &v1::AttachRequest { pid: Some(1), name: "one".into() }),
        unary("ListProcesses", &v1::ListProcessesRequest::default()),
        unary("ListWaiting", &v1::ListWaitingRequest::default()),
        unary("ListConflicts", &v1::ListConflictsRequest::default()),
        unary("Exit", &v1::ExitRequest { discard: false }),
    ];
    put("processes", &processes.concat());
    let late = |header: &[u8]| [&[1, 0x30, 0][..], &prefixed(header), &prefixed(&read(0, 1).encode_to_vec())].concat();
    put("timeouts", &[late(b"1n"), late(b"99999999H"), late(b"x"), late(b"123456789S")].concat());
    let named =
        |header: &[u8]| [&[0, 0x20, 0][..], &prefixed(header), &prefixed(&map("/a", true).encode_to_vec())].concat();
    put("capabilities", &[named(b"FileRead, FileWrite"), named(b"Root"), named(b"\xff,")].concat());
}

fn operations(put: impl Fn(&str, &[u8])) {
    // Trouble, kind, bits, and what the kind takes: see `operations`.
    let map = |bits: u8| vec![0, 0, bits, 200, 0, 0, 100];
    let write = |bits: u8, at: u16, trouble: u8| {
        [&[trouble, 5, bits, 200][..], &at.to_le_bytes(), &[130, 100, 9, bits]].concat()
    };
    let read = |bits: u8, at: u16| [&[0, 2, bits, 200][..], &at.to_le_bytes(), &[130, 200, 20]].concat();
    put("shared", &[map(0), map(1), write(0, 4000, 0), read(1, 3000), vec![0, 9, 0], vec![0, 11, 0]].concat());
    put("private", &[map(0x20), map(0), write(0, 100, 0), write(1, 0, 0), read(0, 0), read(1, 0)].concat());
    put("failures", &[map(4), write(0, 0, 2), vec![3, 9, 0], vec![4, 9, 0], vec![0, 9, 0], read(0, 0)].concat());
    let outside = vec![0, 15, 0, 200, 0, 9, 77];
    put("conflict", &[map(0), write(0, 0, 0), outside, vec![0, 9, 0], vec![0, 0xc9, 0], read(0, 0)].concat());
    put("truncate", &[map(0), write(0, 5000, 0), vec![0, 13, 0, 1, 0, 0], read(0, 0), vec![0, 12, 0]].concat());
}

fn journals(put: impl Fn(&str, &[u8])) {
    // Written as `broken` and `torn` read it: segments, records and their bytes, then the harm.
    let written = |segments: u8, harm: &[u8]| {
        let records =
            (0..segments).flat_map(|number| [&[3][..], &[2, 1, 2, 3, 4, 0, 1, number, 9, 20], &[5; 40]].concat());
        [&[1, segments - 1][..], &records.collect::<Vec<u8>>(), harm].concat()
    };
    put("whole", &written(3, &[0, 7, 7]));
    put("torn", &written(2, &[1, 60, 0, 0]));
    put("cut-off", &written(1, &[1, 90, 0, 1]));
    put("flipped", &written(3, &[2, 0, 1, 0, 0, 0, 80, 0, 3, 7, 7]));
    put("sector", &written(3, &[2, 3, 1, 0, 0, 0, 100, 0, 7, 7]));
    put("missing", &written(3, &[2, 4, 0, 0, 0, 0, 0, 0, 7, 7]));
    put("doubled", &written(3, &[2, 5, 0, 0, 1, 0, 0, 0, 7, 7]));
    let head = b"MMAPDWAL\x01\0\0\0";
    put("raw", &[&[0][..], &prefixed(head), &prefixed(&[0; 100]), &prefixed(b"#!/bin/sh")].concat());
    let who = || Who { subject: "".into(), pid: 7 };
    let content = |size| Content { path: "/a".into(), version: Some("v1".into()), size };
    let blocks = || vec![BlockPages(0, 0b101)].into();
    let records = [
        Record::Process { who: who(), name: "one".into(), leased: true },
        Record::Mapped { id: 1, who: who(), path: "/a".into(), start: 0, end: 9000, prot: 3, shared: false },
        Record::Written { content: content(9000), blocks: blocks() },
        Record::Copied { id: 1, blocks: blocks() },
        Record::Attempt { path: "/a".into(), commit: 5, size: 9000 },
        Record::Moved { content: content(5000), stored: blocks(), settled: false },
        Record::GivenUp { path: "/a".into(), blocks: blocks() },
        Record::Unmapped { id: 1 },
        Record::ProcessGone { who: who() },
    ];
    for end in [4, 6, records.len()] {
        let said = records[..end].iter().flat_map(|record| {
            let mut bytes = Vec::new();
            record.write_head(&mut bytes);
            [&[0][..], &prefixed(&bytes)].concat()
        });
        put(&format!("records-{end}"), &[&[2][..], &said.collect::<Vec<u8>>()].concat());
    }
}
