//! [`METRICS`]: every metric once, with its type, unit, labels and meaning. What to do when one is bad stands in
//! docs/METRICS.md, which has the same rows.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the server starts again.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many fell below each of several bounds.
    Histogram,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it counts in.
    pub unit: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it means, in a sentence.
    pub help: &'static str,
}

impl Kind {
    /// As Prometheus writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Each row is a metric: the name that the code has for it, and what it is.
macro_rules! metrics {
    ($($ident:ident: $kind:ident $name:literal $unit:literal $labels:expr, $help:literal;)*) => {
        $(pub(super) static $ident: Metric =
            Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: &$labels, help: $help };)*

        /// Every metric there is.
        pub static METRICS: &[&Metric] = &[$(&$ident),*];
    };
}

metrics! {
    BUILD_INFO: Gauge "mmapd_build_info" "always 1" ["version", "node", "durability"],
        "What runs: its version, its node's name and its level of durability";
    START_TIME: Gauge "mmapd_start_time_seconds" "seconds since 1970" [],
        "When the server began to serve";
    UPTIME: Gauge "mmapd_uptime_seconds" "seconds" [],
        "How long the server has served";
    SERVING: Gauge "mmapd_serving" "0 or 1" [],
        "Whether the server takes calls: 0 once it stops";
    MOUNT_UP: Gauge "mmapd_mount_up" "0 or 1" ["mount"],
        "Whether the mount's store answered the last sign of life that it was asked for, every 5 s";

    CALLS: Counter "mmapd_calls_total" "calls" ["method", "code"],
        "Calls that have ended, by method and gRPC code; a stream when its last message is out, Attach when it has begun";
    CALL_SECONDS: Histogram "mmapd_call_seconds" "seconds" ["method"],
        "How long calls took, from their headers to their answer; a stream as a whole";
    OPERATIONS: Counter "mmapd_pipeline_operations_total" "operations" ["operation", "code"],
        "Operations of MmapPipeline streams that were answered, by kind and gRPC code";
    OPERATION_WAIT: Histogram "mmapd_pipeline_wait_seconds" "seconds" ["operation"],
        "How long pipelined operations took that had to wait for a store, for memory or for a commit; those answered at once are not timed, because two looks at the clock would cost a fiftieth of them";
    STREAMS: Gauge "mmapd_streams" "streams" ["method"],
        "Streams of data that are open";
    READ_BYTES: Counter "mmapd_read_bytes_total" "bytes" [],
        "Bytes that callers read from mappings, by any method";
    WRITTEN_BYTES: Counter "mmapd_written_bytes_total" "bytes" [],
        "Bytes that callers wrote to mappings, by any method";
    CONNECTIONS: Counter "mmapd_connections_total" "connections" [],
        "Connections that were accepted";

    LIMIT: Gauge "mmapd_limit" "that of the limit" ["limit"],
        "The most that there may be: connections, running calls, mappings, processes, bytes of unsent answers";
    LIMIT_USED: Gauge "mmapd_limit_used" "that of the limit" ["limit"],
        "How much of each limit is used";
    MEMORY_SHARE: Gauge "mmapd_memory_share_bytes" "bytes" ["share"],
        "The shares of the memory budget: clean blocks, unsynced ones, private pages, fetches and write-backs";
    MEMORY_USED: Gauge "mmapd_memory_used_bytes" "bytes" ["share"],
        "How much of each share is used";
    MEMORY_BUDGET: Gauge "mmapd_memory_budget_bytes" "bytes" [],
        "The memory budget as a whole";
    WAITING_WRITERS: Gauge "mmapd_waiting_writers" "calls" [],
        "Writers that wait for unsynced bytes to be written back, because these are at their limit";

    MAPPINGS: Gauge "mmapd_mappings" "mappings" [],
        "Mappings that there are";
    PROCESSES: Gauge "mmapd_processes" "processes" [],
        "Processes that live";
    ATTACHED: Gauge "mmapd_processes_attached" "processes" [],
        "Those of them that are attached by a stream";
    FAULTS: Counter "mmapd_faults_total" "blocks of 64 KiB" ["kind"],
        "Blocks that calls touched: minor were in memory (cache hits), major had to be waited for (cache misses)";
    READ_AHEAD: Counter "mmapd_read_ahead_bytes_total" "bytes" ["outcome"],
        "What was read ahead: brought before anybody asked, used by a reader that came, wasted on one that did not";
    PRIVATE_BYTES: Gauge "mmapd_private_bytes" "bytes" [],
        "Private mappings' own pages, the spilled ones included; they are in no store";
    SPILLED_BYTES: Gauge "mmapd_spilled_bytes" "bytes" [],
        "Private pages in the spill file";
    SPILL_MAX: Gauge "mmapd_spill_limit_bytes" "bytes" [],
        "What the spill file may have; 0 if private pages are not spilled";

    UNSYNCED_BYTES: Gauge "mmapd_unsynced_bytes" "bytes" ["mount"],
        "Dirty bytes: written by callers, and not in the store yet";
    UNSYNCED_FILES: Gauge "mmapd_unsynced_files" "files" ["mount"],
        "Files with such bytes";
    UNSYNCED_AGE: Gauge "mmapd_unsynced_age_seconds" "seconds" ["mount"],
        "How long the oldest such byte has waited; 0 if there is none";
    AT_RISK: Gauge "mmapd_at_risk_bytes" "bytes" ["event"],
        "Acknowledged bytes that would be lost now: if the server were killed, and if the machine lost its power";
    STALE_FILES: Gauge "mmapd_stale_files" "files" ["mount"],
        "Files with unsynced bytes whose content somebody else changed in the store: their syncs answer ESTALE";
    ORPHANED_FILES: Gauge "mmapd_orphaned_files" "files" ["mount"],
        "Files that ended processes left unsynced: the server stores them itself";
    BACKLOG_FILES: Gauge "mmapd_backlog_files" "files" ["mount"],
        "Files whose last write-back failed for want of the store, and that wait for the next one";
    BACKLOG_SECONDS: Gauge "mmapd_backlog_seconds" "seconds" ["mount"],
        "How long the mount has not taken its bytes; 0 if it does";
    CONFLICTS: Gauge "mmapd_conflicts" "conflicts" [],
        "Conflicts that are kept aside in the state directory for a person to decide";
    WRITE_BACK_SECONDS: Histogram "mmapd_write_back_seconds" "seconds" [],
        "How long write-backs took that stored something, from the cut to what the store holds";
    WRITE_BACK_BYTES: Counter "mmapd_write_back_bytes_total" "bytes" [],
        "Dirty bytes that write-backs stored, in whole pages";
    WRITE_BACK_FAILURES: Counter "mmapd_write_back_failures_total" "write-backs" ["outcome"],
        "Write-backs that did not store: conflict, because the file had changed in its store, or failed";

    STORE_CALLS: Counter "mmapd_store_requests_total" "requests" ["mount", "request", "outcome"],
        "What stores were asked, and what came of it; a request here may be several on the network";
    STORE_SECONDS: Histogram "mmapd_store_request_seconds" "seconds" ["mount", "request"],
        "How long stores took to answer, however they did";
    STORE_READ: Counter "mmapd_store_read_bytes_total" "bytes" ["mount"],
        "Bytes of files that came from the store";
    STORE_WRITTEN: Counter "mmapd_store_written_bytes_total" "bytes" ["mount"],
        "Dirty bytes that the store has taken; what a layout rewrites beside them is not counted";

    JOURNAL_BYTES: Gauge "mmapd_journal_bytes" "bytes" [],
        "What the journal takes on the disk; 0 without a journal";
    JOURNAL_WAITING: Gauge "mmapd_journal_waiting_bytes" "bytes" [],
        "Bytes that wait to be written to the journal, and whose callers wait for that";
    JOURNAL_WAITING_MAX: Gauge "mmapd_journal_waiting_limit_bytes" "bytes" [],
        "The most that may wait: then writers wait in line";
    JOURNAL_STUCK: Gauge "mmapd_journal_stuck" "0 or 1" [],
        "Whether the journal cannot grow, because its disk is full or does not let it";
    JOURNAL_FAILED: Gauge "mmapd_journal_failed" "0 or 1" [],
        "Whether the journal has failed: reads and syncs go on, writes are refused until a restart";
    JOURNAL_WRITTEN: Counter "mmapd_journal_written_bytes_total" "bytes" [],
        "Bytes written to the journal";
    JOURNAL_WRITE_SECONDS: Histogram "mmapd_journal_write_seconds" "seconds" [],
        "How long the journal's batches took to be written, at level disk with their sync";
    JOURNAL_SYNC_SECONDS: Histogram "mmapd_journal_sync_seconds" "seconds" [],
        "How long the disk took to sync the journal";
    STATE_FREE: Gauge "mmapd_state_disk_free_bytes" "bytes" [],
        "What is free of the disk of the state directory";
    STATE_SIZE: Gauge "mmapd_state_disk_bytes" "bytes" [],
        "The disk of the state directory";

    PROCESS_RESIDENT: Gauge "mmapd_process_resident_bytes" "bytes" [],
        "Resident memory of the server's process, as the system counts it";
    PROCESS_CPU: Counter "mmapd_process_cpu_seconds_total" "seconds" [],
        "Time that the server's process was on a core";
    PROCESS_FDS: Gauge "mmapd_process_open_fds" "file descriptors" [],
        "File descriptors that are open";
    PROCESS_FDS_MAX: Gauge "mmapd_process_max_fds" "file descriptors" [],
        "File descriptors that may be open";
    PROCESS_THREADS: Gauge "mmapd_process_threads" "threads" [],
        "Threads of the server's process";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus_and_stand_once() {
        let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for Metric { name, kind, unit, labels, help } in METRICS {
            let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(name.starts_with("mmapd_") && plain, "{name}");
            let suffix = if *kind == Kind::Counter { "_total" } else { "" };
            let base = name.strip_suffix(suffix).unwrap_or_else(|| panic!("{name} does not end in {suffix}"));
            assert!(!base.ends_with("_total"), "{name}");
            assert!(*unit != "bytes" || base.ends_with("_bytes"), "{name}");
            assert!(!unit.starts_with("seconds") || base.ends_with("_seconds"), "{name}");
            assert!(*kind != Kind::Histogram || *unit == "seconds", "{name}");
            assert!(!labels.contains(&"le") && !help.is_empty() && !help.ends_with('.'), "{name}");
        }
    }
}
