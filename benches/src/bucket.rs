//! mmapd over a bucket or folder, with one of its files mapped by the client library: cold and warm reads of it, and
//! one page written and synced.

use std::cell::Cell;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use mmap_client::{Client, Mapping, Prot};
use tokio::runtime::Runtime;

use crate::load::{PAGE, offset};
use crate::measure::measure;
use crate::peers::settings::Settings;
use crate::rows::{Sample, Unit};
use crate::s3::S3;
use crate::servers::{MEMORY, Server, Transport};
use crate::side::within;
use crate::stats::quantile;

/// What a scan reads at once, and how many of these are under way: those of `Mapping::read_all`.
const PIECE: u64 = 1 << 20;
const PIECES: usize = 4;

/// A mapped file, and the server that it is mapped at.
#[derive(Debug)]
pub struct Bucket {
    mapping: Arc<Mapping>,
    /// mmapd, and the store where it is a process.
    pids: Vec<u32>,
    round: Cell<u64>,
    runtime: Runtime,
    _server: Server,
}

fn said(error: mmap_client::Error) -> String {
    error.to_string()
}

impl Bucket {
    /// Maps the object `name` of an S3 server for reading.
    ///
    /// # Errors
    /// mmapd's.
    pub fn open(s3: &S3, name: &str) -> Result<Self, String> {
        Self::start(&format!("/={}", s3.url("&ro")), name, &[s3.pid()], None)
    }

    /// Maps the file `name` of a folder for reading.
    ///
    /// # Errors
    /// mmapd's.
    pub fn folder(folder: &std::path::Path, name: &str) -> Result<Self, String> {
        Self::start(&format!("/=file://{}?ro", folder.display()), name, &[], None)
    }

    fn start(mount: &str, name: &str, stores: &[u32], size: Option<u64>) -> Result<Self, String> {
        let server = Server::mmapd(&["--memory", MEMORY, "--mount", mount], &S3::ENV)?;
        let runtime = Settings::TUNED.runtime()?;
        let address = server.address(Transport::Tcp);
        let mapping = within(&runtime, async {
            let client = Client::connect(address).await.map_err(said)?;
            let process = client.process(1);
            let map = process.map(format!("/{name}")).shared();
            let map = match size {
                Some(size) => map.prot(Prot::READ_WRITE).length(size).create(),
                None => map.prot(Prot::READ),
            };
            map.await.map_err(said)
        })?;
        let pids = std::iter::once(server.pid()).chain(stores.iter().copied()).collect();
        Ok(Self { mapping: Arc::new(mapping), pids, round: Cell::new(0), runtime, _server: server })
    }

    /// The file's size.
    pub fn mib(&self) -> f64 {
        u32::try_from(self.mapping.length() >> 20).map_or(f64::NAN, f64::from)
    }

    /// Makes the server forget what it has of the file.
    ///
    /// # Errors
    /// The server's.
    pub fn invalidate(&self) -> Result<(), String> {
        within(&self.runtime, async { self.mapping.sync().invalidate().await.map(|_| ()).map_err(said) })
    }

    /// Reads of 4 KiB at random places, others each time, one after the other: the median in microseconds.
    ///
    /// # Errors
    /// The server's.
    pub fn random(&self, reads: u32) -> Result<Sample, String> {
        let (mut times, round) = (Vec::with_capacity(reads as usize), self.round.get());
        self.round.set(round + 1);
        let sample = measure(Unit::Microseconds, &self.pids, || {
            within(&self.runtime, async {
                for number in 0..reads {
                    let place = offset(round << 20 | u64::from(number), PAGE, self.mapping.length());
                    let asked = std::time::Instant::now();
                    self.mapping.read(place, 4096).await.map_err(said)?;
                    times.push(asked.elapsed().as_secs_f64() * 1e6);
                }
                Ok(f64::from(reads))
            })
        })?;
        Ok(Sample { value: quantile(&mut times, 500).unwrap_or(f64::NAN), ..sample })
    }

    /// Every byte in order, in pieces of 1 MiB of which four are under way.
    ///
    /// # Errors
    /// The server's.
    pub fn scan(&self) -> Result<Sample, String> {
        let length = self.mapping.length();
        measure(Unit::GibPerSecond, &self.pids, || {
            within(&self.runtime, async {
                let pieces = (0..length.div_ceil(PIECE)).map(|piece| {
                    let start = piece * PIECE;
                    let take = usize::try_from(PIECE.min(length - start)).unwrap_or(0);
                    self.mapping.read(start, take)
                });
                let reads = stream::iter(pieces).buffered(PIECES).map_ok(|_| ());
                reads.try_for_each(|()| async { Ok(()) }).await.map_err(said)?;
                Ok(self.mib())
            })
        })
    }

    /// One page written, and msync: milliseconds until it answers, which is when the store has it.
    ///
    /// # Errors
    /// The server's.
    pub fn write_and_sync(&self) -> Result<Sample, String> {
        let round = self.round.get();
        self.round.set(round + 1);
        let byte = u8::try_from(round % 251).unwrap_or(0);
        measure(Unit::Milliseconds, &self.pids, || {
            within(&self.runtime, async {
                self.mapping.write(offset(round, PAGE, self.mapping.length()), vec![byte; 4096]).await.map_err(said)?;
                self.mapping.msync().await.map_err(said)?;
                Ok(1.0)
            })
        })
    }
}

/// The object `name` for writing, over a store that ignores preconditions.
///
/// # Errors
/// mmapd's.
pub fn writable(s3: &S3, name: &str, size: u64) -> Result<Bucket, String> {
    Bucket::start(&format!("/={}", s3.url("&unsafe-overwrite")), name, &[s3.pid()], Some(size))
}
