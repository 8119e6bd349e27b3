//! `ls` and `stat`: which files there are, and what one of them is.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{
    context::Context,
    output::{self, FileRow},
    units::{human_size, human_time},
};

/// The most that a server gives in one page.
const PAGE: u32 = 1000;

/// List files: size, time of the last change, path
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// A folder, or the start of a path; all files without it
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
}

impl Ls {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut rows: Vec<FileRow> = Vec::new();
        let mut token = None;
        loop {
            let page = context.client.list_files_page(&self.prefix, PAGE, token.as_deref()).await?;
            if context.is_json() {
                rows.extend(page.items.into_iter().map(Into::into));
            } else {
                // Page by page, so that a long list is seen as it comes.
                for file in page.items {
                    output::line(&format!(
                        "{:>10}  {:>20}  {}",
                        human_size(file.size),
                        human_time(file.modified),
                        file.path
                    ))?;
                }
            }
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        if context.is_json() { output::json(&json!({ "files": rows })) } else { Ok(()) }
    }
}

/// Tell what a file is: size, version, who maps it, what is not synced yet
#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// The file
    path: String,
}

impl Stat {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let file = context.client.stat_file(self.path).await?;
        if context.is_json() {
            return output::json(&FileRow::from(file));
        }
        output::line(&format!("    Path: {}", file.path))?;
        output::line(&format!("    Size: {} ({} bytes)", human_size(file.size), file.size))?;
        output::line(&format!("Modified: {}", human_time(file.modified)))?;
        output::line(&format!(" Version: {}", file.version))?;
        output::line(&format!("  Mapped: by {} mapping(s)", file.mapped_by))?;
        output::line(&format!("Unsynced: {}", human_size(file.dirty_bytes)))
    }
}
