//! [`Vfs`]: all mounts, which of them a path belongs to, and their files in one list.
//!
//! Invariant: a path belongs to the mount with the longest prefix that covers it, at the boundaries of
//! segments, and to no other: what another mount has there is neither found nor listed.

use std::sync::Arc;

use super::fault::{StoreFault, StoreResult};
use super::mount::Mount;
use super::spec::MountSpec;
use super::store::Stat;
use crate::error::{Errno, Error, Result};
use crate::limits::Limits;
use crate::path::FilePath;

/// Entries asked of a store at a time at least: below that the request costs more than its answer.
const BATCH_MIN: usize = 100;

/// Where a path lies.
#[derive(Clone, Debug)]
pub struct Location {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The file's name in the mount's store.
    pub name: String,
}

/// All mounts: the longest prefix of a path wins.
#[derive(Debug)]
pub struct Vfs {
    /// Longest prefix first.
    mounts: Vec<Arc<Mount>>,
}

impl Vfs {
    /// Opens each mount.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a store that cannot be opened as asked, or two mounts of one prefix.
    pub fn open(specs: &[MountSpec], limits: &Limits) -> Result<Self> {
        let mounts: Result<Vec<Mount>> = specs.iter().map(|spec| Mount::open(spec, limits)).collect();
        Self::new(mounts?)
    }

    /// Of mounts that are at hand.
    ///
    /// # Errors
    /// [`Errno::Inval`] for two mounts of one prefix.
    pub fn new(mounts: Vec<Mount>) -> Result<Self> {
        let mut mounts: Vec<Arc<Mount>> = mounts.into_iter().map(Arc::new).collect();
        mounts.sort_by(|a, b| (b.prefix().len(), a.prefix()).cmp(&(a.prefix().len(), b.prefix())));
        for pair in mounts.windows(2) {
            if let [a, b] = pair
                && a.prefix() == b.prefix()
            {
                let prefix = a.prefix();
                return Err(Error::invalid("mount", format!("there are two mounts at {prefix}")).with("mount", prefix));
            }
        }
        Ok(Self { mounts })
    }

    /// Where `path` lies.
    ///
    /// # Errors
    /// [`Errno::NoEnt`] if no mount covers it, [`Errno::Inval`] if it is a mount itself or its store cannot
    /// keep the name as it stands.
    pub fn locate(&self, path: &FilePath) -> Result<Location> {
        let Some(mount) = self.covering(path.as_str()) else {
            let mounts: Vec<&str> = self.mounts.iter().rev().map(|mount| mount.prefix()).collect();
            let mounts = if mounts.is_empty() { "none".to_owned() } else { mounts.join(", ") };
            return Err(Error::new(Errno::NoEnt, format!("no mount covers {path}: the mounts are {mounts}"))
                .with("path", path)
                .with("mounts", mounts));
        };
        let Some(name) = path.as_str().strip_prefix(folder_of(mount).as_str()) else {
            return Err(Error::invalid("path", format!("the path {path} is a mount: name a file in it"))
                .with("path", path)
                .with("mount", mount.prefix()));
        };
        mount.store().check_name(name).map_err(|fault| fault.into_error(path))?;
        Ok(Location { mount: Arc::clone(mount), name: name.to_owned() })
    }

    /// The mounts, longest prefix first.
    pub fn mounts(&self) -> &[Arc<Mount>] {
        &self.mounts
    }

    /// Files of all mounts whose paths start with `prefix` (as text; empty: all) and are greater than `after`,
    /// in the order of their paths, at most `limit`. A file that a longer mount's prefix covers is not shown.
    ///
    /// # Errors
    /// As the first mount that fails: a list with a mount left out would be wrong.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(FilePath, Stat)>> {
        let lists = self.mounts.iter().map(|mount| async move {
            self.list_mount(mount, prefix, after, limit).await.map_err(|fault| mount.fault(fault))
        });
        let mut files = futures::future::try_join_all(lists).await?.concat();
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        files.truncate(limit);
        Ok(files)
    }

    /// The visible files of one mount.
    async fn list_mount(
        &self,
        mount: &Arc<Mount>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<(FilePath, Stat)>> {
        let mut files = Vec::new();
        let folder = folder_of(mount);
        let below = match prefix.strip_prefix(folder.as_str()) {
            Some(below) => below,
            None if folder.starts_with(prefix) => "",
            None => return Ok(files),
        };
        let mut after = match after {
            Some(after) if after.starts_with(&folder) => Some(after[folder.len()..].to_owned()),
            Some(after) if after > folder.as_str() => return Ok(files),
            Some(_) | None => None,
        };
        while files.len() < limit {
            let asked = (limit - files.len()).max(BATCH_MIN);
            let listed = mount.store().list(below, after.as_deref(), asked).await?;
            let is_last = listed.len() < asked;
            let Some(last) = listed.last().map(|file| file.name.clone()) else { break };
            // A store that repeats itself would be asked for ever.
            if after.as_ref().is_some_and(|after| last <= *after) {
                return Err(StoreFault::Corrupt("its list does not go on".into()));
            }
            let mut hidden_by = None;
            for file in listed {
                let path = format!("{folder}{}", file.name);
                match self.covering(&path) {
                    Some(covering) if Arc::ptr_eq(covering, mount) => {
                        // Reserved names, and those that no path can say, are not files.
                        if let Ok(path) = FilePath::parse(&path) {
                            files.push((path, file.stat));
                        }
                        hidden_by = None;
                    }
                    covering => hidden_by = covering,
                }
            }
            if is_last {
                break;
            }
            after = Some(match hidden_by {
                // The rest of what the other mount hides is skipped.
                Some(covering) => format!("{}\u{10FFFF}", &folder_of(covering)[folder.len()..]).max(last),
                None => last,
            });
        }
        files.truncate(limit);
        Ok(files)
    }

    fn covering(&self, path: &str) -> Option<&Arc<Mount>> {
        self.mounts.iter().find(|mount| match mount.prefix() {
            "/" => path.starts_with('/'),
            prefix => path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        })
    }
}

/// A mount's prefix with a `/` at its end.
fn folder_of(mount: &Mount) -> String {
    match mount.prefix() {
        "/" => "/".to_owned(),
        prefix => format!("{prefix}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::object::ObjectLayout;
    use crate::vfs::store::{Base, CommitId, FileStore, WriteBack};

    async fn store_of(names: &[&str]) -> Arc<dyn FileStore> {
        let store = ObjectLayout::in_memory();
        for name in names {
            let change = WriteBack { base: Base::Missing, size: 1, patches: Vec::new(), commit: CommitId::random() };
            store.write_back(name, change).await.expect("a file");
        }
        Arc::new(store)
    }

    async fn vfs(mounts: &[(&str, &[&str])]) -> Vfs {
        let mut all = Vec::new();
        for (prefix, names) in mounts {
            all.push(Mount::with_store(prefix, store_of(names).await).expect("a mount"));
        }
        Vfs::new(all).expect("a table")
    }

    fn path(text: &str) -> FilePath {
        FilePath::parse(text).expect(text)
    }

    async fn listed(vfs: &Vfs, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let files = vfs.list(prefix, after, limit).await.expect("a list");
        files.into_iter().map(|(path, _)| path.to_string()).collect()
    }

    #[tokio::test]
    async fn the_longest_prefix_wins_at_the_boundary_of_a_segment() {
        let vfs = vfs(&[("/", &[]), ("/data", &[]), ("/data/deep", &[])]).await;
        for (text, mount, name) in [
            ("/a", "/", "a"),
            ("/database", "/", "database"),
            ("/data/x/y", "/data", "x/y"),
            ("/data/deeper", "/data", "deeper"),
            ("/data/deep/z", "/data/deep", "z"),
        ] {
            let found = vfs.locate(&path(text)).expect(text);
            assert_eq!((found.mount.prefix(), found.name.as_str()), (mount, name), "{text}");
        }
        assert_eq!(vfs.locate(&path("/data")).expect_err("a mount").errno(), Errno::Inval);
        let prefixes: Vec<_> = vfs.mounts().iter().map(|mount| mount.prefix()).collect();
        assert_eq!(prefixes, ["/data/deep", "/data", "/"]);
    }

    #[tokio::test]
    async fn a_path_without_a_mount_is_told_which_mounts_there_are() {
        let vfs = vfs(&[("/b", &[]), ("/a", &[])]).await;
        let error = vfs.locate(&path("/c/x")).expect_err("no mount");
        assert_eq!(error.errno(), Errno::NoEnt);
        assert!(error.message().contains("/a") && error.message().contains("/b"), "{error}");
    }

    #[tokio::test]
    async fn two_mounts_of_one_prefix_are_refused() {
        let mounts = vec![
            Mount::with_store("/x", store_of(&[]).await).expect("a mount"),
            Mount::with_store("/x", store_of(&[]).await).expect("a mount"),
        ];
        assert_eq!(Vfs::new(mounts).expect_err("twice").errno(), Errno::Inval);
    }

    #[tokio::test]
    async fn a_list_merges_the_mounts_and_hides_what_longer_ones_cover() {
        let root = ["a", "data", "data/hidden", "data2", "data.x", ".mmapd-probe-1", "z"];
        let vfs = vfs(&[("/", &root), ("/data", &["1", "sub/2"]), ("/data/sub", &["3"])]).await;
        let all = ["/a", "/data.x", "/data/1", "/data/sub/3", "/data2", "/z"];
        assert_eq!(listed(&vfs, "", None, 100).await, all);
        assert_eq!(listed(&vfs, "/", None, 3).await, all[..3]);
        assert_eq!(listed(&vfs, "", Some("/data/1"), 2).await, all[3..5]);
        assert_eq!(listed(&vfs, "/data/", None, 100).await, all[2..4]);
        assert_eq!(listed(&vfs, "/data", None, 100).await, all[1..5]);
        assert_eq!(listed(&vfs, "/data/sub/3", None, 100).await, all[3..4]);
        assert!(listed(&vfs, "/nothing", None, 100).await.is_empty());
        assert!(listed(&vfs, "data", None, 100).await.is_empty());
        let mut paged = Vec::new();
        while let [path] = listed(&vfs, "", paged.last().map(String::as_str), 1).await.as_slice() {
            paged.push(path.clone());
        }
        assert_eq!(paged, all);
    }

    #[tokio::test]
    async fn a_list_goes_on_behind_many_hidden_files() {
        let hidden: Vec<String> = (0..BATCH_MIN * 3).map(|n| format!("m/{n:04}")).collect();
        let mut names: Vec<&str> = hidden.iter().map(String::as_str).collect();
        names.extend(["a", "z"]);
        let vfs = vfs(&[("/", &names), ("/m", &["x"])]).await;
        assert_eq!(listed(&vfs, "", None, 2).await, ["/a", "/m/x"]);
        assert_eq!(listed(&vfs, "", None, 10).await, ["/a", "/m/x", "/z"]);
    }
}
