//! What every command that talks to a server has: [`Context`], with a connection and, for data, a process.
//!
//! A process lives as long as its command: it is exited whether the command succeeds or not.

use std::time::Duration;

use anyhow::Result;
use mmap_client::{AttachOptions, Capability, Client, Process};

use crate::{output::Format, report::Reporter};

/// One request, where `--timeout` says nothing.
const REQUEST: Duration = Duration::from_secs(30);
/// One request that rewrites a file in the store: at 10 MiB/s this is 6 GiB.
const STORE: Duration = Duration::from_mins(10);
/// A server that is there answers the first packet at once, one that is far away within this.
const CONNECT: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) reporter: Reporter,
    timeout: Option<Duration>,
}

/// What becomes of the unsynced writes of a process whose work failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// They are synced. The rule: to discard means to give up others' unsynced writes to the same pages as well.
    Sync,
    /// They are given up. Only for a file that the command itself has just made, and removes again.
    Discard,
}

impl Context {
    pub(crate) async fn connect(
        reporter: Reporter,
        timeout: Option<Duration>,
        capabilities: &[Capability],
    ) -> Result<Self> {
        let client = Client::builder()
            .connect_timeout(timeout.unwrap_or(CONNECT).min(CONNECT))
            .deadline(timeout.unwrap_or(REQUEST))
            .capabilities(capabilities.iter().copied())
            .connect(&reporter.server)
            .await?;
        Ok(Self { client, reporter, timeout })
    }

    /// How long a request may take that writes to the store.
    pub(crate) fn store_timeout(&self) -> Duration {
        self.timeout.unwrap_or(STORE)
    }

    pub(crate) fn is_json(&self) -> bool {
        self.reporter.format == Format::Json
    }

    /// Runs `work` in a process of its own, which is exited after it.
    pub(crate) async fn with_process<T>(
        &self,
        name: &str,
        after_failure: AfterFailure,
        work: impl AsyncFnOnce(&Process) -> Result<T>,
    ) -> Result<T> {
        let options = AttachOptions { pid: None, name: format!("mmapctl {name}") };
        let process = self.client.attach(options).await?;
        match work(&process).await {
            Ok(done) => {
                process.exit().await?;
                Ok(done)
            }
            Err(error) => {
                // The first failure is the one to tell; the server ends the process in any case.
                let _ = match after_failure {
                    AfterFailure::Sync => process.exit().await,
                    AfterFailure::Discard => process.exit_discard().await,
                };
                Err(error)
            }
        }
    }
}
