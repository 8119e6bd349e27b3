//! Each transport setting toggled alone on the bare tonic service: the reason of mmapd's defaults. Small calls (unary
//! reads of 4 KiB, 64 in flight) and large ones (a server stream of 256 KiB messages), and what each costs.
//! `cargo bench -p mmap-benches --bench knobs`.
#![allow(missing_docs, reason = "a bench target has no users")]

use std::process::ExitCode;
use std::time::Instant;

use mmap_benches::load::{self, FILE, Kind, Mapped, PAGE};
use mmap_benches::peers::settings::{Allocator, Settings};
use mmap_benches::rows::{Sample, Table, Unit, Who};
use mmap_benches::servers::Transport;
use mmap_benches::side::{Side, round_time, within};
use mmap_benches::topic::{self, Topic};
use tonic::transport::Channel;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BARE: Mapped = Mapped { id: 1, size: FILE };
const KIB: u32 = 1 << 10;
/// Most tonic services never touch these; mmapd's own values are those of `TUNED`.
const BASE: &str = "tuned";

/// A setting and how many connections are made.
struct Knob {
    name: String,
    settings: Settings,
    connections: usize,
}

fn knobs() -> Vec<Knob> {
    let tuned = Settings::TUNED;
    let knob = |name: String, settings| Knob { name, settings, connections: 1 };
    let mut knobs = vec![knob(BASE.to_owned(), tuned), knob("all defaults".to_owned(), Settings::DEFAULTS)];
    for kib in [16, 256] {
        knobs.push(knob(format!("frames of {kib} KiB, not 1 MiB"), Settings { frame: Some(kib * KIB), ..tuned }));
    }
    for kib in [64, 1024, 16 * 1024] {
        knobs.push(knob(format!("windows of {kib} KiB, not 4 and 16 MiB"), tuned.with_windows(kib)));
    }
    knobs.push(knob("two worker threads a side, not one".to_owned(), Settings { workers: 2, ..tuned }));
    let system = Settings { allocator: Allocator::System, ..tuned };
    knobs.push(knob("the server with the system's allocator".to_owned(), system));
    for connections in [2, 4] {
        knobs.push(Knob { name: format!("{connections} connections, not one"), settings: tuned, connections });
    }
    knobs
}

/// A server with clients of a knob.
struct Turned {
    side: Side,
    channels: Vec<Channel>,
}

impl Turned {
    fn start(knob: &Knob) -> Result<Self, String> {
        let side = Side::bare(knob.settings)?;
        let connect = |_| within(&side.runtime, knob.settings.connect(side.server.address(Transport::Tcp)));
        let channels = (0..knob.connections).map(connect).collect::<Result<_, _>>()?;
        Ok(Self { side, channels })
    }

    fn stream(&self, length: u64) -> Result<Sample, String> {
        let part = length / self.channels.len() as u64;
        self.side.large(async {
            let streams = self.channels.iter().map(|channel| load::read_stream(channel, BARE, part, None));
            Ok(futures::future::try_join_all(streams).await?.into_iter().sum())
        })
    }
}

fn main() -> ExitCode {
    topic::run("knobs", "Knobs: what each transport setting does to a bare tonic service", |topic| {
        nodelay(topic);
        if !topic.wants_any(&["small-calls", "large-messages"]) {
            return;
        }
        let turned: Vec<_> = knobs().into_iter().map(|knob| (Turned::start(&knob), knob.name)).collect();
        let time = round_time(topic.options()) / 2;
        let table = Table::new("small-calls", "Unary reads of 4 KiB, 64 in flight, tcp", Unit::OpsPerSecond);
        if let Some(mut contest) = topic.contest(table) {
            for (turned, name) in &turned {
                match turned {
                    Ok(it) => contest.row(name, who(name), move || {
                        it.side.small(time, |end| load::unary(&it.channels, BARE, Kind::Read(PAGE), 64, end))
                    }),
                    Err(why) => contest.gap(name, who(name), why),
                }
            }
            contest.run();
        }
        let length = if topic.options().is_quick { 32 << 20 } else { 512 << 20 };
        let table = Table::new("large-messages", "Server streams of 256 KiB messages, tcp", Unit::GibPerSecond);
        if let Some(mut contest) = topic.contest(table) {
            for (turned, name) in &turned {
                match turned {
                    Ok(it) => contest.row(name, who(name), move || it.stream(length)),
                    Err(why) => contest.gap(name, who(name), why),
                }
            }
            contest.run();
        }
    })
}

/// The base has ours' colour, because its settings are mmapd's.
fn who(name: &str) -> Who {
    if name == BASE { Who::Ours } else { Who::Peer }
}

/// At one in flight, where waiting for more to send is all that there is to lose.
fn nodelay(topic: &mut Topic) {
    let table = Table::new("nodelay", "Unary reads of 4 KiB, 1 in flight, tcp", Unit::OpsPerSecond)
        .note("Nagle's algorithm waits for the acknowledgement that the other side delays.");
    let time = round_time(topic.options());
    let Some(mut contest) = topic.contest(table) else { return };
    for (name, nodelay) in [(BASE, true), ("without TCP_NODELAY", false)] {
        match Side::bare(Settings { nodelay, ..Settings::TUNED }) {
            Ok(side) => contest.row(name, who(name), move || {
                let channels = [side.channel(Transport::Tcp).clone()];
                // At least some calls, however slow they are.
                let time = if nodelay { time } else { 3 * time };
                side.small(
                    time,
                    |end: Instant| async move { load::unary(&channels, BARE, Kind::Read(PAGE), 1, end).await },
                )
            }),
            Err(why) => contest.gap(name, who(name), &why),
        }
    }
    contest.run();
}
