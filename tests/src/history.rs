//! A checker of linearizability: is there an order of a history's operations, each at one instant between its
//! call and its answer, that plain memory would have answered in the same way?
//!
//! The search is Wing and Gong's, with Lowe's memory of (operations done, content) pairs already tried. The
//! content is a few cells; an operation reads or writes a run of them. It knows nothing of how they are stored.

use std::collections::HashSet;
use std::ops::Range;

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Saw these values in the cells.
    Read(Vec<u32>),
    /// Put this value into each of the cells.
    Write(u32),
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was called.
    pub called: u64,
    /// When it was answered; `None` if it failed or was cut off: it may have taken effect, or not, or later.
    pub answered: Option<u64>,
    /// Which cells.
    pub cells: Range<usize>,
    /// What it did.
    pub action: Action,
}

/// Operations that no order explains: the first one that could never be placed, by its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The most operations that could be put in order.
    pub explained: usize,
    /// Of how many.
    pub operations: usize,
}

/// One level of the search: the operations that may come next, and how far they have been tried.
struct Level {
    content: Vec<u32>,
    done: Vec<u64>,
    candidates: Vec<usize>,
}

/// An order that explains the history, as indexes into it.
///
/// # Errors
/// There is none.
pub fn linearize(history: &[Operation], start: &[u32]) -> Result<Vec<usize>, Violation> {
    let mut tried: HashSet<(Vec<u64>, Vec<u32>)> = HashSet::new();
    let done = vec![0u64; history.len().div_ceil(64)];
    let candidates = next(history, &done);
    let mut levels = vec![Level { content: start.to_vec(), done, candidates }];
    let (mut order, mut explained) = (Vec::new(), 0);
    while let Some(level) = levels.last_mut() {
        if is_complete(history, &level.done) {
            return Ok(order);
        }
        let Some(index) = level.candidates.pop() else {
            levels.pop();
            order.pop();
            continue;
        };
        let Some(content) = apply(&history[index], &level.content) else { continue };
        let mut done = level.done.clone();
        done[index / 64] |= 1 << (index % 64);
        if !tried.insert((done.clone(), content.clone())) {
            continue;
        }
        order.push(index);
        explained = explained.max(order.len());
        let candidates = next(history, &done);
        levels.push(Level { content, done, candidates });
    }
    Err(Violation { explained, operations: history.len() })
}

fn is_done(done: &[u64], index: usize) -> bool {
    done[index / 64] & (1 << (index % 64)) != 0
}

fn is_complete(history: &[Operation], done: &[u64]) -> bool {
    (0..history.len()).all(|index| is_done(done, index) || history[index].answered.is_none())
}

/// Operations that may come next: called before any that is not done was answered. The last to be tried first.
fn next(history: &[Operation], done: &[u64]) -> Vec<usize> {
    let open = || (0..history.len()).filter(|index| !is_done(done, *index));
    let horizon = open().filter_map(|index| history[index].answered).min().unwrap_or(u64::MAX);
    let mut candidates: Vec<usize> = open().filter(|index| history[*index].called <= horizon).collect();
    candidates.sort_by_key(|index| std::cmp::Reverse(history[*index].answered.unwrap_or(u64::MAX)));
    candidates
}

fn apply(operation: &Operation, content: &[u32]) -> Option<Vec<u32>> {
    match &operation.action {
        Action::Read(seen) => (content[operation.cells.clone()] == seen[..]).then(|| content.to_vec()),
        Action::Write(value) => {
            let mut content = content.to_vec();
            content[operation.cells.clone()].fill(*value);
            Some(content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(called: u64, answered: u64, cells: Range<usize>, value: u32) -> Operation {
        Operation { called, answered: Some(answered), cells, action: Action::Write(value) }
    }

    fn read(called: u64, answered: u64, cells: Range<usize>, seen: &[u32]) -> Operation {
        Operation { called, answered: Some(answered), cells, action: Action::Read(seen.to_vec()) }
    }

    #[test]
    fn concurrent_operations_may_take_effect_in_either_order() {
        let history = [write(0, 10, 0..2, 1), write(0, 10, 1..3, 2), read(11, 12, 0..3, &[1, 1, 2])];
        assert_eq!(linearize(&history, &[0, 0, 0]), Ok(vec![1, 0, 2]));
    }

    #[test]
    fn a_torn_read_is_found() {
        let history = [write(0, 1, 0..2, 1), write(2, 5, 0..2, 2), read(2, 5, 0..2, &[2, 1])];
        assert!(linearize(&history, &[0, 0]).is_err());
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [write(0, 1, 0..1, 1), write(2, 3, 0..1, 2), read(4, 5, 0..1, &[1])];
        assert!(linearize(&history, &[0]).is_err());
    }

    #[test]
    fn a_value_that_comes_back_is_found() {
        let history = [write(0, 9, 0..1, 1), read(1, 2, 0..1, &[1]), read(3, 4, 0..1, &[0])];
        assert!(linearize(&history, &[0]).is_err());
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_or_not() {
        let lost = Operation { called: 0, answered: None, cells: 0..1, action: Action::Write(7) };
        assert!(linearize(&[lost.clone(), read(5, 6, 0..1, &[7])], &[0]).is_ok());
        assert!(linearize(&[lost, read(5, 6, 0..1, &[0])], &[0]).is_ok());
    }
}
