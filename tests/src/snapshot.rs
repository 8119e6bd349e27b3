//! What a server holds, as seen from outside: to show that a refused call changed nothing.

use std::path::Path;

use crate::wire::Caller;

/// A file's bytes in the store, and the server's processes and mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Path below the folder and bytes of each file in the store.
    files: Vec<(String, Vec<u8>)>,
    /// Path, size, and unsynced bytes of each file as the server sees it.
    listed: Vec<(String, u64, u64)>,
    /// Pid and number of mappings of each process.
    processes: Vec<(u32, u64)>,
    /// Id, owner, path, size and unsynced bytes of each mapping.
    mappings: Vec<(u64, u32, String, u64, u64)>,
}

impl Snapshot {
    /// What `server` holds; its only mount is the folder `root`.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn take(server: &Caller, root: &Path) -> Self {
        let admin = server.without_pid();
        let processes = admin.list_processes().await.expect("the server serves");
        let mappings = admin.list_mappings(None).await.expect("the server serves");
        let request = mmap_proto::v1::ListFilesRequest { page_size: 1000, ..Default::default() };
        let listed = admin.file_service().list_files(admin.request(request)).await.expect("the server serves");
        let listed = listed.into_inner().files;
        let mut files = Vec::new();
        collect(root, root, &mut files);
        files.sort();
        Self {
            files,
            listed: listed.into_iter().map(|file| (file.path, file.size, file.dirty_bytes)).collect(),
            processes: processes.into_iter().map(|process| (process.pid, process.mappings)).collect(),
            mappings: mappings
                .into_iter()
                .map(|one| (one.id, one.owner_pid, one.path, one.file_size, one.dirty_bytes))
                .collect(),
        }
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).expect("the mount's folder can be read") {
        let path = entry.expect("the mount's folder can be read").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).expect("it lies below the root").to_string_lossy().into_owned();
            files.push((name, std::fs::read(&path).expect("the mount's files can be read")));
        }
    }
}
