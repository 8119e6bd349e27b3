//! A Docker of the tests' own: `dockerd` on a socket and in folders of its own, ended with its containers when the
//! handle is dropped.
//!
//! Invariants: it has a network and mounts of its own, so that the machine's own Docker, bridges and firewall are
//! neither asked nor changed, its ports collide with nobody's, and what it mounted goes with it. To reach a port that
//! it published a program has to be run [inside](Docker::inside). Nothing is pulled. It needs root, as `dockerd` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::daemon::{Daemon, START_DEADLINE};
use crate::require::{self, Missing};

/// How long the daemon may take to end its containers and itself; by itself it gives a container 10 s.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const REMEDY: &str = "apt-get install docker.io docker-compose iptables iproute2 binutils";

/// A running daemon, without images at first.
#[derive(Debug)]
pub struct Docker {
    daemon: Daemon,
    docker: PathBuf,
    compose: PathBuf,
    folder: TempDir,
}

impl Docker {
    /// Starts a daemon.
    ///
    /// # Errors
    /// If Docker is not installed, or this is not root: what is missing, and how to get it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Result<Self, Missing> {
        let dockerd = require::program("dockerd", REMEDY)?;
        let compose = require::program("docker-compose", REMEDY)?;
        for program in ["iptables", "ip", "unshare", "nsenter", "readelf", "strip"] {
            require::program(program, REMEDY)?;
        }
        let docker = client(&dockerd)?;
        if !is_root() {
            let remedy = "run the tests of containers as root: dockerd cannot run otherwise".to_owned();
            return Err(Missing { component: "root".to_owned(), remedy });
        }
        let folder = tempfile::Builder::new().prefix("mmapd-docker-").tempdir();
        let folder = folder.expect("the temporary folder can be written");
        // A network of its own comes without a loopback address.
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(dockerd);
        let path = |name: &str| folder.path().join(name);
        // Not the machine's settings, whatever they are.
        fs::write(path("daemon.json"), "{}\n").expect("a test's own folder can be written");
        command.arg("--config-file").arg(path("daemon.json"));
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid")).arg("--host").arg(socket(folder.path()));
        let mut daemon = Daemon::start("dockerd", &mut command);
        daemon.wait_for_lines(1, START_DEADLINE, |line| line.contains("API listen on").then_some(()));
        Ok(Self { daemon, docker, compose, folder })
    }

    /// The `docker` program, for scripts that run it themselves.
    pub fn program(&self) -> &Path {
        &self.docker
    }

    /// The `docker-compose` program.
    pub fn compose_program(&self) -> &Path {
        &self.compose
    }

    /// A folder that is removed with the daemon.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes `command`, and what it starts, talk to this daemon.
    pub fn aim<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        // A person's settings and logins have no place in a test.
        for (name, _) in std::env::vars_os() {
            let ours = |prefix: &str| name.to_str().is_some_and(|name| name.starts_with(prefix));
            if ["COMPOSE_", "DOCKER_", "MMAPD_"].iter().any(|prefix| ours(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .env("DOCKER_HOST", socket(self.folder.path()))
            .env("DOCKER_CONFIG", self.folder.path().join("client"))
            .env("DOCKER", &self.docker)
            .env("COMPOSE", &self.compose)
    }

    /// A command that runs `program` in the daemon's network, where the published ports are.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.daemon.pid())).arg(program);
        command
    }

    /// What `docker ARGS` prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        succeed(self.aim(&mut Command::new(&self.docker)).args(args))
    }

    /// Waits until the container is healthy by its image's own check.
    ///
    /// # Panics
    /// If it is not after a minute.
    pub fn wait_healthy(&self, container: &str) {
        let start = Instant::now();
        loop {
            let health = self.run(["inspect", "--format", "{{.State.Health.Status}}", container]);
            if health.trim() == "healthy" {
                return;
            }
            let told = || self.run(["inspect", "--format", "{{json .State}}", container]);
            assert!(start.elapsed() < START_DEADLINE, "{container} is not healthy: {}", told());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.daemon.is_running() {
            self.daemon.signal("TERM");
        }
        let start = Instant::now();
        while self.daemon.is_running() && start.elapsed() < STOP_DEADLINE {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("docker.sock").display())
}

/// The client that came with the daemon: another one may be newer than it, or lack what a build needs.
fn client(dockerd: &Path) -> Result<PathBuf, Missing> {
    let beside = dockerd.ancestors().nth(2).map(|prefix| prefix.join("bin/docker")).filter(|file| file.is_file());
    beside.map_or_else(|| require::program("docker", REMEDY), Ok)
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// The standard output of a command that has to succeed.
///
/// # Panics
/// If it fails.
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{}", String::from_utf8_lossy(&stderr));
    stdout
}
