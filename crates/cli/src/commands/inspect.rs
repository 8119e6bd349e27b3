//! `maps` and `ps`: who has what mapped, as /proc/PID/maps and ps show it, and what waits to be stored.

use anyhow::Result;
use clap::Args;
use mmap_client::{MappingInfo, ProcessInfo, Sharing, WaitingFile};
use serde_json::json;

use crate::{
    context::Context,
    output::{self, MappingRow, ProcessRow, WaitingRow},
    units::{human_duration, human_size},
};

/// List mappings, as /proc/PID/maps does: range of the file, protection, owner, memory, path
#[derive(Debug, Args)]
pub(crate) struct Maps {
    /// Only this process's
    #[arg(long)]
    pid: Option<u32>,
}

impl Maps {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut mappings = Vec::new();
        let mut token = None;
        loop {
            let page = context.client.list_mappings(self.pid, token.as_deref()).await?;
            mappings.extend(page.items);
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        if context.is_json() {
            let rows: Vec<MappingRow> = mappings.into_iter().map(Into::into).collect();
            return output::json(&json!({ "mappings": rows }));
        }
        output::line(&format!(
            "{:<25} {:<5} {:>6} {:>8} {:>10} {:>10}  PATH",
            "RANGE", "PERMS", "PID", "ID", "RESIDENT", "UNSYNCED"
        ))?;
        mappings.iter().try_for_each(|mapping| output::line(&mapping_line(mapping)))
    }
}

/// The range is the file's, in hexadecimal; `s` or `p` after the protection says shared or private.
fn mapping_line(mapping: &MappingInfo) -> String {
    let range = format!("{:08x}-{:08x}", mapping.offset, mapping.offset.saturating_add(mapping.length));
    let sharing = match mapping.sharing {
        Sharing::Shared => 's',
        Sharing::Private => 'p',
    };
    let perms = format!("{}{sharing}", mapping.prot);
    let (resident, dirty) = (human_size(mapping.resident_bytes), human_size(mapping.dirty_bytes));
    let MappingInfo { owner_pid, id, path, .. } = mapping;
    format!("{range:<25} {perms:<5} {owner_pid:>6} {id:>8} {resident:>10} {dirty:>10}  {path}")
}

/// List the server's processes, and the files with bytes that are not in the store yet
#[derive(Debug, Args)]
pub(crate) struct Ps {}

impl Ps {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut processes = Vec::new();
        let mut token = None;
        loop {
            let page = context.client.list_processes(token.as_deref()).await?;
            processes.extend(page.items);
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        let waiting = waiting(context).await?;
        if context.is_json() {
            let processes: Vec<ProcessRow> = processes.into_iter().map(Into::into).collect();
            let waiting: Vec<WaitingRow> = waiting.into_iter().map(Into::into).collect();
            return output::json(&json!({ "processes": processes, "waiting": waiting }));
        }
        output::line(&format!("{:>10} {:>8} {:<8} {:>8}  NAME", "PID", "MAPPINGS", "ATTACHED", "IDLE"))?;
        processes.iter().try_for_each(|process| output::line(&process_line(process)))?;
        if waiting.is_empty() {
            return Ok(());
        }
        output::line("")?;
        output::line(&format!("{:>10} {:>8}  NOT STORED YET", "UNSYNCED", "FOR"))?;
        waiting.iter().try_for_each(|file| output::line(&waiting_line(file)))
    }
}

async fn waiting(context: &Context) -> Result<Vec<WaitingFile>> {
    let mut files = Vec::new();
    let mut token = None;
    loop {
        let page = context.client.list_waiting(token.as_deref()).await?;
        files.extend(page.items);
        token = page.next;
        if token.is_none() {
            return Ok(files);
        }
    }
}

fn process_line(process: &ProcessInfo) -> String {
    let ProcessInfo { pid, name, mappings, attached, idle } = process;
    let attached = if *attached { "yes" } else { "no" };
    let idle = if idle.is_zero() { "-".to_owned() } else { human_duration(*idle) };
    format!("{pid:>10} {mappings:>8} {attached:<8} {idle:>8}  {name}")
}

/// The last failure stands behind the path, if there was one.
fn waiting_line(file: &WaitingFile) -> String {
    let WaitingFile { path, dirty_bytes, waiting, last_error } = file;
    let (bytes, waiting) = (human_size(*dirty_bytes), human_duration(*waiting));
    let failure = if last_error.is_empty() { String::new() } else { format!("  ({last_error})") };
    format!("{bytes:>10} {waiting:>8}  {path}{failure}")
}
