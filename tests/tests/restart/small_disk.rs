//! A state directory on a small file system that outlives servers: a mount namespace of its own, kept by a process
//! that does nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mmap_tests::daemon::{Daemon, START_DEADLINE, Stream};
use mmap_tests::mmapd::Setup;
use mmap_tests::require::{Missing, available};

/// See the module.
pub(crate) struct SmallDisk {
    keeper: Daemon,
    /// Where it is mounted, inside the namespace.
    disk: PathBuf,
}

/// A server in the namespace.
pub(crate) struct Server {
    daemon: Daemon,
    pub(crate) addr: String,
    /// Holds its working directory.
    _setup: Setup,
}

impl SmallDisk {
    /// `None`, said aloud, where the system gives no namespaces; that is no component that one could install.
    pub(crate) fn start(disk: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir(disk).unwrap();
        let unshare = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(disk);
            command
        };
        let mount = format!("mount -t tmpfs -o size={mebibytes}m none \"$0\"");
        if !unshare(&mount).output().is_ok_and(|output| output.status.success()) {
            return available(Err(Missing {
                component: "a mount namespace (unshare --map-root-user --mount)".to_owned(),
                remedy: "run as root, or allow unprivileged user namespaces".to_owned(),
            }));
        }
        // It ends with its handle, or by itself after a test that failed.
        let script = format!("{mount} && echo mounted && exec sleep 600");
        let mut keeper = Daemon::start("the small disk's keeper", &mut unshare(&script));
        keeper.wait_for_lines(1, START_DEADLINE, |line| (line == "mounted").then_some(()));
        Some(Self { keeper, disk: disk.to_owned() })
    }

    /// The file system, as seen from outside of the namespace.
    pub(crate) fn seen(&self) -> PathBuf {
        let inside = self.disk.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.keeper.pid())).join(inside)
    }

    /// Where a server's state directory lies.
    pub(crate) fn state(&self) -> PathBuf {
        self.disk.join("state")
    }

    /// A server in the namespace, its state directory on the small disk.
    pub(crate) fn server(&self, setup: Setup) -> Server {
        let setup = setup.state_dir(&self.state());
        let mut daemon = self.run(&setup);
        let listening = |line: &str| line.strip_prefix("mmapd listening on ").map(str::to_owned);
        let addr = daemon.wait_for_lines(1, START_DEADLINE, listening).concat();
        Server { daemon, addr, _setup: setup }
    }

    /// Runs a server that cannot start: what it says.
    pub(crate) fn refused(&self, setup: Setup) -> String {
        let setup = setup.state_dir(&self.state());
        let mut daemon = self.run(&setup);
        let status = daemon.wait_exit(START_DEADLINE);
        let told = daemon.text(Stream::Stderr);
        assert_eq!(status.code(), Some(1), "{told}");
        assert!(daemon.text(Stream::Stdout).is_empty() && !told.contains("panicked"), "{told}");
        told
    }

    fn run(&self, setup: &Setup) -> Daemon {
        let plain = setup.command();
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.pid().to_string(), "--user", "--mount", "--"]);
        command.arg(plain.get_program()).args(plain.get_args());
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        Daemon::start("mmapd on a small disk", &mut command)
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let filler = std::fs::File::create(self.seen().join("filler")).unwrap();
        let error = std::io::copy(&mut std::io::repeat(b'f'), &mut &filler).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    /// Gives a little back, which is too little for a segment of the journal.
    pub(crate) fn free_a_little(&self) {
        let filler = std::fs::File::options().write(true).open(self.seen().join("filler")).unwrap();
        filler.set_len(filler.metadata().unwrap().len().saturating_sub(1 << 20)).unwrap();
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.seen().join("filler")).unwrap();
    }
}

impl Server {
    pub(crate) fn sigkill(mut self) {
        self.daemon.signal("KILL");
        self.daemon.wait_exit(Duration::from_secs(20));
    }
}
