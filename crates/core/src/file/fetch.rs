//! Faulting blocks in: one fetch for a missing block however many wait for it, runs of neighbours in one
//! request, and never bytes of a version that is not the file's.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::File;
use super::flight::{Flight, Landed};
use super::state::{FileState, Found};
use crate::budget::Reservation;
use crate::cache::ContentId;
use crate::error::Result;
use crate::trace::{TARGET, count};
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange, PageMask};
use crate::vfs::{StoreFault, StoreResult};

/// Blocks of one request that somebody waits for, at most: 1 MiB, so that a large read is several requests side by
/// side.
const RUN_MAX: u64 = 16;
/// Requests of one populate side by side.
const POPULATE_AT_ONCE: usize = 16;
/// How often a fetch starts over because the file changed in the store meanwhile.
const CHANGES_MAX: u32 = 8;
/// Flights that there is room for at least before those that landed are forgotten.
const FLIGHTS_ROOM: usize = 64;

/// Neighbouring blocks that one request brings. Whatever becomes of it, its flights land.
#[derive(Debug)]
pub(super) struct Run {
    first: BlockIndex,
    flights: Vec<Arc<Flight>>,
    /// Of blocks that nobody waits for: taken already, of both budgets.
    memory: Option<[Reservation; 2]>,
}

impl Run {
    fn new(first: BlockIndex, flight: Arc<Flight>) -> Self {
        Self { first, flights: vec![flight], memory: None }
    }

    /// Bytes of its blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.flights.len() as u64 * BLOCK_SIZE
    }

    /// In this memory, because nobody waits for its blocks.
    pub(super) fn within(self, memory: [Reservation; 2]) -> Self {
        let mut run = self;
        run.memory = Some(memory);
        run
    }

    /// Whether `block` is the one behind it.
    fn goes_on_with(&self, block: BlockIndex) -> bool {
        self.first.0 + self.flights.len() as u64 == block.0
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for flight in &self.flights {
            flight.land(Landed::Again);
        }
    }
}

/// Blocks that somebody waits for.
#[derive(Debug)]
pub(super) struct Boarded {
    pub(super) flights: Vec<Arc<Flight>>,
    /// Whether somebody else had asked for some of them.
    pub(super) joined: bool,
    /// The wait for them, and what is fetched for it.
    span: Span,
}

impl File {
    /// Brings `missing` blocks in, or joins whoever is bringing them. They stay reachable while the answer is
    /// kept. Cancel safe: a fetch that was begun goes on and fills the cache.
    ///
    /// # Errors
    /// The store's; ESTALE if the bytes are no longer to be had; EIO if they are not there `until` then.
    pub(super) async fn fault(self: &Arc<Self>, missing: &[BlockIndex], until: Instant) -> Result<Vec<Arc<Flight>>> {
        self.landed(self.board(missing), until).await
    }

    /// As [`File::fault`], without waiting.
    pub(super) fn board(self: &Arc<Self>, missing: &[BlockIndex]) -> Boarded {
        let span = match missing {
            [] => Span::none(),
            _ => tracing::info_span!(
                target: TARGET, "fault", mmap.path = %self.path, mmap.blocks = count(missing.len() as u64)
            ),
        };
        let mut boarded = Boarded { flights: Vec::with_capacity(missing.len()), joined: false, span };
        let runs = {
            let mut state = self.state.write();
            make_room(&mut state, missing.len());
            let mut runs: Vec<Run> = Vec::new();
            for &block in missing {
                if let Some(flight) = under_way(&state, block) {
                    boarded.joined = true;
                    boarded.flights.push(flight);
                    continue;
                }
                let flight = take_off(&mut state, block);
                boarded.flights.push(Arc::clone(&flight));
                match runs.last_mut() {
                    Some(run) if run.bytes() < self.run_bytes() && run.goes_on_with(block) => run.flights.push(flight),
                    _ => runs.push(Run::new(block, flight)),
                }
            }
            runs
        };
        for run in runs {
            let file = Arc::clone(self);
            self.shared.tasks.spawn(async move { file.fetch(run).await }.instrument(boarded.span.clone()));
        }
        boarded
    }

    /// Waits for what was boarded.
    pub(super) async fn landed(&self, boarded: Boarded, until: Instant) -> Result<Vec<Arc<Flight>>> {
        let landing = async {
            for flight in &boarded.flights {
                flight.wait().await?;
            }
            Ok(())
        };
        // Also where many fetches wait for memory, one that a dead store holds up ends in time.
        let limit = self.shared.limits.store_timeout;
        let landed: Result<()> = tokio::time::timeout_at(until, landing)
            .instrument(boarded.span.clone())
            .await
            .unwrap_or_else(|_| Err(StoreFault::timed_out(limit.as_secs()).into_error(&self.path)));
        landed.map(|()| boarded.flights)
    }

    /// When who begins to wait for the store now has waited long enough.
    pub(super) fn patience(&self) -> Instant {
        Instant::now() + self.shared.limits.store_timeout
    }

    /// Bytes of one request that somebody waits for: no more than what read-ahead leaves of the memory for it.
    fn run_bytes(&self) -> u64 {
        let left = self.parts.fetch.total().saturating_sub(self.parts.ahead.total());
        left.clamp(BLOCK_SIZE, RUN_MAX * BLOCK_SIZE)
    }

    /// Those of `blocks` that are neither in memory nor on their way, as flights: nobody waits for them. None of a
    /// file that changed in the store.
    pub(super) fn board_ahead(&self, blocks: std::ops::Range<u64>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut state = self.state.write();
        if state.stale {
            return runs;
        }
        let end = blocks.end.min(state.size.div_ceil(BLOCK_SIZE));
        make_room(&mut state, usize::try_from(end.saturating_sub(blocks.start)).unwrap_or(0));
        for block in (blocks.start..end).map(BlockIndex) {
            let known = state.dirty.contains_key(&block) || self.shared.cache.has(state.content, block);
            if known || under_way(&state, block).is_some() {
                continue;
            }
            let flight = take_off(&mut state, block);
            match runs.last_mut() {
                Some(run) if run.goes_on_with(block) => run.flights.push(flight),
                _ => runs.push(Run::new(block, flight)),
            }
        }
        runs
    }

    /// Fetches a run and lands its flights, whatever happens.
    pub(super) async fn fetch(self: Arc<Self>, mut run: Run) {
        let (_memory, is_ahead) = match run.memory.take() {
            Some(memory) => (memory, true),
            None => ([self.parts.fetch.take(run.bytes()).await, Reservation::default()], false),
        };
        if let Err(error) = self.fetch_run(&run).await {
            // Under the lock that joining takes: whoever is told of the failure and asks again begins a new fetch,
            // and joins no flight of this one that has not landed yet.
            let _nobody_joins = self.state.write();
            for flight in &run.flights {
                flight.land(Landed::Failed(error.clone()));
            }
        }
        if is_ahead {
            let brought = run.flights.iter().filter(|flight| flight.block().is_some()).count();
            self.shared.read_ahead.brought.fetch_add(brought as u64, Ordering::Relaxed);
        }
    }

    async fn fetch_run(&self, run: &Run) -> Result<()> {
        let mut landed = 0;
        for attempt in 0..CHANGES_MAX {
            match self.fetch_rest(run, &mut landed).await {
                Ok(()) => return Ok(()),
                Err(StoreFault::Changed | StoreFault::Missing) => {
                    self.refresh().await?;
                    if self.state.read().stale {
                        return Err(self.stale_error());
                    }
                    // Whoever waits looks again, and asks for what the file is now.
                    if run.flights.iter().skip(landed).all(|flight| flight.is_recalled()) {
                        return Ok(());
                    }
                    tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
                }
                Err(fault) => {
                    if matches!(fault, StoreFault::Corrupt(_)) {
                        self.take_back(run, landed);
                    }
                    return Err(fault.into_error(&self.path));
                }
            }
        }
        Err(self.unsteady_error())
    }

    /// Drops the run's first `landed` blocks: what came before a store was found out is worth no more than the rest.
    fn take_back(&self, run: &Run, landed: usize) {
        let mut guard = self.state.write();
        let state = &mut *guard;
        for index in 0..landed as u64 {
            let block = BlockIndex(run.first.0 + index);
            state.recall(block);
            self.shared.cache.remove(state.content, block);
            if let Some(dirty) = state.dirty.get_mut(&block) {
                dirty.forget_clean();
            }
        }
    }

    /// Asks for the blocks behind those that have `landed`; each lands as it comes.
    async fn fetch_rest(&self, run: &Run, landed: &mut usize) -> StoreResult<()> {
        let (content, version, range) = {
            let state = self.state.read();
            let start = BlockIndex(run.first.0 + *landed as u64).range().start();
            let end = BlockIndex(run.first.0 + run.flights.len() as u64).range().start();
            (state.content, state.base.clone(), ByteRange::new(start, end.min(state.size)))
        };
        // Nothing to bring: the file became shorter, or is gone. The readers look again.
        let Some(version) = version.filter(|_| !range.is_empty()) else { return Ok(()) };
        let (mut blocks, mut right) = (range.blocks(), true);
        let store = self.location.mount.store();
        let mut land = |data: Bytes| match blocks.next() {
            Some(block) if right && range.within(block).len() == data.len() => {
                self.deliver(run, *landed, content, data);
                *landed += 1;
            }
            _ => right = false,
        };
        store.read_each(&self.location.name, &version, range, &mut land).await?;
        if right && blocks.next().is_none() {
            return Ok(());
        }
        Err(StoreFault::Corrupt(format!("more or fewer bytes came than the {} that were asked for", range.len())))
    }

    /// Puts a fetched block where it belongs, unless the content has been replaced meanwhile.
    fn deliver(&self, run: &Run, index: usize, content: ContentId, data: Bytes) {
        let mut guard = self.state.write();
        let state = &mut *guard;
        let Some(flight) = run.flights.get(index).filter(|flight| !flight.is_recalled()) else { return };
        if state.content != content {
            return;
        }
        let block = BlockIndex(run.first.0 + index as u64);
        match state.dirty.get_mut(&block) {
            Some(dirty) => {
                dirty.fill(&data);
                flight.land(Landed::Again);
            }
            None => {
                self.shared.cache.insert(content, block, data.clone());
                flight.land(Landed::Block(data));
            }
        }
    }

    /// Faults every block of `range` in, several runs side by side, in the memory that read-ahead may have; blocks
    /// that are there stay where they are.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn populate(self: &Arc<Self>, range: ByteRange) -> Result<()> {
        let blocks: Vec<BlockIndex> = {
            let state = self.state.read();
            let present = range.intersect(ByteRange::new(0, state.size));
            let missing =
                |block: &BlockIndex| matches!(state.find(&self.shared.cache, *block, PageMask::ALL), Found::Missing);
            present.blocks().filter(missing).collect()
        };
        let run = usize::try_from(self.run_bytes() / BLOCK_SIZE).unwrap_or(usize::MAX).max(1);
        let bring = |some: Vec<BlockIndex>| async move {
            let bytes = some.len() as u64 * BLOCK_SIZE;
            let _memory = self.parts.ahead.take(bytes).await;
            self.fault(&some, self.patience()).await.map(drop)
        };
        let runs = blocks.chunks(run).map(|some| Ok(some.to_vec())).collect::<Vec<_>>();
        futures::stream::iter(runs).try_for_each_concurrent(POPULATE_AT_ONCE, bring).await
    }
}

/// The flight of a block that is on its way.
fn under_way(state: &FileState, block: BlockIndex) -> Option<Arc<Flight>> {
    state.flights.get(&block).and_then(Weak::upgrade).filter(|flight| !flight.has_landed())
}

fn take_off(state: &mut FileState, block: BlockIndex) -> Arc<Flight> {
    let flight = Arc::new(Flight::new());
    state.flights.insert(block, Arc::downgrade(&flight));
    flight
}

/// Makes room for as many flights to come. Those that nobody holds any more are forgotten when there is none, and there
/// is room for as many again then: looking through all of them costs each one little.
fn make_room(state: &mut FileState, coming: usize) {
    let flights = &mut state.flights;
    if flights.len() + coming > flights.capacity() {
        flights.retain(|_, flight| flight.strong_count() > 0);
        flights.reserve((flights.len() + coming).max(FLIGHTS_ROOM));
    }
}
