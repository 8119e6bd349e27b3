//! A disk that stops: [`FaultyDisk`] counts the steps of a change, lets nothing happen from a given one on, as if
//! the process had been killed there, and can then lose what was not synced, as a power failure does.
//!
//! The model of a power failure: of each file, what was written since its last sync is kept or lost sector by
//! sector (512 bytes), its size, mark and time each by itself; of each folder, every name by itself is as any of
//! the steps since the folder's last sync left it. Nothing is lost that was synced. Real file systems lose less.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::disk::{Disk, Interpose, Step};

const SECTOR: usize = 512;
const MARK: &str = "user.mmapd.commit";

/// What a file is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    bytes: Vec<u8>,
    mark: Option<Vec<u8>>,
    time: SystemTime,
}

/// One thing that a power failure keeps or loses.
#[derive(Debug)]
enum Unsynced {
    Sector(usize, Vec<u8>),
    Size(usize),
    Mark(Option<Vec<u8>>),
    Time(SystemTime),
}

#[derive(Debug)]
struct Inode {
    file: File,
    durable: Content,
    unsynced: Vec<Unsynced>,
}

/// A name and what it led to before each step since its folder's last sync.
#[derive(Debug)]
struct Name {
    folder: u64,
    path: PathBuf,
    before: Vec<Option<PathBuf>>,
}

#[derive(Debug, Default)]
struct State {
    steps: usize,
    stop_at: Option<usize>,
    stopped: bool,
    inodes: HashMap<u64, Inode>,
    names: BTreeMap<PathBuf, Name>,
    backups: usize,
}

/// The disk of a process that is stopped.
#[derive(Debug)]
pub(super) struct FaultyDisk {
    /// On the same file system, for what a power failure brings back.
    aside: PathBuf,
    state: Mutex<State>,
}

impl FaultyDisk {
    /// One that makes this many steps.
    pub(super) fn new(aside: &Path, stop_at: Option<usize>) -> Arc<Self> {
        let state = State { stop_at, ..State::default() };
        Arc::new(Self { aside: aside.to_owned(), state: Mutex::new(state) })
    }

    pub(super) fn disk(self: &Arc<Self>) -> Disk {
        Disk { interposed: Some(self.clone()) }
    }

    pub(super) fn steps(&self) -> usize {
        self.state.lock().steps
    }

    /// Loses what was not synced, by a coin for each piece of it.
    pub(super) fn lose_power(&self, mut coin: impl FnMut() -> u64) {
        let mut state = self.state.lock();
        for inode in std::mem::take(&mut state.inodes).into_values() {
            let mut now = inode.durable;
            for piece in inode.unsynced {
                if coin().is_multiple_of(2) {
                    piece.keep(&mut now);
                }
            }
            now.restore(&inode.file);
        }
        let names = std::mem::take(&mut state.names);
        // Files first: the path of one in a folder that goes is gone with it.
        let (folders, files): (Vec<_>, Vec<_>) = names.into_values().partition(|name| name.path.is_dir());
        for name in files.into_iter().chain(folders) {
            let state_of = usize::try_from(coin() % (name.before.len() as u64 + 1)).expect("a few");
            let Some(then) = name.before.get(state_of) else { continue };
            state.backups += 1;
            let gone = self.aside.join(format!("gone-{}", state.backups));
            if fs::symlink_metadata(&name.path).is_ok() {
                fs::rename(&name.path, gone).expect("it is moved aside");
            }
            if let Some(backup) = then {
                fs::hard_link(backup, &name.path).expect("it comes back");
            }
        }
    }
}

impl Interpose for FaultyDisk {
    fn step(&self, step: Step<'_>, make: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(io::Error::other("the process has been killed"));
        }
        let last = state.stop_at == Some(state.steps);
        state.stopped = last;
        state.steps += 1;
        match step {
            // A process can be killed in the middle of a write, and nowhere else within a step.
            Step::Write(file, range) if last => {
                let before = Content::of(&reopened(file));
                state.observe(file, make)?;
                let half = usize::try_from((range.start() + range.end()) / 2).expect("small");
                let old = before.bytes.get(half..).unwrap_or_default();
                let end = usize::try_from(range.end()).expect("small").saturating_sub(half).min(old.len());
                state.observe(file, &mut || reopened(file).write_all_at(&old[..end], half as u64))?;
            }
            _ if last => {}
            Step::Write(file, _) | Step::Inode(file) => state.observe(file, make)?,
            Step::Sync(file) => {
                let inode = file.metadata()?.ino();
                state.inodes.remove(&inode);
            }
            Step::SyncFolder(folder) => {
                let folder = inode_of(folder);
                state.names.retain(|_, name| name.folder != folder);
            }
            Step::Names(names) => self.rename(&mut state, names, make)?,
        }
        if last { Err(io::Error::other("the process has been killed")) } else { Ok(()) }
    }
}

impl FaultyDisk {
    fn rename(
        &self,
        state: &mut State,
        names: &[(BorrowedFd<'_>, &Path)],
        make: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut before = Vec::new();
        for (folder, name) in names {
            let path = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?.join(name);
            state.backups += 1;
            let backup = self.aside.join(format!("backup-{}", state.backups));
            let kept = fs::hard_link(&path, &backup).is_ok().then_some(backup);
            before.push((inode_of(*folder), path, kept));
        }
        make()?;
        for (folder, path, kept) in before {
            let name = Name { folder, path: path.clone(), before: Vec::new() };
            state.names.entry(path).or_insert(name).before.push(kept);
        }
        Ok(())
    }
}

impl State {
    /// Makes a step on a file and notes what it did.
    fn observe(&mut self, file: &File, make: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        let file = reopened(file);
        let before = Content::of(&file);
        make()?;
        let after = Content::of(&file);
        let entry = self.inodes.entry(inode);
        let unsynced =
            &mut entry.or_insert_with(|| Inode { file, durable: before.clone(), unsynced: Vec::new() }).unsynced;
        if before.bytes.len() != after.bytes.len() {
            unsynced.push(Unsynced::Size(after.bytes.len()));
        }
        for (index, sector) in after.bytes.chunks(SECTOR).enumerate() {
            let old = before.bytes.get(index * SECTOR..).unwrap_or_default();
            if old.get(..sector.len()) != Some(sector) {
                unsynced.push(Unsynced::Sector(index * SECTOR, sector.to_owned()));
            }
        }
        if before.mark != after.mark {
            unsynced.push(Unsynced::Mark(after.mark));
        }
        if before.time != after.time {
            unsynced.push(Unsynced::Time(after.time));
        }
        Ok(())
    }
}

impl Unsynced {
    fn keep(self, content: &mut Content) {
        match self {
            Self::Size(size) => content.bytes.resize(size, 0),
            // What lies behind the end that was kept is not there.
            Self::Sector(at, data) => {
                let end = content.bytes.len().min(at + data.len());
                if at < end {
                    content.bytes[at..end].copy_from_slice(&data[..end - at]);
                }
            }
            Self::Mark(mark) => content.mark = mark,
            Self::Time(time) => content.time = time,
        }
    }
}

impl Content {
    fn of(file: &File) -> Self {
        let metadata = file.metadata().expect("it is open");
        let mut bytes = vec![0; usize::try_from(metadata.len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("it is read");
        let mut mark = [0_u8; 256];
        let mark = rustix::fs::fgetxattr(file, MARK, &mut mark[..]).ok().map(|length| mark[..length].to_owned());
        Self { bytes, mark, time: metadata.modified().expect("a time") }
    }

    fn restore(&self, file: &File) {
        file.set_len(self.bytes.len() as u64).expect("it is cut");
        file.write_all_at(&self.bytes, 0).expect("it is written");
        match &self.mark {
            Some(mark) => {
                rustix::fs::fsetxattr(file, MARK, mark, rustix::fs::XattrFlags::empty()).expect("it is marked");
            }
            None => drop(rustix::fs::fremovexattr(file, MARK)),
        }
        file.set_modified(self.time).expect("a time");
    }
}

/// The same file, opened by itself: it shares no lock, and can be read and written.
fn reopened(file: &File) -> File {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).write(true).open(path).expect("it is opened again")
}

fn inode_of(folder: impl AsFd) -> u64 {
    rustix::fs::fstat(folder).expect("it is open").st_ino
}
