//! Listing objects in the order of their names.
//!
//! It relies on lists in byte order, which is what the stores promise: S3's ListObjectsV2 ("UTF-8 binary
//! order", general purpose buckets), GCS's and Azure's list of blobs (lexicographic), InMemory (a BTreeMap).
//! S3's directory buckets and Azure's hierarchical namespaces do not, and are refused when it shows.
//!
//! The client cuts a `/` off the end of a key, so the markers that some tools keep for folders (`a/b/`, empty)
//! look like empty files; each empty object is therefore asked for by its name before it is shown. A key with
//! an empty segment (`a//b`) fails the page of the list that holds it: the client cannot say such a key.

use std::cmp::Ordering;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta};

use super::bucket::{Bucket, fault};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::Listed;

/// Empty objects that are asked for at a time.
const HEADS_AT_ONCE: usize = 16;

impl Bucket {
    pub(super) async fn list_names(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        if let Some(exact) = self.exact(prefix, after).await? {
            found.push(exact);
        }
        let mut objects = self.objects(prefix, after);
        let mut last: Option<String> = None;
        // How many of those found are known to be files and no folders' markers.
        let mut known = found.len();
        loop {
            if found.len() >= limit {
                known = self.drop_markers(&mut found, known).await?;
                if known >= limit {
                    break;
                }
            }
            let Some(meta) = objects.try_next().await.map_err(fault)? else { break };
            let Some(name) = self.name(&meta.location) else { continue };
            match order(last.as_deref(), name, meta.size)? {
                Ordering::Less => last = Some(name.to_owned()),
                Ordering::Equal | Ordering::Greater => continue,
            }
            if after.is_some_and(|after| name <= after) || found.last().is_some_and(|found| found.name == name) {
                continue;
            }
            if name.starts_with(prefix) {
                found.push(Listed { name: name.to_owned(), stat: self.stat_of(&meta)? });
            } else if name > prefix {
                break;
            }
        }
        self.drop_markers(&mut found, known).await?;
        Ok(found)
    }

    /// Drops the markers of folders behind the first `known`; answers how many are left.
    async fn drop_markers(&self, found: &mut Vec<Listed>, known: usize) -> StoreResult<usize> {
        let fresh = found.split_off(known.min(found.len()));
        let ask = |file: Listed| async move {
            let is_file = file.stat.size > 0 || self.is_there(&self.path(&file.name)?).await?;
            Ok(is_file.then_some(file))
        };
        let asks: Vec<_> = fresh.into_iter().map(ask).collect();
        let files: Vec<Option<Listed>> = futures::stream::iter(asks).buffered(HEADS_AT_ONCE).try_collect().await?;
        found.extend(files.into_iter().flatten());
        Ok(found.len())
    }

    /// The objects to look at, from the first that may belong to the answer.
    fn objects(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let folder = match (self.root.as_ref(), folder) {
            (_, "") => Ok(self.root.clone()),
            (_, folder) => self.path(folder),
        };
        let Ok(folder) = folder else {
            // A folder that cannot be there: its list is empty.
            return futures::stream::empty().boxed();
        };
        let folder = (!folder.is_root()).then_some(folder);
        // Lists begin behind their offset, so a file whose name is the prefix is looked for by `exact`.
        let offset = match after {
            Some(after) if after > prefix => self.path(after).ok(),
            _ if prefix.is_empty() || prefix.ends_with('/') => None,
            _ => self.path(prefix).ok(),
        };
        match offset {
            Some(offset) => self.store.list_with_offset(folder.as_ref(), &offset),
            None => self.store.list(folder.as_ref()),
        }
    }

    /// The file whose name is the prefix itself.
    async fn exact(&self, prefix: &str, after: Option<&str>) -> StoreResult<Option<Listed>> {
        if prefix.is_empty() || prefix.ends_with('/') || after.is_some_and(|after| after >= prefix) {
            return Ok(None);
        }
        let Ok(path) = self.path(prefix) else { return Ok(None) };
        match self.head(&path).await {
            Ok(stat) => {
                let stat = crate::vfs::store::Stat { commit: None, ..stat };
                Ok(Some(Listed { name: prefix.to_owned(), stat }))
            }
            Err(StoreFault::Missing) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn is_there(&self, path: &Path) -> StoreResult<bool> {
        match self.store.get_opts(path, GetOptions::new().with_head(true)).await.map_err(fault) {
            Ok(_) => Ok(true),
            Err(StoreFault::Missing) => Ok(false),
            Err(other) => Err(other),
        }
    }
}

/// How `last` compares with `name`. A folder's marker may come late, because its `/` was cut off; anything
/// else that comes late shows a store whose order is another one.
fn order(last: Option<&str>, name: &str, size: u64) -> StoreResult<Ordering> {
    let order = last.map_or(Ordering::Less, |last| last.cmp(name));
    if order == Ordering::Greater && size > 0 {
        let reason = "the store does not list its objects in the order of their names";
        return Err(StoreFault::Unsupported(reason.into()));
    }
    Ok(order)
}
