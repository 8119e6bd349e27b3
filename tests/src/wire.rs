//! A caller on the wire: the generated stubs with the headers of one process, and nothing of the client
//! library, so that what the library does cannot hide what the server does.

use std::time::{Duration, Instant};

use mmap_proto::v1::file_service_client::FileServiceClient;
use mmap_proto::v1::mmap_service_client::MmapServiceClient;
use mmap_proto::v1::process_service_client::ProcessServiceClient;
use mmap_proto::{names, v1};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long any call of a test may take, the server's own deadlines included.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// The largest message a test reads or writes: more than the server's largest.
const MESSAGE_MAX: usize = 64 << 20;

/// All capabilities.
pub const ALL: &str = "FileRead, FileWrite, SystemInfo";
/// READ and WRITE.
pub const READ_WRITE: u32 = 3;

/// One caller.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
    pid: Option<u32>,
    capabilities: Option<&'static str>,
    token: Option<String>,
    timeout: Option<Duration>,
}

/// A channel to a server that `mmapd listening on` has named.
///
/// # Panics
/// If nobody answers there.
pub async fn channel(addr: &str) -> Channel {
    let uri = if addr.starts_with("unix:") { addr.to_owned() } else { format!("http://{addr}") };
    let endpoint = Endpoint::from_shared(uri).expect("the server names an address that can be dialled");
    let endpoint = endpoint.connect_timeout(Duration::from_secs(10)).timeout(CALL_DEADLINE).tcp_nodelay(true);
    endpoint.connect().await.unwrap_or_else(|error| panic!("{addr} does not answer: {error:?}"))
}

impl Caller {
    /// The process `pid` with every capability, on a connection of its own.
    pub async fn connect(addr: &str, pid: u32) -> Self {
        Self { channel: channel(addr).await, pid: Some(pid), capabilities: Some(ALL), token: None, timeout: None }
    }

    /// Another process on the same connection.
    #[must_use]
    pub fn with_pid(&self, pid: u32) -> Self {
        Self { pid: Some(pid), ..self.clone() }
    }

    /// The same caller without a pid.
    #[must_use]
    pub fn without_pid(&self) -> Self {
        Self { pid: None, ..self.clone() }
    }

    /// The same caller with other capabilities.
    #[must_use]
    pub fn with_capabilities(&self, capabilities: &'static str) -> Self {
        Self { capabilities: Some(capabilities), ..self.clone() }
    }

    /// The same caller without capabilities.
    #[must_use]
    pub fn without_capabilities(&self) -> Self {
        Self { capabilities: None, ..self.clone() }
    }

    /// The same caller with a token, and without capabilities beside it.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { capabilities: None, token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same caller with a deadline.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// `message` with this caller's headers.
    ///
    /// # Panics
    /// If the capabilities are not ASCII.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(pid) = self.pid {
            request.metadata_mut().insert(names::PID, MetadataValue::from(pid));
        }
        if let Some(capabilities) = self.capabilities {
            let value = MetadataValue::try_from(capabilities).expect("capabilities are ASCII");
            request.metadata_mut().insert(names::CAPABILITIES, value);
        }
        if let Some(token) = &self.token {
            let value = MetadataValue::try_from(format!("Bearer {token}")).expect("tokens are ASCII");
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// The syscalls.
    pub fn mmap_service(&self) -> MmapServiceClient<Channel> {
        MmapServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// Processes.
    pub fn process_service(&self) -> ProcessServiceClient<Channel> {
        ProcessServiceClient::new(self.channel.clone())
    }

    /// Files.
    pub fn file_service(&self) -> FileServiceClient<Channel> {
        FileServiceClient::new(self.channel.clone()).max_encoding_message_size(MESSAGE_MAX)
    }

    /// Maps.
    pub async fn mmap(&self, request: v1::MmapRequest) -> Result<v1::MmapResponse, Status> {
        Ok(self.mmap_service().mmap(self.request(request)).await?.into_inner())
    }

    /// Maps `length` bytes of a file from its start, shared, for reading and writing, making it if needed.
    ///
    /// # Panics
    /// If it fails.
    pub async fn map_shared(&self, path: &str, length: u64) -> u64 {
        let request = v1::MmapRequest { create: true, ..map_request(path, length) };
        self.mmap(request).await.unwrap_or_else(|status| panic!("mmap {path}: {status:?}")).mmap_id
    }

    /// Reads.
    pub async fn read(&self, mmap_id: u64, offset: u64, length: u64) -> Result<bytes::Bytes, Status> {
        let request = self.request(v1::MmapReadRequest { mmap_id, offset, length });
        Ok(self.mmap_service().mmap_read(request).await?.into_inner().data)
    }

    /// Writes.
    pub async fn write(&self, mmap_id: u64, offset: u64, data: impl Into<bytes::Bytes>) -> Result<u64, Status> {
        let request = self.request(v1::MmapWriteRequest { mmap_id, offset, data: data.into() });
        Ok(self.mmap_service().mmap_write(request).await?.into_inner().written)
    }

    /// Syncs the whole mapping.
    pub async fn msync(&self, mmap_id: u64) -> Result<v1::MsyncResponse, Status> {
        self.msync_with(v1::MsyncRequest { mmap_id, ..Default::default() }).await
    }

    /// Syncs.
    pub async fn msync_with(&self, request: v1::MsyncRequest) -> Result<v1::MsyncResponse, Status> {
        Ok(self.mmap_service().msync(self.request(request)).await?.into_inner())
    }

    /// Unmaps, syncing.
    pub async fn munmap(&self, mmap_id: u64) -> Result<u64, Status> {
        self.munmap_with(v1::MunmapRequest { mmap_id, ..Default::default() }).await
    }

    /// Unmaps.
    pub async fn munmap_with(&self, request: v1::MunmapRequest) -> Result<u64, Status> {
        Ok(self.mmap_service().munmap(self.request(request)).await?.into_inner().synced_bytes)
    }

    /// A mapping's stats.
    pub async fn stats(&self, mmap_id: u64) -> Result<v1::MmapStatsResponse, Status> {
        Ok(self.mmap_service().mmap_stats(self.request(v1::MmapStatsRequest { mmap_id })).await?.into_inner())
    }

    /// The first page of a list of mappings.
    pub async fn list_mappings(&self, pid: Option<u32>) -> Result<Vec<v1::MmapStatsResponse>, Status> {
        let request = v1::ListMappingsRequest { pid, page_size: 1000, ..Default::default() };
        Ok(self.mmap_service().list_mappings(self.request(request)).await?.into_inner().mappings)
    }

    /// The first page of the processes.
    pub async fn list_processes(&self) -> Result<Vec<v1::ProcessInfo>, Status> {
        let request = self.request(v1::ListProcessesRequest { page_size: 1000, ..Default::default() });
        Ok(self.process_service().list_processes(request).await?.into_inner().processes)
    }

    /// Ends the process.
    pub async fn exit(&self, discard: bool) -> Result<v1::ExitResponse, Status> {
        Ok(self.process_service().exit(self.request(v1::ExitRequest { discard })).await?.into_inner())
    }

    /// A file's state.
    pub async fn stat_file(&self, path: &str) -> Result<v1::StatFileResponse, Status> {
        let request = self.request(v1::StatFileRequest { path: path.to_owned() });
        Ok(self.file_service().stat_file(request).await?.into_inner())
    }

    /// Truncates.
    pub async fn truncate(&self, request: v1::TruncateFileRequest) -> Result<v1::TruncateFileResponse, Status> {
        Ok(self.file_service().truncate_file(self.request(request)).await?.into_inner())
    }

    /// Removes.
    pub async fn remove(&self, path: &str) -> Result<(), Status> {
        let request = self.request(v1::RemoveFileRequest { path: path.to_owned() });
        self.file_service().remove_file(request).await.map(|_| ())
    }
}

/// `length` bytes of a file from its start, shared, for reading and writing.
pub fn map_request(path: &str, length: u64) -> v1::MmapRequest {
    v1::MmapRequest {
        path: path.to_owned(),
        length: Some(length),
        prot: READ_WRITE,
        shared: true,
        ..Default::default()
    }
}

/// Asks again until `ready` has an answer.
///
/// # Panics
/// If it has none within `deadline`; `what` says what was waited for.
pub async fn eventually<T>(what: &str, deadline: Duration, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "{what}: not after {deadline:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
