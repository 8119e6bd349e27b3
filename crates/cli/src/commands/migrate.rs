//! `import` and `export`: whole trees into and out of the server, and between mounts of different layouts.

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use clap::Args;
use mmap_client::Process;
use serde_json::json;

use crate::{
    context::Context,
    exit::{Failure, Told},
    migrate::{
        place::Place,
        record::{Errand, Record},
        run::{Run, Wish, rate},
    },
    output,
    transfer::progress,
    units::human_size,
};

/// Copy a local file or a folder's content into a folder of the server; goes on where it was interrupted
///
/// With `mmap:/path` as the source it copies between mounts of the server, and so from one layout into another. Each
/// file is synced before it counts; its source must be the same before and after. Ranges of zeros stay sparse. The run
/// keeps a record: the same command, given again after any interruption, skips what is complete and goes on. While a
/// file is being copied it is incomplete at the target, and not to be written by others.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A local file or folder, or `mmap:/path` for one of the server
    source: String,
    /// The folder of the server
    target: String,
    #[command(flatten)]
    how: How,
}

/// Copy a file or a folder's content of the server into a local folder; goes on where it was interrupted
///
/// With `mmap:/path` as the target it copies between mounts of the server. As `import` otherwise. A local file has its
/// name when it is whole, and is `.NAME.mmapctl-part` before.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file or folder of the server
    source: String,
    /// A local folder, or `mmap:/path` for one of the server
    target: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Write over files that are there
    #[arg(long)]
    force: bool,
    /// Read each file back from the store and compare it with its source
    #[arg(long)]
    verify: bool,
    /// Move: remove each source file once its copy is synced (and compared, with --verify)
    #[arg(long)]
    remove_source: bool,
    /// Where the run's record is kept [default: in ~/.local/state/mmapctl]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

impl Import {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (source, target) = (Place::local_or_server(&self.source)?, Place::server(&self.target)?);
        self.how.run(context, "import", source, target).await
    }
}

impl Export {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (source, target) = (Place::server(&self.source)?, Place::local_or_server(&self.target)?);
        self.how.run(context, "export", source, target).await
    }
}

impl How {
    async fn run(self, context: &Context, name: &str, source: Place, target: Place) -> Result<()> {
        if source.overlaps(&target) {
            return Err(Failure::usage("source and target lie in each other: it would copy its own copies").into());
        }
        let server = context.reporter.server.clone();
        let errand = Errand { server, source: source.shown(), target: target.shown() };
        let path = self.state.map_or_else(|| Record::default_path(&errand), Ok)?;
        let (folder, found) = source.find(&context.client).await?;
        let mut record = Record::open(&path, &errand)?;
        let wish = Wish { force: self.force, verify: self.verify, remove_source: self.remove_source };
        let (start, bar) = (Instant::now(), progress(found.bytes, context.is_json()));
        let mut outcome = None;
        let ended = context
            .with_process(name, async |process: &Process| {
                let (target, record) = (target.clone(), &mut record);
                let mut run = Run { context, process, source: folder.clone(), target, wish, record, bar: &bar };
                outcome = Some(run.all(found).await);
                Ok(())
            })
            .await;
        bar.finish_and_clear();
        // A server that went away in the middle has been told of already, with what was copied until then.
        let outcome = match (outcome, ended) {
            (Some(outcome), Err(_)) if outcome.first_failure.is_some() => outcome,
            (Some(outcome), Ok(())) => outcome,
            (_, Err(error)) => return Err(error),
            (None, Ok(())) => return Err(Failure::failed("the run ended without an outcome").into()),
        };
        let kept = outcome.first_failure.map(|_| record.path().display().to_string());
        if outcome.first_failure.is_none() {
            record.finish()?;
        }
        let (count, skipped, failed) = (outcome.copied.len(), outcome.skipped, outcome.failed.len());
        if context.is_json() {
            output::json(&json!({
                "copied": outcome.copied, "skipped": skipped, "failed": outcome.failed,
                "written_bytes": outcome.written, "state": kept,
            }))?;
        } else {
            let speed = human_size(rate(outcome.written, start.elapsed()));
            let written = human_size(outcome.written);
            output::line(&format!(
                "{count} files copied, {skipped} were there, {failed} failed; {written} written, {speed}/s"
            ))?;
            if kept.is_some() {
                output::line("the same command goes on from here")?;
            }
        }
        outcome.first_failure.map_or(Ok(()), |exit| Err(Told(exit).into()))
    }
}
