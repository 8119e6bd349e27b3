//! A server in this process, on a free port, with its state in a folder that goes with it.

use std::ffi::OsString;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use mmap_server::config::Config;
use mmap_server::server::{ExitReport, Server};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A server under test.
pub(crate) struct Running {
    pub(crate) addrs: Vec<String>,
    _dir: TempDir,
    stops: UnboundedSender<()>,
    ended: JoinHandle<ExitReport>,
}

impl Running {
    /// Starts one on a free port, with `args` added.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let base = ["mmapd", "--listen", "127.0.0.1:0", "--node", "n1", "--memory", "64MiB", "--state-dir"];
        let args = base.iter().map(OsString::from).chain([state.into()]).chain(args.iter().map(OsString::from));
        let server = Server::bind(Config::read(args, &|_| None).unwrap()).await.unwrap();
        let (addrs, (stops, asked)) = (server.addrs(), unbounded());
        let ended = tokio::spawn(async move { server.serve(asked).await.unwrap() });
        Self { addrs, _dir: dir, stops, ended }
    }

    /// A connection to its first address.
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addrs[0])).unwrap().connect().await.unwrap()
    }

    /// Asks it to stop, as a signal does.
    pub(crate) fn ask_to_stop(&self) {
        self.stops.unbounded_send(()).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> ExitReport {
        self.ended.await.unwrap()
    }

    /// Stops it.
    pub(crate) async fn stop(self) -> ExitReport {
        self.ask_to_stop();
        self.ended().await
    }
}

/// The code and reason of an error that the server made, whose form is checked on the way.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    assert_eq!(status.metadata().get("mmap-node").unwrap(), "n1", "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "mmap.v1");
    (status.code(), info.reason.clone())
}
