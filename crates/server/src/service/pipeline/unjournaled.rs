//! [`Unjournaled`]: writes that have taken effect and that the journal does not have yet.
//!
//! They are waited for in groups: while one group is on its way, those that come form the next one. So however many
//! writes a stream has under way, overlapping or not, they share what the journal does for one of them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use mmap_core::error::Result;
use mmap_core::manager::Written;

type Wait = Pin<Box<dyn Future<Output = Result<u64>> + Send>>;

/// A write: its tag, and its bytes.
pub(super) type Wrote = (u64, u64);

/// Writes that the journal does not have yet.
#[derive(Default)]
pub(super) struct Unjournaled {
    waited_for: Option<(Wait, Vec<Wrote>)>,
    next: Option<(Written, Vec<Wrote>)>,
}

impl Unjournaled {
    /// Adds a write.
    pub(super) fn push(&mut self, tag: u64, written: Written) {
        let wrote = (tag, written.bytes());
        self.next = Some(match self.next.take() {
            Some((earlier, mut group)) => {
                group.push(wrote);
                (earlier.and(written), group)
            }
            None => (written, vec![wrote]),
        });
    }

    /// The next group that the journal has, or has failed to take; pending while there is none.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Vec<Wrote>, Result<u64>)> {
        if self.waited_for.is_none() {
            let Some((written, group)) = self.next.take() else { return Poll::Pending };
            self.waited_for = Some((Box::pin(written.wait()), group));
        }
        let Some((wait, _)) = &mut self.waited_for else { return Poll::Pending };
        let result = ready!(wait.as_mut().poll(cx));
        let group = self.waited_for.take().map(|(_, group)| group).unwrap_or_default();
        Poll::Ready((group, result))
    }
}

impl fmt::Debug for Unjournaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |group: Option<&Vec<Wrote>>| group.map_or(0, Vec::len);
        let waited_for = count(self.waited_for.as_ref().map(|(_, group)| group));
        let next = count(self.next.as_ref().map(|(_, group)| group));
        f.debug_struct("Unjournaled").field("waited_for", &waited_for).field("next", &next).finish()
    }
}
