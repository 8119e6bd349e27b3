//! One noisy subject beside a quiet one: what a hot read of 4 KiB takes the quiet one alone, beside the noisy one where
//! nothing bounds it, and where the limits per subject do. `cargo bench -p mmap-benches --bench fair`.
//!
//! The noisy subject reads 1 MiB again and again, 32 at a time, over connections of its own, and asks again a
//! millisecond after a refusal. All three share one machine, so that some of what the quiet one feels is the noisy
//! client's own use of it.
#![allow(missing_docs, reason = "a bench target has no users")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mmap_benches::load::{FILE, PAGE, offset};
use mmap_benches::measure::measure;
use mmap_benches::peers::settings::Settings;
use mmap_benches::rows::{Sample, Table, Unit, Who};
use mmap_benches::servers::{MEMORY, Server, Transport};
use mmap_benches::side::{round_time, within};
use mmap_benches::stats::quantile;
use mmap_benches::topic::{self, Topic};
use mmap_client::{Capability, Client, Mapping, Prot};
use mmap_token::{Audience, Claims, PrivateKey, now};
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const AUDIENCE: &str = "mmapd";
/// What one read of the noisy subject takes, and how many are under way.
const LARGE: usize = 1 << 20;
const IN_FLIGHT: u64 = 32;
/// What each subject may have, where there are limits: a hundred reads of the noisy one a second.
const LIMITS: [&str; 4] = ["--subject-bytes-per-second", "100MiB", "--subject-calls", "16"];

/// A server with both subjects' clients.
struct World {
    server: Server,
    quiet: (Runtime, Mapping),
    noisy: (Runtime, Arc<Mapping>),
    _keys: TempDir,
}

impl World {
    fn start(limits: &[&str]) -> Result<Self, String> {
        let keys = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (owner, _) = PrivateKey::generate().map_err(|error| error.to_string())?;
        let file = keys.path().join("keys.pem");
        std::fs::write(&file, owner.public_pem().map_err(|error| error.to_string())?)
            .map_err(|error| error.to_string())?;
        let file = file.to_str().ok_or("the temporary folder's name is not UTF-8")?;
        let args = ["--mount", "/=memory:", "--memory", MEMORY, "--durability", "memory", "--auth", "jwt"];
        let args = [&args[..], &["--jwt-keys", file, "--jwt-audience", AUDIENCE], limits].concat();
        let server = Server::mmapd(&args, &[])?;
        let mapped = |subject| {
            let runtime = Settings::TUNED.runtime()?;
            let token = token(&owner, subject)?;
            let mapping = within(&runtime, map(server.address(Transport::Tcp), &token, subject))?;
            Ok::<_, String>((runtime, mapping))
        };
        let (quiet, (runtime, noisy)) = (mapped("quiet")?, mapped("noisy")?);
        Ok(Self { server, quiet, noisy: (runtime, Arc::new(noisy)), _keys: keys })
    }

    /// A round of the quiet subject's reads: what `per_mille` of them took at most, in microseconds.
    fn round(&self, time: Duration, per_mille: usize, is_noisy: bool) -> Result<Sample, String> {
        let (runtime, mapping) = &self.noisy;
        let noise = (0..if is_noisy { IN_FLIGHT } else { 0 }).map(|task| runtime.spawn(noise(mapping.clone(), task)));
        let noise: Vec<_> = noise.collect();
        let mut times = Vec::new();
        let sample = measure(Unit::Microseconds, &[self.server.pid()], || {
            let (runtime, mapping) = &self.quiet;
            within(runtime, async {
                let end = Instant::now() + time;
                while Instant::now() < end {
                    let asked = Instant::now();
                    let place = offset(times.len() as u64, PAGE, FILE);
                    mapping.read(place, 4096).await.map_err(|error| error.to_string())?;
                    times.push(asked.elapsed().as_secs_f64() * 1e6);
                }
                Ok(u32::try_from(times.len()).map_or(f64::NAN, f64::from))
            })
        });
        noise.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(Sample { value: quantile(&mut times, per_mille).unwrap_or(f64::NAN), ..sample? })
    }
}

fn token(owner: &PrivateKey, subject: &str) -> Result<String, String> {
    let claims = Claims {
        sub: subject.to_owned(),
        capabilities: vec!["FileRead".to_owned(), "FileWrite".to_owned()],
        paths: None,
        aud: Some(Audience::One(AUDIENCE.to_owned())),
        iss: None,
        exp: now() + 3600,
        nbf: None,
        iat: None,
    };
    owner.mint(None, &claims).map_err(|error| error.to_string())
}

async fn map(address: &str, token: &str, name: &str) -> Result<Mapping, String> {
    let said = |error: mmap_client::Error| error.to_string();
    let builder = Client::builder().token(token).capabilities([Capability::FileRead, Capability::FileWrite]);
    let process = builder.connect(address).await.map_err(said)?.process(1);
    let map = process.map(format!("/{name}")).length(FILE).prot(Prot::READ_WRITE).shared().create();
    map.populate().await.map_err(said)
}

async fn noise(mapping: Arc<Mapping>, task: u64) {
    for number in 0.. {
        if mapping.read(offset(task << 32 | number, LARGE as u64, FILE), LARGE).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn main() -> ExitCode {
    topic::run("fair", "Fairness: a quiet subject beside a noisy one", |topic| {
        let worlds = [World::start(&[]), World::start(&LIMITS)];
        table(topic, &worlds, "fair-p50", "A hot read of 4 KiB by the quiet subject, p50", 500);
        table(topic, &worlds, "fair-p99", "A hot read of 4 KiB by the quiet subject, p99", 990);
    })
}

fn table(topic: &mut Topic, [free, limited]: &[Result<World, String>; 2], id: &str, title: &str, per_mille: usize) {
    let time = round_time(topic.options());
    let note = format!("Limits: `{}`.", LIMITS.join(" "));
    let Some(mut contest) = topic.contest(Table::new(id, title, Unit::Microseconds).note(&note)) else { return };
    let rows = [
        ("beside the noisy one, limits per subject", limited, true),
        ("beside the noisy one, no limits", free, true),
        ("alone", free, false),
    ];
    for (name, world, is_noisy) in rows {
        match world {
            Ok(world) => contest.row(name, Who::Ours, move || world.round(time, per_mille, is_noisy)),
            Err(why) => contest.gap(name, Who::Ours, why),
        }
    }
    contest.run();
}
