//! `truncate` and `rm`: a file's size, and its end.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{context::Context, exit::Told, output, units};

/// Set a file's size: what is behind it is cut off, what is missing is zeros
#[derive(Debug, Args)]
pub(crate) struct Truncate {
    /// The file
    path: String,
    /// Its new size, as 4096 or 64MiB
    #[arg(value_parser = units::parse_size)]
    size: u64,
    /// Make the file if it is missing
    #[arg(long)]
    create: bool,
}

impl Truncate {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let Self { path, size, create } = self;
        let how = if create { mmap_client::Truncate::Create } else { mmap_client::Truncate::Existing };
        let client = context.client.with_deadline(context.store_timeout());
        let version = client.truncate_file(path.as_str(), size, how).await?;
        if context.is_json() {
            return output::json(&json!({ "path": path, "size": size, "version": version }));
        }
        output::line(&format!("{path} is {} ({size} bytes) long now", units::human_size(size)))
    }
}

/// Remove files from the store; a mapped one is refused
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

impl Rm {
    /// Tries all of them, as rm does; ends as the first failure does.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut removed = Vec::new();
        let mut first_failure = None;
        for path in self.paths {
            match context.client.remove_file(path.as_str()).await {
                Ok(()) => removed.push(path),
                Err(error) => {
                    let error = anyhow::Error::new(error).context(format!("cannot remove {path}"));
                    let exit = context.reporter.report(&error);
                    first_failure.get_or_insert(exit);
                }
            }
        }
        if context.is_json() {
            output::json(&json!({ "removed": removed }))?;
        }
        first_failure.map_or(Ok(()), |exit| Err(Told(exit).into()))
    }
}
