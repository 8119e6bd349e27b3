//! [`Keyring`]: the keys that tokens may be signed with, read from files again and again.
//!
//! Invariants: the files are taken as a whole or not at all, so that a broken one changes nothing; a key that is taken
//! away is revoked at once for whoever holds something by it.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mmap_token::{KeySet, PublicKey};
use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

/// Bytes of the largest file of keys.
const FILE_MAX: u64 = 1 << 20;

/// A key of the ring, as long as anybody remembers it.
#[derive(Debug)]
pub(crate) struct LiveKey {
    name: String,
    is_revoked: AtomicBool,
    revoked: CancellationToken,
}

impl LiveKey {
    fn new(key: &PublicKey) -> Arc<Self> {
        Arc::new(Self { name: key.name(), is_revoked: AtomicBool::new(false), revoked: CancellationToken::new() })
    }

    /// What to call it in a log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is no longer in the ring.
    pub(crate) fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Acquire)
    }

    /// Cancelled when it is taken away.
    pub(crate) fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }

    fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Release);
        self.revoked.cancel();
    }
}

/// The keys at one time.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The keys.
    pub(crate) set: KeySet,
    /// As the set's keys, in their order.
    pub(crate) live: Vec<Arc<LiveKey>>,
}

/// The keys that tokens may be signed with.
#[derive(Debug)]
pub(crate) struct Keyring {
    files: Vec<PathBuf>,
    ring: RwLock<Arc<Ring>>,
    last: Mutex<Last>,
}

/// What the files said last.
#[derive(Debug, Default)]
struct Last {
    texts: Vec<String>,
    /// Why they are not taken, if so.
    trouble: Option<String>,
}

impl Keyring {
    /// The keys of these files. Blocks.
    ///
    /// # Errors
    /// A sentence that says which file is no good, and why.
    pub(crate) fn open(files: Vec<PathBuf>) -> Result<Self, String> {
        let texts = read_all(&files)?;
        let set = set_of(&files, &texts)?;
        let live = set.keys().iter().map(LiveKey::new).collect();
        let ring = RwLock::new(Arc::new(Ring { set, live }));
        Ok(Self { files, ring, last: Mutex::new(Last { texts, trouble: None }) })
    }

    /// The keys now.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read())
    }

    /// Looks at the files again, and takes what they say if they can be read. Blocks.
    pub(crate) fn look_again(&self) {
        let mut last = self.last.lock();
        let read = read_all(&self.files).and_then(|texts| match texts == last.texts {
            true => Ok(None),
            false => set_of(&self.files, &texts).map(|set| Some((texts, set))),
        });
        match read {
            Ok(None) => last.trouble = None,
            Ok(Some((texts, set))) => {
                self.take(set);
                *last = Last { texts, trouble: None };
            }
            Err(sentence) if last.trouble.as_ref() != Some(&sentence) => {
                tracing::error!("{sentence}; tokens are checked with the keys that were there before");
                last.trouble = Some(sentence);
            }
            Err(_) => {}
        }
    }

    fn take(&self, set: KeySet) {
        let before = self.ring();
        let known = |key: &PublicKey| before.set.keys().iter().position(|known| known.is(key));
        let live: Vec<_> = set
            .keys()
            .iter()
            .map(|key| {
                known(key).and_then(|place| before.live.get(place).cloned()).unwrap_or_else(|| LiveKey::new(key))
            })
            .collect();
        let names = |keys: &[Arc<LiveKey>]| keys.iter().map(|key| key.name().to_owned()).collect::<Vec<_>>().join(", ");
        tracing::info!("the keys of tokens are now: {}", names(&live));
        *self.ring.write() = Arc::new(Ring { set, live: live.clone() });
        // After the new ring stands: whoever asks again must not find them.
        for gone in before.live.iter().filter(|key| !live.iter().any(|kept| Arc::ptr_eq(kept, key))) {
            tracing::info!(key = gone.name(), "a key of tokens was taken away");
            gone.revoke();
        }
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<String>, String> {
    files
        .iter()
        .map(|path| {
            let mut text = String::new();
            let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
            match read {
                Ok(_) if text.len() as u64 > FILE_MAX => {
                    Err(format!("the file of keys {} has more than 1 MiB", path.display()))
                }
                Ok(_) => Ok(text),
                Err(error) => Err(format!("the file of keys {} cannot be read: {error}", path.display())),
            }
        })
        .collect()
}

fn set_of(files: &[PathBuf], texts: &[String]) -> Result<KeySet, String> {
    let mut keys = Vec::new();
    for (path, text) in files.iter().zip(texts) {
        let wrong = |fault| format!("the file of keys {} cannot be used: {fault}", path.display());
        keys.extend(KeySet::read(text).map_err(wrong)?);
    }
    KeySet::of(keys).map_err(|fault| format!("the files of keys cannot be used together: {fault}"))
}
