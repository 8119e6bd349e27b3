//! What a person reads at the start: where the server listens, what is mounted, where the state lies, and what
//! to type next. Text only; printing it is the caller's affair.

use std::fmt::Write as _;

use mmap_core::manager::Recovered;

use crate::config::{Durability, show_size};
use crate::server::Server;

/// A file that does not matter, for the command to try.
const EXAMPLE: &str = r#"{"path": "/hello.txt", "length": "4096", "prot": 3, "shared": true, "create": true}"#;

/// The lines for `server`.
pub(crate) fn banner(server: &Server) -> String {
    let config = server.config();
    let mut text = format!("mmapd {} on node {}\n", env!("CARGO_PKG_VERSION"), config.node);
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    for (asked, addr) in config.listen.iter().zip(server.addrs()) {
        line("listening", &if asked.is_local() { addr } else { format!("{addr} (asked for {asked})") });
    }
    for mount in server.mounts() {
        line("mounted", &mount.to_string());
    }
    line("state", &config.state_dir.display().to_string());
    line("memory", &show_size(config.limits.memory));
    line("durability", durability(config.durability));
    if let Some(recovered) = recovered(server.recovered()) {
        line("recovered", &recovered);
    }
    if let Some(addr) = server.addrs().first() {
        let authority = if addr.starts_with("https:") { " --tls-ca CA.pem" } else { "" };
        line("try", &format!("mmapctl --server {addr}{authority} ping"));
        line("or", &grpcurl(addr));
    }
    text
}

fn durability(level: Durability) -> &'static str {
    match level {
        Durability::Memory => "memory: what is not synced is lost when the server is killed",
        Durability::Process => "process: acknowledged writes survive a killed server, not a power loss before msync",
        Durability::Disk => "disk: acknowledged writes survive power loss",
    }
}

/// What came back from an earlier run, if anything did.
fn recovered(recovered: &Recovered) -> Option<String> {
    let Recovered { processes, mappings, unsynced_bytes, damage, .. } = recovered;
    let damage = damage.as_ref().map(|damage| format!("; LOST: {damage}")).unwrap_or_default();
    let anything = *processes > 0 || *mappings > 0 || *unsynced_bytes > 0 || !damage.is_empty();
    anything.then(|| {
        format!("{processes} processes, {mappings} mappings, {} not synced yet{damage}", show_size(*unsynced_bytes))
    })
}

fn grpcurl(addr: &str) -> String {
    // grpcurl dials a socket file by its path, with a flag of its own, and would take that path for the
    // authority, which HTTP/2 refuses.
    let (flag, target) = match (addr.strip_prefix("unix:"), addr.strip_prefix("https://")) {
        (Some(path), _) => ("-plaintext -unix -authority localhost", path),
        (None, Some(secure)) => ("-cacert CA.pem", secure),
        (None, None) => ("-plaintext", addr),
    };
    format!(
        "grpcurl {flag} -H 'mmap-pid: 1' -H 'mmap-capabilities: FileRead,FileWrite' -d '{EXAMPLE}' \
         {target} mmap.v1.MmapService/Mmap"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_try_dials_a_socket_as_well_as_a_port() {
        assert!(grpcurl("127.0.0.1:5").ends_with("' 127.0.0.1:5 mmap.v1.MmapService/Mmap"));
        assert!(
            grpcurl("unix:/m.sock").contains("-unix -authority localhost ")
                && grpcurl("unix:/m.sock").contains(" /m.sock ")
        );
        let secure = grpcurl("https://127.0.0.1:5");
        assert!(secure.contains(" -cacert ") && secure.contains(" 127.0.0.1:5 ") && !secure.contains("-plaintext"));
    }
}
