//! [`run`]: the program's life, from a configuration to an exit report, with what it prints on the way.

use std::io::{self, Write};

use futures::Stream;

use crate::banner::banner;
use crate::config::Config;
use crate::opening::ServerError;
use crate::server::{ExitReport, Server};
use crate::signals;

/// Binds, says where on standard output, serves until `stops` asks to end, and tells what was not stored.
///
/// # Errors
/// What kept it from starting or from going on.
pub async fn run(config: Config, stops: impl Stream<Item = ()> + Send) -> Result<ExitReport, ServerError> {
    let is_tls = config.tls.is_some();
    let mut server = Server::bind(config).await?;
    // Without files to read again SIGHUP stays what it is: the terminal is gone, and with it the program.
    if is_tls {
        let hangups = signals::hangups().map_err(|error| ServerError::Failed(format!("no SIGHUP: {error}")))?;
        server = server.with_hangups(hangups);
    }
    // A closed standard output or error is no reason to serve nobody.
    let _ = write!(io::stderr().lock(), "{}", banner(&server));
    let _ = announce(&server, &mut io::stdout().lock());
    let report = server.serve(stops).await?;
    let _ = tell(&report, &mut io::stderr().lock());
    Ok(report)
}

/// One line a listener, for programs that wait for it.
fn announce(server: &Server, out: &mut impl Write) -> io::Result<()> {
    for addr in server.addrs() {
        writeln!(out, "mmapd listening on {addr}")?;
    }
    out.flush()
}

/// What a person has to know of the end.
fn tell(report: &ExitReport, out: &mut impl Write) -> io::Result<()> {
    for (path, bytes, why) in &report.unsynced {
        writeln!(out, "mmapd: not stored: {path}: {bytes} unsynced bytes: {why}")?;
    }
    for (path, bytes, why) in &report.waiting {
        writeln!(out, "mmapd: in the journal, for the next start: {path}: {bytes} unsynced bytes: {why}")?;
    }
    if let Some(why) = report.cut_short {
        writeln!(out, "mmapd: {why}")?;
    }
    if report.synced_bytes > 0 {
        writeln!(out, "mmapd: {} bytes were synced at the end", report.synced_bytes)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_stored_is_told_by_file() {
        let report = ExitReport {
            synced_bytes: 4096,
            unsynced: vec![("/a".into(), 8192, "the store is away".into())],
            ..ExitReport::default()
        };
        let mut out = Vec::new();
        tell(&report, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("/a: 8192 unsynced bytes: the store is away"), "{text}");
        assert!(!report.is_clean() && ExitReport::default().is_clean());
    }
}
