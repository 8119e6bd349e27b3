//! [`SimDisk`]: a folder in memory that can crash at any step, lose what was not synced, be full, slow or
//! broken. For tests.
//!
//! Everything that changes the folder is a numbered step: making a file is three (name, space, head), its first
//! sync two (the file, the folder), removing or keeping one two, using one again two (head, name), a write or a sync
//! one. Power loss keeps what was synced, and of the rest what a seed says: writes by sectors of 512 bytes, in no
//! order; names as they were or are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What a crash takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process alone: whatever was written is there.
    Kill,
    /// What was not synced may be lost.
    Power {
        /// Says which of it.
        seed: u64,
    },
}

/// A folder in memory. Clones are the same folder.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Sim>);

#[derive(Debug, Default)]
struct Sim {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default)]
struct State {
    names: BTreeMap<String, usize>,
    /// The names as the folder's last sync left them.
    synced_names: BTreeMap<String, usize>,
    inodes: Vec<Inode>,
    steps: u64,
    crash_at: Option<u64>,
    syncs: u64,
    reuses: u64,
    fail_writes: Option<io::ErrorKind>,
    fail_syncs: Option<io::ErrorKind>,
    capacity: Option<u64>,
    held: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Grow(usize),
    Write(usize, Vec<u8>),
}

/// A number that depends on every bit of `seed`.
fn mixed(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Throws of one coin after the other.
struct Coins(u64);

impl Coins {
    fn heads(&mut self) -> bool {
        self.0 = self.0.wrapping_add(1);
        mixed(self.0) & 1 == 1
    }
}

impl SimDisk {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// The steps made so far.
    pub fn steps(&self) -> u64 {
        self.0.state.lock().steps
    }

    /// The syncs of files made so far.
    pub fn syncs(&self) -> u64 {
        self.0.state.lock().syncs
    }

    /// How often a file was used again.
    pub fn reuses(&self) -> u64 {
        self.0.state.lock().reuses
    }

    /// From the step of this number on (the first is 1) every call fails and nothing changes. If that step is
    /// a write, some beginning of it happens.
    pub fn crash_at(&self, step: u64) {
        self.0.state.lock().crash_at = Some(step);
    }

    /// The folder as the next process finds it, with none of the faults.
    pub fn survivors(&self, loss: Loss) -> Self {
        let old = self.0.state.lock();
        let mut state = State {
            names: old.names.clone(),
            synced_names: old.synced_names.clone(),
            inodes: old.inodes.clone(),
            ..State::default()
        };
        drop(old);
        if let Loss::Power { seed } = loss {
            state.lose_power(&mut Coins(mixed(seed)));
        }
        Self(Arc::new(Sim { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// From now on every write fails like this and changes nothing; or works again.
    pub fn fail_writes(&self, kind: Option<io::ErrorKind>) {
        self.0.state.lock().fail_writes = kind;
    }

    /// From now on every sync of a file fails like this; or works again.
    pub fn fail_syncs(&self, kind: Option<io::ErrorKind>) {
        self.0.state.lock().fail_syncs = kind;
    }

    /// The disk has room for so many bytes of files in all.
    pub fn full_after(&self, bytes: u64) {
        self.0.state.lock().capacity = Some(bytes);
    }

    /// While held, writes wait.
    pub fn hold_writes(&self, held: bool) {
        self.0.state.lock().held = held;
        self.0.changed.notify_all();
    }

    /// Flips one bit of the byte at `offset`, on the disk.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn flip(&self, name: &str, offset: usize) {
        let mut state = self.0.state.lock();
        let number = state.names[name];
        let inode = &mut state.inodes[number];
        for bytes in [&mut inode.bytes, &mut inode.synced] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (offset % 8);
            }
        }
    }

    /// Puts a file there, synced.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.0.state.lock();
        let inode = state.inodes.len();
        state.inodes.push(Inode { bytes: bytes.to_vec(), synced: bytes.to_vec(), unsynced: Vec::new() });
        state.names.insert(name.to_owned(), inode);
        state.synced_names.insert(name.to_owned(), inode);
    }

    /// All files with their bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.state.lock();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].bytes.clone())).collect()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.0.state.lock();
        state.steps += 1;
        if state.has_crashed() { Err(io::Error::other("crashed")) } else { Ok(state) }
    }

    fn write(&self, inode: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.state.lock();
        while state.held {
            self.0.changed.wait(&mut state);
        }
        if let Some(kind) = state.fail_writes {
            return Err(kind.into());
        }
        state.steps += 1;
        let written = match state.crash_at {
            Some(crash) if state.steps > crash => return Err(io::Error::other("crashed")),
            Some(crash) if state.steps == crash => {
                usize::try_from(mixed(crash) % (bytes.len() as u64 + 1)).unwrap_or(0)
            }
            _ => bytes.len(),
        };
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let place = state.inodes[inode].bytes.get_mut(start..start + bytes.len());
        let place = place.ok_or_else(|| io::Error::other("a write behind the end of a preallocated file"))?;
        place[..written].copy_from_slice(&bytes[..written]);
        state.inodes[inode].unsynced.push(Change::Write(start, bytes[..written].to_vec()));
        if written < bytes.len() || state.has_crashed() { Err(io::Error::other("crashed")) } else { Ok(()) }
    }

    fn sync_inode(&self, inode: usize) -> io::Result<()> {
        let mut state = self.step()?;
        if let Some(kind) = state.fail_syncs {
            return Err(kind.into());
        }
        state.syncs += 1;
        let inode = &mut state.inodes[inode];
        inode.synced.clone_from(&inode.bytes);
        inode.unsynced.clear();
        Ok(())
    }

    fn sync_file(&self, inode: usize) -> io::Result<()> {
        self.sync_inode(inode)?;
        let state = self.0.state.lock();
        let named =
            state.synced_names.iter().any(|(name, named)| *named == inode && state.names.get(name) == Some(named));
        drop(state);
        if named { Ok(()) } else { self.sync_folder() }
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.step()?;
        state.synced_names = state.names.clone();
        Ok(())
    }

    fn make(&self, name: &str, bytes: u64, head: &[u8]) -> io::Result<usize> {
        let mut state = self.step()?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), inode);
        drop(state);
        let mut state = self.step()?;
        if state.capacity.is_some_and(|capacity| state.used() + bytes > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        state.inodes[inode].bytes.resize(length, 0);
        state.inodes[inode].unsynced.push(Change::Grow(length));
        drop(state);
        self.write(inode, 0, head)?;
        Ok(inode)
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        let state = self.0.state.lock();
        if state.has_crashed() {
            return Err(io::Error::other("crashed"));
        }
        state.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl State {
    fn has_crashed(&self) -> bool {
        self.crash_at.is_some_and(|crash| self.steps >= crash)
    }

    fn used(&self) -> u64 {
        let inodes: BTreeSet<usize> = self.names.values().copied().collect();
        inodes.iter().map(|inode| self.inodes[*inode].bytes.len() as u64).sum()
    }

    fn lose_power(&mut self, coins: &mut Coins) {
        let both: BTreeSet<String> = self.names.keys().chain(self.synced_names.keys()).cloned().collect();
        // One throw a file: it is renamed or not, and never lost on the way.
        let mut goes_back = BTreeMap::new();
        for name in both {
            let (now, before) = (self.names.get(&name).copied(), self.synced_names.get(&name).copied());
            if now != before && *goes_back.entry(now.or(before)).or_insert_with(|| coins.heads()) {
                match self.synced_names.get(&name) {
                    Some(inode) => self.names.insert(name, *inode),
                    None => self.names.remove(&name),
                };
            }
        }
        self.synced_names = self.names.clone();
        for inode in &mut self.inodes {
            let mut left = std::mem::take(&mut inode.synced);
            for change in inode.unsynced.drain(..) {
                match change {
                    Change::Grow(length) if coins.heads() => left.resize(length, 0),
                    Change::Grow(_) => {}
                    Change::Write(start, bytes) => keep_sectors(&mut left, start, &bytes, coins),
                }
            }
            inode.synced.clone_from(&left);
            inode.bytes = left;
        }
    }
}

fn keep_sectors(file: &mut [u8], start: usize, bytes: &[u8], coins: &mut Coins) {
    let mut at = 0;
    while at < bytes.len() {
        let to = bytes.len().min(at + SECTOR - (start + at) % SECTOR);
        let place = file.get_mut(start + at..start + to);
        if let Some(place) = place.filter(|_| coins.heads()) {
            place.copy_from_slice(&bytes[at..to]);
        }
        at = to;
    }
}

impl Disk for SimDisk {
    fn shown(&self, name: &str) -> String {
        format!("sim:/{name}")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.0.state.lock();
        if state.has_crashed() { Err(io::Error::other("crashed")) } else { Ok(state.names.keys().cloned().collect()) }
    }

    fn read(&self, name: &str, at_most: u64) -> io::Result<Vec<u8>> {
        let inode = self.inode(name)?;
        let state = self.0.state.lock();
        let bytes = &state.inodes[inode].bytes;
        Ok(bytes[..bytes.len().min(usize::try_from(at_most).unwrap_or(usize::MAX))].to_vec())
    }

    fn create(&self, name: &str, bytes: u64, head: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        match self.make(name, bytes, head) {
            Ok(inode) => Ok(Box::new(SimFile { disk: self.clone(), inode })),
            Err(error) => {
                let mut state = self.0.state.lock();
                if !state.has_crashed() {
                    state.names.remove(name);
                }
                Err(error)
            }
        }
    }

    fn reuse(&self, name: &str, new: &str, head: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.inode(name)?;
        self.write(inode, 0, head)?;
        let mut state = self.step()?;
        state.names.remove(name);
        state.names.insert(new.to_owned(), inode);
        state.reuses += 1;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.sync_file(self.inode(name)?)
    }

    fn keep(&self, name: &str, second: &str) -> io::Result<()> {
        let inode = self.inode(name)?;
        self.step()?.names.entry(second.to_owned()).or_insert(inode);
        self.sync_folder()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inode(name)?;
        self.step()?.names.remove(name);
        self.sync_folder()
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(self.inode, offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync_file(self.inode)
    }
}
