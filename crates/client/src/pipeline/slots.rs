//! The operations of one stream, from the caller's hand to its answer: [`Slots`]. Pure: no I/O, no clock, no lock.
//!
//! A slot is *waiting* until its answer comes, then *ended* until its caller takes that, then free. One whose caller
//! went away, or was told that it is late, is *abandoned*: only its answer frees it, so that at most [`SLOTS_MAX`]
//! operations are ever at the server, and an answer cannot meet the slot's next operation. A tag is the slot's
//! number and how often it was used: an answer that comes twice, or for nothing, is known by it.
//!
//! What is to be sent lies encoded in one buffer, and every operation knows where in the stream it ends. So it is
//! known of each one whether the transport has been given all of it: if not, the server surely never saw it.

use std::{
    mem,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mmap_proto::v1::{self, mmap_pipeline_request::Op, mmap_pipeline_response::Result as Answer};
use tokio::time::Instant;

use crate::{error::Error, framing};

/// Operations of one stream at a time: what a server takes before it makes a stream wait.
pub(super) const SLOTS_MAX: usize = 256;
/// What the transport is given at a time: the largest frame that a server takes, see `transport`.
const SEND_MAX: usize = 1 << 20;
/// How long an operation's answer may come after its deadline. The server itself answers within 30 s; one that does
/// not has lost it, and the stream with its slots is given up.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// How an operation ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Answer),
    Failed(Error),
    /// Its deadline passed.
    Late,
    /// The server has no pipeline.
    NotSupported,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting(Option<Waker>),
    Ended(Outcome),
    Abandoned,
}

#[derive(Debug)]
struct Slot {
    state: State,
    tag: u64,
    /// Where in the stream the operation's last byte is.
    end: u64,
    /// When it is late; of an abandoned one: when its answer is no longer believed to come.
    due: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
    unsent: BytesMut,
    /// Bytes that were ever put into `unsent`, and that were ever taken out of it.
    put: u64,
    taken: u64,
    /// Who sends, if it waits for something to send.
    sender: Option<Waker>,
    /// The earliest `due` when it was last looked for.
    next_due: Option<Instant>,
    has_ended: bool,
}

/// An operation that was taken: what is to be done about it outside of the lock.
pub(super) struct Submitted {
    pub(super) index: usize,
    pub(super) sender: Option<Waker>,
    /// It is due before everything else.
    pub(super) is_earliest: bool,
}

/// What a look at the clock found.
pub(super) struct Due {
    pub(super) next: Option<Instant>,
    /// An answer was waited for in vain.
    pub(super) is_silent: bool,
}

impl Slots {
    pub(super) fn new(now: Instant) -> Self {
        let slot = |index| Slot { state: State::Free, tag: index as u64, end: 0, due: now };
        Self {
            slots: (0..SLOTS_MAX).map(slot).collect(),
            free: (0..SLOTS_MAX).rev().collect(),
            unsent: BytesMut::new(),
            put: 0,
            taken: 0,
            sender: None,
            next_due: None,
            has_ended: false,
        }
    }

    /// Takes an operation. `None`: the stream has ended, or (against the rules) no slot is free.
    pub(super) fn submit(&mut self, op: Op, due: Instant) -> Option<Submitted> {
        if self.has_ended {
            return None;
        }
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(index)?;
        slot.tag = slot.tag.wrapping_add(SLOTS_MAX as u64);
        let before = self.unsent.len();
        framing::append(&mut self.unsent, &v1::MmapPipelineRequest { tag: slot.tag, op: Some(op) });
        self.put += (self.unsent.len() - before) as u64;
        (slot.end, slot.due, slot.state) = (self.put, due, State::Waiting(None));
        let is_earliest = self.next_due.is_none_or(|next| due < next);
        if is_earliest {
            self.next_due = Some(due);
        }
        Some(Submitted { index, sender: self.sender.take(), is_earliest })
    }

    /// Whether somebody waits beside the one whose operation came last: then more is to be sent soon.
    pub(super) fn is_busy(&self) -> bool {
        self.slots.len() - self.free.len() > 1
    }

    /// What is to be sent next. `Ready(None)`: the stream has ended.
    pub(super) fn poll_unsent(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if self.unsent.is_empty() {
            self.sender = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = self.unsent.split_to(self.unsent.len().min(SEND_MAX)).freeze();
        self.taken += bytes.len() as u64;
        Poll::Ready(Some(bytes))
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() && !self.has_ended
    }

    /// Puts an answer into its slot. False: nobody asked for it.
    pub(super) fn answer(&mut self, tag: u64, outcome: Outcome, wakers: &mut Vec<Waker>) -> Answered {
        let index = usize::try_from(tag % SLOTS_MAX as u64).unwrap_or_default();
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.tag == tag) else { return Answered::Unasked };
        match &mut slot.state {
            State::Waiting(waker) => {
                wakers.extend(waker.take());
                slot.state = State::Ended(outcome);
                Answered::Kept
            }
            State::Abandoned => {
                slot.state = State::Free;
                self.free.push(index);
                Answered::Freed
            }
            // In time after all: its caller has not been told yet.
            State::Ended(ended @ Outcome::Late) => {
                *ended = outcome;
                Answered::Kept
            }
            State::Free | State::Ended(_) => Answered::Unasked,
        }
    }

    /// Takes how an operation ended, and frees its slot.
    pub(super) fn poll_outcome(&mut self, index: usize, cx: &Context<'_>) -> Poll<(Outcome, Freed)> {
        let Some(slot) = self.slots.get_mut(index) else { return Poll::Pending };
        match &mut slot.state {
            State::Waiting(waker) => {
                if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            State::Ended(_) => {}
            State::Free | State::Abandoned => return Poll::Pending,
        }
        // A late one's answer is still to come.
        let is_late = matches!(slot.state, State::Ended(Outcome::Late)) && !self.has_ended;
        let next = if is_late { State::Abandoned } else { State::Free };
        let State::Ended(outcome) = mem::replace(&mut slot.state, next) else { return Poll::Pending };
        if !is_late {
            self.free.push(index);
        }
        Poll::Ready((outcome, Freed(!is_late)))
    }

    /// The caller went away.
    pub(super) fn abandon(&mut self, index: usize) -> Freed {
        let Some(slot) = self.slots.get_mut(index) else { return Freed(false) };
        let is_pending = match &slot.state {
            State::Waiting(_) | State::Ended(Outcome::Late) => !self.has_ended,
            State::Ended(_) => false,
            State::Free | State::Abandoned => return Freed(false),
        };
        if is_pending {
            if matches!(slot.state, State::Waiting(_)) {
                slot.due += SILENCE_MAX;
            }
            slot.state = State::Abandoned;
            return Freed(false);
        }
        slot.state = State::Free;
        self.free.push(index);
        Freed(true)
    }

    /// Tells those that are late so, and says when to look again.
    pub(super) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) -> Due {
        let mut due = Due { next: None, is_silent: false };
        for slot in &mut self.slots {
            match &mut slot.state {
                State::Waiting(waker) if slot.due <= now => {
                    wakers.extend(waker.take());
                    slot.state = State::Ended(Outcome::Late);
                    slot.due += SILENCE_MAX;
                }
                State::Abandoned if slot.due <= now => due.is_silent = true,
                State::Waiting(_) | State::Abandoned | State::Ended(Outcome::Late) => {}
                State::Free | State::Ended(_) => continue,
            }
            due.next = Some(due.next.map_or(slot.due, |next| next.min(slot.due)));
        }
        self.next_due = due.next;
        due
    }

    /// Ends every operation: as `unsent` what the transport was never given, as `sent` the others.
    pub(super) fn end(&mut self, wakers: &mut Vec<Waker>, sent: impl Fn() -> Outcome, unsent: impl Fn() -> Outcome) {
        self.has_ended = true;
        self.unsent = BytesMut::new();
        wakers.extend(self.sender.take());
        for slot in &mut self.slots {
            if let State::Waiting(waker) = &mut slot.state {
                wakers.extend(waker.take());
                slot.state = State::Ended(if slot.end <= self.taken { sent() } else { unsent() });
            }
        }
    }
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Its caller gets it.
    Kept,
    /// Its caller is gone, and its slot is free.
    Freed,
    /// Nobody asked for it.
    Unasked,
}

/// Whether a slot became free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a free slot is a place for somebody who waits"]
pub(super) struct Freed(pub(super) bool);
