//! The table of everything that can be set. Flags, environment variables, the file's keys and the help all
//! come from it, so that none of them can know a key that another does not.

use clap::{Arg, ArgAction, Command};

/// Something that can be set.
#[derive(Debug)]
pub(super) struct Key {
    /// `state-dir`: the flag without its dashes, and the file's key.
    pub(super) name: &'static str,
    /// What its value is called in the help; `None` for a switch.
    value: Option<&'static str>,
    /// It may be given several times; a variable separates its values with spaces.
    pub(super) many: bool,
    help: &'static str,
}

impl Key {
    const fn one(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, value: Some(value), many: false, help }
    }

    const fn many(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, value: Some(value), many: true, help }
    }

    const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, value: None, many: false, help }
    }

    /// Whether it is on or off, and has no value as a flag.
    pub(super) const fn is_switch(&self) -> bool {
        self.value.is_none()
    }

    /// Its environment variable: `state-dir` is `MMAPD_STATE_DIR`.
    pub(super) fn variable(&self) -> String {
        format!("MMAPD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// What it is where it is not set, as its help says; nothing where that says nothing.
    pub(super) fn default(&self) -> Option<String> {
        match self.help.rsplit_once(DEFAULT) {
            Some((_, default)) => Some(default.trim_end_matches(']').to_owned()),
            None => self.is_switch().then(|| "false".to_owned()),
        }
    }

    /// Its line in docs/CONFIGURATION.md.
    #[cfg(test)]
    pub(super) fn row(&self) -> String {
        let flag = self.value.map_or_else(|| format!("--{}", self.name), |value| format!("--{} {value}", self.name));
        let many = if self.many { ", repeatable" } else { "" };
        let meaning = self.help.rsplit_once(DEFAULT).map_or(self.help, |(meaning, _)| meaning);
        let default = self.default().map_or_else(|| "not set".to_owned(), |default| default.replace('|', "\\|"));
        let meaning = meaning.replace('|', "\\|");
        format!("| `{flag}`{many} | `{}` | `{}` | {default} | {meaning} |", self.variable(), self.name)
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name).long(self.name).help(format!("{} [env: {}]", self.help, self.variable()));
        match (self.value, self.many) {
            (None, _) => arg.action(ArgAction::SetTrue),
            (Some(value), true) => arg.value_name(value).action(ArgAction::Append),
            (Some(value), false) => arg.value_name(value).action(ArgAction::Set),
        }
    }
}

/// What stands before the default at the end of a help. A default is a value as it would be set, unless
/// `Config::computed` knows the key; a key that is off where it is not set has none.
const DEFAULT: &str = " [default: ";

/// The key whose values may be tables in the file.
pub(super) const MOUNT: &str = "mount";

/// The key that names the file; the only one that cannot stand in it.
pub(super) const CONFIG: &str = "config";

pub(super) const KEYS: &[Key] = &[
    Key::many(
        "listen",
        "ADDR",
        "Where to listen: host:port or unix:/path, may be repeated; port 0 picks one [default: 127.0.0.1:50051]",
    ),
    Key::many(
        MOUNT,
        "PREFIX=URL",
        "Serve the store at URL below the path PREFIX, may be repeated: file:///dir, memory:, s3://bucket/prefix, \
         gs://bucket/prefix, az://container/prefix; options in the query, such as ?ro or ?layout=object \
         [default: / = the folder files in the state directory]",
    ),
    Key::one(
        "state-dir",
        "DIR",
        "Folder for what must outlive the server; one server at a time [default: mmapd in the user's data directory]",
    ),
    Key::one(
        "durability",
        "LEVEL",
        "What an acknowledged write survives before msync: memory (nothing), process (a killed server) or disk \
         (power loss; writes wait for the disk) [default: process]",
    ),
    Key::switch(
        "accept-journal-loss",
        "Start although the journal is damaged: with what comes before the damage; the rest is kept beside it",
    ),
    Key::one(
        "memory",
        "SIZE",
        "Budget for cached, unsynced, private and in-flight bytes together, such as 512MiB \
         [default: a quarter of the machine's]",
    ),
    Key::one(
        "private-spill",
        "SIZE",
        "Bytes of private pages that may go to a file in the state directory when their eighth of the memory is used \
         up; off: such writes are refused with ENOMEM [default: off]",
    ),
    Key::one("process-grace", "TIME", "How long a process lives after its Attach stream broke [default: 10s]"),
    Key::one(
        "process-idle-timeout",
        "TIME",
        "How long a process that never attached lives without a call [default: 10m]",
    ),
    Key::one(
        "auth",
        "MODE",
        "How callers are told apart: trust (they are taken at their word) or jwt (by signed tokens) [default: trust]",
    ),
    Key::many(
        "jwt-keys",
        "FILE",
        "Public keys that tokens may be signed with, a JWKS or PEM file; may be repeated, and is read again when it changes",
    ),
    Key::many("jwt-audience", "NAME", "Take tokens whose aud names this; needed with --auth jwt, may be repeated"),
    Key::many("jwt-issuer", "NAME", "Take only tokens whose iss is this; may be repeated; any unless it is set"),
    Key::one(
        "jwt-leeway",
        "TIME",
        "How far clocks may be apart for a token's exp and nbf, 5m at most; 30s unless it is set",
    ),
    Key::switch(
        "insecure",
        "Allow listening beyond this machine although callers are taken at their word, or without TLS",
    ),
    Key::one(
        "tls-cert",
        "FILE",
        "PEM file with the server's certificate, then those that lead to its authority: TCP listeners speak TLS. Read \
         again when it changes",
    ),
    Key::one("tls-key", "FILE", "PEM file with the private key of --tls-cert"),
    Key::one(
        "tls-client-ca",
        "FILE",
        "PEM file with the authorities of clients: who has no certificate of theirs is refused in the handshake",
    ),
    Key::one("max-message", "SIZE", "Largest data of one read or write [default: 4MiB]"),
    Key::one("node", "NAME", "Name of this server in the answers' header mmap-node [default: the machine's name]"),
    Key::one(
        "shutdown-timeout",
        "TIME",
        "Time at the end for running calls (a third of it at most) and for syncing; below the 30 s that container \
         runtimes give [default: 25s]",
    ),
    Key::one("max-connections", "N", "Connections at a time; more are closed at once [default: 1024]"),
    Key::one("max-streams", "N", "Streams at a time on a connection, attached processes included [default: 1024]"),
    Key::one("max-calls", "N", "Calls that run at a time; more wait up to 30 s [default: 1024]"),
    Key::one("max-calls-per-connection", "N", "Calls of one connection that run at a time [default: 256]"),
    Key::one("workers", "N", "Threads that run calls [default: the machine's cores less one, at least 1]"),
    Key::one("max-mappings", "N", "Mappings of all processes together [default: 1048576]"),
    Key::one("max-mappings-per-process", "N", "Mappings of one process [default: 65530]"),
    Key::one("max-processes", "N", "Processes, attached or not [default: 16384]"),
    Key::one(
        "subject-mappings",
        "N",
        "Mappings of one subject (with trust: of all callers together); no limit unless set",
    ),
    Key::one("subject-private", "SIZE", "Bytes of one subject's private pages in memory; no limit unless set"),
    Key::one("subject-dirty", "SIZE", "Bytes that one subject has unsynced; no limit unless set"),
    Key::one(
        "subject-calls-per-second",
        "N",
        "Calls and pipelined operations of one subject a second, as many of them at once at most; no limit unless set",
    ),
    Key::one(
        "subject-bytes-per-second",
        "SIZE",
        "Bytes that one subject reads and writes a second; no limit unless set",
    ),
    Key::one(
        "subject-calls",
        "N",
        "Calls and pipelined operations of one subject that run at a time; those that wait for nothing do not count; no \
         limit unless set",
    ),
    Key::one("store-timeout", "TIME", "When a store that does not answer counts as failed [default: 25s]"),
    Key::one(
        "metrics-listen",
        "ADDR",
        "Tell metrics to Prometheus at http://ADDR/metrics, and health at /healthz: host:port; beyond this machine only \
         with --insecure; nowhere if it is not set",
    ),
    Key::one(
        "log",
        "FILTER",
        "What to log, as in RUST_LOG, which it wins over: error, info, mmap_server=debug,info [default: info,object_store=warn]",
    ),
    Key::one("log-format", "FORMAT", "How the log's lines look: human, or json, an object a line [default: human]"),
    Key::one(
        "otlp-endpoint",
        "URL",
        "Collector that traces and metrics go to by OTLP over gRPC, such as http://127.0.0.1:4317, or off; where it is \
         not set, OTEL_EXPORTER_OTLP_ENDPOINT says [default: off]",
    ),
    Key::one(
        "otlp-metrics",
        "TIME",
        "How often metrics go to that collector, or off: for where Prometheus comes for them itself [default: 60s]",
    ),
    Key::one(
        "trace-sample",
        "RATIO",
        "Part of the calls that is traced where the caller does not decide, 0 to 1 [default: 0.01]",
    ),
    Key::one(CONFIG, "FILE", "TOML file with the same keys; flags win over variables, variables over the file"),
];

const EXAMPLES: &str = "\
Examples:
  mmapd
      Serves a folder in your data directory at / on 127.0.0.1:50051.
  mmapd --mount /=file:///srv/data --listen unix:/run/user/1000/mmapd.sock
      Serves /srv/data to this machine's programs through a socket file.
  AWS_REGION=eu-central-1 mmapd --mount /data=s3://bucket/prefix --mount /ref='gs://other?ro' --memory 2GiB
      Serves two buckets; credentials come from the environment (AWS_ACCESS_KEY_ID, ...).

Exit codes: 0 all that was acknowledged is stored, 1 it failed or something could not be stored,
2 the configuration is wrong.";

/// The command line that the table says.
pub(super) fn command() -> Command {
    Command::new("mmapd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Memory-mapped files over object storage, as a gRPC service")
        .after_help(EXAMPLES)
        .args(settings_args())
}

/// A flag for each key.
pub(super) fn settings_args() -> impl Iterator<Item = Arg> {
    KEYS.iter().map(Key::arg)
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key whose name is most like `name`.
pub(super) fn nearest(name: &str) -> &'static str {
    let names = KEYS.iter().map(|key| key.name).filter(|known| *known != CONFIG);
    names.min_by_key(|known| edit_distance(name, known)).unwrap_or("listen")
}

/// How many insertions, deletions and replacements make `a` into `b` (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // A name longer than any key is far from all of them; the bound keeps a hostile file cheap.
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            let best = replaced.min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_keys_variable_is_its_name_in_capitals() {
        assert_eq!(find("state-dir").map(Key::variable).as_deref(), Some("MMAPD_STATE_DIR"));
    }

    #[test]
    fn a_misspelt_key_is_told_its_nearest() {
        for (wrong, right) in
            [("memroy", "memory"), ("state_dir", "state-dir"), ("listne", "listen"), ("mounts", "mount")]
        {
            assert_eq!(nearest(wrong), right);
        }
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
