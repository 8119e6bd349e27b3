//! S3 that honours preconditions: moto's server, one process a fixture, its objects in its memory.

use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder};

use crate::daemon::{Daemon, START_DEADLINE};
use crate::require::Missing;
use crate::shared::Shared;
use crate::venv::Venv;

/// Any key is good to moto.
const KEY: &str = "test";
const REGION: &str = "us-east-1";

/// A running server with one bucket.
#[derive(Debug)]
pub struct Moto {
    daemon: Daemon,
    endpoint: String,
}

impl Moto {
    /// The bucket that is there from the start.
    pub const BUCKET: &str = "bucket";

    /// Starts a server on a free port and makes its bucket.
    ///
    /// # Errors
    /// If it cannot be installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Result<Self, Missing> {
        let venv = Venv::get()?;
        let mut command = venv.command("moto_server");
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        let mut daemon = Daemon::start("moto_server", &mut command);
        let endpoint = daemon.wait_for_lines(1, START_DEADLINE, |line| {
            line.find("http://127.0.0.1:").map(|at| line[at..].trim_end().to_owned())
        });
        let moto = Self { daemon, endpoint: endpoint.concat() };
        moto.python(&format!("s3.create_bucket(Bucket={:?})", Self::BUCKET));
        Ok(moto)
    }

    /// The server that the tests of a file share.
    ///
    /// # Errors
    /// If it cannot be installed.
    pub fn shared() -> Result<Arc<Self>, Missing> {
        static SHARED: Shared<Moto> = Shared::new();
        // Outside the closure, which cannot fail: the environment is made only once.
        Venv::get()?;
        Ok(SHARED.get(|| Self::start().unwrap_or_else(|missing| panic!("{missing:?}"))))
    }

    /// Where it serves, as `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Stops answering, until [`Moto::resume`]: calls hang, as those to a store that is gone.
    pub fn pause(&self) {
        self.daemon.signal("STOP");
    }

    /// Answers again.
    pub fn resume(&self) {
        self.daemon.signal("CONT");
    }

    /// The URL of a mount of the folder `prefix` in the bucket.
    pub fn mount_url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}?endpoint={}&region={REGION}&allow_http", Self::BUCKET, self.endpoint)
    }

    /// What a server needs in its environment to be let in.
    pub const ENV: [(&'static str, &'static str); 2] = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", KEY)];

    /// A client of the bucket that knows nothing of the code under test.
    ///
    /// # Panics
    /// If the client's own settings do not fit together.
    pub fn store(&self) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region(REGION)
            .with_bucket_name(Self::BUCKET)
            .with_access_key_id(KEY)
            .with_secret_access_key(KEY)
            .build()
            .expect("endpoint, bucket and keys are all given")
    }

    /// Runs `code` in Python, with boto3's client as `s3`, and answers what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn python(&self, code: &str) -> Vec<u8> {
        let script = format!(
            "import boto3, sys\n\
             from botocore.config import Config\n\
             s3 = boto3.client('s3', endpoint_url={:?}, region_name={REGION:?}, aws_access_key_id={KEY:?}, \
             aws_secret_access_key={KEY:?}, config=Config(retries=dict(max_attempts=1)))\n{code}\n",
            self.endpoint
        );
        let venv = Venv::get().expect("the server runs, so the environment is there");
        let output = venv.command("python").arg("-c").arg(script).output().expect("the environment has a python");
        assert!(output.status.success(), "boto3: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The object's bytes, as boto3 reads them.
    pub fn object(&self, key: &str) -> Vec<u8> {
        let bucket = Self::BUCKET;
        self.python(&format!("sys.stdout.buffer.write(s3.get_object(Bucket={bucket:?}, Key={key:?})['Body'].read())"))
    }
}
