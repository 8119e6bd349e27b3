//! How sizes and times are read and written: `64MiB` in, `1.5 MiB` out.
//!
//! Reading is exact: a size that does not fit is refused, never rounded. Writing is for people and rounds.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes: `4096`, `64KiB`, `1GB`; `64K` is `64KiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("{unit:?} is no unit of size: say a number of bytes, or 64KiB, 64MiB, 1GiB")),
    };
    let number: u64 =
        number.parse().map_err(|_| "a size is a whole number, with a unit if wanted: 64MiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "this size is beyond 16 EiB".to_owned())
}

/// A time: `500ms`, `10s`, `2m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a time is a whole number and a unit: 500ms, 10s, 2m, 1h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a time is a whole number and a unit: 10s".to_owned())?;
    match number.checked_mul(millis) {
        None => Err("this time is longer than any".to_owned()),
        Some(0) => Err("a time of 0 leaves none to answer".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// For people: three digits or so. Exact below 1 KiB.
pub(crate) fn human_size(bytes: u64) -> String {
    let power = (0..BINARY.len()).rev().find(|power| bytes >> (10 * power) > 0).unwrap_or(0);
    if power == 0 {
        return format!("{bytes} B");
    }
    // In tenths, by integers: a float would show 1023.96 KiB as 1024.0 KiB all the same, but less plainly.
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    format!("{}.{} {}", tenths / 10, tenths % 10, BINARY[power])
}

/// For people: the largest unit that leaves a digit.
pub(crate) fn human_duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{:.2} ms", duration.as_secs_f64() * 1000.0),
        seconds @ 1..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// In UTC, as RFC 3339 has it. `None` for a time that has no date.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    Some(date(time)?.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

/// In UTC, for a column. `-` for a time that has no date.
pub(crate) fn human_time(time: Option<SystemTime>) -> String {
    let date = time.and_then(date);
    date.map_or_else(|| "-".to_owned(), |date| date.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Not `DateTime::from`, which panics for a time that a server can send.
fn date(time: SystemTime) -> Option<DateTime<Utc>> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    DateTime::from_timestamp(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly_or_refused() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1k", 1024),
            ("1KB", 1000),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1 parsec", "99999999999999999999", "16777216TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (100 << 20, "100.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["10", "s", "0s", "1.5s", "99999999999999999999h", "9999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(human_duration(Duration::from_micros(1500)), "1.50 ms");
        assert_eq!(human_duration(Duration::from_secs(61)), "1m01s");
        assert_eq!(human_duration(Duration::from_secs(7260)), "2h01m");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(human_time(Some(time)), "2023-11-14 22:13:20Z");
        assert_eq!(rfc3339(time).as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(human_time(None), "-");
        assert_eq!(human_time(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60))), "-");
    }
}
