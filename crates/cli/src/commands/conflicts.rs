//! `conflicts`: unsynced pages that the server could neither store nor drop, and what to do about them.
//!
//! Nothing is given up without being asked twice: `drop` wants `--yes`, or an answer from a terminal.

use std::io::{IsTerminal, Write};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use mmap_client::{Applied, Capability, ConflictInfo, ConflictRange, ErrorKind};
use serde_json::{Value, json};

use crate::{
    context::Context,
    exit::{Exit, Failure, Told},
    output,
    units::{human_size, human_time, rfc3339},
};

/// The most that a server gives in one page.
const PAGE: u32 = 1000;
/// Bytes of a line of a dump.
const LINE: usize = 16;

/// Unsynced pages that were kept aside because their file changed in the store: list, show, apply or drop them
///
/// A conflict comes into being when nobody is left to decide: a process died, or a file became shorter, while its
/// pages were not stored. It stays until it is applied or dropped, also across restarts of the server.
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the conflicts, the oldest first
    List,
    /// Show what a conflict is and where its pages lie
    Show {
        /// The conflict
        id: String,
        /// Its bytes too, in hexadecimal
        #[arg(long)]
        hex: bool,
    },
    /// Put conflicts' pages onto the present content of their files, store that, and remove the conflicts
    ///
    /// Each is one change of the store, all or nothing. It replaces the conflict's pages, whoever wrote them since,
    /// and nothing else. Of several conflicts of one file apply the oldest first.
    Apply {
        /// The conflicts
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Remove conflicts; their bytes are gone for good
    Drop {
        /// The conflicts
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Conflicts {
    pub(crate) fn capabilities(&self) -> &'static [Capability] {
        match self.what {
            What::List | What::Show { .. } => &[Capability::FileRead],
            What::Apply { .. } | What::Drop { .. } => &[Capability::FileWrite],
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self.what {
            What::List => list(context).await,
            What::Show { id, hex } => show(context, &id, hex).await,
            What::Apply { ids } => apply(context, ids).await,
            What::Drop { ids, yes } => drop_all(context, ids, yes).await,
        }
    }
}

async fn list(context: &Context) -> Result<()> {
    let (mut conflicts, mut damaged, mut token) = (Vec::new(), Vec::new(), None);
    loop {
        let page = context.client.list_conflicts(PAGE, token.as_deref()).await?;
        conflicts.extend(page.conflicts);
        damaged.extend(page.damaged);
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    if context.is_json() {
        let damaged: Vec<_> = damaged.iter().map(|(file, why)| json!({ "file": file, "why": why })).collect();
        let conflicts: Vec<_> = conflicts.iter().map(row).collect();
        return output::json(&json!({ "conflicts": conflicts, "damaged": damaged }));
    }
    if conflicts.is_empty() && damaged.is_empty() {
        return output::line("there are no conflicts");
    }
    output::line(&format!("{:<43} {:>10} {:>20}  PATH (WHY)", "ID", "SIZE", "KEPT"))?;
    for ConflictInfo { id, path, why, kept_at, bytes, .. } in conflicts {
        let (size, kept) = (human_size(bytes), human_time(kept_at));
        output::line(&format!("{id:<43} {size:>10} {kept:>20}  {path} ({why})"))?;
    }
    damaged.iter().try_for_each(|(file, why)| output::line(&format!("damaged: {file}: {why}")))
}

async fn show(context: &Context, id: &str, hex: bool) -> Result<()> {
    let mut part = read(context, id, 0, hex).await?;
    if !context.is_json() {
        let ConflictInfo { path, base_version, file_size, why, kept_at, bytes, .. } = &part.conflict;
        output::line(&format!("    Path: {path}"))?;
        output::line(&format!("     Why: {why}"))?;
        output::line(&format!("    Kept: {}", human_time(*kept_at)))?;
        output::line(&format!(" Version: {base_version}"))?;
        output::line(&format!("    Size: {} ({file_size} bytes) at that version", human_size(*file_size)))?;
        output::line(&format!("   Pages: {}", human_size(*bytes)))?;
    }
    let mut ranges: Vec<Value> = Vec::new();
    loop {
        for range in std::mem::take(&mut part.ranges) {
            if context.is_json() {
                let mut row = json!({ "offset": range.offset, "length": range.length });
                if hex {
                    row["hex"] = Value::from(hexadecimal(&range.data, ""));
                }
                ranges.push(row);
            } else {
                print_range(&range, hex)?;
            }
        }
        let Some(next) = part.next_offset else { break };
        part = read(context, id, next, hex).await?;
    }
    if context.is_json() {
        let mut document = row(&part.conflict);
        document["ranges"] = Value::from(ranges);
        return output::json(&document);
    }
    Ok(())
}

async fn read(context: &Context, id: &str, offset: u64, bytes: bool) -> Result<mmap_client::types::ConflictPart> {
    let client = &context.client;
    Ok(if bytes { client.read_conflict(id, offset).await? } else { client.conflict_ranges(id, offset).await? })
}

/// Lines that are the same as the one before are left out, as hexdump does.
fn print_range(range: &ConflictRange, hex: bool) -> Result<()> {
    output::line(&format!("   Range: {} bytes at {}", range.length, range.offset))?;
    if !hex {
        return Ok(());
    }
    let mut before: Option<&[u8]> = None;
    let mut is_left_out = false;
    for (index, line) in range.data.chunks(LINE).enumerate() {
        if before == Some(line) {
            if !is_left_out {
                output::line("*")?;
            }
            is_left_out = true;
            continue;
        }
        (before, is_left_out) = (Some(line), false);
        let text: String =
            line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        let at = range.offset + (index * LINE) as u64;
        output::line(&format!("{at:012x}  {:<47}  {text}", hexadecimal(line, " ")))?;
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

/// A conflict as the contract has it.
fn row(conflict: &ConflictInfo) -> Value {
    let ConflictInfo { id, path, base_version, file_size, why, kept_at, bytes } = conflict;
    json!({
        "id": id, "path": path, "base_version": base_version, "file_size": file_size, "why": why,
        "kept_at": kept_at.and_then(rfc3339), "bytes": bytes,
    })
}

/// In the order given, up to the first failure: a later one may be meant to lie on an earlier one.
async fn apply(context: &Context, ids: Vec<String>) -> Result<()> {
    let client = context.client.with_deadline(context.store_timeout());
    let mut rows = Vec::new();
    let mut failure = None;
    for id in ids {
        match client.apply_conflict(id.as_str()).await {
            Ok(Applied { path, size, version, bytes }) if context.is_json() => {
                rows.push(json!({ "id": id, "path": path, "size": size, "version": version, "applied_bytes": bytes }))
            }
            Ok(Applied { path, version, bytes, .. }) => {
                output::line(&format!(
                    "{path}: {} put onto it and stored; its version is {version}",
                    human_size(bytes)
                ))?;
            }
            Err(error) => {
                let what = if is_lost(&error) {
                    format!(
                        "conflict {id} may be applied or not: `mmapctl conflicts list` shows it, to repeat it is safe"
                    )
                } else {
                    format!("conflict {id} is not applied, and stays")
                };
                failure = Some(anyhow::Error::new(error).context(what));
                break;
            }
        }
    }
    if context.is_json() && (failure.is_none() || !rows.is_empty()) {
        output::json(&json!({ "applied": rows }))?;
    }
    failure.map_or(Ok(()), Err)
}

/// Whether nobody knows what became of the call.
fn is_lost(error: &mmap_client::Error) -> bool {
    matches!(error.kind(), ErrorKind::Transport | ErrorKind::Deadline)
}

/// Tries all of them, as rm does; ends as the first failure does.
async fn drop_all(context: &Context, ids: Vec<String>, yes: bool) -> Result<()> {
    if !yes && !confirmed(ids.len())? {
        return Err(Failure::usage("nothing was dropped").into());
    }
    let (mut dropped, mut first_failure) = (Vec::new(), None);
    for id in ids {
        match context.client.drop_conflict(id.as_str()).await {
            Ok(()) => {
                if !context.is_json() {
                    output::line(&format!("conflict {id} is dropped"))?;
                }
                dropped.push(id);
            }
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("cannot drop conflict {id}"));
                let exit: Exit = context.reporter.report(&error);
                first_failure.get_or_insert(exit);
            }
        }
    }
    if context.is_json() {
        output::json(&json!({ "dropped": dropped }))?;
    }
    first_failure.map_or(Ok(()), |exit| Err(Told(exit).into()))
}

fn confirmed(count: usize) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        let message = format!("{count} conflict(s) would be gone for good: look with `show`, then say --yes");
        return Err(Failure::usage(message).into());
    }
    let mut terminal = std::io::stderr().lock();
    write!(terminal, "The bytes of {count} conflict(s) will be gone for good. Drop them? [y/N] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
