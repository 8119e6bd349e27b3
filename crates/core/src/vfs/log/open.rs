//! [`Shelf`]: the place of a mount's database, and the one handle of it that is open.
//!
//! The database is opened by the first call that needs it, which is the health check right after the start, and
//! again when it had to give up. Invariants: one opening runs at a time, and goes on when its callers have left. A
//! store that takes a second object where one is to be made only if none is there is never opened for writing,
//! because two writers would not notice each other. A fenced database stays closed: to take it back would fence
//! the other server in turn.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use slatedb::{CloseReason, Db, DbReader, DbReaderMode, SstBlockSize};
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::cache::IndexCache;
use super::database::{Database, Writer, fault};
use super::locks::Locks;
use super::marker;
use super::options::{CACHE_BYTES, LogOptions};
use super::sweep;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::object::{ObjectLayout, ObjectOptions};
use crate::vfs::store::Writability;

/// The database's folder below the mount's place.
const FOLDER: &str = "db";
/// 3 pages a block: a page alone is fetched with little beside it, and an index has an entry for 12 KiB.
const TABLE_BLOCK: SstBlockSize = SstBlockSize::Block16Kib;

/// How the database is.
enum State {
    /// Not opened yet, or given up at this epoch of the writer: nobody else may have been writer since.
    Shut(Option<u64>),
    Open(Database),
    /// Another server is the writer now.
    Fenced,
    Closed,
}

/// The place of a database.
pub(super) struct Shelf {
    store: Arc<dyn ObjectStore>,
    root: Path,
    options: LogOptions,
    read_only: bool,
    /// The same place as plain objects, for the probe and the ping.
    pub(super) objects: ObjectLayout,
    verdict: OnceCell<Writability>,
    state: Mutex<State>,
    opening: Arc<tokio::sync::Mutex<()>>,
    pub(super) locks: Arc<Locks>,
    /// Owns openings, changes and the sweep.
    pub(super) tasks: TaskTracker,
}

impl Shelf {
    pub(super) fn new(store: Arc<dyn ObjectStore>, root: Path, read_only: bool, options: LogOptions) -> Self {
        let objects = ObjectLayout::new(Arc::clone(&store), root.clone(), ObjectOptions::default());
        Self {
            store,
            root,
            options,
            read_only,
            objects,
            verdict: OnceCell::new(),
            state: Mutex::new(State::Shut(None)),
            opening: Arc::default(),
            locks: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The database, opened if it is not.
    pub(super) async fn database(self: &Arc<Self>) -> StoreResult<Database> {
        if let Some(open) = self.current()? {
            return Ok(open);
        }
        let turn = Arc::clone(&self.opening).lock_owned().await;
        if let Some(open) = self.current()? {
            return Ok(open);
        }
        let shelf = Arc::clone(self);
        let opening = self.tasks.spawn(async move {
            let _turn = turn;
            let opened = shelf.open_now().await;
            *shelf.state.lock() = match &opened {
                Ok(Database::Nothing) => State::Shut(None),
                Ok(database) => State::Open(database.clone()),
                Err(StoreFault::Fenced) => State::Fenced,
                Err(_) => return opened,
            };
            opened
        });
        opening.await.map_err(|error| StoreFault::failed("the database could not be opened", error))?
    }

    /// As [`Shelf::database`], for whoever changes it.
    pub(super) async fn writer(self: &Arc<Self>) -> StoreResult<Arc<Writer>> {
        match self.database().await? {
            Database::Writer(writer) => Ok(writer),
            Database::Reader(_) | Database::Nothing => {
                Err(StoreFault::Unsupported("the database is open for reading only".into()))
            }
        }
    }

    /// Whether two writers of the store would notice each other. Found out once.
    pub(super) async fn verdict(&self) -> StoreResult<Writability> {
        self.verdict.get_or_try_init(|| self.objects.probe_create()).await.cloned()
    }

    /// Closes the database and ends every task. It is not opened again.
    pub(super) async fn close(&self) -> StoreResult<()> {
        let _no_opening = self.opening.lock().await;
        let closed = match std::mem::replace(&mut *self.state.lock(), State::Closed) {
            State::Open(database) => Some(database),
            State::Shut(_) | State::Fenced | State::Closed => None,
        };
        let closed = match closed {
            Some(database) => database.close().await,
            None => Ok(()),
        };
        self.tasks.close();
        self.tasks.wait().await;
        closed
    }

    /// The database if it is open.
    fn current(&self) -> StoreResult<Option<Database>> {
        let mut state = self.state.lock();
        let (database, reason) = match &*state {
            State::Shut(_) => return Ok(None),
            State::Fenced => return Err(StoreFault::Fenced),
            State::Closed => return Err(StoreFault::Failed("the mount is closed".into(), None)),
            State::Open(database) => match database.closed() {
                None => return Ok(Some(database.clone())),
                Some(reason) => (database.clone(), reason),
            },
        };
        let is_fenced = reason == CloseReason::Fenced;
        *state = if is_fenced { State::Fenced } else { State::Shut(database.epoch()) };
        drop(state);
        tracing::error!(?reason, place = %self.root, "the database ended");
        self.tasks.spawn(async move {
            if let Err(error) = database.close().await {
                tracing::debug!(%error, "a database that ended was closed");
            }
        });
        if is_fenced { Err(StoreFault::Fenced) } else { Ok(None) }
    }

    async fn open_now(self: &Arc<Self>) -> StoreResult<Database> {
        let is_there = marker::is_there(&self.store, &self.root).await?;
        let writes = !self.read_only && self.verdict().await? == Writability::Safe;
        if !writes {
            return if is_there { self.open_reader().await } else { Ok(Database::Nothing) };
        }
        if !is_there {
            marker::make(&self.store, &self.root).await?;
        }
        let epoch = match &*self.state.lock() {
            State::Shut(epoch) => *epoch,
            State::Open(_) | State::Fenced | State::Closed => None,
        };
        let mut db = Db::builder(self.folder(), Arc::clone(&self.store))
            .with_settings(self.options.settings())
            .with_sst_block_size(TABLE_BLOCK)
            .with_db_cache(Arc::new(IndexCache::new(CACHE_BYTES)), 0);
        if let Some(epoch) = epoch {
            db = db.with_expected_epoch(epoch);
        }
        let writer = Arc::new(Writer::new(db.build().await.map_err(fault)?));
        self.tasks.spawn(sweep::run(Arc::clone(&self.locks), Arc::clone(&writer)));
        Ok(Database::Writer(writer))
    }

    async fn open_reader(&self) -> StoreResult<Database> {
        let reader = DbReader::builder(self.folder(), Arc::clone(&self.store))
            .with_options(self.options.reader())
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_db_cache(Arc::new(IndexCache::new(CACHE_BYTES)), 0);
        Ok(Database::Reader(Arc::new(reader.build().await.map_err(fault)?)))
    }

    fn folder(&self) -> Path {
        self.root.clone().join(FOLDER)
    }
}
