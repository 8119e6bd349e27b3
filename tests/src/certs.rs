//! Certificates for tests, made by the system's openssl: an authority, and what it signs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::require::{self, Missing};

/// How long a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    /// This many days from now.
    Days(u32),
    /// It has just ended.
    Ended,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// An authority of its own; its files go with it.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    /// A new one, which nobody knows.
    ///
    /// # Errors
    /// If there is no openssl.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn new() -> Result<Self, Missing> {
        require::program("openssl", "apt install openssl")?;
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let authority = Self { folder };
        let mut command = authority.openssl(&["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=test authority"]);
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", "ca.key", "-out", "ca.pem"]);
        run(&mut command);
        Ok(authority)
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for localhost and 127.0.0.1, for servers and clients alike, in files of this name.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn issue(&self, name: &str, valid: Valid) -> Pair {
        let extensions = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n\
                          basicConstraints=CA:FALSE\n";
        fs::write(self.folder.path().join("extensions"), extensions).expect("the temporary folder can be written");
        let (key, request, cert) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let mut command = self.openssl(&["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        run(command.args(["-subj", "/CN=test", "-keyout", &key, "-out", &request]));
        let days = match valid {
            Valid::Days(days) => days.to_string(),
            Valid::Ended => "0".to_owned(),
        };
        let mut command = self.openssl(&["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]);
        run(command.args(["-in", &request, "-extfile", "extensions", "-days", &days, "-out", &cert]));
        if valid == Valid::Ended {
            // Good for the second in which it was made.
            std::thread::sleep(std::time::Duration::from_millis(2100));
        }
        Pair { cert: self.folder.path().join(cert), key: self.folder.path().join(key) }
    }

    fn openssl(&self, args: &[&str]) -> Command {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path()).args(args);
        command
    }
}

impl Pair {
    /// The arguments of a server that has it.
    pub fn server_args(&self) -> [String; 4] {
        let text = |path: &Path| path.display().to_string();
        ["--tls-cert".to_owned(), text(&self.cert), "--tls-key".to_owned(), text(&self.key)]
    }

    /// Puts its files over those of `other`, as whoever renews certificates does: by renaming.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn replace(&self, other: &Self) {
        for (new, old) in [(&self.key, &other.key), (&self.cert, &other.cert)] {
            let beside = old.with_extension("new");
            fs::copy(new, &beside).expect("the folder can be written");
            fs::rename(&beside, old).expect("the folder can be written");
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
