//! Faulting blocks in: one fetch for a missing block however many wait for it, runs of neighbours in one
//! request, and never bytes of a version that is not the file's.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::File;
use super::flight::{Flight, Landed, LandingGuard};
use crate::cache::ContentId;
use crate::error::Result;
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange};
use crate::vfs::{StoreFault, StoreResult, Version};

/// Blocks of one request at most: 1 MiB, so that a large read is several requests side by side.
const RUN_MAX: usize = 16;
/// How often a fetch starts over because the file changed in the store meanwhile.
const CHANGES_MAX: u32 = 8;

/// Neighbouring blocks that one request brings.
#[derive(Debug)]
struct Run {
    first: BlockIndex,
    flights: Vec<Arc<Flight>>,
}

impl File {
    /// Brings `missing` blocks in, or joins whoever is bringing them. They stay reachable while the answer is
    /// kept. Cancel safe: a fetch that was begun goes on and fills the cache.
    ///
    /// # Errors
    /// The store's; ESTALE if the bytes are no longer to be had.
    pub(super) async fn fault(self: &Arc<Self>, missing: &[BlockIndex]) -> Result<Vec<Arc<Flight>>> {
        let (flights, runs) = self.join_flights(missing);
        for run in runs {
            let file = Arc::clone(self);
            self.shared.tasks.spawn(async move { file.fetch(run).await });
        }
        let landing = async {
            for flight in &flights {
                flight.wait().await?;
            }
            Ok(())
        };
        // Also where many fetches wait for memory, one that a dead store holds up ends in time.
        let limit = self.shared.limits.store_timeout;
        let landed: Result<()> = tokio::time::timeout(limit, landing)
            .await
            .unwrap_or_else(|_| Err(StoreFault::timed_out(limit.as_secs()).into_error(&self.path)));
        landed.map(|()| flights)
    }

    /// The flights of `missing`, and the runs of new ones that are to be fetched.
    fn join_flights(&self, missing: &[BlockIndex]) -> (Vec<Arc<Flight>>, Vec<Run>) {
        let mut all = Vec::with_capacity(missing.len());
        let mut runs: Vec<Run> = Vec::new();
        let mut state = self.state.write();
        state.flights.retain(|_, flight| flight.strong_count() > 0);
        for &block in missing {
            let under_way = state.flights.get(&block).and_then(Weak::upgrade).filter(|flight| !flight.has_landed());
            if let Some(flight) = under_way {
                all.push(flight);
                continue;
            }
            let flight = Arc::new(Flight::new());
            state.flights.insert(block, Arc::downgrade(&flight));
            all.push(Arc::clone(&flight));
            match runs.last_mut() {
                Some(run) if run.flights.len() < RUN_MAX && run.first.0 + run.flights.len() as u64 == block.0 => {
                    run.flights.push(flight);
                }
                _ => runs.push(Run { first: block, flights: vec![flight] }),
            }
        }
        (all, runs)
    }

    /// Fetches a run and lands its flights, whatever happens.
    async fn fetch(self: Arc<Self>, run: Run) {
        let guard = LandingGuard(&run.flights);
        let _memory = self.parts.fetch.take(run.flights.len() as u64 * BLOCK_SIZE).await;
        if let Err(error) = self.fetch_run(&run).await {
            // Under the lock that joining takes: whoever is told of the failure and asks again begins a new fetch,
            // and joins no flight of this one that has not landed yet.
            let _nobody_joins = self.state.write();
            for flight in &run.flights {
                flight.land(Landed::Failed(error.clone()));
            }
        }
        drop(guard);
    }

    async fn fetch_run(&self, run: &Run) -> Result<()> {
        for attempt in 0..CHANGES_MAX {
            let (content, version, range) = {
                let state = self.state.read();
                let end = BlockIndex(run.first.0 + run.flights.len() as u64).range().start();
                (state.content, state.base.clone(), ByteRange::new(run.first.range().start(), end.min(state.size)))
            };
            // Nothing to bring: the file became shorter, or is gone. The readers look again.
            let Some(version) = version.filter(|_| !range.is_empty()) else { return Ok(()) };
            match self.read_store(&version, range).await {
                Ok(blocks) => {
                    self.deliver(run, content, blocks);
                    return Ok(());
                }
                Err(StoreFault::Changed | StoreFault::Missing) => {
                    self.refresh().await?;
                    if self.state.read().stale {
                        return Err(self.stale_error());
                    }
                    tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
                }
                Err(fault) => return Err(fault.into_error(&self.path)),
            }
        }
        Err(self.unsteady_error())
    }

    async fn read_store(&self, version: &Version, range: ByteRange) -> StoreResult<Vec<bytes::Bytes>> {
        let blocks = self.location.mount.store().read(&self.location.name, version, range).await?;
        let brought: u64 = blocks.iter().map(|block| block.len() as u64).sum();
        if blocks.len() as u64 != range.block_count() || brought != range.len() {
            return Err(StoreFault::Corrupt(format!("{brought} bytes where {} were asked for", range.len())));
        }
        Ok(blocks)
    }

    /// Puts fetched blocks where they belong, unless the content has been replaced meanwhile.
    fn deliver(&self, run: &Run, content: ContentId, blocks: Vec<bytes::Bytes>) {
        let mut guard = self.state.write();
        let state = &mut *guard;
        if state.content != content {
            return;
        }
        for (index, data) in blocks.into_iter().enumerate() {
            let block = BlockIndex(run.first.0 + index as u64);
            let flight = &run.flights[index];
            if flight.is_recalled() {
                continue;
            }
            match state.dirty.get_mut(&block) {
                Some(dirty) => dirty.fill(&data),
                None => {
                    self.shared.cache.insert(content, block, data.clone());
                    flight.land(Landed::Block(data));
                }
            }
        }
    }

    /// Faults every block of `range` in, a few runs at a time; blocks that are there stay where they are.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn populate(self: &Arc<Self>, range: ByteRange) -> Result<()> {
        let blocks: Vec<BlockIndex> = {
            let state = self.state.read();
            let present = range.intersect(ByteRange::new(0, state.size));
            let all = crate::units::PageMask::ALL;
            let missing = |block: &BlockIndex| {
                matches!(state.find(&self.shared.cache, *block, all), super::state::Found::Missing)
            };
            present.blocks().filter(missing).collect()
        };
        for some in blocks.chunks(4 * RUN_MAX) {
            self.fault(some).await?;
        }
        Ok(())
    }
}
