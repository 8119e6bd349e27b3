//! HTTP by hand, and what a scrape of metrics says. No library: a test of what goes over the wire should not be
//! forgiven by one.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Asks with GET: the status, and the body.
///
/// # Panics
/// If nobody answers, or not in HTTP.
pub fn get(addr: &str, target: &str) -> (u16, String) {
    try_get(addr, target).unwrap_or_else(|error| panic!("{error}"))
}

/// As [`get`], from somebody who may not answer.
///
/// # Errors
/// Why there is no answer.
pub fn try_get(addr: &str, target: &str) -> Result<(u16, String), String> {
    // Version 1.0 has no chunks, and ends its answer by closing.
    try_request(addr, &format!("GET {target} HTTP/1.0\r\nHost: {addr}\r\n\r\n"))
}

/// Sends `text` as it is: the status, and the body.
///
/// # Panics
/// As [`get`].
pub fn request(addr: &str, text: &str) -> (u16, String) {
    try_request(addr, text).unwrap_or_else(|error| panic!("{error}"))
}

fn try_request(addr: &str, text: &str) -> Result<(u16, String), String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| format!("{addr} {text:?}: {error}"))?;
    let split = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    split.ok_or_else(|| format!("{addr} {text:?} is not answered in HTTP: {answer:?}"))
}

/// The samples of a scrape, by what stands before their values: `name{label="value"}`.
#[derive(Clone, Debug)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Scrapes the metrics that are told at `addr`.
    ///
    /// # Panics
    /// If they are not.
    pub fn of(addr: &str) -> Self {
        let (status, body) = get(addr, "/metrics");
        assert_eq!(status, 200, "{body}");
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
        };
        Self(lines.map(sample).collect())
    }

    /// The value of a series.
    ///
    /// # Panics
    /// If it is not told.
    pub fn value(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("{series} is not told: {:#?}", self.0.keys()))
    }
}
