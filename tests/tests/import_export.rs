//! `mmapctl import` and `export` against a real `mmapd` with mounts of two layouts: what arrives, what is refused, and
//! that the same command goes on after either program was killed.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mmap_client::{AttachOptions, Client, Prot};
use mmap_tests::mmapctl;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::random::Random;
use serde_json::{Value, json};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const CONFLICT: i32 = 5;
const UNAVAILABLE: i32 = 6;

/// A server with the layouts `local` at `/plain` and `object` at `/object`, in memory, and `log` at `/log`; and a home for records.
struct World {
    server: Option<Mmapd>,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("mmapd-migrate-").tempdir().unwrap();
        for name in ["plain", "log", "home", "here"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut world = Self { server: None, folder };
        world.start();
        world
    }

    /// On the same socket with the same state each time, as a server that is restarted.
    fn start(&mut self) {
        let at = |name: &str| self.path(name).display().to_string();
        let server = Setup::new()
            .mount("/plain", &format!("file://{}", at("plain")))
            .mount("/object", "memory:")
            .mount("/log", &format!("file://{}?layout=log", at("log")))
            .listen(&format!("unix:{}", at("socket")))
            .args(["--process-grace", "500ms"])
            .state_dir(&self.path("state"))
            .start();
        self.server = Some(server);
    }

    fn server(&self) -> &Mmapd {
        self.server.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = mmapctl::command(self.server());
        command.env("HOME", self.path("home")).env_remove("XDG_STATE_HOME").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json"], args].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The only record that there is.
    fn record(&self) -> Option<PathBuf> {
        let folder = self.path("home/.local/state/mmapctl");
        std::fs::read_dir(folder).ok()?.next().map(|entry| entry.unwrap().path())
    }
}

#[track_caller]
fn failed(output: &Output, code: i32, needed: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(needed) && !said.contains("panicked"), "{said}");
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A small tree: nested, empty, sparse, with an end within a page.
fn tree(folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let mut sparse = vec![0; 9 << 20];
    sparse[5_000_000] = 1;
    let random = Random::seeded(11).bytes((2 << 20) + 77);
    let files = vec![("a", b"small".to_vec()), ("deep/er/b", random), ("empty", Vec::new()), ("sparse", sparse)];
    for (name, bytes) in &files {
        write(&folder.join(name), bytes);
    }
    files
}

#[track_caller]
fn same_trees(folder: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        assert!(std::fs::read(folder.join(name)).unwrap() == *bytes, "{name} differs");
    }
}

#[test]
fn a_tree_goes_in_from_layout_to_layout_and_out_again() {
    let world = World::new();
    let (here, there) = (world.path("here"), world.path("back"));
    let files = tree(&here);
    let import = world.json(&["import", "--verify", here.to_str().unwrap(), "/plain/tree"]);
    assert_eq!((import["copied"].as_array().unwrap().len(), &import["failed"]), (4, &Value::Array(vec![])), "{import}");
    // 5 bytes, 2 MiB and 77 bytes, nothing, one page: what is zeros is not written.
    assert_eq!(import["written_bytes"], 5 + (2 << 20) + 77 + 4096, "{import}");
    assert_eq!((&import["state"], world.record()), (&Value::Null, None), "a run that is through leaves no record");
    same_trees(&world.path("plain/tree"), &files);

    let moved = world.json(&["import", "--remove-source", "--verify", "mmap:/plain/tree", "/log/tree"]);
    assert_eq!(moved["copied"].as_array().unwrap().len(), 4, "{moved}");
    assert!(files.iter().all(|(name, _)| !world.path("plain/tree").join(name).exists()), "the sources are moved");

    world.json(&["import", "--verify", "mmap:/log/tree", "/object/tree"]);
    let export = world.json(&["export", "--verify", "/object/tree", there.to_str().unwrap()]);
    assert_eq!(export["copied"].as_array().unwrap().len(), 4, "{export}");
    same_trees(&there, &files);
    let one = world.json(&["export", "/object/tree/a", world.path("one").to_str().unwrap()]);
    assert_eq!(one["copied"][0]["size"], 5, "{one}");
    assert_eq!(std::fs::read(world.path("one/a")).unwrap(), b"small");
}

#[test]
fn what_is_there_is_left_alone_and_what_cannot_be_kept_is_named() {
    let world = World::new();
    let here = world.path("here");
    write(&here.join("a"), b"new");
    write(&here.join("b"), b"beside");
    write(&here.join("line\nbreak"), b"x");
    write(&here.join(std::ffi::OsStr::from_bytes(b"\xff")), b"x");
    std::os::unix::fs::symlink("/etc/passwd", here.join("link")).unwrap();
    write(&world.path("plain/in/a"), b"old and longer");
    let args = ["import", here.to_str().unwrap(), "/plain/in"];
    let output = world.run(&args);
    failed(&output, FAILED, "a: /plain/in/a is there already: --force");
    failed(&output, FAILED, "line\\nbreak");
    failed(&output, FAILED, "not UTF-8");
    failed(&output, FAILED, "link: it is no regular file");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 files copied, 0 were there, 4 failed"), "{output:?}");
    assert_eq!(std::fs::read(world.path("plain/in/a")).unwrap(), b"old and longer");
    assert_eq!(std::fs::read(world.path("plain/in/b")).unwrap(), b"beside");
    std::fs::remove_file(here.join("line\nbreak")).unwrap();
    std::fs::remove_file(here.join(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap();
    std::fs::remove_file(here.join("link")).unwrap();
    failed(&world.run(&args), CONFLICT, "--force");
    // What was copied is skipped, and not if somebody changed it since.
    write(&world.path("plain/in/b"), b"theirs");
    failed(&world.run(&args), CONFLICT, "b: /plain/in/b was changed since it was copied");
    let forced = world.json(&[&args[..], &["--force"]].concat());
    assert_eq!(forced["copied"].as_array().unwrap().len(), 2, "{forced}");
    assert_eq!(std::fs::read(world.path("plain/in/a")).unwrap(), b"new");
    assert_eq!(std::fs::read(world.path("plain/in/b")).unwrap(), b"beside");

    failed(&world.run(&["import", "mmap:/plain", "/plain/in"]), USAGE, "lie in each other");
    failed(&world.run(&["import", here.to_str().unwrap(), "plain"]), USAGE, "begins with `/`");
    write(&world.path("out/a"), b"mine");
    failed(&world.run(&["export", "/plain/in", world.path("out").to_str().unwrap()]), CONFLICT, "--force");
    assert_eq!(std::fs::read(world.path("out/a")).unwrap(), b"mine");
}

/// Larger than what is synced at once.
const LARGE: usize = (112 << 20) + 123;

/// No MiB of it is like another.
fn large(seed: u64) -> Vec<u8> {
    let mib = Random::seeded(seed).bytes(1 << 20);
    let mut all: Vec<u8> = mib.iter().copied().cycle().take(LARGE).collect();
    for (index, mib) in all.chunks_mut(1 << 20).enumerate() {
        mib[..8].copy_from_slice(&(index as u64).to_le_bytes());
    }
    all
}

fn starts(world: &World, args: &[&str]) -> Child {
    world.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the record says that the first 64 MiB of the file are synced.
fn part_is_synced(world: &World, child: &mut Child, name: &str) {
    let (name, upto) = (format!("\"{name}\""), format!("\"upto\":{}", 64 << 20));
    let start = Instant::now();
    loop {
        let text = world.record().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        if text.lines().any(|line| line.contains(&name) && line.contains(&upto)) {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "it is through before it could be killed:\n{text}");
        assert!(start.elapsed() < Duration::from_mins(2), "nothing is synced:\n{text}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_same_command_goes_on_after_either_program_was_killed() {
    let mut world = World::new();
    let here = world.path("here");
    let (first, second) = (large(3), large(4));
    write(&here.join("before"), b"before");
    write(&here.join("large"), &first);
    write(&here.join("larger"), &second);
    let args = ["--json", "--timeout", "5s", "import", here.to_str().unwrap(), "/plain/in"];

    let mut child = starts(&world, &args);
    part_is_synced(&world, &mut child, "large");
    world.server.take().unwrap().sigkill();
    let output = child.wait_with_output().unwrap();
    failed(&output, UNAVAILABLE, "large: ");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((told["copied"].as_array().unwrap().len(), &told["failed"][0]), (1, &Value::from("large")), "{told}");
    assert_eq!(told["state"].as_str(), world.record().unwrap().to_str(), "{told}");

    world.start();
    let mut child = starts(&world, &args);
    part_is_synced(&world, &mut child, "larger");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(std::fs::read(world.path("plain/in/large")).unwrap() == first, "the bytes differ");

    let last = world.json(&args[1..]);
    assert_eq!((&last["skipped"], &last["copied"][0]["size"]), (&2.into(), &LARGE.into()), "{last}");
    let written = last["written_bytes"].as_u64().unwrap();
    assert!(written <= (LARGE - (64 << 20)) as u64, "what was synced is written again: {last}");
    assert!(std::fs::read(world.path("plain/in/larger")).unwrap() == second, "the bytes differ");
    assert_eq!(world.record(), None);
}

#[test]
fn an_export_that_was_killed_goes_on_and_a_half_file_has_no_name() {
    let world = World::new();
    let content = large(4);
    write(&world.path("plain/large"), &content);
    let out = world.path("out");
    let args = ["export", "/plain", out.to_str().unwrap()];
    let mut child = starts(&world, &args);
    part_is_synced(&world, &mut child, "large");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("large").exists() && out.join(".large.mmapctl-part").exists());
    let last = world.json(&args);
    assert!(last["written_bytes"].as_u64().unwrap() <= LARGE as u64 - (64 << 20), "{last}");
    assert!(std::fs::read(out.join("large")).unwrap() == content, "the bytes differ");
    assert!(!out.join(".large.mmapctl-part").exists());
}

#[test]
fn a_source_that_changes_while_it_is_copied_is_noticed_and_no_mixture_is_left() {
    let world = World::new();
    let here = world.path("here");
    let mut content = large(5);
    write(&here.join("large"), &content);
    let args = ["import", here.to_str().unwrap(), "/plain/in"];
    let mut child = starts(&world, &args);
    part_is_synced(&world, &mut child, "large");
    let file = std::fs::File::options().write(true).open(here.join("large")).unwrap();
    file.write_all_at(b"other", 1000).unwrap();
    content[1000..1005].copy_from_slice(b"other");
    let output = child.wait_with_output().unwrap();
    failed(&output, CONFLICT, "large: it was changed while it was copied");
    assert!(!world.path("plain/in/large").exists(), "a file of two contents is left");
    world.json(&args);
    assert!(std::fs::read(world.path("plain/in/large")).unwrap() == content, "the bytes differ");
}

/// A record as a killed run leaves it, of a run from `here` to `/plain/in` or back.
fn left_behind(world: &World, errand: [&str; 2], name: &str, source_version: &str, stage: &Value) -> String {
    let path = world.path("left-behind");
    let errand = json!({ "server": world.server().addr(), "source": errand[0], "target": errand[1] });
    let known = json!({ "name": name, "source_version": source_version, "stage": stage });
    std::fs::write(&path, format!("{errand}\n{known}\n{{\"torn")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_run_that_was_killed_around_the_making_of_a_file_goes_on_and_takes_nobody_elses() {
    let world = World::new();
    let (here, out) = (world.path("here"), world.path("out"));
    let (here_name, out_name) = (here.to_str().unwrap(), out.to_str().unwrap());
    write(&here.join("a"), b"new");
    write(&world.path("plain/in/a"), b"old");
    let making = Value::from("making");
    let state = left_behind(&world, [here_name, "mmap:/plain/in/"], "a", "", &making);
    let args = ["import", "--state", &state, here_name, "/plain/in"];
    failed(&world.run(&args), CONFLICT, "a: /plain/in/a is there already");
    assert_eq!(std::fs::read(world.path("plain/in/a")).unwrap(), b"old");
    write(&world.path("plain/in/a"), &[0; 3]);
    world.json(&args);
    assert_eq!(std::fs::read(world.path("plain/in/a")).unwrap(), b"new");

    // Out again, killed between the rename and its note.
    write(&out.join("a"), b"new");
    let metadata = std::fs::metadata(out.join("a")).unwrap();
    let version = format!("3-{}.{}-{}", metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
    let source = world.json(&["stat", "/plain/in/a"])["version"].as_str().unwrap().to_owned();
    for (version, upto, code) in [(version.as_str(), 3, 0), ("3-1.1-1", 3, CONFLICT), (&version, 2, CONFLICT)] {
        let stage = json!({ "made": { "upto": upto, "version": version } });
        let state = left_behind(&world, ["mmap:/plain/in/", out_name], "a", &source, &stage);
        let output = world.run(&["export", "--state", &state, "/plain/in", out_name]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

#[test]
fn a_source_that_changed_since_is_copied_again_and_one_with_unsynced_writes_is_not() {
    let world = World::new();
    let here = world.path("here");
    write(&here.join("a"), b"first");
    write(&here.join("b"), b"never");
    write(&world.path("plain/in/b"), b"theirs");
    let args = ["import", here.to_str().unwrap(), "/plain/in"];
    failed(&world.run(&args), CONFLICT, "b: ");
    write(&here.join("a"), b"second, longer");
    failed(&world.run(&args), CONFLICT, "b: ");
    assert_eq!(std::fs::read(world.path("plain/in/a")).unwrap(), b"second, longer");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(world.server().addr()).await.unwrap();
        let process = client.attach(AttachOptions { name: "writer".into(), pid: None }).await.unwrap();
        let mapping = process.map("/plain/in/a").prot(Prot::READ_WRITE).shared().await.unwrap();
        mapping.write(0, "SECOND").await.unwrap();
        let output = world.run(&["import", "mmap:/plain/in/a", "/object"]);
        failed(&output, CONFLICT, "a: it has unsynced writes");
        mapping.msync().await.unwrap();
        world.json(&["import", "mmap:/plain/in/a", "/object"]);
        assert_eq!(world.run(&["cat", "/object/a"]).stdout, b"SECOND, longer");
    });
}

#[test]
fn the_same_run_twice_at_once_and_a_record_of_another_run_are_refused() {
    let world = World::new();
    let here = world.path("here");
    write(&here.join("a"), b"a");
    let state = world.path("state-file");
    let state = state.to_str().unwrap();
    write(Path::new(state), b"my notes\n");
    let args = ["import", "--state", state, here.to_str().unwrap(), "/plain/in"];
    failed(&world.run(&args), FAILED, "no record of a run");
    assert_eq!(std::fs::read(state).unwrap(), b"my notes\n");
    std::fs::remove_file(state).unwrap();
    let held = std::fs::File::create(state).unwrap();
    held.lock().unwrap();
    failed(&world.run(&args), CONFLICT, "under way");
    assert!(!world.path("plain/in").exists());
    drop(held);
    world.json(&args);
}
