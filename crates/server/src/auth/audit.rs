//! The audit: every refusal is logged under the target `mmapd::audit` with who, what and why, and never with a token.
//!
//! Invariant: a flood of refusals writes a bounded number of lines, and says how many it left out. The bound is of the
//! log as a whole, so it is the process's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one reason in a window.
const LINES_MAX: u64 = 20;
/// Characters of a text that somebody else chose.
const TEXT_MAX: usize = 256;

/// A refusal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audited<'a> {
    /// The contract's reason.
    pub(crate) reason: &'static str,
    /// The called method.
    pub(crate) method: &'a str,
    /// Where the connection comes from.
    pub(crate) peer: &'a str,
    /// Whose token it is.
    pub(crate) subject: Option<&'a str>,
    /// The key that it is signed with.
    pub(crate) key: Option<&'a str>,
    /// Whose it says it is: of a token that does not hold.
    pub(crate) claimed_subject: Option<&'a str>,
    /// The key that it names.
    pub(crate) claimed_key: Option<&'a str>,
    /// The file that it is about.
    pub(crate) path: Option<&'a str>,
    /// Why, for a person.
    pub(crate) why: &'a str,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u64,
    left_out: u64,
}

static WINDOWS: Mutex<BTreeMap<&'static str, Window>> = Mutex::new(BTreeMap::new());

/// Logs a refusal, unless there were too many of its reason.
pub(crate) fn audit(refusal: Audited<'_>) {
    let Some(left_out) = admit(refusal.reason, Instant::now()) else { return };
    let Audited { reason, method, peer, subject, key, claimed_subject, claimed_key, path, why } = refusal;
    let cut = |text: &str| -> String { text.escape_debug().take(TEXT_MAX).collect() };
    let (subject, key, path) = (subject.map(cut), key.map(cut), path.map(cut));
    let (claimed_subject, claimed_key) = (claimed_subject.map(cut), claimed_key.map(cut));
    let method = cut(method);
    tracing::warn!(
        target: "mmapd::audit",
        reason,
        method,
        peer,
        subject,
        key,
        claimed_subject,
        claimed_key,
        path,
        left_out,
        "refused: {why}"
    );
}

/// Tells of what was left out in windows that are over.
pub(crate) fn flush() {
    for (reason, left_out) in overdue(Instant::now()) {
        tracing::warn!(target: "mmapd::audit", reason, left_out, "more of the same were refused and not logged");
    }
}

/// Whether one more line of this reason may be written; if so, how many were left out before it.
fn admit(reason: &'static str, now: Instant) -> Option<u64> {
    let mut windows = WINDOWS.lock();
    let window = windows.entry(reason).or_insert(Window { since: now, lines: 0, left_out: 0 });
    if now.saturating_duration_since(window.since) >= WINDOW {
        (window.since, window.lines) = (now, 0);
    }
    if window.lines >= LINES_MAX {
        window.left_out += 1;
        return None;
    }
    window.lines += 1;
    Some(std::mem::take(&mut window.left_out))
}

fn overdue(now: Instant) -> Vec<(&'static str, u64)> {
    let mut windows = WINDOWS.lock();
    let over = windows.iter_mut().filter(|(_, window)| now.saturating_duration_since(window.since) >= WINDOW);
    over.map(|(reason, window)| (*reason, std::mem::take(&mut window.left_out)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_reason_is_cut_off_and_counted_and_other_reasons_are_not() {
        let start = Instant::now();
        let written = (0..1000).filter(|_| admit("a test's flood", start).is_some()).count();
        assert_eq!(written as u64, LINES_MAX);
        assert_eq!(admit("a test's other", start), Some(0));
        assert!(overdue(start).iter().all(|(reason, _)| *reason != "a test's flood"), "the window is not over");
        assert_eq!(admit("a test's flood", start + WINDOW), Some(1000 - LINES_MAX));
        for _ in 0..LINES_MAX {
            admit("a test's flood", start + WINDOW);
        }
        let told = overdue(start + WINDOW * 2);
        assert!(told.contains(&("a test's flood", 1)), "{told:?}");
        assert!(overdue(start + WINDOW * 2).is_empty(), "it is told once");
    }
}
