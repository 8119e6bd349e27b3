//! mmapd beside Redis 7: reads and writes of 4 KiB in one file and in one string, 1, 16 and 64 in flight, and what
//! each level of durability costs a writer. `cargo bench -p mmap-benches --bench redis`.
//!
//! Redis has as many connections as operations in flight, or 16 connections with pipelines of 16; its client is this
//! crate's, on one worker thread, and copies no reply. mmapd is used through its client library.
#![allow(missing_docs, reason = "a bench target has no users")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use mmap_benches::load::{self, FILE, Kind, PAGE};
use mmap_benches::measure::measure;
use mmap_benches::peers::resp::Connection;
use mmap_benches::peers::settings::Settings;
use mmap_benches::rows::{Sample, Table, Target, Unit, Who};
use mmap_benches::servers::{Server, Transport, redis_version};
use mmap_benches::side::{Ours, round_time, within};
use mmap_benches::topic::{self, Topic};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LIBRARY: &str = "mmapd, mmap-client";
const LEVELS: [&str; 3] = ["memory", "process", "disk"];

/// A Redis with the string `hot` in it.
struct Redis {
    server: Server,
    runtime: Runtime,
}

impl Redis {
    fn start(is_durable: bool) -> Result<Self, String> {
        let redis = Self { server: Server::redis(is_durable)?, runtime: Settings::TUNED.runtime()? };
        within(&redis.runtime, async {
            let mut connection = Connection::open(redis.server.address(Transport::Tcp)).await?;
            let last = (FILE - 1).to_string();
            connection.call(&[b"SETRANGE", b"hot", last.as_bytes(), b"x"]).await.map(|_| ())
        })?;
        Ok(redis)
    }

    fn round(&self, transport: Transport, load: &Load, time: Duration) -> Result<Sample, String> {
        let address = self.server.address(transport);
        let connections =
            within(&self.runtime, try_join_all((0..load.connections).map(|_| Connection::open(address))))?;
        measure(Unit::OpsPerSecond, &[self.server.pid()], || {
            within(&self.runtime, pump(connections, load, Instant::now() + time))
        })
    }
}

/// What Redis is asked.
#[derive(Clone, Copy)]
struct Load {
    is_write: bool,
    connections: u32,
    depth: u64,
}

impl Load {
    fn name(self) -> String {
        let command = if self.is_write { "SETRANGE" } else { "GETRANGE" };
        match (self.connections, self.depth) {
            (1, 1) => format!("Redis {command}, 1 connection"),
            (connections, 1) => format!("Redis {command}, {connections} connections"),
            (connections, depth) => format!("Redis {command}, {connections} connections, pipelines of {depth}"),
        }
    }
}

async fn pump(connections: Vec<Connection>, load: &Load, end: Instant) -> Result<f64, String> {
    let tasks = connections.into_iter().enumerate().map(|(task, mut connection)| {
        let (Load { is_write, depth, .. }, first) = (*load, (task as u64) << 32);
        tokio::spawn(async move {
            connection.pump(is_write, depth, end, |number| load::offset(first + number, PAGE, FILE)).await
        })
    });
    let counts = try_join_all(tasks.collect::<Vec<_>>()).await.map_err(|error| error.to_string())?;
    let done: u64 = counts.into_iter().sum::<Result<u64, _>>()?;
    Ok(f64::from(u32::try_from(done).unwrap_or(u32::MAX)))
}

fn main() -> ExitCode {
    topic::run("redis", "Redis: mmapd beside a store of strings in memory", |topic| {
        if let Some(version) = redis_version() {
            topic.version("Redis", &version);
        }
        if topic.wants_any(&ids()) {
            let (ours, redis) = (Ours::start("memory"), Redis::start(false));
            for transport in Transport::ALL {
                for is_write in [false, true] {
                    for in_flight in [1, 16, 64] {
                        small(topic, &ours, &redis, transport, is_write, in_flight);
                    }
                }
            }
        }
        if topic.wants_any(&["levels-tcp", "levels-unix"]) {
            let (servers, redis) = (LEVELS.map(Ours::start), Redis::start(true));
            for transport in Transport::ALL {
                levels(topic, &servers, &redis, transport);
            }
        }
    })
}

fn id(transport: Transport, is_write: bool, in_flight: u32) -> String {
    format!("{}-{in_flight}-{}", if is_write { "write" } else { "read" }, transport.name())
}

fn ids() -> Vec<String> {
    let all = Transport::ALL.into_iter().flat_map(|transport| {
        [false, true].into_iter().flat_map(move |is_write| [1, 16, 64].map(|number| id(transport, is_write, number)))
    });
    all.collect()
}

fn library(ours: &Ours, transport: Transport, kind: Kind, tasks: u32, time: Duration) -> Result<Sample, String> {
    let mapping = ours.mapping(transport);
    ours.side.small(time, |end| load::library(mapping, kind, u64::from(tasks), end))
}

fn small(
    topic: &mut Topic,
    ours: &Result<Ours, String>,
    redis: &Result<Redis, String>,
    transport: Transport,
    is_write: bool,
    in_flight: u32,
) {
    let (time, over) = (round_time(topic.options()), transport.name());
    let (word, kind) = if is_write { ("write", Kind::Write(PAGE)) } else { ("read", Kind::Read(PAGE)) };
    let title = format!("{word}s of 4 KiB, {in_flight} in flight, {over}");
    let mut table = Table::new(&id(transport, is_write, in_flight), &title, Unit::OpsPerSecond);
    let plain = Load { is_write, connections: in_flight, depth: 1 };
    let piped = Load { is_write, connections: 16, depth: 16 };
    let is_full = in_flight == 64;
    if is_full && !is_write {
        let what = |peer: &str| format!("pipeline, read of 4 KiB, 64 in flight, {over} / {peer}");
        for (load, bound) in [(plain, 2.5), (piped, 0.8)] {
            table = table.target(Target::at_least(&what(&load.name()), LIBRARY, &load.name(), bound));
        }
    }
    let Some(mut contest) = topic.contest(table) else { return };
    match ours {
        Ok(ours) => contest.row(LIBRARY, Who::Ours, move || library(ours, transport, kind, in_flight, time)),
        Err(why) => contest.gap(LIBRARY, Who::Ours, why),
    }
    for load in [Some(plain), is_full.then_some(piped)].into_iter().flatten() {
        match redis {
            Ok(redis) => contest.row(&load.name(), Who::Peer, move || redis.round(transport, &load, time)),
            Err(why) => contest.gap(&load.name(), Who::Peer, why),
        }
    }
    contest.run();
}

/// Writes at each level, beside a Redis that is as durable as the last of them.
fn levels(topic: &mut Topic, servers: &[Result<Ours, String>; 3], redis: &Result<Redis, String>, transport: Transport) {
    // A disk's times differ more than a core's.
    let (time, over) = (2 * round_time(topic.options()), transport.name());
    let name = |level: &str| format!("mmapd, level {level}");
    let load = Load { is_write: true, connections: 64, depth: 1 };
    let durable = format!("{}, appendfsync always", load.name());
    let what = |ours: &str, peer: &str| format!("write of 4 KiB, 64 in flight, {over}: {ours} / {peer}");
    let (memory, process, disk) = (name("memory"), name("process"), name("disk"));
    let table = Table::new(
        &format!("levels-{over}"),
        &format!("Writes of 4 KiB at each level of durability, 64 in flight, {over}"),
        Unit::OpsPerSecond,
    )
    .note("Levels: see [SEMANTICS.md](SEMANTICS.md#durability). Both journals lie in the temporary folder.")
    .target(Target::at_least(&what("disk", &durable), &disk, &durable, 1.0))
    .target(Target::at_least(&what("process", "memory"), &process, &memory, 0.7));
    let Some(mut contest) = topic.contest(table) else { return };
    for (level, server) in LEVELS.iter().zip(servers) {
        match server {
            Ok(ours) => {
                contest.row(&name(level), Who::Ours, move || library(ours, transport, Kind::Write(PAGE), 64, time))
            }
            Err(why) => contest.gap(&name(level), Who::Ours, why),
        }
    }
    match redis {
        Ok(redis) => contest.row(&durable, Who::Peer, move || redis.round(transport, &load, time)),
        Err(why) => contest.gap(&durable, Who::Peer, why),
    }
    contest.run();
}
