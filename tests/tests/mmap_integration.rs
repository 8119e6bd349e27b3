//! The seed's use cases end to end: the real server, the client library, two processes and a plain folder.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use mmap_client::{AttachOptions, Capability, Client, Process, Prot, Reason};
use mmap_tests::mmapd::{Mmapd, Setup};

struct Scene {
    server: Mmapd,
    client: Client,
}

impl Scene {
    async fn set() -> Self {
        let server = Setup::new().start();
        let all = [Capability::FileRead, Capability::FileWrite, Capability::SystemInfo];
        let client = Client::builder().capabilities(all).connect(server.addr()).await.unwrap();
        Self { server, client }
    }

    async fn process(&self, name: &str) -> Process {
        self.client.attach(AttachOptions { name: name.into(), pid: None }).await.unwrap()
    }

    /// Puts a file beneath the server, as any other program would.
    fn put(&self, path: &str, data: &[u8]) {
        let file = self.server.default_files().join(&path[1..]);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, data).unwrap();
    }

    fn stored(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.server.default_files().join(&path[1..])).unwrap()
    }
}

#[tokio::test]
async fn mmap_integration_create_read_write_sync_unmap() {
    let scene = Scene::set().await;
    scene.put("/data/myfile.dat", &[7; 8192]);
    let process = scene.process("example").await;
    let mapping = process.map("/data/myfile.dat").offset(0).length(4096).prot(Prot::READ_WRITE).shared().await.unwrap();
    assert_eq!(mapping.read(0, 1024).await.unwrap(), vec![7; 1024]);
    mapping.write(0, &b"Hello, mmap!"[..]).await.unwrap();
    assert_eq!(scene.stored("/data/myfile.dat"), [7; 8192]);
    assert_eq!(mapping.msync().await.unwrap().bytes, 4096);
    assert_eq!(scene.stored("/data/myfile.dat")[..12], *b"Hello, mmap!");
    let stats = mapping.stats().await.unwrap();
    assert_eq!((stats.path.as_str(), stats.length, stats.owner_pid), ("/data/myfile.dat", 4096, process.pid()));
    mapping.write(4095, &b"!"[..]).await.unwrap();
    assert_eq!(mapping.unmap().await.unwrap(), 4096);
    assert_eq!(scene.stored("/data/myfile.dat")[4095], b'!');
}

#[tokio::test]
async fn mmap_integration_large_file_processing() {
    let scene = Scene::set().await;
    let file: Vec<u8> = (0..20_000_003u32).map(|i| (i % 251) as u8).collect();
    scene.put("/data/large_dataset.bin", &file);
    let process = scene.process("reader").await;
    let mapping = process.map("/data/large_dataset.bin").prot(Prot::READ).private().await.unwrap();
    assert_eq!(mapping.length(), file.len() as u64);
    for (offset, length) in [(0, 100), (65_535, 2), (10_000_000, 1_000_000), (20_000_002, 1)] {
        assert!(mapping.read(offset as u64, length).await.unwrap() == file[offset..offset + length]);
    }
    assert!(mapping.read_all(0, file.len()).await.unwrap() == file);
}

#[tokio::test]
async fn mmap_integration_inter_process_communication() {
    let scene = Scene::set().await;
    scene.put("/tmp/shared.dat", &[0; 4096]);
    let (a, b) = (scene.process("a").await, scene.process("b").await);
    let at_a = a.map("/tmp/shared.dat").length(4096).prot(Prot::READ_WRITE).shared().await.unwrap();
    let at_b = b.map("/tmp/shared.dat").length(4096).prot(Prot::READ_WRITE).shared().await.unwrap();
    at_a.write(0, &b"Hello"[..]).await.unwrap();
    // Before any msync.
    assert_eq!(at_b.read(0, 5).await.unwrap(), "Hello");
    at_a.msync().await.unwrap();
    assert_eq!(at_b.read(0, 5).await.unwrap(), "Hello");
    at_b.write(5, &b", A"[..]).await.unwrap();
    assert_eq!(at_a.read(0, 8).await.unwrap(), "Hello, A");
}

#[tokio::test]
async fn mmap_integration_configuration_file_update() {
    let scene = Scene::set().await;
    scene.put("/config/app.conf", b"level = info \nport = 80\n");
    let process = scene.process("editor").await;
    let mapping = process.map("/config/app.conf").prot(Prot::READ_WRITE).shared().await.unwrap();
    mapping.write(8, &b"debug"[..]).await.unwrap();
    mapping.msync().await.unwrap();
    assert_eq!(scene.stored("/config/app.conf"), b"level = debug\nport = 80\n");
}

#[tokio::test]
async fn mmap_integration_private_writes_never_reach_the_file() {
    let scene = Scene::set().await;
    scene.put("/f", &[1; 10_000]);
    let (a, b) = (scene.process("a").await, scene.process("b").await);
    let own = a.map("/f").prot(Prot::READ_WRITE).private().await.unwrap();
    let shared = b.map("/f").prot(Prot::READ).shared().await.unwrap();
    own.write(4000, vec![9; 200]).await.unwrap();
    assert_eq!(own.read(3999, 2).await.unwrap(), vec![1, 9]);
    assert_eq!(shared.read(4000, 200).await.unwrap(), vec![1; 200]);
    assert_eq!(own.msync().await.unwrap().bytes, 0);
    a.exit().await.unwrap();
    assert_eq!(scene.stored("/f"), [1; 10_000]);
}

#[tokio::test]
async fn mmap_integration_a_process_that_ends_leaves_its_bytes_and_no_mappings() {
    let scene = Scene::set().await;
    scene.put("/f", &[0; 100]);
    let process = scene.process("short-lived").await;
    let mapping = process.map("/f").prot(Prot::READ_WRITE).shared().await.unwrap();
    mapping.write(0, &b"last words"[..]).await.unwrap();
    let exited = process.exit().await.unwrap();
    assert_eq!((exited.unmapped, exited.synced_bytes), (1, 4096));
    assert_eq!(scene.stored("/f")[..10], *b"last words");
    assert!(scene.client.list_mappings(None, None).await.unwrap().items.is_empty());
    let error = mapping.read(0, 1).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Srch), "the library knows that its process has ended");
}
