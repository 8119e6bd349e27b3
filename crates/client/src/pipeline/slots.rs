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
#[derive(Debug, Default)]
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
    /// Takes an operation. `None`: the stream has ended, or (against the rules) no slot is free.
    pub(super) fn submit(&mut self, op: Op, due: Instant) -> Option<Submitted> {
        if self.has_ended {
            return None;
        }
        let index = self.free.pop().or_else(|| self.grow(due))?;
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

    /// One more slot: a program with one operation at a time needs one.
    fn grow(&mut self, due: Instant) -> Option<usize> {
        let index = self.slots.len();
        (index < SLOTS_MAX).then(|| {
            self.slots.push(Slot { state: State::Free, tag: index as u64, end: 0, due });
            index
        })
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
        // One buffer, and data copied into it: sent from where they lie, writes of 16 to 64 KiB cost twice as much,
        // because the transport then writes each to the socket by itself.
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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::error::ErrorKind;

    const LATER: Duration = Duration::from_secs(10);

    fn read(slots: &mut Slots, due: Instant) -> usize {
        let op = Op::MmapRead(v1::MmapReadRequest { mmap_id: 1, offset: 0, length: 1 });
        slots.submit(op, due).expect("there is room").index
    }

    fn answer(slots: &mut Slots, tag: u64) -> Answered {
        let outcome = Outcome::Answer(Answer::MmapRead(v1::MmapReadResponse::default()));
        slots.answer(tag, outcome, &mut Vec::new())
    }

    fn outcome(slots: &mut Slots, index: usize) -> Option<(Outcome, Freed)> {
        match slots.poll_outcome(index, &Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        }
    }

    fn send(slots: &mut Slots) -> usize {
        match slots.poll_unsent(&Context::from_waker(Waker::noop())) {
            Poll::Ready(bytes) => bytes.map_or(0, |bytes| bytes.len()),
            Poll::Pending => 0,
        }
    }

    #[test]
    fn an_answer_goes_to_its_operation_and_to_no_later_one_of_the_slot() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let index = read(&mut slots, now + LATER);
        let tag = slots.slots[index].tag;
        assert!(outcome(&mut slots, index).is_none());
        for wrong in [tag + 1, tag + SLOTS_MAX as u64, u64::MAX] {
            assert_eq!(answer(&mut slots, wrong), Answered::Unasked);
        }
        assert_eq!(answer(&mut slots, tag), Answered::Kept);
        assert_eq!(answer(&mut slots, tag), Answered::Unasked, "it came twice");
        assert!(matches!(outcome(&mut slots, index), Some((Outcome::Answer(_), Freed(true)))));
        assert_eq!(read(&mut slots, now + LATER), index, "the slot is used again");
        assert_eq!(answer(&mut slots, tag), Answered::Unasked, "the tag is of its last use");
        assert!(outcome(&mut slots, index).is_none());
    }

    #[test]
    fn a_slot_whose_caller_went_away_is_free_when_the_answer_comes_and_not_before() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let all: Vec<_> = (0..SLOTS_MAX).map(|_| read(&mut slots, now + LATER)).collect();
        assert_eq!(slots.abandon(all[7]), Freed(false));
        let op = Op::MmapRead(v1::MmapReadRequest::default());
        assert!(slots.submit(op, now).is_none(), "the server may still work on it");
        let tag = slots.slots[all[7]].tag;
        assert_eq!(answer(&mut slots, tag), Answered::Freed);
        assert_eq!(read(&mut slots, now + LATER), all[7]);
        // One that is answered already is free at once.
        let tag = slots.slots[all[8]].tag;
        assert_eq!(answer(&mut slots, tag), Answered::Kept);
        assert_eq!(slots.abandon(all[8]), Freed(true));
    }

    #[test]
    fn who_is_late_is_told_alone_and_a_server_that_never_answers_is_noticed() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let (soon, later) = (read(&mut slots, now + Duration::from_secs(1)), read(&mut slots, now + LATER));
        let due = slots.expire(now, &mut Vec::new());
        assert_eq!(due.next, Some(now + Duration::from_secs(1)));
        let due = slots.expire(now + Duration::from_secs(1), &mut Vec::new());
        assert_eq!((due.next, due.is_silent), (Some(now + LATER), false));
        assert!(matches!(outcome(&mut slots, soon), Some((Outcome::Late, Freed(false)))));
        assert!(outcome(&mut slots, later).is_none());
        let tag = slots.slots[later].tag;
        assert_eq!(answer(&mut slots, tag), Answered::Kept);
        assert!(!slots.expire(now + SILENCE_MAX, &mut Vec::new()).is_silent);
        assert!(slots.expire(now + SILENCE_MAX + LATER, &mut Vec::new()).is_silent);
    }

    #[test]
    fn an_answer_that_comes_before_its_caller_knew_that_it_is_late_is_in_time() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let index = read(&mut slots, now);
        slots.expire(now, &mut Vec::new());
        let tag = slots.slots[index].tag;
        assert_eq!(answer(&mut slots, tag), Answered::Kept);
        assert!(matches!(outcome(&mut slots, index), Some((Outcome::Answer(_), Freed(true)))));
    }

    #[test]
    fn the_driver_is_called_only_for_what_is_due_first() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let mut is_earliest =
            |due| slots.submit(Op::MmapRead(v1::MmapReadRequest::default()), due).expect("there is room").is_earliest;
        assert!(is_earliest(now + LATER));
        assert!(!is_earliest(now + LATER + LATER));
        assert!(is_earliest(now + Duration::from_secs(1)));
    }

    #[test]
    fn when_the_stream_breaks_only_what_was_wholly_handed_over_may_have_happened() {
        let error = |kind| Outcome::Failed(Error::new(kind, Code::Unavailable, "broken"));
        let now = Instant::now();
        let mut slots = Slots::default();
        let sent = read(&mut slots, now + LATER);
        assert!(send(&mut slots) > 0);
        let write = v1::MmapWriteRequest { mmap_id: 1, offset: 0, data: vec![0; SEND_MAX].into() };
        let half_sent = slots.submit(Op::MmapWrite(write), now + LATER).expect("there is room").index;
        assert_eq!(send(&mut slots), SEND_MAX);
        let unsent = read(&mut slots, now + LATER);
        slots.end(&mut Vec::new(), || error(ErrorKind::Transport), || error(ErrorKind::Connect));
        for (index, kind) in
            [(sent, ErrorKind::Transport), (half_sent, ErrorKind::Connect), (unsent, ErrorKind::Connect)]
        {
            match outcome(&mut slots, index) {
                Some((Outcome::Failed(error), _)) => assert_eq!(error.kind(), kind),
                other => panic!("{other:?}"),
            }
        }
        assert!(slots.submit(Op::MmapRead(v1::MmapReadRequest::default()), now).is_none());
    }
}
