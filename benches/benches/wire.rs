//! What the service adds to its transport: hot reads and writes of 4 KiB as unary calls and in the pipeline, and
//! streams of 1 GiB, beside a bare tonic service of the same messages (with default and with tuned settings), a raw
//! framed socket, and memcpy. Over loopback and over a unix socket. `cargo bench -p mmap-benches --bench wire`.
#![allow(missing_docs, reason = "a bench target has no users")]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mmap_benches::load::{self, FILE, Kind, Mapped, PAGE};
use mmap_benches::measure::measure;
use mmap_benches::peers::framed::Client;
use mmap_benches::peers::settings::Settings;
use mmap_benches::rows::{Sample, Table, Target, Unit, Who};
use mmap_benches::servers::{Server, Transport};
use mmap_benches::side::{Ours, Side, round_time, within};
use mmap_benches::topic::{self, Topic};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const GIB: u64 = 1 << 30;
const QUICK: u64 = 64 << 20;
const LIBRARY: &str = "mmapd, mmap-client";
const STUB: &str = "mmapd, generated stub";
const UNARY_TUNED: &str = "bare tonic unary, tuned";
const UNARY: &str = "bare tonic unary, defaults";
const BIDI_TUNED: &str = "bare tonic bidi, tuned";
const BIDI: &str = "bare tonic bidi, defaults";
const RAW: &str = "raw framed socket";
const NOTE: &str = "\"Defaults\": tonic's, tokio's and the C library's, on both sides (the client's allocator is mimalloc \
                    in every row). \"Tuned\": one worker thread a side, frames of 1 MiB, windows of 4 and 16 MiB, mimalloc.";

/// Who takes part; one that does not start is a gap in every table.
struct Peers {
    ours: Result<Ours, String>,
    tuned: Result<Side, String>,
    defaults: Result<Side, String>,
    raw: Result<Raw, String>,
}

/// The framed server: no gRPC, so no channels.
struct Raw {
    server: Server,
    runtime: Runtime,
}

impl Raw {
    /// A connection of its own each round, made before the clock starts.
    fn round<W: Future<Output = Result<f64, String>>>(
        &self,
        unit: Unit,
        transport: Transport,
        work: impl FnOnce(Client) -> W,
    ) -> Result<Sample, String> {
        let client = within(&self.runtime, Client::connect(self.server.address(transport)))?;
        measure(unit, &[self.server.pid()], || within(&self.runtime, work(client)))
    }
}

fn main() -> ExitCode {
    topic::run("wire", "The wire: mmapd beside its bare transport", |topic| {
        let raw = || Ok(Raw { server: Server::framed()?, runtime: Settings::TUNED.runtime()? });
        let peers = Peers {
            ours: Ours::start("memory"),
            tuned: Side::bare(Settings::TUNED),
            defaults: Side::bare(Settings::DEFAULTS),
            raw: raw(),
        };
        for transport in Transport::ALL {
            for kind in [Kind::Read(PAGE), Kind::Write(PAGE)] {
                unary(topic, &peers, transport, kind);
            }
            for (kind, in_flight) in
                [(Kind::Read(PAGE), 1), (Kind::Read(PAGE), 16), (Kind::Read(PAGE), 64), (Kind::Write(PAGE), 64)]
            {
                pipeline(topic, &peers, transport, kind, in_flight);
            }
            read_stream(topic, &peers, transport);
            write_stream(topic, &peers, transport);
        }
    })
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Read(_) => "read",
        Kind::Write(_) => "write",
    }
}

/// Adds a row of a side, or the gap that it is.
macro_rules! row {
    ($contest:expr, $name:expr, $who:expr, $side:expr, |$it:ident| $round:expr) => {
        match $side {
            Ok($it) => $contest.row($name, $who, move || $round),
            Err(why) => $contest.gap($name, $who, why.as_str()),
        }
    };
}

fn unary(topic: &mut Topic, peers: &Peers, transport: Transport, kind: Kind) {
    let (time, word, over) = (round_time(topic.options()), word(kind), transport.name());
    let ours = "mmapd, unary";
    let target = |peer, bound| {
        Target::at_least(&format!("hot unary {word} of 4 KiB, 64 in flight, {over} / {peer}"), ours, peer, bound)
    };
    let table = Table::new(
        &format!("hot-{word}-{over}"),
        &format!("Hot {word}s of 4 KiB as unary calls, 64 in flight, {over}"),
        Unit::OpsPerSecond,
    );
    let table = table.note(NOTE).target(target(UNARY_TUNED, 0.85)).target(target(UNARY, 1.2));
    let Some(mut contest) = topic.contest(table) else { return };
    row!(contest, ours, Who::Ours, &peers.ours, |it| unary_round(&it.side, it.file, transport, kind, time));
    row!(contest, UNARY_TUNED, Who::Ceiling, &peers.tuned, |it| unary_round(it, BARE, transport, kind, time));
    row!(contest, UNARY, Who::Ceiling, &peers.defaults, |it| unary_round(it, BARE, transport, kind, time));
    contest.run();
}

/// The bare server takes any mapping.
const BARE: Mapped = Mapped { id: 1, size: FILE };

fn unary_round(side: &Side, file: Mapped, transport: Transport, kind: Kind, time: Duration) -> Result<Sample, String> {
    let channels = [side.channel(transport).clone()];
    side.small(time, |end| async move { load::unary(&channels, file, kind, 64, end).await })
}

fn pipeline(topic: &mut Topic, peers: &Peers, transport: Transport, kind: Kind, in_flight: u32) {
    let (time, word, over) = (round_time(topic.options()), word(kind), transport.name());
    let mut table = Table::new(
        &format!("pipeline-{word}-{in_flight}-{over}"),
        &format!("Hot {word}s of 4 KiB in the pipeline, {in_flight} in flight, {over}"),
        Unit::OpsPerSecond,
    )
    .note(NOTE);
    let what = |peer: &str| format!("pipeline, {word} of 4 KiB, 64 in flight, {over} / {peer}");
    if in_flight == 64 && matches!(kind, Kind::Read(_)) {
        let cpu = format!("server CPU of a hot 4 KiB read in the pipeline, {over} / {BIDI_TUNED}");
        table = table
            .target(Target::at_least(&what(UNARY), LIBRARY, UNARY, 6.0))
            .target(Target::at_least(&what(BIDI), LIBRARY, BIDI, 1.5))
            .target(Target::at_most(&cpu, LIBRARY, BIDI_TUNED, 1.3).of_server_cpu());
    }
    let Some(mut contest) = topic.contest(table) else { return };
    let (tasks, library) = (u64::from(in_flight), |it: &Ours, tasks| {
        it.side.small(time, |end| async move { load::library(it.mapping(transport), kind, tasks, end).await })
    });
    row!(contest, LIBRARY, Who::Ours, &peers.ours, |it| library(it, tasks));
    row!(contest, STUB, Who::Ours, &peers.ours, |it| {
        it.side.small(time, |end| load::pipeline(it.side.channel(transport), it.file, kind, in_flight, end))
    });
    for (name, side) in [(BIDI_TUNED, &peers.tuned), (BIDI, &peers.defaults)] {
        row!(contest, name, Who::Ceiling, side, |it| {
            it.small(time, |end| load::pipeline(it.channel(transport), BARE, kind, in_flight, end))
        });
    }
    row!(contest, UNARY, Who::Ceiling, &peers.defaults, |it| {
        let channels = [it.channel(transport).clone()];
        it.small(time, |end| async move { load::unary(&channels, BARE, kind, tasks, end).await })
    });
    row!(contest, RAW, Who::Ceiling, &peers.raw, |it| {
        let (is_write, end) = (matches!(kind, Kind::Write(_)), Instant::now() + time);
        it.round(Unit::OpsPerSecond, transport, |mut client| async move { client.small(is_write, tasks, end).await })
    });
    contest.row("memcpy", Who::Ceiling, move || memcpy(time));
    contest.run();
}

fn memcpy(time: Duration) -> Result<Sample, String> {
    let source = vec![7u8; usize::try_from(FILE).map_err(|error| error.to_string())?];
    let mut page = [0u8; 4096];
    measure(Unit::OpsPerSecond, &[], || {
        let (end, mut done) = (Instant::now() + time, 0u32);
        while Instant::now() < end {
            for _ in 0..64 {
                let start = usize::try_from(load::offset(u64::from(done), PAGE, FILE)).unwrap_or(0);
                page.copy_from_slice(black_box(&source[start..start + 4096]));
                black_box(&page);
                done += 1;
            }
        }
        Ok(f64::from(done))
    })
}

fn length(topic: &Topic) -> u64 {
    if topic.options().is_quick { QUICK } else { GIB }
}

fn stream_table(direction: &str, method: &str, transport: Transport, length: u64) -> Table {
    let over = transport.name();
    let title = format!("{method} of {} MiB in memory, {over}", length >> 20);
    let table = Table::new(&format!("stream-{direction}-{over}"), &title, Unit::GibPerSecond).note(NOTE);
    let what = |peer: &str| format!("{method}, 1 GiB in memory, {over} / {peer}");
    table.target(Target::at_least(&what(STREAM), LIBRARY, STREAM, 2.0)).target(Target::at_least(
        &what(RAW),
        LIBRARY,
        RAW,
        0.7,
    ))
}

const OURS_STREAM: &str = STUB;
const STREAM: &str = "bare tonic stream, defaults";
const STREAM_TUNED: &str = "bare tonic stream, tuned";

/// The file of the streams: made when it is first asked for.
fn large_file(ours: &Ours, length: u64) -> Result<Mapped, String> {
    within(&ours.side.runtime, load::map(ours.side.channel(Transport::Tcp), "/large", length))
}

fn read_stream(topic: &mut Topic, peers: &Peers, transport: Transport) {
    let length = length(topic);
    let Some(mut contest) = topic.contest(stream_table("read", "MmapReadStream", transport, length)) else { return };
    let ours = peers.ours.as_ref().map_err(Clone::clone).and_then(|it| Ok((it, large_file(it, length)?)));
    let mapped =
        ours.as_ref().map_err(Clone::clone).and_then(|(it, _)| Ok((*it, it.map(transport, "/large", length)?)));
    row!(contest, LIBRARY, Who::Ours, mapped, |it| {
        let (ours, mapping) = &it;
        ours.side.large(load::library_read_stream(mapping, length))
    });
    row!(contest, OURS_STREAM, Who::Ours, ours, |it| {
        let (ours, file) = it;
        ours.side.large(load::read_stream(ours.side.channel(transport), file, length, None))
    });
    for (name, side) in [(STREAM_TUNED, &peers.tuned), (STREAM, &peers.defaults)] {
        row!(contest, name, Who::Ceiling, side, |it| {
            it.large(load::read_stream(it.channel(transport), BARE, length, None))
        });
    }
    row!(contest, RAW, Who::Ceiling, &peers.raw, |it| {
        it.round(Unit::GibPerSecond, transport, |mut client| async move {
            client.read_stream(length).await.map(|()| mib(length))
        })
    });
    contest.run();
}

fn write_stream(topic: &mut Topic, peers: &Peers, transport: Transport) {
    let length = length(topic);
    let mut table = stream_table("write", "MmapWriteStream", transport, length);
    // The issue sets targets for reading only; both are shown.
    table.targets.clear();
    let Some(mut contest) = topic.contest(table) else { return };
    let ours = peers.ours.as_ref().map_err(Clone::clone).and_then(|it| Ok((it, large_file(it, length)?)));
    row!(contest, OURS_STREAM, Who::Ours, ours, |it| {
        let (ours, file) = it;
        ours.side.large(load::write_stream(ours.side.channel(transport), file, length))
    });
    for (name, side) in [(STREAM_TUNED, &peers.tuned), (STREAM, &peers.defaults)] {
        row!(contest, name, Who::Ceiling, side, |it| it.large(load::write_stream(it.channel(transport), BARE, length)));
    }
    row!(contest, RAW, Who::Ceiling, &peers.raw, |it| {
        it.round(Unit::GibPerSecond, transport, |mut client| async move {
            client.write_stream(length).await.map(|()| mib(length))
        })
    });
    contest.run();
}

fn mib(bytes: u64) -> f64 {
    u32::try_from(bytes >> 20).map_or(f64::NAN, f64::from)
}
