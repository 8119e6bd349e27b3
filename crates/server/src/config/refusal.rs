//! [`Refusal`]: why there is no configuration.

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The command line is wrong, or asks for help or the version.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// Something else is wrong: a sentence for a person.
    #[error("{0}")]
    Wrong(String),
}
