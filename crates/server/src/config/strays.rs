//! Variables that look like settings and are none: a misspelt one is otherwise silently without effect.
//!
//! Kubernetes and Docker put variables into a container for every service or linked container, named after it: for a
//! service `mmapd` these begin as ours do. They are no mistake.

use super::keys::{KEYS, Key, nearest};

const PREFIX: &str = "MMAPD_";

/// A sentence for each of `names` that begins as a setting's variable does and is none.
pub(super) fn strays(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let mut found: Vec<String> = names.into_iter().filter(|name| is_stray(name) && !known.contains(name)).collect();
    found.sort();
    let told = found.into_iter().map(|name| {
        let asked = name.trim_start_matches(PREFIX).to_ascii_lowercase().replace('_', "-");
        let near = KEYS.iter().find(|key| key.name == nearest(&asked)).map(Key::variable).unwrap_or_default();
        format!("the variable {name} is not a setting and has no effect: did you mean {near}")
    });
    told.collect()
}

fn is_stray(name: &str) -> bool {
    name.starts_with(PREFIX) && !is_injected(name)
}

/// `MMAPD_SERVICE_HOST`, `MMAPD_SERVICE_PORT_GRPC`, `MMAPD_PORT`, `MMAPD_PORT_50051_TCP_ADDR`, and the same of services
/// whose names begin with `mmapd-`; `MMAPD_NAME` and `MMAPD_ENV_…` of a Docker link.
fn is_injected(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').skip(1).collect();
    let is_service = parts.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]));
    let is_port = parts
        .windows(3)
        .any(|three| matches!(three, ["PORT", number, "TCP" | "UDP" | "SCTP"] if number.parse::<u16>().is_ok()));
    let is_link = matches!(parts.as_slice(), ["NAME"] | ["ENV", _, ..]);
    is_service || is_port || is_link || parts.last() == Some(&"PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_with_the_right_one() {
        let names = ["PATH", "MMAPD_MEMORY", "MMAPD_MEMROY", "MMAPD_STATEDIR", "MMAPCTL_SERVER"].map(str::to_owned);
        let told = strays(names);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("MMAPD_MEMROY") && told[0].ends_with("MMAPD_MEMORY"), "{told:?}");
        assert!(told[1].contains("MMAPD_STATEDIR") && told[1].ends_with("MMAPD_STATE_DIR"), "{told:?}");
    }

    #[test]
    fn what_kubernetes_and_docker_put_there_is_no_mistake() {
        let injected = [
            "MMAPD_SERVICE_HOST",
            "MMAPD_SERVICE_PORT",
            "MMAPD_SERVICE_PORT_GRPC",
            "MMAPD_PORT",
            "MMAPD_PORT_50051_TCP",
            "MMAPD_PORT_50051_TCP_PROTO",
            "MMAPD_PORT_50051_TCP_PORT",
            "MMAPD_PORT_50051_TCP_ADDR",
            "MMAPD_HEADLESS_SERVICE_HOST",
            "MMAPD_HEADLESS_PORT_50051_TCP",
            "MMAPD_NAME",
            "MMAPD_ENV_PATH",
        ];
        assert_eq!(strays(injected.map(str::to_owned)), Vec::<String>::new());
        assert!(KEYS.iter().all(|key| !is_injected(&key.variable())), "a setting must not be named like these");
    }
}
