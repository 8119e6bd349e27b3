//! S3 that takes stale conditional writes: `rclone serve s3` over a folder.

use std::path::Path;

use crate::daemon::{Daemon, START_DEADLINE};
use crate::require::Missing;
use crate::venv::Venv;

const KEY: &str = "test";
const SECRET: &str = "test-secret";

/// A running server; each folder in its root is a bucket.
#[derive(Debug)]
pub struct Rclone {
    _daemon: Daemon,
    endpoint: String,
}

impl Rclone {
    /// The bucket that is there from the start.
    pub const BUCKET: &str = "bucket";

    /// Starts a server on a free port over `root`.
    ///
    /// # Errors
    /// If it cannot be installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(root: &Path) -> Result<Self, Missing> {
        std::fs::create_dir_all(root.join(Self::BUCKET)).expect("a test's own folder can be written");
        let mut command = Venv::get()?.command("rclone");
        command.args(["serve", "s3", "--addr", "127.0.0.1:0", "--config", "/dev/null"]);
        command.arg("--auth-key").arg(format!("{KEY},{SECRET}")).arg(root);
        let mut daemon = Daemon::start("rclone serve s3", &mut command);
        let endpoint = daemon.wait_for_lines(1, START_DEADLINE, |line| {
            let at = line.find("http://127.0.0.1:")?;
            line[at..].split(['/', ']']).nth(2).map(|authority| format!("http://{authority}"))
        });
        Ok(Self { _daemon: daemon, endpoint: endpoint.concat() })
    }

    /// Where it serves, as `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The URL of a mount of its bucket.
    pub fn mount_url(&self) -> String {
        format!("s3://{}?endpoint={}&region=us-east-1&allow_http", Self::BUCKET, self.endpoint)
    }

    /// What a server needs in its environment to be let in.
    pub const ENV: [(&'static str, &'static str); 2] = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
}
