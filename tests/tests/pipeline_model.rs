//! Model test: random sequences of operations on one to three mappings, all sent through one pipeline before any is
//! answered, come to what the same sequence comes to one by one on plain byte vectors.
//!
//! Each mapping is of a file of its own, because only operations on one mapping have an order. The files are in the
//! store and not in memory when a sequence begins, so that whatever touches a block first has to wait for it, and what
//! follows would overtake it if it were let to.
//!
//! `MMAP_PIPELINE_CASES` sets how many sequences run (default 60).
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::PathBuf;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op as Message;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use mmap_tests::failure::failure_answer;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::pipe::{Pipe, data, status};
use mmap_tests::wire::{Caller, map_request};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

const BLOCK: usize = 64 << 10;
/// Three blocks and a bit, so that a range may begin in one and end in the next, or behind the end.
const LENGTH: usize = 3 * BLOCK + 1000;
const MAPPINGS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Read { at: usize, length: usize },
    Write { at: usize, length: usize, byte: u8 },
    Sync { at: usize },
    Stats,
    Unmap,
}

/// A mapping as it has to be.
struct Model {
    id: u64,
    /// `None` when it is unmapped.
    bytes: Option<Vec<u8>>,
}

/// What an operation has to come to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Bytes(Vec<u8>),
    Written(u64),
    Done,
    Failed(Reason),
}

impl Model {
    fn step(&mut self, op: &Op) -> (Message, Outcome) {
        let mmap_id = self.id;
        let message = match *op {
            Op::Read { at, length } => {
                Message::MmapRead(v1::MmapReadRequest { mmap_id, offset: at as u64, length: length as u64 })
            }
            Op::Write { at, length, byte } => {
                let data = vec![byte; length].into();
                Message::MmapWrite(v1::MmapWriteRequest { mmap_id, offset: at as u64, data })
            }
            Op::Sync { at } => {
                let offset = Some((at / 4096 * 4096) as u64);
                Message::Msync(v1::MsyncRequest { mmap_id, offset, ..Default::default() })
            }
            Op::Stats => Message::MmapStats(v1::MmapStatsRequest { mmap_id }),
            Op::Unmap => Message::Munmap(v1::MunmapRequest { mmap_id, ..Default::default() }),
        };
        (message, self.outcome(op))
    }

    fn outcome(&mut self, op: &Op) -> Outcome {
        let range = match *op {
            Op::Read { at, length } | Op::Write { at, length, .. } => at..at + length,
            Op::Sync { .. } | Op::Stats | Op::Unmap => 0..1,
        };
        let Some(bytes) = &mut self.bytes else {
            return Outcome::Failed(if range.is_empty() { Reason::Inval } else { Reason::BadF });
        };
        match *op {
            _ if range.is_empty() => Outcome::Failed(Reason::Inval),
            _ if range.end > LENGTH => Outcome::Failed(Reason::SegvMapErr),
            Op::Read { .. } => Outcome::Bytes(bytes[range].to_vec()),
            Op::Write { length, byte, .. } => {
                bytes[range].fill(byte);
                Outcome::Written(length as u64)
            }
            Op::Sync { .. } | Op::Stats => Outcome::Done,
            Op::Unmap => {
                self.bytes = None;
                Outcome::Done
            }
        }
    }
}

fn outcome(answer: Answer) -> Outcome {
    match answer {
        Answer::MmapRead(_) => Outcome::Bytes(data(answer).to_vec()),
        Answer::MmapWrite(v1::MmapWriteResponse { written }) => Outcome::Written(written),
        Answer::Msync(_) | Answer::MmapStats(_) | Answer::Munmap(_) => Outcome::Done,
        Answer::Error(_) => Outcome::Failed(failure_answer(&status(answer)).reason),
        Answer::Mmap(_) => panic!("nothing was mapped: {answer:?}"),
    }
}

/// Ranges that often meet: around the places where blocks do, and the end.
fn range() -> impl Strategy<Value = (usize, usize)> {
    let around = (0..=3_usize, 0..3000_usize).prop_map(|(block, off)| (block * BLOCK + off).saturating_sub(1500));
    (around, prop_oneof![1 => Just(0), 20 => 1..4000_usize, 2 => BLOCK - 2000..2 * BLOCK])
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => range().prop_map(|(at, length)| Op::Read { at, length }),
        30 => (range(), any::<u8>()).prop_map(|((at, length), byte)| Op::Write { at, length, byte }),
        3 => (0..LENGTH).prop_map(|at| Op::Sync { at }),
        3 => Just(Op::Stats),
        1 => Just(Op::Unmap),
    ]
}

/// Whether each mapping is shared, and the operations with their mapping.
fn sequence() -> impl Strategy<Value = (Vec<bool>, Vec<(usize, Op)>)> {
    let ops = prop::collection::vec((0..MAPPINGS, op()), 1..120);
    (prop::collection::vec(any::<bool>(), 1..=MAPPINGS), ops)
}

struct World {
    server: Mmapd,
    caller: Caller,
    files: PathBuf,
    cases: usize,
}

impl World {
    async fn run(&mut self, shared: Vec<bool>, ops: Vec<(usize, Op)>) {
        self.cases += 1;
        let mut models = Vec::new();
        for (index, shared) in shared.into_iter().enumerate() {
            let name = format!("{}-{index}", self.cases);
            let bytes: Vec<u8> = (0..LENGTH).map(|at| u8::try_from((at + index) % 241).unwrap()).collect();
            std::fs::write(self.files.join(&name), &bytes).unwrap();
            let request = v1::MmapRequest { shared, ..map_request(&format!("/data/{name}"), LENGTH as u64) };
            let id = self.caller.mmap(request).await.unwrap().mmap_id;
            models.push(Model { id, bytes: Some(bytes) });
        }
        let mut pipe = Pipe::open(&self.caller, ops.len()).await;
        let mut expected = Vec::new();
        for (mapping, op) in &ops {
            let of = mapping % models.len();
            let (message, outcome) = models[of].step(op);
            expected.push((pipe.send(message), op, outcome));
        }
        let mut answers = pipe.collect(ops.len()).await;
        for (tag, op, expected) in expected {
            let came = outcome(answers.remove(&tag).unwrap());
            assert!(came == expected, "{tag}: {op:?} came to {}", difference(&came, &expected));
        }
        for model in models {
            let Some(bytes) = model.bytes else { continue };
            assert!(self.caller.read(model.id, 0, LENGTH as u64).await.unwrap() == bytes, "other bytes are left");
            self.caller.munmap(model.id).await.unwrap();
        }
    }
}

/// Both, without a hundred thousand bytes.
fn difference(came: &Outcome, expected: &Outcome) -> String {
    let shown = |outcome: &Outcome| match outcome {
        Outcome::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Outcome::Written(_) | Outcome::Done | Outcome::Failed(_) => format!("{outcome:?}"),
    };
    let (Outcome::Bytes(left), Outcome::Bytes(right)) = (came, expected) else {
        return format!("{} instead of {}", shown(came), shown(expected));
    };
    let at = left.iter().zip(right).position(|(left, right)| left != right);
    format!("{} instead of {}, other from byte {at:?} on", shown(came), shown(expected))
}

#[test]
fn operations_sent_without_waiting_come_to_what_they_come_to_one_by_one() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::new().mount("/data", &format!("file://{}", folder.path().display())).start();
    let caller = runtime.block_on(Caller::connect(server.addr(), 1));
    let files = folder.path().to_owned();
    let world = std::cell::RefCell::new(World { server, caller, files, cases: 0 });
    let cases = std::env::var("MMAP_PIPELINE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let outcome = TestRunner::new(config).run(&sequence(), |(shared, ops)| {
        runtime.block_on(world.borrow_mut().run(shared, ops));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(world.borrow_mut().server.is_running());
}
