//! The promise of the level `process`: a server that is killed with SIGKILL at a random moment comes back with
//! every acknowledged write, the same mappings and the same processes, and clients go on after no more than a
//! reconnect; no write is half there; and what an answered msync put into the store is there.
//!
//! 100 kills for each layout. The seed is printed; MMAP_CRASH_SEED repeats a run's choices, MMAP_CRASH_KILLS
//! sets another number of kills.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;
use std::time::Duration;

use mmap_proto::v1;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::random::Random;
use mmap_tests::require::available;
use mmap_tests::slots::{SLOT_LEN, Slot};
use mmap_tests::wire::{Caller, map_request};
use object_store::ObjectStoreExt as _;

const CLIENTS: u64 = 4;
const SLOTS: u64 = 6;
const FILE: &str = "/data/shared";
const SIZED: &str = "/data/sized";

/// One process: its mappings, and what is known of its writes.
struct Client {
    pid: u32,
    shared: u64,
    private: u64,
    slots: Vec<Slot>,
    own: Slot,
}

/// What is known of the truncations of one file.
#[derive(Default)]
struct Sizes {
    acknowledged: u64,
    tried: u64,
}

/// A layout under test, and how to see its files without the code under test.
enum Store {
    Object(Arc<Moto>),
    Local,
    Log,
}

struct Scene {
    folder: tempfile::TempDir,
    store: Store,
    file_size: u64,
    random: Random,
    clients: Vec<Client>,
    sizes: Sizes,
}

impl Scene {
    fn new(store: Store, file_size: u64) -> Self {
        let seed = std::env::var("MMAP_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()));
        println!("MMAP_CRASH_SEED={seed}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let random = Random::seeded(seed);
        Self { folder, store, file_size, random, clients: Vec::new(), sizes: Sizes::default() }
    }

    fn files(&self) -> std::path::PathBuf {
        self.folder.path().join("files")
    }

    fn start(&self) -> Mmapd {
        let setup = Setup::new().state_dir(&self.folder.path().join("state"));
        let files = self.files();
        match &self.store {
            Store::Object(moto) => setup.mount("/data", &moto.mount_url("crash")).envs(Moto::ENV),
            Store::Local => setup.mount("/data", &format!("file://{}", files.display())),
            Store::Log => setup.mount("/data", &format!("file://{}?layout=log", files.display())),
        }
        .start()
    }

    /// Maps everything, once.
    async fn set_up(&mut self, server: &Mmapd) {
        let caller = Caller::connect(server.addr(), 1).await;
        caller.map_shared(FILE, self.file_size).await;
        let create = v1::TruncateFileRequest { path: SIZED.into(), create: true, ..Default::default() };
        caller.truncate(create).await.unwrap();
        let stride = self.file_size / (CLIENTS * (SLOTS + 1));
        for client in 0..CLIENTS {
            let caller = caller.with_pid(u32::try_from(client).unwrap() + 10);
            let shared = caller.map_shared(FILE, self.file_size).await;
            let private = v1::MmapRequest { shared: false, ..map_request(FILE, self.file_size) };
            let private = caller.mmap(private).await.unwrap().mmap_id;
            let first = client * (SLOTS + 1);
            let slot = |n: u64| Slot::new(first + n + 1, (first + n) * stride);
            let slots = (0..SLOTS).map(slot).collect();
            let pid = u32::try_from(client).unwrap() + 10;
            self.clients.push(Client { pid, shared, private, slots, own: slot(SLOTS) });
        }
    }

    /// Every acknowledged write is there, by the same pids and ids as before.
    async fn check_survivors(&mut self, server: &Mmapd) {
        let caller = Caller::connect(server.addr(), 1).await;
        for client in &mut self.clients {
            let caller = caller.with_pid(client.pid);
            for slot in &mut client.slots {
                let bytes = caller.read(client.shared, slot.offset, SLOT_LEN as u64).await.unwrap();
                slot.check_survivor(&bytes).unwrap_or_else(|wrong| panic!("pid {}: {slot:?}: {wrong}", client.pid));
            }
            let bytes = caller.read(client.private, client.own.offset, SLOT_LEN as u64).await.unwrap();
            let survived = client.own.check_survivor(&bytes);
            survived.unwrap_or_else(|wrong| panic!("private of pid {}: {:?}: {wrong}", client.pid, client.own));
        }
        let size = caller.stat_file(SIZED).await.unwrap().size;
        let Sizes { acknowledged, tried } = self.sizes;
        assert!(size == acknowledged || size == tried, "{size} bytes; {acknowledged} acknowledged, {tried} tried");
        self.sizes = Sizes { acknowledged: size, tried: size };
    }

    /// Clients write and sync until the server is killed, at a random moment.
    async fn run_and_kill(&mut self, server: Mmapd) {
        let time = Duration::from_millis(5 + self.random.below(60));
        let addr = server.addr().to_owned();
        let mut tasks = tokio::task::JoinSet::new();
        for client in self.clients.drain(..) {
            let random = Random::seeded(self.random.next_u64());
            tasks.spawn(client.run(addr.clone(), random));
        }
        let sizes = std::mem::take(&mut self.sizes);
        let truncating = tokio::spawn(truncate(addr, sizes, Random::seeded(self.random.next_u64())));
        tokio::time::sleep(time).await;
        server.sigkill();
        self.clients = tasks.join_all().await;
        self.clients.sort_by_key(|client| client.pid);
        self.sizes = truncating.await.unwrap();
    }

    /// Every write that was synced is in the store, as another program sees it.
    fn check_stored(&self, content: &[u8]) {
        for slot in self.clients.iter().flat_map(|client| &client.slots) {
            let at = usize::try_from(slot.offset).unwrap();
            slot.check_stored(&content[at..at + SLOT_LEN]).unwrap_or_else(|wrong| panic!("{slot:?}: {wrong}"));
        }
    }

    /// The file's content in the store while no server runs, where that can be read whole.
    async fn content(&self) -> Option<Vec<u8>> {
        match &self.store {
            Store::Object(moto) => {
                let object = moto.store().get(&"crash/shared".into()).await.unwrap();
                Some(object.bytes().await.unwrap().to_vec())
            }
            // Above the rename limit a crash in the middle of a write-back is finished at the next start.
            Store::Local if self.file_size > 8 << 20 => None,
            Store::Local => Some(std::fs::read(self.files().join("shared")).unwrap()),
            Store::Log => None,
        }
    }

    /// The file's content after the server came back, where only that can be read.
    async fn content_after_start(&self) -> Option<Vec<u8>> {
        match &self.store {
            Store::Local if self.file_size > 8 << 20 => Some(std::fs::read(self.files().join("shared")).unwrap()),
            Store::Object(_) | Store::Local | Store::Log => None,
        }
    }

    /// What a server without our journal sees in a copy of the database.
    async fn content_of_copy(&self) -> Vec<u8> {
        let copy = tempfile::tempdir().unwrap();
        let copied = std::process::Command::new("cp").arg("-a").arg(self.files()).arg(copy.path()).status().unwrap();
        assert!(copied.success());
        let url = format!("file://{}?layout=log", copy.path().join("files").display());
        let server = Setup::new().mount("/data", &url).start();
        read_file(server.addr(), FILE, self.file_size).await
    }

    async fn kill_again_and_again(mut self, kills: u64) {
        let server = self.start();
        self.set_up(&server).await;
        let mut server = Some(server);
        for kill in 0..kills {
            self.run_and_kill(server.take().unwrap()).await;
            if let Some(content) = self.content().await {
                self.check_stored(&content);
            }
            if matches!(self.store, Store::Log) && kill % 10 == 0 {
                self.check_stored(&self.content_of_copy().await);
            }
            let restarted = self.start();
            if let Some(content) = self.content_after_start().await {
                self.check_stored(&content);
            }
            self.check_survivors(&restarted).await;
            server = Some(restarted);
        }
        let writes: u64 = self.clients.iter().flat_map(|client| &client.slots).map(|slot| slot.acknowledged).sum();
        let synced: u64 = self.clients.iter().flat_map(|client| &client.slots).map(|slot| slot.synced).sum();
        println!("{kills} kills, {writes} acknowledged writes, {synced} of them synced");
        assert!(writes > kills && synced > 0, "too little happened between the kills to say anything");
    }
}

impl Client {
    /// Writes and syncs until the server is gone.
    async fn run(mut self, addr: String, mut random: Random) -> Self {
        let caller = Caller::connect(&addr, self.pid).await;
        while self.step(&caller, &mut random).await.is_some() {}
        self
    }

    async fn step(&mut self, caller: &Caller, random: &mut Random) -> Option<()> {
        match random.below(10) {
            0 => {
                let before: Vec<u64> = self.slots.iter().map(|slot| slot.acknowledged).collect();
                caller.msync(self.shared).await.ok()?;
                self.slots.iter_mut().zip(before).for_each(|(slot, before)| slot.synced = before);
            }
            1 | 2 => write(caller, self.private, &mut self.own).await?,
            _ => {
                let slot = usize::try_from(random.below(SLOTS)).unwrap();
                write(caller, self.shared, &mut self.slots[slot]).await?;
            }
        }
        Some(())
    }
}

async fn write(caller: &Caller, mmap_id: u64, slot: &mut Slot) -> Option<()> {
    let data = slot.next_write();
    caller.write(mmap_id, slot.offset, data).await.ok()?;
    slot.acknowledged = slot.tried;
    Some(())
}

/// Truncates until the server is gone.
async fn truncate(addr: String, mut sizes: Sizes, mut random: Random) -> Sizes {
    let caller = Caller::connect(&addr, 9).await;
    loop {
        sizes.tried = random.below(200_000);
        let request = v1::TruncateFileRequest { path: SIZED.into(), size: sizes.tried, ..Default::default() };
        if caller.truncate(request).await.is_err() {
            return sizes;
        }
        sizes.acknowledged = sizes.tried;
    }
}

async fn read_file(addr: &str, path: &str, size: u64) -> Vec<u8> {
    let caller = Caller::connect(addr, 5).await;
    let id = caller.mmap(v1::MmapRequest { prot: 1, ..map_request(path, size) }).await.unwrap().mmap_id;
    let mut content = Vec::new();
    while (content.len() as u64) < size {
        let length = (size - content.len() as u64).min(1 << 20);
        content.extend_from_slice(&caller.read(id, content.len() as u64, length).await.unwrap());
    }
    content
}

fn kills() -> u64 {
    std::env::var("MMAP_CRASH_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_no_acknowledged_write_of_objects() {
    let Some(moto) = available(Moto::start()) else { return };
    Scene::new(Store::Object(Arc::new(moto)), 1 << 20).kill_again_and_again(kills()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_no_acknowledged_write_of_small_local_files() {
    Scene::new(Store::Local, 1 << 20).kill_again_and_again(kills() / 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_no_acknowledged_write_of_large_local_files() {
    Scene::new(Store::Local, 9 << 20).kill_again_and_again(kills() / 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_no_acknowledged_write_of_logs() {
    Scene::new(Store::Log, 1 << 20).kill_again_and_again(kills()).await;
}
