//! The servers that take part, each a process of its own on free loopback ports and in a temporary folder: mmapd as
//! it is built for users, the bare peers, Redis, and an S3 server over a folder.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::child::{Program, Running, installed, profile_dir};
use crate::machine::{self, first_line};
use crate::peers::settings::Settings;

/// A server that listens on a port and on a socket.
#[derive(Debug)]
pub struct Server {
    running: Running,
    tcp: String,
    unix: String,
    folder: TempDir,
}

/// What mmapd is given: a file of 1 GiB has room in it, clean, and unsynced without write-back beginning by itself
/// beside a measurement. It takes what it needs, which is less.
pub const MEMORY: &str = "10GiB";

/// What to talk over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Loopback.
    Tcp,
    /// A unix socket.
    Unix,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Unix];

    /// For ids and titles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

fn folder() -> Result<TempDir, String> {
    tempfile::Builder::new().prefix("mmap-bench-").tempdir().map_err(|error| format!("no temporary folder: {error}"))
}

/// A path as a command line takes it.
fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

impl Server {
    fn listening(program: Program, folder: TempDir, mark: &str) -> Result<Self, String> {
        let mut running = program.start()?;
        let addresses = running.lines(2, |line| line.strip_prefix(mark).map(str::to_owned))?;
        let find = |is_unix: bool| {
            let found = addresses.iter().find(|address| address.starts_with("unix:") == is_unix);
            found.cloned().ok_or_else(|| format!("it listens on {}", addresses.join(" and ")))
        };
        Ok(Self { tcp: find(false)?, unix: find(true)?, running, folder })
    }

    /// The bare tonic server.
    ///
    /// # Errors
    /// It does not start.
    pub fn echo(settings: Settings) -> Result<Self, String> {
        let folder = folder()?;
        let json = serde_json::to_string(&settings).map_err(|error| error.to_string())?;
        let socket = folder.path().join("socket");
        let program = Program::peer("the bare tonic server", settings.binary(), "echo")?.args([&json, text(&socket)?]);
        Self::listening(program, folder, "listening on ")
    }

    /// The bare framed server.
    ///
    /// # Errors
    /// It does not start.
    pub fn framed() -> Result<Self, String> {
        let folder = folder()?;
        let socket = folder.path().join("socket");
        let program = Program::peer("the framed server", "bench-peer", "framed")?.args([&socket]);
        Self::listening(program, folder, "listening on ")
    }

    /// mmapd with these arguments beside where it listens and its state directory.
    ///
    /// # Errors
    /// It cannot be built, or does not start.
    pub fn mmapd(args: &[&str], env: &[(&'static str, &str)]) -> Result<Self, String> {
        let folder = folder()?;
        let socket = format!("unix:{}", folder.path().join("socket").display());
        let program = Program::new("mmapd", mmapd()?)
            .args(["--listen", "127.0.0.1:0", "--listen", &socket, "--log", "error", "--state-dir"])
            .args([folder.path().join("state")])
            .args(args)
            .envs(env.iter().copied());
        Self::listening(program, folder, "mmapd listening on ")
    }

    /// Redis without snapshots, with its append-only file synced at each command if it `is_durable`.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn redis(is_durable: bool) -> Result<Self, String> {
        let (program, folder) = (installed("redis-server", REDIS_REMEDY)?, folder()?);
        let socket = folder.path().join("socket");
        // Redis takes no port 0 for a free one. Somebody may take it in between, which is then said.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| format!("no free port: {error}"))?.port().to_string();
        let appends = if is_durable { "yes" } else { "no" };
        let program = Program::new("redis-server", program)
            .args(["--bind", "127.0.0.1", "--port", &port, "--unixsocket", text(&socket)?, "--daemonize", "no"])
            .args(["--save", "", "--appendonly", appends, "--appendfsync", "always", "--dir", text(folder.path())?]);
        let mut running = program.start()?;
        running.lines(1, |line| line.contains("eady to accept connections").then_some(()))?;
        Ok(Self { running, tcp: format!("127.0.0.1:{port}"), unix: format!("unix:{}", socket.display()), folder })
    }

    /// Where to dial it.
    pub fn address(&self, transport: Transport) -> &str {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Unix => &self.unix,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The folder of its own, which goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// How to get Redis.
pub const REDIS_REMEDY: &str = "apt-get install redis-server";

/// Which Redis it is.
pub fn redis_version() -> Option<String> {
    let line = first_line(Command::new("redis-server").arg("--version"))?;
    line.split(' ').find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
}

/// mmapd, built in this benchmark's profile by itself: with the features that users get, not those that the other
/// members of the workspace would add.
fn mmapd() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build_mmapd).clone()
}

fn build_mmapd() -> Result<PathBuf, String> {
    let folder = profile_dir()?;
    let target = folder.parent().ok_or("the profile's folder lies in no target folder")?;
    let profile = folder.file_name().and_then(|name| name.to_str()).unwrap_or("release");
    let profile = if profile == "debug" { "dev" } else { profile };
    eprintln!("building mmapd, profile {profile}");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(machine::workspace()).args(["build", "--quiet", "--locked", "--profile", profile]);
    command.args(["-p", "mmap-server", "--bin", "mmapd", "--target-dir"]).arg(target);
    let output = command.output().map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("mmapd cannot be built: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    Ok(folder.join("mmapd"))
}
