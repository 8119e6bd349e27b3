//! [`Refusals`]: handshakes that failed, told at a bounded rate: whoever makes them fail must not fill the log.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two lines.
const PERIOD: Duration = Duration::from_secs(10);

/// Counts what it does not tell.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// Logs that `peer` was refused, unless another was told of a moment ago.
    pub(super) fn tell(&self, peer: Option<SocketAddr>, why: &str) {
        if let Some(untold) = self.admit(Instant::now()) {
            let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
            tracing::warn!(peer, untold, "a TLS connection was refused: {why}");
        }
    }

    /// How many went untold since the last line, if there is to be one now.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.told.is_some_and(|told| now.duration_since(told) < PERIOD) {
            state.untold += 1;
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_period_with_the_number_of_the_others() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.admit(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(refusals.admit(start + PERIOD / 2), None);
        }
        assert_eq!(refusals.admit(start + PERIOD), Some(1000));
    }
}
