//! The Python environment of the tests: made under the target folder on first use, shared by all test
//! processes, made anew when the list of requirements changes.
//!
//! Invariant: who gets a [`Venv`] gets all of its programs. A file lock keeps two processes from making it
//! at once; the stamp is written last, so that a broken installation is done again.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::paths;
use crate::require::{self, Missing};

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// An environment in which every requirement is installed.
#[derive(Clone, Debug)]
pub struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// The environment; the first caller makes it, which takes about half a minute.
    ///
    /// # Errors
    /// If there is no Python, or the requirements cannot be installed: what is missing, and how to get it.
    pub fn get() -> Result<Self, Missing> {
        static MADE: OnceLock<Result<PathBuf, (String, String)>> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            make(&paths::target_dir().join("test-venv")).map_err(|missing| (missing.component, missing.remedy))
        });
        match made.clone() {
            Ok(folder) => Ok(Self { folder }),
            Err((component, remedy)) => Err(Missing { component, remedy }),
        }
    }

    /// Its own folder, which has `bin` in it.
    pub fn folder(&self) -> PathBuf {
        self.folder.join("env")
    }

    /// A program of the environment.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("env/bin").join(name)
    }

    /// A command that runs a program of the environment.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        // Python holds back what it prints to a pipe; the fixtures wait for a line of it.
        command.env("PYTHONUNBUFFERED", "1");
        command
    }

    /// A folder with the Python stubs of the contract, for PYTHONPATH.
    ///
    /// # Panics
    /// If they cannot be generated.
    pub fn stubs(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let out = folder.path().display();
        let mut protoc = self.command("python");
        protoc.current_dir(paths::workspace()).args(["-m", "grpc_tools.protoc", "--proto_path=proto"]);
        protoc.args([&format!("--python_out={out}"), &format!("--grpc_python_out={out}")]).arg("mmap.proto");
        if let Err(why) = run(&mut protoc) {
            panic!("{why}");
        }
        folder
    }
}

fn make(folder: &Path) -> Result<PathBuf, Missing> {
    let python = require::program("python3", "install Python 3.10 or later, with its venv module")?;
    let failed = |what: &str, why: String| Missing {
        component: format!("the tests' Python environment ({what})"),
        remedy: format!("{why}\nrun the tests with access to a Python package index, or see tests/requirements.txt"),
    };
    let io_failed = |error: io::Error| failed("its folder", error.to_string());

    fs::create_dir_all(folder).map_err(io_failed)?;
    let lock = File::create(folder.join("lock")).map_err(io_failed)?;
    lock.lock().map_err(io_failed)?;

    let stamp = folder.join("stamp");
    let wanted = stamp_of(REQUIREMENTS, folder);
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(folder.to_owned());
    }
    eprintln!("installing the tests' Python environment into {}", folder.display());
    let env = folder.join("env");
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&env)).map_err(|why| failed("venv", why))?;
    let list = folder.join("requirements.txt");
    fs::write(&list, REQUIREMENTS).map_err(io_failed)?;
    let mut install = Command::new(env.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&list);
    run(&mut install).map_err(|why| failed("pip install", why))?;
    fs::write(&stamp, wanted).map_err(io_failed)?;
    Ok(folder.to_owned())
}

fn stamp_of(requirements: &str, folder: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    (requirements, folder).hash(&mut hasher);
    format!("{:016x}\n", hasher.finish())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
