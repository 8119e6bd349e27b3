//! [`Tokens`]: a token becomes a [`Grant`], checked once and remembered until it ends or its key is taken away.
//!
//! Invariants: what is remembered is a token's hash, never the token; only tokens that hold are remembered, and a
//! bounded number of them, so that garbage costs no memory; a remembered one costs no signature and no allocation.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mmap_core::capability::{Capability, CapabilitySet};
use mmap_core::error::{Errno, Error, Result};
use mmap_core::manager::Subject;
use mmap_core::scope::{PathGrant, PathScope, Rights};
use mmap_token::{Claims, Expected, TokenFault, Verified};
use quick_cache::sync::Cache;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::audit::flush;
use super::keyring::{Keyring, LiveKey};
use crate::config::Jwt;

/// Tokens that are remembered. Each has at most some 10 KiB, of paths.
const REMEMBERED_MAX: usize = 4096;
/// How often the files of keys are looked at: a key that is taken away is refused within this.
const LOOK: Duration = Duration::from_secs(2);

/// What a token allows, to whom.
#[derive(Debug)]
pub(crate) struct Grant {
    /// Whose processes.
    pub(crate) subject: Subject,
    /// What it may do.
    pub(crate) capabilities: CapabilitySet,
    /// And to which files.
    pub(crate) paths: PathScope,
    /// From when on not any more, in seconds since 1970.
    until: u64,
    key: Arc<LiveKey>,
}

impl Grant {
    /// # Errors
    /// EUNAUTH once it has ended.
    pub(crate) fn check(&self) -> Result<()> {
        let now = mmap_token::now();
        if now >= self.until {
            return Err(refused(&TokenFault::Expired(now - self.until)));
        }
        if self.key.is_revoked() {
            return Err(refused(&TokenFault::UnknownKey));
        }
        Ok(())
    }

    /// How long it lasts.
    pub(crate) fn left(&self) -> Duration {
        Duration::from_secs(self.until.saturating_sub(mmap_token::now()))
    }

    /// Cancelled when its key is taken away.
    pub(crate) fn revoked(&self) -> &CancellationToken {
        self.key.revoked()
    }

    /// The key that its token is signed with.
    pub(crate) fn key(&self) -> &str {
        self.key.name()
    }
}

/// Which tokens are taken, and those that were.
#[derive(Debug)]
pub(crate) struct Tokens {
    keyring: Keyring,
    expected: Expected,
    remembered: Cache<[u8; 32], Arc<Grant>>,
    look_now: Notify,
}

impl Tokens {
    /// Those that `jwt` says. Blocks.
    ///
    /// # Errors
    /// A sentence that says which file of keys is no good, and why.
    pub(crate) fn open(jwt: &Jwt) -> std::result::Result<Self, String> {
        let keyring = Keyring::open(jwt.keys.clone())?;
        let remembered = Cache::new(REMEMBERED_MAX);
        Ok(Self { keyring, expected: jwt.expected.clone(), remembered, look_now: Notify::new() })
    }

    /// What this token allows.
    ///
    /// # Errors
    /// EUNAUTH, and why.
    pub(crate) fn grant(&self, token: &str) -> Result<Arc<Grant>> {
        let print = mmap_token::fingerprint(token.as_bytes());
        if let Some(grant) = self.remembered.get(&print) {
            match grant.check() {
                Ok(()) => return Ok(grant),
                // It is checked anew: the same token may hold by another key.
                Err(_) => drop(self.remembered.remove(&print)),
            }
        }
        let ring = self.keyring.ring();
        let verified = ring.set.verify(token, &self.expected, mmap_token::now()).map_err(|fault| refused(&fault))?;
        let key = ring.live.get(verified.key).ok_or_else(|| refused(&TokenFault::UnknownKey))?;
        let grant = Arc::new(grant_of(verified, Arc::clone(key)).map_err(|fault| refused(&fault))?);
        self.remembered.insert(print, Arc::clone(&grant));
        Ok(grant)
    }

    /// Has the files of keys looked at now.
    pub(crate) fn look_again(&self) {
        self.look_now.notify_one();
    }

    /// Looks at the files of keys again and again.
    pub(crate) async fn watch(self: &Arc<Self>) -> Infallible {
        loop {
            // At its end or earlier: it is looked then.
            let _early = tokio::time::timeout(LOOK, self.look_now.notified()).await;
            let tokens = Arc::clone(self);
            if let Err(failure) = tokio::task::spawn_blocking(move || tokens.keyring.look_again()).await {
                tracing::error!(%failure, "the files of keys could not be looked at");
            }
            flush();
        }
    }
}

fn grant_of(Verified { claims, until, .. }: Verified, key: Arc<LiveKey>) -> std::result::Result<Grant, TokenFault> {
    let Claims { sub, capabilities, paths, .. } = claims;
    let unknown = |name: &String| {
        let known = Capability::ALL.map(Capability::as_str).join(", ");
        TokenFault::Claims(format!("`{}` is none of {known}", name.escape_debug().take(64).collect::<String>()))
    };
    let known = capabilities.iter().map(|name| Capability::parse(name).ok_or_else(|| unknown(name)));
    let paths = match paths {
        None => PathScope::ALL,
        Some(paths) => {
            let grants = paths.iter().map(|path| {
                let rights = match path.rights {
                    mmap_token::Rights::R => Rights::Read,
                    mmap_token::Rights::Rw => Rights::ReadWrite,
                };
                PathGrant::new(&path.prefix, rights).map_err(|error| TokenFault::Claims(error.message().to_owned()))
            });
            PathScope::of(grants.collect::<std::result::Result<Vec<_>, _>>()?)
        }
    };
    let capabilities = known.collect::<std::result::Result<CapabilitySet, _>>()?;
    Ok(Grant { subject: Subject::named(&sub), capabilities, paths, until, key })
}

/// The refusal of a token.
fn refused(fault: &TokenFault) -> Error {
    let error = Error::new(Errno::UnAuth, format!("the token is refused: {fault}")).with("why", fault.as_str());
    match fault {
        TokenFault::Expired(seconds) | TokenFault::NotYet(seconds) => error.with("seconds", seconds),
        TokenFault::Missing(claim) => error.with("claim", claim),
        TokenFault::TooLong(bytes) => error.with("bytes", bytes).with("max", mmap_token::TOKEN_MAX),
        TokenFault::NotAToken
        | TokenFault::Header
        | TokenFault::Critical
        | TokenFault::Algorithm
        | TokenFault::UnknownKey
        | TokenFault::KeyConfusion
        | TokenFault::Signature
        | TokenFault::Claims(_)
        | TokenFault::Audience
        | TokenFault::Issuer => error,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mmap_token::{Audience, PrivateKey};

    use super::*;

    fn claims() -> Claims {
        Claims {
            sub: "alice".into(),
            capabilities: vec!["FileRead".into()],
            paths: None,
            aud: Some(Audience::One("mmapd".into())),
            iss: None,
            exp: mmap_token::now() + 60,
            nbf: None,
            iat: None,
        }
    }

    fn write_keys(path: &Path, keys: &[(&PrivateKey, &str)]) {
        let keys: Vec<String> = keys.iter().map(|(key, id)| key.public_jwk(Some(id)).unwrap().to_string()).collect();
        std::fs::write(path, format!("{{\"keys\": [{}]}}", keys.join(","))).unwrap();
    }

    fn open(path: &Path) -> Tokens {
        let expected = Expected { audiences: vec!["mmapd".into()], ..Expected::default() };
        Tokens::open(&Jwt { keys: vec![path.to_owned()], expected }).unwrap()
    }

    #[test]
    fn a_token_is_checked_once_and_remembered_until_its_key_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let (old, new) = (PrivateKey::generate().unwrap().0, PrivateKey::generate().unwrap().0);
        write_keys(&file, &[(&old, "old")]);
        let tokens = open(&file);
        let token = old.mint(Some("old"), &claims()).unwrap();
        let first = tokens.grant(&token).unwrap();
        assert!(Arc::ptr_eq(&first, &tokens.grant(&token).unwrap()), "remembered");
        assert_eq!((first.subject.name(), first.key()), ("alice", "old"));

        write_keys(&file, &[(&old, "old"), (&new, "new")]);
        tokens.keyring.look_again();
        assert!(Arc::ptr_eq(&first, &tokens.grant(&token).unwrap()), "a key that stays changes nothing");
        assert!(tokens.grant(&new.mint(Some("new"), &claims()).unwrap()).is_ok(), "a new key works");

        std::fs::write(&file, "{broken").unwrap();
        tokens.keyring.look_again();
        assert!(tokens.grant(&token).is_ok(), "a broken file changes nothing");

        write_keys(&file, &[(&new, "new")]);
        tokens.keyring.look_again();
        assert!(first.revoked().is_cancelled() && first.check().is_err());
        let refused = tokens.grant(&token).unwrap_err();
        assert_eq!(refused.details(), [("why", "unknown-key".to_owned())]);
    }

    #[test]
    fn only_tokens_that_hold_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let key = PrivateKey::generate().unwrap().0;
        write_keys(&file, &[(&key, "k")]);
        let tokens = open(&file);
        for number in 0..1000 {
            assert_eq!(tokens.grant(&format!("garbage{number}.a.b")).unwrap_err().errno(), Errno::UnAuth);
        }
        assert_eq!(tokens.remembered.len(), 0);
        for number in 0..2 * REMEMBERED_MAX {
            let claims = Claims { sub: format!("s{number}"), ..claims() };
            tokens.grant(&key.mint(Some("k"), &claims).unwrap()).unwrap();
        }
        assert!(tokens.remembered.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn a_token_that_says_what_this_server_does_not_know_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let key = PrivateKey::generate().unwrap().0;
        write_keys(&file, &[(&key, "k")]);
        let tokens = open(&file);
        let root = Claims { capabilities: vec!["Root".into()], ..claims() };
        let sentence = tokens.grant(&key.mint(None, &root).unwrap()).unwrap_err();
        assert!(sentence.message().contains("FileRead, FileWrite, SystemInfo"), "{sentence}");
        for prefix in ["", "data", "/data/", "/data/../x"] {
            let path = mmap_token::PathClaim { prefix: prefix.into(), rights: mmap_token::Rights::R };
            let odd = Claims { paths: Some(vec![path]), ..claims() };
            assert_eq!(tokens.grant(&key.mint(None, &odd).unwrap()).unwrap_err().errno(), Errno::UnAuth, "{prefix:?}");
        }
    }
}
