//! A server that asks for tokens, and the keys that sign them.

use std::path::PathBuf;

use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::wire::Caller;
use mmap_token::{PrivateKey, now};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The audience that the server asks for.
pub(crate) const AUDIENCE: &str = "mmapd";

/// See the file.
pub(crate) struct Scene {
    pub(crate) key: PrivateKey,
    pub(crate) folder: TempDir,
}

impl Scene {
    /// A key `k1` in a JWKS.
    pub(crate) fn new() -> Self {
        let scene = Self { key: PrivateKey::generate().unwrap().0, folder: tempfile::tempdir().unwrap() };
        scene.write_keys(&[(&scene.key, "k1")]);
        scene
    }

    /// The file of keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.path().join("keys.json")
    }

    /// Puts these keys into the file, at once.
    pub(crate) fn write_keys(&self, keys: &[(&PrivateKey, &str)]) {
        let keys: Vec<Value> = keys.iter().map(|(key, id)| key.public_jwk(Some(id)).unwrap()).collect();
        let new = self.folder.path().join("new.json");
        std::fs::write(&new, json!({ "keys": keys }).to_string()).unwrap();
        std::fs::rename(new, self.keys()).unwrap();
    }

    /// How to start the server.
    pub(crate) fn setup(&self) -> Setup {
        Setup::new()
            .args(["--auth", "jwt", "--jwt-audience", AUDIENCE, "--jwt-issuer", "us", "--jwt-leeway", "0s"])
            .args(["--jwt-keys".into(), self.keys().into_os_string()])
    }

    /// The claims of a token that holds, for everything.
    pub(crate) fn claims(subject: &str) -> Value {
        let all = ["FileRead", "FileWrite", "SystemInfo"];
        json!({"sub": subject, "aud": AUDIENCE, "iss": "us", "exp": now() + 600, "capabilities": all})
    }

    /// A token by the key `k1`.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.key.sign(&json!({"alg": "EdDSA", "kid": "k1"}), claims).unwrap()
    }

    /// A caller with a token for everything.
    pub(crate) async fn caller(&self, server: &Mmapd, subject: &str, pid: u32) -> Caller {
        Caller::connect(server.addr(), pid).await.with_token(&self.token(&Self::claims(subject)))
    }
}
