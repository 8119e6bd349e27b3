//! Sizes (`64MiB`) and times (`10s`) as people write them.
//!
//! Parsing is strict: a number, then at most one unit, nothing else. Invariant: what `show_size` writes,
//! `parse_size` reads again.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// The longest time that can be asked for: ten years, far below what a timer can hold.
const TIME_MAX_HOURS: u64 = 10 * 365 * 24;

/// Bytes: `64MiB`, `4KiB`, `1GiB`, `2TiB` or a plain number.
///
/// # Errors
/// A sentence that says how a size is written.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => Some(1),
        _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
    };
    let bytes = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
    bytes.ok_or_else(|| format!("`{text}` is not a size: write bytes, or a whole number with KiB, MiB, GiB or TiB"))
}

/// A time: `500ms`, `10s`, `10m`, `1h`.
///
/// # Errors
/// A sentence that says how a time is written.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let time = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor)).map(Duration::from_millis);
    match time {
        Some(time) if time <= Duration::from_hours(TIME_MAX_HOURS) => Ok(time),
        _ => Err(format!("`{text}` is not a time: write a whole number with ms, s, m or h, ten years at most")),
    }
}

/// `bytes` in the largest unit that leaves a whole number.
pub(crate) fn show_size(bytes: u64) -> String {
    match SIZE_UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_bytes_or_a_number_with_a_binary_unit() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("4KiB", 4096), ("64MiB", 64 << 20), ("1GiB", 1 << 30), ("2TiB", 2 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_a_sentence_that_quotes_it() {
        for text in
            ["", "MiB", "-1", "+1", "1.5GiB", "64 MiB", "64MB", "64mib", "1KiBs", "18446744073709551616", "16777216TiB"]
        {
            let sentence = parse_size(text).unwrap_err();
            assert!(sentence.contains(&format!("`{text}`")), "{sentence}");
        }
    }

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("10m", 600_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "10 s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_that_is_shown_is_read_again_as_the_same() {
        for bytes in [0, 1, 1023, 1024, 1025, 4 << 20, 3 << 30, u64::MAX] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
    }
}
