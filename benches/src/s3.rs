//! An S3 server over a folder (`rclone serve s3`), files in it, and mounts of it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::child::{Program, Running, installed};
use crate::machine::first_line;
use crate::venv::Venv;

const KEY: &str = "bench";
const SECRET: &str = "bench-secret";
const BUCKET: &str = "bucket";

/// A running server.
#[derive(Debug)]
pub struct S3 {
    running: Running,
    endpoint: String,
    rclone: PathBuf,
    folder: TempDir,
}

impl S3 {
    /// Starts one over a temporary folder.
    ///
    /// # Errors
    /// rclone cannot be installed, or does not start.
    pub fn start() -> Result<Self, String> {
        let venv = Venv::get().map_err(|missing| format!("{}: {}", missing.component, missing.remedy))?;
        let (rclone, folder) = (venv.program("rclone"), tempfile::tempdir().map_err(|error| error.to_string())?);
        std::fs::create_dir(folder.path().join(BUCKET)).map_err(|error| error.to_string())?;
        let program = Program::new("rclone serve s3", &rclone)
            .args(["serve", "s3", "--addr", "127.0.0.1:0", "--config", "/dev/null"])
            .args(["--auth-key", &format!("{KEY},{SECRET}")])
            .args([folder.path()]);
        let mut running = program.start()?;
        let endpoint = running.lines(1, |line| {
            let at = line.find("http://127.0.0.1:")?;
            line[at..].split(['/', ']']).nth(2).map(|authority| format!("http://{authority}"))
        })?;
        Ok(Self { running, endpoint: endpoint.concat(), rclone, folder })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Which rclone it is.
    pub fn version(&self) -> Option<String> {
        let line = first_line(Command::new(&self.rclone).arg("version"))?;
        line.strip_prefix("rclone v").map(str::to_owned)
    }

    /// The folder that its objects lie in, as files.
    pub fn objects(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }

    /// The URL of a mount of mmapd; `options` follow the others.
    pub fn url(&self, options: &str) -> String {
        format!("s3://{BUCKET}?endpoint={}&region=us-east-1&allow_http{options}", self.endpoint)
    }

    /// What a client needs in its environment to be let in.
    pub const ENV: [(&'static str, &'static str); 2] = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];

    /// Endpoint, bucket, key and secret, for clients that are told so.
    pub fn access(&self) -> [&str; 4] {
        [&self.endpoint, BUCKET, KEY, SECRET]
    }

    /// Makes an object of `size` bytes that do not compress.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn put(&self, name: &str, size: u64) -> Result<(), String> {
        fill(&self.objects().join(name), size).map_err(|error| format!("{name}: {error}"))
    }
}

/// Makes a file of `size` bytes that do not compress.
fn fill(path: &Path, size: u64) -> io::Result<()> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut piece = Vec::with_capacity(1 << 20);
    while piece.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.extend_from_slice(&state.to_le_bytes());
    }
    let (mut file, mut left) = (File::create(path)?, size);
    while left > 0 {
        let take = usize::try_from(left.min(piece.len() as u64)).unwrap_or(piece.len());
        file.write_all(&piece[..take])?;
        left -= take as u64;
    }
    file.sync_all()
}

/// Who mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounter {
    /// `rclone mount --vfs-cache-mode full`.
    Rclone,
    /// `s3fs`.
    S3fs,
}

/// A mounted bucket, with a cache of its own that was empty at first.
#[derive(Debug)]
pub struct Mount {
    running: Running,
    folder: TempDir,
}

impl Mounter {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rclone, Self::S3fs];

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rclone => "rclone mount --vfs-cache-mode full, mmap(2)",
            Self::S3fs => "s3fs, mmap(2)",
        }
    }

    /// Why it cannot mount, and how to change that.
    ///
    /// # Errors
    /// That.
    pub fn check(self) -> Result<(), String> {
        installed("fusermount3", "apt-get install fuse3")?;
        if self == Self::S3fs {
            installed("s3fs", "apt-get install s3fs")?;
        }
        match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("/dev/fuse cannot be opened ({error}): run as root on a machine with FUSE")),
        }
    }

    /// Which s3fs it is.
    pub fn s3fs_version() -> Option<String> {
        let line = first_line(Command::new("s3fs").arg("--version"))?;
        line.split_whitespace().find_map(|word| word.strip_prefix('V')).map(str::to_owned)
    }

    /// Mounts the bucket.
    ///
    /// # Errors
    /// It is not mounted within a minute.
    pub fn mount(self, s3: &S3) -> Result<Mount, String> {
        self.check()?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let [point, cache] = ["mnt", "cache"].map(|name| folder.path().join(name));
        for folder in [&point, &cache] {
            std::fs::create_dir(folder).map_err(|error| error.to_string())?;
        }
        let program = match self {
            Self::Rclone => Program::new("rclone mount", &s3.rclone)
                .args(["mount", &format!(":s3:{BUCKET}")])
                .args([&point])
                .args(["--config", "/dev/null", "--vfs-cache-mode", "full", "--s3-provider", "Other"])
                .args(["--s3-endpoint", &s3.endpoint, "--s3-access-key-id", KEY, "--s3-secret-access-key", SECRET])
                .args(["--cache-dir".as_ref(), cache.as_os_str()]),
            Self::S3fs => Program::new("s3fs", installed("s3fs", "apt-get install s3fs")?)
                .args([BUCKET.as_ref(), point.as_os_str()])
                // rclone's server cannot copy a part on its side, which s3fs else asks of it.
                .args(["-f", "-o", "use_path_request_style", "-o", "nocopyapi", "-o"])
                .args([format!("url={}", s3.endpoint), "-o".to_owned(), format!("use_cache={}", cache.display())])
                .envs([("AWSACCESSKEYID", KEY), ("AWSSECRETACCESSKEY", SECRET)]),
        };
        let mut mount = Mount { running: program.start()?, folder };
        let is_mounted = || mount_points().iter().any(|mounted| Path::new(mounted) == point);
        mount.running.until("it is not mounted", is_mounted)?;
        Ok(mount)
    }
}

fn mount_points() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect()
}

impl Mount {
    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("mnt").join(name)
    }

    /// The process that serves it.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Asked to end it unmounts by itself; what is left by one that was forced is detached.
        self.running.stop();
        let point = self.folder.path().join("mnt");
        if mount_points().iter().any(|mounted| Path::new(mounted) == point) {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(&point).output();
        }
    }
}
