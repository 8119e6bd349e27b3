//! The command line as a whole: global options, the list of commands, and which rights each one claims.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use mmap_client::Capability::{self, FileRead, FileWrite, SystemInfo};

use crate::{
    commands::{conflicts, copy, edit, inspect, list, migrate, ping, poke, token},
    context::{Context, Tls},
    exit::EXIT_CODES,
    output::{self, Format},
    report::Reporter,
    units,
};

/// Remote memory-mapped files: look at them, copy them, change them.
#[derive(Debug, Parser)]
#[command(name = "mmapctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// The server: host:port, https://host:port or unix:/path, as mmapd prints it
    #[arg(long, global = true, env = "MMAPCTL_SERVER", default_value = "127.0.0.1:50051", value_name = "ADDR")]
    server: String,
    /// Print one JSON document with the contract's field names; errors too, on standard error
    #[arg(long, global = true)]
    json: bool,
    /// How long one request may take, as 10s or 2m [default: 30s, and 10m where the store is written]
    #[arg(long, global = true, value_name = "TIME", value_parser = units::parse_duration)]
    timeout: Option<Duration>,
    /// A file with the token to show the server, read again when it changes; or the token itself in MMAPCTL_TOKEN
    #[arg(long, global = true, env = "MMAPCTL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: Tls,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(list::Ls),
    Stat(list::Stat),
    Put(copy::Put),
    Get(copy::Get),
    Cat(copy::Cat),
    Poke(poke::Poke),
    Import(migrate::Import),
    Export(migrate::Export),
    Maps(inspect::Maps),
    Ps(inspect::Ps),
    Conflicts(conflicts::Conflicts),
    Truncate(edit::Truncate),
    Rm(edit::Rm),
    Ping(ping::Ping),
    Token(token::Token),
    /// Print a script that completes mmapctl's arguments in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

impl Cli {
    pub(crate) fn reporter(&self) -> Reporter {
        let format = if self.json { Format::Json } else { Format::People };
        Reporter { server: self.server.clone(), format }
    }

    pub(crate) fn run(self) -> Result<()> {
        if let Command::Completions { shell } = self.command {
            return completions(shell);
        }
        if let Command::Token(command) = &self.command {
            return command.run(self.json);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let done = runtime.block_on(self.talk());
        // Not dropped: a blocked read of standard input would keep it waiting.
        runtime.shutdown_background();
        done
    }

    async fn talk(self) -> Result<()> {
        let reporter = self.reporter();
        let (tls, token_file) = (&self.tls, self.token_file);
        let context = Context::connect(reporter, self.timeout, tls, token_file, self.command.capabilities()).await?;
        match self.command {
            Command::Ls(command) => command.run(&context).await,
            Command::Stat(command) => command.run(&context).await,
            Command::Put(command) => command.run(&context).await,
            Command::Get(command) => command.run(&context).await,
            Command::Cat(command) => command.run(&context).await,
            Command::Poke(command) => command.run(&context).await,
            Command::Import(command) => command.run(&context).await,
            Command::Export(command) => command.run(&context).await,
            Command::Maps(command) => command.run(&context).await,
            Command::Ps(command) => command.run(&context).await,
            Command::Conflicts(command) => command.run(&context).await,
            Command::Truncate(command) => command.run(&context).await,
            Command::Rm(command) => command.run(&context).await,
            Command::Ping(command) => command.run(&context).await,
            Command::Token(command) => command.run(context.is_json()),
            Command::Completions { shell } => completions(shell),
        }
    }
}

impl Command {
    /// No more than the command needs.
    fn capabilities(&self) -> &'static [Capability] {
        match self {
            Self::Ls(_) | Self::Stat(_) | Self::Get(_) | Self::Cat(_) => &[FileRead],
            Self::Put(_) | Self::Poke(_) | Self::Import(_) | Self::Export(_) => &[FileRead, FileWrite],
            Self::Truncate(_) | Self::Rm(_) => &[FileWrite],
            Self::Maps(_) | Self::Ps(_) => &[SystemInfo],
            Self::Conflicts(command) => command.capabilities(),
            Self::Ping(_) | Self::Token(_) | Self::Completions { .. } => &[],
        }
    }
}

fn completions(shell: Shell) -> Result<()> {
    // Into memory first: the generator panics where a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mmapctl", &mut script);
    output::line(String::from_utf8(script).context("the script is no text")?.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
