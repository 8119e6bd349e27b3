//! What one subject may have and do: the `subject-` settings. All are off unless they are set.

use mmap_core::limits::SubjectLimits;

use super::quantity::parse_size;
use super::refusal::Refusal;
use super::sources::Settings;

/// What one subject may ask for, of all its connections together. `None`: no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectRates {
    /// Calls and pipelined operations a second.
    pub calls_per_second: Option<u64>,
    /// Bytes read and written a second.
    pub bytes_per_second: Option<u64>,
    /// Calls, streams of reads or writes, and pipelined operations that run at a time.
    pub calls: Option<usize>,
}

/// The limits that are the core's to keep.
pub(super) fn limits(settings: &Settings) -> Result<SubjectLimits, Refusal> {
    Ok(SubjectLimits {
        mappings: settings.one("subject-mappings", parse_number)?,
        private: settings.one("subject-private", parse_some)?,
        dirty: settings.one("subject-dirty", parse_some)?,
    })
}

/// Those that are the server's.
pub(super) fn rates(settings: &Settings) -> Result<SubjectRates, Refusal> {
    Ok(SubjectRates {
        calls_per_second: settings.one("subject-calls-per-second", parse_number)?,
        bytes_per_second: settings.one("subject-bytes-per-second", parse_some)?,
        calls: settings.one("subject-calls", parse_number)?,
    })
}

fn parse_number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number = text.parse::<u64>().ok().filter(|number| (1..=u64::from(u32::MAX)).contains(number));
    let refuse = || format!("`{text}` is not a limit: write a whole number from 1 to {}", u32::MAX);
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(refuse)
}

fn parse_some(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("a limit of no bytes serves nobody: leave it out for none".to_owned()),
        size if size > 1 << 50 => Err(format!("`{text}` is more than 1024TiB, which is no limit: leave it out")),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_size_above_nothing() {
        assert_eq!(parse_number::<usize>("100"), Ok(100));
        assert_eq!(parse_some("64MiB"), Ok(64 << 20));
        for text in ["0", "-1", "1.5", "", "x", "4294967296"] {
            assert!(parse_number::<u64>(text).is_err(), "{text}");
        }
        for text in ["0", "0MiB", "2000TiB", "-1"] {
            assert!(parse_some(text).is_err(), "{text}");
        }
    }
}
