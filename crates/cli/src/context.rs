//! What every command that talks to a server has: [`Context`], with a connection and, for data, a process.
//!
//! A process lives as long as its command: it is exited whether the command succeeds or not.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use mmap_client::{AttachOptions, Capability, Client, ClientBuilder, Process, TraceContext};

use crate::{exit::Failure, output::Format, report::Reporter};

/// One request, where `--timeout` says nothing.
const REQUEST: Duration = Duration::from_secs(30);
/// One request that rewrites a file in the store: at 10 MiB/s this is 6 GiB.
const STORE: Duration = Duration::from_mins(10);
/// A server that is there answers the first packet at once, one that is far away within this.
const CONNECT: Duration = Duration::from_secs(5);

/// The variable that has a token.
const TOKEN: &str = "MMAPCTL_TOKEN";
/// How a server of TLS is told from another, and how this program proves who it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Tls {
    /// PEM file with the authority of the server's certificate [default: the system's authorities]
    #[arg(long, global = true, env = "MMAPCTL_TLS_CA", value_name = "FILE", help_heading = "Options for https://")]
    tls_ca: Option<PathBuf>,
    /// PEM file with a certificate, for a server that asks for one
    #[arg(long, global = true, env = "MMAPCTL_TLS_CERT", value_name = "FILE", help_heading = "Options for https://")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of --tls-cert
    #[arg(long, global = true, env = "MMAPCTL_TLS_KEY", value_name = "FILE", help_heading = "Options for https://")]
    tls_key: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the address's host
    #[arg(
        long,
        global = true,
        env = "MMAPCTL_TLS_SERVER_NAME",
        value_name = "NAME",
        help_heading = "Options for https://"
    )]
    tls_server_name: Option<String>,
}

impl Tls {
    fn apply(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        if let Some(file) = &self.tls_ca {
            builder = builder.ca_file(file)?;
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => builder = builder.identity_files(cert, key)?,
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--tls-cert and --tls-key go together: give both").into());
            }
        }
        if let Some(name) = &self.tls_server_name {
            builder = builder.server_name(name);
        }
        Ok(builder)
    }
}

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
        tls: &Tls,
        token_file: Option<PathBuf>,
        capabilities: &[Capability],
    ) -> Result<Self> {
        let mut builder = tls.apply(Client::builder())?;
        if let Some(trace) = trace() {
            builder = builder.trace(move || Some(trace.clone()));
        }
        let builder = builder
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

/// The trace that whoever started this program is in, by the convention for command lines. What cannot be read is no
/// reason to do nothing.
fn trace() -> Option<TraceContext> {
    let trace: TraceContext = std::env::var("TRACEPARENT").ok()?.parse().ok()?;
    Some(match std::env::var("TRACESTATE") {
        Ok(state) => trace.with_state(&state),
        Err(_) => trace,
    })
}
