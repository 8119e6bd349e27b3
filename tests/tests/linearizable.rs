//! Every call is linearizable: what concurrent clients read and wrote over the wire is explained by some order
//! of single instants. And the check would notice if it were not: with a torn read built in, it does.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use mmap_tests::history::{Action, Operation, linearize};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::random::Random;
use mmap_tests::wire::Caller;

/// Cells that an operation reads or writes a run of; ten of them lie across four blocks.
const CELLS: usize = 10;
/// Bytes of a cell: not a multiple of a page, so that pages and blocks are shared by neighbours.
const CELL: usize = 22_001;
/// The file begins with this many bytes that belong to no cell.
const MARGIN: usize = 777;
/// Clients at the same time, and what each of them does.
const CLIENTS: u32 = 5;
const OPERATIONS: usize = 40;

/// How a client reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// In one call.
    Whole,
    /// The deliberate bug: in two calls, passed off as one.
    Torn,
}

/// A cell's bytes: its value again and again.
fn cell_bytes(value: u32, count: usize) -> Vec<u8> {
    let cell: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(CELL).collect();
    cell.repeat(count)
}

/// The values of cells, which must each be of one piece.
fn cell_values(bytes: &[u8]) -> Vec<u32> {
    let value = |cell: &[u8]| {
        let value = u32::from_le_bytes(cell[..4].try_into().unwrap());
        assert!(cell == cell_bytes(value, 1), "a cell is a mixture of two writes");
        value
    };
    bytes.chunks(CELL).map(value).collect()
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

/// One client's part of the history.
async fn client(
    caller: Caller,
    mut random: Random,
    reading: Reading,
    path: String,
    started: Instant,
) -> Vec<Operation> {
    static NEXT_VALUE: AtomicU32 = AtomicU32::new(1);
    let id = caller.map_shared(&path, (MARGIN + CELLS * CELL) as u64).await;
    let now = || u64::try_from(started.elapsed().as_nanos()).unwrap();
    let mut history = Vec::new();
    for _ in 0..OPERATIONS {
        let first = below(&mut random, CELLS);
        let count = 1 + below(&mut random, CELLS - first);
        let cells = first..first + count;
        let (offset, length) = ((MARGIN + first * CELL) as u64, (count * CELL) as u64);
        let called = now();
        let action = if random.below(2) == 0 {
            let value = NEXT_VALUE.fetch_add(1, Ordering::Relaxed);
            caller.write(id, offset, cell_bytes(value, count)).await.unwrap();
            Action::Write(value)
        } else if reading == Reading::Torn && count > 1 {
            let half = (count / 2 * CELL) as u64;
            let mut bytes = caller.read(id, offset, half).await.unwrap().to_vec();
            bytes.extend(caller.read(id, offset + half, length - half).await.unwrap());
            Action::Read(cell_values(&bytes))
        } else {
            Action::Read(cell_values(&caller.read(id, offset, length).await.unwrap()))
        };
        history.push(Operation { called, answered: Some(now()), cells, action });
    }
    caller.munmap(id).await.unwrap();
    history
}

/// A history of several clients on one file, while another one syncs and invalidates it all the time, so that
/// blocks go from dirty to clean to gone and come back.
async fn history(server: &Mmapd, seed: u64, reading: Reading) -> Vec<Operation> {
    let path = format!("/history-{seed}");
    let length = (MARGIN + CELLS * CELL) as u64;
    let syncer = Caller::connect(server.addr(), 100).await;
    let id = syncer.map_shared(&path, length).await;
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let syncing = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            syncer.msync(id).await.unwrap();
            let request = mmap_proto::v1::MsyncRequest { mmap_id: id, invalidate: true, ..Default::default() };
            syncer.msync_with(request).await.unwrap();
        }
        syncer.munmap(id).await.unwrap();
    });
    let started = Instant::now();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let caller = Caller::connect(server.addr(), 1 + number).await;
        let random = Random::seeded(seed * 1000 + u64::from(number));
        clients.push(tokio::spawn(client(caller, random, reading, path.clone(), started)));
    }
    let mut history = Vec::new();
    for client in clients {
        history.extend(client.await.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    syncing.await.unwrap();
    history
}

/// A cache so small that blocks are dropped under the readers' hands.
fn server(mount: &str) -> Mmapd {
    Setup::new().mount("/", mount).args(["--max-message", "256KiB", "--memory", "4MiB"]).start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_reads_and_writes_over_the_wire_are_linearizable() {
    let folder = tempfile::tempdir().unwrap();
    for mount in ["memory:".to_owned(), format!("file://{}", folder.path().display())] {
        let server = server(&mount);
        for seed in 0..12 {
            let history = history(&server, seed, Reading::Whole).await;
            assert_eq!(history.len(), CLIENTS as usize * OPERATIONS);
            let order = linearize(&history, &[0; CELLS]);
            assert!(order.is_ok(), "{mount}, seed {seed}: {order:?}\n{history:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_finds_a_read_that_is_torn_in_two() {
    let server = server("memory:");
    for seed in 0..200 {
        if linearize(&history(&server, seed, Reading::Torn).await, &[0; CELLS]).is_err() {
            return;
        }
    }
    panic!("200 histories of torn reads were all taken for linearizable");
}
