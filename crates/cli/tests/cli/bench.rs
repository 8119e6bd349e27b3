//! Running mmapctl as a person does: against a fake server, in a folder of its own.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use mmap_fake::Fake;
use tempfile::TempDir;

/// A fake server and a local folder.
pub(crate) struct Bench {
    pub(crate) fake: Fake,
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { fake: Fake::start().expect("a port"), folder: TempDir::new().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn local(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("the folder is ours");
        path
    }

    /// mmapctl with these arguments, in the folder, told the server by its variable.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mmapctl"));
        command.current_dir(self.folder.path()).env("MMAPCTL_SERVER", self.fake.address()).args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).stdin(Stdio::null()).output().expect("it starts"))
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        child.stdin.take().expect("it is piped").write_all(input).expect("it reads");
        Ran::of(child.wait_with_output().expect("it ends"))
    }

    /// Runs it and takes its output as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let ran = self.run(&[&["--json"], arguments].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_slice(&ran.stdout).expect("one JSON document")
    }
}

/// How it went.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("text");
        Self { code: output.status.code().expect("not killed"), stdout: output.stdout, stderr }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }
}

/// The argument that a path is.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("a name of ours")
}

/// Bytes that repeat nowhere near a piece's length, so that a piece in the wrong place is seen.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).expect("masked")).collect()
}
