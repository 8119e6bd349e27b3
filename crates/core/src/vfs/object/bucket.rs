//! [`Bucket`]: the objects under one prefix of a store, with what this layout knows of each: its version, the
//! attempt that made it, the attributes that a rewrite must keep.
//!
//! Invariant: an error of the store's client becomes a [`StoreFault`] here and nowhere else.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutResult, UpdateVersion,
};
use tokio_util::task::TaskTracker;

use super::options::{Identity, ObjectOptions};
use super::repeat::repeated;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Base, CommitId, Stat};
use crate::vfs::version::Version;

/// The user metadata that marks an object with its [`CommitId`]. One word: Azure takes no hyphens in such
/// names, and some HTTP proxies drop headers with underscores.
const COMMIT_KEY: &str = "mmapdcommit";

/// Objects whose attributes are remembered between their stat and their next rewrite, so that a rewrite
/// needs no request to keep them. At about 300 bytes each: 1.2 MB.
const ATTRIBUTES_KEPT: usize = 4096;

/// The largest part of a store's own message that is repeated.
const REASON_CHARS_MAX: usize = 300;

/// The objects under one prefix of a store.
pub(super) struct Bucket {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) root: Path,
    pub(super) options: ObjectOptions,
    /// Owns what is cleaned up after a dropped call; each of its tasks has a time limit.
    pub(super) cleanups: TaskTracker,
    attributes: quick_cache::sync::Cache<(Path, Version), Attributes>,
}

/// By its name only: a client's own `Debug` may show credentials.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.root)
    }
}

impl Bucket {
    pub(super) fn new(store: Arc<dyn ObjectStore>, root: Path, options: ObjectOptions) -> Self {
        let attributes = quick_cache::sync::Cache::new(ATTRIBUTES_KEPT);
        Self { store, root, options, cleanups: TaskTracker::new(), attributes }
    }

    /// The object of the file `name`, whose key is the name as it stands.
    pub(super) fn path(&self, name: &str) -> StoreResult<Path> {
        let key = match self.root.as_ref() {
            "" => name.to_owned(),
            root => format!("{root}/{name}"),
        };
        if key.len() > self.options.key_max {
            let (length, max) = (key.len(), self.options.key_max);
            return Err(StoreFault::BadName(format!("its key has {length} bytes, more than {max}")));
        }
        match Path::parse(&key) {
            Ok(path) if path.as_ref() == key => Ok(path),
            Ok(_) => Err(StoreFault::BadName("it begins or ends with a /".into())),
            Err(error) => Err(StoreFault::BadName(error.to_string())),
        }
    }

    /// The file's name of an object, if the object lies under the prefix.
    pub(super) fn name<'a>(&self, path: &'a Path) -> Option<&'a str> {
        match self.root.as_ref() {
            "" => Some(path.as_ref()),
            root => path.as_ref().strip_prefix(root)?.strip_prefix('/'),
        }
    }

    /// The object as it is now.
    pub(super) async fn head(&self, path: &Path) -> StoreResult<Stat> {
        let answer = repeated(|| async {
            let options = GetOptions::new().with_head(true);
            self.store.get_opts(path, options).await.map_err(unconditional)
        });
        let answer = answer.await?;
        let mut attributes = answer.attributes;
        let commit = attributes.remove(&Attribute::Metadata(COMMIT_KEY.into()));
        let commit = commit.and_then(|text| uuid::Uuid::parse_str(text.as_ref()).ok()).map(CommitId);
        let stat = Stat { commit, ..self.stat_of(&answer.meta)? };
        self.attributes.insert((path.clone(), stat.version.clone()), attributes);
        Ok(stat)
    }

    /// What a list or a GET says of an object; without its commit.
    pub(super) fn stat_of(&self, meta: &ObjectMeta) -> StoreResult<Stat> {
        let version = self.version(meta.e_tag.as_deref(), meta.version.as_deref());
        let version = version.ok_or_else(|| StoreFault::Unsupported("the store gives its objects no e_tag".into()))?;
        Ok(Stat { size: meta.size, version, modified: meta.last_modified.into(), commit: None })
    }

    /// The object as a PUT left it. A store that does not say so is asked.
    pub(super) async fn stat_of_put(&self, path: &Path, put: PutResult, made: Made<'_>) -> StoreResult<Stat> {
        let Made { size, commit, attributes } = made;
        match self.version(put.e_tag.as_deref(), put.version.as_deref()) {
            Some(version) => {
                self.attributes.insert((path.clone(), version.clone()), attributes.clone());
                Ok(Stat { size, version, modified: SystemTime::now(), commit: Some(commit) })
            }
            None => match self.head(path).await? {
                stat if stat.commit == Some(commit) => Ok(stat),
                _ => Err(StoreFault::Changed),
            },
        }
    }

    /// The attributes that a change based on `base` keeps: content type, user metadata and the like.
    ///
    /// # Errors
    /// [`StoreFault::Changed`] if the store had to be asked and the object is another one.
    pub(super) async fn attributes_of(&self, path: &Path, base: &Base) -> StoreResult<Attributes> {
        let Base::At { version, .. } = base else { return Ok(Attributes::new()) };
        let key = (path.clone(), version.clone());
        if let Some(attributes) = self.attributes.get(&key) {
            return Ok(attributes);
        }
        self.check_base(path, base).await?;
        Ok(self.attributes.get(&key).unwrap_or_default())
    }

    /// Asks the store whether `base` is what is there.
    pub(super) async fn check_base(&self, path: &Path, base: &Base) -> StoreResult<()> {
        match (self.head(path).await, base) {
            (Ok(stat), Base::At { version, .. }) if stat.version == *version => Ok(()),
            (Ok(_) | Err(StoreFault::Missing), Base::At { .. }) => Err(StoreFault::Changed),
            (Ok(_), Base::Missing) => Err(StoreFault::Exists),
            (Err(StoreFault::Missing), Base::Missing) => Ok(()),
            (Err(other), _) => Err(other),
        }
    }

    pub(super) fn version(&self, e_tag: Option<&str>, generation: Option<&str>) -> Option<Version> {
        let e_tag = e_tag?;
        match (self.options.identity, generation) {
            (Identity::ETag, _) | (Identity::ETagAndGeneration, None) => Some(Version::new(e_tag)),
            (Identity::ETagAndGeneration, Some(generation)) => Some(Version::new(format!("{e_tag} {generation}"))),
        }
    }
}

/// What a PUT was to make.
#[derive(Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) size: u64,
    pub(super) commit: CommitId,
    pub(super) attributes: &'a Attributes,
}

/// The attributes of an object that `commit` makes.
pub(super) fn marked(attributes: &Attributes, commit: CommitId) -> Attributes {
    let mut attributes = attributes.clone();
    attributes.insert(Attribute::Metadata(COMMIT_KEY.into()), commit.0.to_string().into());
    attributes
}

/// A version back as the store wants it. A well-formed e_tag ends with a quote, and none holds a space.
pub(super) fn update_version(version: &Version) -> UpdateVersion {
    let text = version.as_str();
    match text.rsplit_once(' ') {
        Some((e_tag, generation)) if !text.ends_with('"') => {
            UpdateVersion { e_tag: Some(e_tag.to_owned()), version: Some(generation.to_owned()) }
        }
        _ => UpdateVersion { e_tag: Some(text.to_owned()), version: None },
    }
}

/// The store refuses because of another change that has not shown yet.
pub(super) fn under_way() -> StoreFault {
    StoreFault::Failed("another change of the object was under way".into(), None)
}

/// What a client's error means that a request without a condition met.
pub(super) fn unconditional(error: object_store::Error) -> StoreFault {
    let fault = fault(error);
    if matches!(fault, StoreFault::Changed | StoreFault::Exists) { under_way() } else { fault }
}

/// What a client's error means.
pub(in crate::vfs) fn fault(error: object_store::Error) -> StoreFault {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => StoreFault::Missing,
        E::AlreadyExists { .. } => StoreFault::Exists,
        E::Precondition { .. } | E::NotModified { .. } => StoreFault::Changed,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreFault::Denied(Box::new(error)),
        E::NotSupported { .. } | E::NotImplemented { .. } => StoreFault::Unsupported(reason(&error)),
        E::InvalidPath { .. } => StoreFault::Failed(
            "the store holds a key that is no path (an empty segment or a control character): move it out of the \
             mount's prefix"
                .to_owned(),
            Some(Box::new(error)),
        ),
        error @ (E::Generic { .. } | E::JoinError { .. } | E::UnknownConfigurationKey { .. } | _) => {
            StoreFault::Failed(format!("the store failed: {}", reason(&error)), Some(Box::new(error)))
        }
    }
}

/// The innermost cause in one short line: the outer ones say only what was tried. Of a store's XML its code
/// and message.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let mut text = innermost.to_string();
    if let (Some(code), Some(message)) = (xml(&text, "Code"), xml(&text, "Message")) {
        text = format!("{code}: {message}");
    }
    text.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn xml<'a>(text: &'a str, element: &str) -> Option<&'a str> {
    let (_, behind) = text.split_once(&format!("<{element}>"))?;
    Some(behind.split_once(&format!("</{element}>"))?.0)
}

/// Removes an object without asking whether it is there.
pub(super) async fn delete(store: &Arc<dyn ObjectStore>, path: &Path) -> StoreResult<()> {
    match repeated(|| async { store.delete(path).await.map_err(unconditional) }).await {
        Ok(()) | Err(StoreFault::Missing) => Ok(()),
        Err(other) => Err(other),
    }
}
