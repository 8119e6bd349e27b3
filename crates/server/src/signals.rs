//! Signals as streams: SIGTERM and SIGINT ask to stop, SIGHUP to read files again.

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

/// Begins to listen for SIGHUP; from here on it no longer ends the process.
///
/// # Errors
/// The handler cannot be installed.
pub fn hangups() -> io::Result<impl Stream<Item = ()> + Send> {
    let hangups = signal(SignalKind::hangup())?;
    Ok(unfold(hangups, |mut hangups| async move { hangups.recv().await.map(|()| ((), hangups)) }))
}
