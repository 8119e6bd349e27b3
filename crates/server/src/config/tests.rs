//! Tests of the configuration as a whole: which source wins, and what is refused with which sentence.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::asked::Asked;
use super::auth::Auth;
use super::health::Trust;
use super::keys;
use super::listen::ListenAddr;
use super::refusal::Refusal;
use super::sources::Settings;
use super::tls::{TlsFiles, check_exposure};
use super::validated::{Config, Durability, default_listen};

const HOME: (&str, &str) = ("HOME", "/home/somebody");

fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Config, Refusal> {
    let args = std::iter::once("mmapd").chain(args.iter().copied()).map(OsString::from);
    let env: Vec<_> = env.iter().chain([&HOME]).copied().collect();
    Config::read(args, &|name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
}

fn sentence(args: &[&str], env: &[(&str, &str)]) -> String {
    read(args, env).unwrap_err().to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn without_arguments_it_serves_the_users_data_directory_on_loopback() {
    let config = read(&[], &[]).unwrap();
    assert_eq!(config.listen[0].to_string(), "127.0.0.1:50051");
    assert_eq!(config.state_dir, Path::new("/home/somebody/.local/share/mmapd"));
    assert_eq!(config.default_folder(), Path::new("/home/somebody/.local/share/mmapd/files"));
    assert!(config.mounts.is_empty());
    assert_eq!(config.limits.process_grace, Duration::from_secs(10));
    assert_eq!(config.limits.max_message, 4 << 20);
    assert!(config.limits.check().is_ok());
    assert!(!config.node.is_empty());
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = file("memory = \"100MiB\"\nmax-message = \"1MiB\"\nnode = \"file\"\nmax-calls = 7\n");
    let path = file.path().to_str().unwrap();
    let env = [("MMAPD_CONFIG", path), ("MMAPD_MEMORY", "200MiB"), ("MMAPD_NODE", "variable")];
    let config = read(&["--memory", "300MiB"], &env).unwrap();
    assert_eq!(config.limits.memory, 300 << 20);
    assert_eq!(config.node, "variable");
    assert_eq!(config.limits.max_message, 1 << 20);
    assert_eq!(config.bounds.calls, 7);
}

#[test]
fn a_repeatable_key_is_repeated_as_a_flag_spaced_in_a_variable_and_an_array_in_the_file() {
    let addrs = ["127.0.0.1:1", "unix:/run/m.sock"].map(|text| ListenAddr::parse(text).unwrap());
    let file = file("listen = [\"127.0.0.1:1\", \"unix:/run/m.sock\"]\n");
    for config in [
        read(&["--listen", "127.0.0.1:1", "--listen", "unix:/run/m.sock"], &[]),
        read(&[], &[("MMAPD_LISTEN", "127.0.0.1:1  unix:/run/m.sock")]),
        read(&["--config", file.path().to_str().unwrap()], &[]),
    ] {
        assert_eq!(config.unwrap().listen, addrs);
    }
    let config = read(&["--listen", "127.0.0.1:2"], &[("MMAPD_LISTEN", "127.0.0.1:1 127.0.0.1:3")]).unwrap();
    assert_eq!(config.listen.len(), 1, "a flag replaces the variable's whole list");
}

#[test]
fn mounts_in_the_file_are_texts_or_tables() {
    let texts = file("mount = [\"/a=memory:\", \"/b=memory:?ro\"]\n");
    let tables = file(
        "[[mount]]\nprefix = \"/a\"\nurl = \"memory:\"\n[[mount]]\nprefix = \"/b\"\nurl = \"memory:\"\nro = true\n",
    );
    for file in [texts, tables] {
        assert_eq!(read(&["--config", file.path().to_str().unwrap()], &[]).unwrap().mounts.len(), 2);
    }
    let nameless = file("[[mount]]\nurl = \"memory:\"\n");
    assert!(sentence(&["--config", nameless.path().to_str().unwrap()], &[]).contains("a mount needs a prefix"));
}

#[test]
fn listening_beyond_this_machine_needs_to_be_asked_for() {
    for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"] {
        let sentence = sentence(&["--listen", "127.0.0.1:0", "--listen", addr], &[]);
        assert!(sentence.starts_with("--listen: ") && sentence.contains("--insecure"), "{sentence}");
        assert!(read(&["--listen", addr, "--insecure"], &[]).is_ok());
        assert!(read(&["--listen", addr], &[("MMAPD_INSECURE", "true")]).is_ok());
        assert!(read(&["--listen", addr], &[("MMAPD_INSECURE", "0")]).is_err());
    }
}

#[test]
fn a_level_of_durability_is_one_of_three_and_process_if_none_is_named() {
    assert_eq!(read(&[], &[]).unwrap().durability, Durability::Process);
    for (name, level) in [("memory", Durability::Memory), ("process", Durability::Process), ("disk", Durability::Disk)]
    {
        assert_eq!(read(&["--durability", name], &[]).unwrap().durability, level);
    }
    assert!(sentence(&["--durability", "safe"], &[]).contains("memory, process, disk"));
}

#[test]
fn tokens_need_keys_and_an_audience_and_what_is_about_them_needs_jwt() {
    assert!(matches!(read(&["--auth", "trust"], &[]).unwrap().auth, Auth::Trust));
    assert!(sentence(&["--auth", "jwt"], &[]).contains("--jwt-keys"));
    assert!(sentence(&["--auth", "jwt", "--jwt-keys", "/k"], &[]).contains("--jwt-audience"));
    assert!(sentence(&[], &[("MMAPD_AUTH", "maybe")]).starts_with("MMAPD_AUTH: "));
    for (flag, value) in [("--jwt-keys", "/k"), ("--jwt-audience", "a"), ("--jwt-issuer", "i"), ("--jwt-leeway", "1s")]
    {
        assert!(sentence(&[flag, value], &[]).starts_with(&format!("{flag}: no token is checked")), "{flag}");
    }
    let jwt = ["--auth", "jwt", "--jwt-keys", "/k", "--jwt-keys", "/l", "--jwt-audience", "mmapd"];
    let Auth::Jwt(read_jwt) = read(&jwt, &[("MMAPD_JWT_ISSUER", "a b")]).unwrap().auth else { panic!("jwt") };
    assert_eq!(read_jwt.keys, [Path::new("/k"), Path::new("/l")]);
    assert_eq!(read_jwt.expected.audiences, ["mmapd"]);
    assert_eq!(read_jwt.expected.issuers, ["a", "b"]);
    assert_eq!(read_jwt.expected.leeway, Duration::from_secs(30));
    assert!(sentence(&[&jwt[..], &["--jwt-leeway", "6m"]].concat(), &[]).contains("5m"));
    assert!(sentence(&[&jwt[..], &["--listen", "0.0.0.0:1"]].concat(), &[]).contains("reads the tokens"));
    assert!(read(&[&jwt[..], &["--listen", "0.0.0.0:1", "--insecure"]].concat(), &[]).is_ok());
}

#[test]
fn private_pages_go_to_the_disk_only_if_it_is_said() {
    assert_eq!(read(&[], &[]).unwrap().limits.private_spill, 0);
    assert_eq!(read(&["--private-spill", "off"], &[]).unwrap().limits.private_spill, 0);
    assert_eq!(read(&[], &[("MMAPD_PRIVATE_SPILL", "2GiB")]).unwrap().limits.private_spill, 2 << 30);
}

#[test]
fn a_wrong_value_is_told_with_where_it_stands() {
    let wrong = file("memory = \"lots\"\n");
    let path = wrong.path().to_str().unwrap();
    assert!(sentence(&["--config", path], &[]).starts_with(&format!("memory in {path}: ")));
    for (args, place) in [
        (["--memory", "1MiB"], "--memory: "),
        (["--memory", "0"], "--memory: "),
        (["--max-message", "0"], "--max-message: "),
        (["--private-spill", "4KiB"], "--private-spill: "),
        (["--private-spill", "on"], "--private-spill: "),
        (["--max-message", "2GiB"], "--max-message: "),
        (["--process-grace", "10"], "--process-grace: "),
        (["--max-calls", "0"], "--max-calls: "),
        (["--max-streams", "4294967296"], "--max-streams: "),
        (["--node", "two words"], "--node: "),
        (["--listen", "nowhere"], "--listen: "),
    ] {
        let sentence = sentence(&args, &[]);
        assert!(sentence.starts_with(place), "{sentence}");
    }
    assert!(sentence(&["--memory", "64MiB", "--max-message", "32MiB"], &[]).starts_with("--memory: "));
}

#[test]
fn an_unknown_key_in_the_file_names_the_nearest_known_one() {
    for (text, nearest) in [("memroy = 1", "memory"), ("state_dir = \"/x\"", "state-dir"), ("config = \"/y\"", "")] {
        let file = file(text);
        let sentence = sentence(&["--config", file.path().to_str().unwrap()], &[]);
        assert!(sentence.contains("unknown key") && sentence.contains(nearest), "{sentence}");
    }
}

#[test]
fn a_file_that_is_missing_broken_or_of_wrong_types_is_refused() {
    assert!(sentence(&["--config", "/nowhere/mmapd.toml"], &[]).contains("cannot be read"));
    let broken = file("node = \"a\"\nmemory = \n");
    assert!(sentence(&["--config", broken.path().to_str().unwrap()], &[]).contains("line 2"));
    for text in ["memory = 1.5", "memory = [\"64MiB\"]", "[memory]\nx = 1", "listen = [[\"a\"]]"] {
        let file = file(text);
        assert!(sentence(&["--config", file.path().to_str().unwrap()], &[]).contains("does not fit"), "{text}");
    }
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let config = read(&[], &[("MMAPD_NODE", ""), ("MMAPD_LISTEN", "  "), ("MMAPD_MEMORY", "")]).unwrap();
    assert_eq!(config.listen, default_listen());
}

#[test]
fn help_names_every_flag_with_its_variable() {
    let help = sentence(&["--help"], &[]);
    let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for key in keys::KEYS {
        assert!(flat.contains(&format!("--{}", key.name)) && flat.contains(&key.variable()), "{}", key.name);
    }
    assert!(flat.contains("Examples:"));
}

fn asked(args: &[&str]) -> Asked {
    let args = std::iter::once("mmapd").chain(args.iter().copied()).map(OsString::from);
    Asked::read(args, &|name| (name == HOME.0).then(|| HOME.1.into())).unwrap()
}

#[test]
fn the_effective_configuration_read_as_a_file_is_the_same_configuration() {
    for args in [
        &[][..],
        &[
            "--listen",
            "127.0.0.1:1",
            "--listen",
            "unix:/run/\"m\".sock",
            "--mount",
            "/a=memory:",
            "--durability",
            "disk",
        ],
        &["--tls-cert", "/c", "--tls-key", "/k", "--tls-client-ca", "/ca", "--listen", "0.0.0.0:1", "--insecure"],
        &["--otlp-endpoint", "collector:4317", "--trace-sample", "0.5", "--log-format", "json"],
        &["--memory", "300MiB", "--max-calls", "7", "--node", "007", "--log", "debug", "--private-spill", "2GiB"],
    ] {
        let Asked::Check(config, text) = asked(&[&["config", "check"], args].concat()) else { panic!("{args:?}") };
        let file = file(&text);
        let again = read(&["--config", file.path().to_str().unwrap()], &[]).unwrap();
        let told = |config: &Config| Config { mounts: Vec::new(), ..config.clone() };
        assert_eq!(format!("{:?}", told(&config)), format!("{:?}", told(&again)), "{text}");
        // What is the default mount by itself is one that is asked for in the file.
        let mounts: Vec<_> = config.mounts.iter().map(ToString::to_string).collect();
        let default = vec![format!("/=file://{}", config.default_folder().display())];
        let again: Vec<_> = again.mounts.iter().map(ToString::to_string).collect();
        assert_eq!(again, if mounts.is_empty() { default } else { mounts }, "{text}");
    }
}

#[test]
fn every_setting_stands_in_the_configurations_page_and_nothing_else_does() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md")).unwrap();
    let shown: Vec<&str> = page.lines().filter(|line| line.starts_with("| `--")).collect();
    let known: Vec<String> = keys::KEYS.iter().map(keys::Key::row).collect();
    let text = known.join("\n");
    assert!(shown == known, "the table of docs/CONFIGURATION.md has to be:\n{text}\n");
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    let tls = read(&["--tls-cert", "/c.pem", "--tls-key", "/k.pem"], &[]).unwrap().tls.unwrap();
    assert_eq!((tls.cert, tls.key, tls.client_ca), ("/c.pem".into(), "/k.pem".into(), None));
    assert!(sentence(&["--tls-cert", "/c"], &[]).contains("--tls-key"));
    assert!(sentence(&[], &[("MMAPD_TLS_KEY", "/k")]).starts_with("MMAPD_TLS_KEY: "));
    assert!(sentence(&["--tls-client-ca", "/ca"], &[]).contains("--tls-cert"));
    // A caller is still taken at its word.
    let args = ["--tls-cert", "/c", "--tls-key", "/k", "--listen", "0.0.0.0:1"];
    assert!(sentence(&args, &[]).contains("--insecure"));
}

#[test]
fn only_tokens_and_tls_together_may_be_reached_from_elsewhere_unasked() {
    let exposure = |args: &[&str]| {
        let args = std::iter::once("mmapd").chain(args.iter().copied()).map(OsString::from);
        let settings = Settings::read(args, &|_| None).unwrap();
        let files = TlsFiles::read(&settings).unwrap();
        check_exposure(&settings, &[ListenAddr::parse("0.0.0.0:1").unwrap()], files.as_ref())
    };
    let (tls, jwt) = (["--tls-cert", "/c", "--tls-key", "/k"], ["--auth", "jwt"]);
    assert!(exposure(&[tls.as_slice(), &jwt].concat()).is_ok());
    assert!(exposure(&jwt).unwrap_err().to_string().contains("--tls-cert"));
    assert!(exposure(&tls).unwrap_err().to_string().contains("--auth trust"));
    assert!(exposure(&[]).unwrap_err().to_string().contains("--auth trust"));
}

#[test]
fn a_health_check_asks_the_configurations_own_server_unless_it_is_told_another() {
    let Asked::Health(own) = asked(&["health"]) else { panic!("it is asked for health") };
    assert_eq!((own.addr.to_string(), own.trust), ("127.0.0.1:50051".to_owned(), Trust::Plain));
    let file = file("listen = [\"0.0.0.0:7\", \"unix:/m.sock\"]\ntls-cert = \"/c\"\ntls-key = \"/k\"\n");
    let config = ["health", "--config", file.path().to_str().unwrap()];
    let Asked::Health(own) = asked(&config) else { panic!("it is asked for health") };
    assert_eq!((own.addr.to_string(), own.trust), ("127.0.0.1:7".to_owned(), Trust::Own));
    assert_eq!(own.identity, None);
    let Asked::Health(other) = asked(&["health", "--server", "https://[::1]:9", "--tls-ca", "/ca"]) else {
        panic!("it is asked for health")
    };
    assert_eq!(other.trust, Trust::Authority("/ca".into(), "::1".to_owned()));
}
#[test]
fn metrics_are_told_nowhere_unless_asked_for_and_beyond_this_machine_only_if_wanted() {
    assert!(read(&[], &[]).unwrap().metrics.listen.is_empty());
    let config = read(&["--metrics-listen", "127.0.0.1:9464"], &[]).unwrap();
    assert_eq!(config.metrics.listen, ["127.0.0.1:9464".parse().unwrap()]);
    let sentence = sentence(&[], &[("MMAPD_METRICS_LISTEN", "0.0.0.0:9464")]);
    assert!(sentence.starts_with("MMAPD_METRICS_LISTEN: ") && sentence.contains("--insecure"), "{sentence}");
    assert!(read(&["--metrics-listen", "0.0.0.0:9464", "--insecure"], &[]).is_ok());
    for wrong in ["9464", "unix:/run/metrics.sock", "nowhere"] {
        assert!(read(&["--metrics-listen", wrong], &[]).is_err(), "{wrong}");
    }
}

#[test]
fn the_collector_of_all_programs_is_taken_where_none_is_named() {
    let shared = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317");
    let endpoint = |args: &[&str], env: &[(&str, &str)]| read(args, env).unwrap().telemetry.otlp_endpoint;
    assert_eq!(endpoint(&[], &[]), None);
    assert_eq!(endpoint(&[], &[shared]).as_deref(), Some("http://a:4317"));
    let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:4317");
    assert_eq!(endpoint(&[], &[shared, of_traces]).as_deref(), Some("http://b:4317"));
    assert_eq!(endpoint(&["--otlp-endpoint", "c:4317"], &[shared]).as_deref(), Some("http://c:4317"));
    assert_eq!(endpoint(&[], &[("MMAPD_OTLP_ENDPOINT", "off"), shared]), None);
    let metrics = |args: &[&str], env: &[(&str, &str)]| {
        let sent = read(args, env).unwrap().telemetry.otlp_metrics;
        sent.map(|(endpoint, period)| (endpoint, period.as_secs()))
    };
    assert_eq!(metrics(&[], &[of_traces]), None);
    assert_eq!(metrics(&[], &[shared, of_traces]), Some(("http://a:4317".to_owned(), 60)));
    assert_eq!(metrics(&["--otlp-endpoint", "c:1", "--otlp-metrics", "5s"], &[]), Some(("http://c:1".to_owned(), 5)));
    assert_eq!(metrics(&["--otlp-endpoint", "c:1", "--otlp-metrics", "off"], &[]), None);
    assert!(
        sentence(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a")]).starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: ")
    );
    assert!(sentence(&["--trace-sample", "2"], &[]).starts_with("--trace-sample: "));
}
