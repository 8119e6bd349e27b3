//! SIGTERM and SIGINT as a stream: each item is one request to stop.

use std::io;

use futures::Stream;
use futures::stream::unfold;
use tokio::signal::unix::{SignalKind, signal};

/// Begins to listen for the signals; from here on they no longer end the process by themselves.
///
/// # Errors
/// The handlers cannot be installed.
pub fn stops() -> io::Result<impl Stream<Item = ()> + Send> {
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(unfold(signals, |(mut terminate, mut interrupt)| async move {
        let came = tokio::select! {
            came = terminate.recv() => came,
            came = interrupt.recv() => came,
        };
        came.map(|()| ((), (terminate, interrupt)))
    }))
}
