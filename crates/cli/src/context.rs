//! What every command that talks to a server has: [`Context`], with a connection and, for data, a process.
//!
//! A process lives as long as its command: it is exited whether the command succeeds or not.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use mmap_client::{AttachOptions, Capability, Client, Process};

use crate::{output::Format, report::Reporter};

/// One request, where `--timeout` says nothing.
const REQUEST: Duration = Duration::from_secs(30);
/// One request that rewrites a file in the store: at 10 MiB/s this is 6 GiB.
const STORE: Duration = Duration::from_mins(10);
/// A server that is there answers the first packet at once, one that is far away within this.
const CONNECT: Duration = Duration::from_secs(5);

/// The variable that has a token.
const TOKEN: &str = "MMAPCTL_TOKEN";

/// See the module.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) reporter: Reporter,
    timeout: Option<Duration>,
}

impl Context {
    pub(crate) async fn connect(
        reporter: Reporter,
        timeout: Option<Duration>,
        token_file: Option<PathBuf>,
        capabilities: &[Capability],
    ) -> Result<Self> {
        let builder = Client::builder()
            .connect_timeout(timeout.unwrap_or(CONNECT).min(CONNECT))
            .deadline(timeout.unwrap_or(REQUEST))
            .capabilities(capabilities.iter().copied());
        // Not a flag of its own: every user of the machine can read a command line.
        let builder = match (token_file, std::env::var(TOKEN).ok().filter(|token| !token.is_empty())) {
            (Some(file), _) => builder.token_file(file),
            (None, Some(token)) => builder.token(token),
            (None, None) => builder,
        };
        let client = builder.connect(&reporter.server).await?;
        Ok(Self { client, reporter, timeout })
    }

    /// How long a request may take that writes to the store.
    pub(crate) fn store_timeout(&self) -> Duration {
        self.timeout.unwrap_or(STORE)
    }

    pub(crate) fn is_json(&self) -> bool {
        self.reporter.format == Format::Json
    }

    /// Runs `work` in a process of its own, which is exited after it, and that syncs: to discard would give up others'
    /// unsynced writes to the same pages as well.
    pub(crate) async fn with_process<T>(&self, name: &str, work: impl AsyncFnOnce(&Process) -> Result<T>) -> Result<T> {
        let options = AttachOptions { pid: None, name: format!("mmapctl {name}") };
        let process = self.client.attach(options).await?;
        let done = work(&process).await;
        let exited = process.exit().await;
        // The first failure is the one to tell; the server ends the process in any case.
        let done = done?;
        exited?;
        Ok(done)
    }
}
