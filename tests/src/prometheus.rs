//! The real Prometheus, from Debian: on a free loopback port, with its data in a folder that goes with it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, START_DEADLINE};
use crate::require::{Missing, program};
use crate::scrape::get;

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    _daemon: Daemon,
    addr: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one with the project's configuration, which scrapes `target` in the place of the configured one, every
    /// second and not as seldom as it would in earnest.
    ///
    /// # Errors
    /// If it is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(deploy: &Path, target: &str) -> Result<Self, Missing> {
        let program = program("prometheus", "apt-get install --no-install-recommends prometheus")?;
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let read = |name: &str| std::fs::read_to_string(deploy.join(name)).expect("the project has the file");
        let config = read("prometheus.yml");
        assert!(config.contains("mmapd:9464") && config.contains(": 15s"), "{config}");
        let config = config.replace("mmapd:9464", target).replace(": 15s", ": 1s");
        for (name, text) in [("prometheus.yml", config), ("alerts.yml", read("alerts.yml"))] {
            std::fs::write(folder.path().join(name), text).expect("the temporary folder can be written");
        }
        let mut command = Command::new(program);
        command.current_dir(folder.path()).args(["--web.listen-address=127.0.0.1:0", "--storage.tsdb.path=data"]);
        command.arg("--config.file=prometheus.yml");
        let mut daemon = Daemon::start("prometheus", &mut command);
        let addr = daemon.wait_for_lines(1, START_DEADLINE, |line| {
            let (_, addr) = line.split_once("msg=\"Listening on\" address=")?;
            addr.split_whitespace().next().map(str::to_owned)
        });
        daemon.wait_for_lines(1, START_DEADLINE, |line| line.contains("Server is ready").then_some(()));
        Ok(Self { _daemon: daemon, addr: addr.concat(), _folder: folder })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The series that `expression` has now, each with its value.
    ///
    /// # Errors
    /// What Prometheus has against the expression.
    pub fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)))?;
        let series = data["result"].as_array().ok_or_else(|| format!("no vector: {data}"))?;
        let value = |series: &Value| series["value"][1].as_str()?.parse().ok();
        series.iter().map(|series| value(series).ok_or_else(|| format!("no sample: {series}"))).collect()
    }

    /// The rules that it evaluates: name, expression, health and what was last in their way.
    ///
    /// # Errors
    /// If it does not say.
    pub fn rules(&self) -> Result<Vec<[String; 4]>, String> {
        let data = self.ask("/api/v1/rules")?;
        let groups = data["groups"].as_array().ok_or_else(|| format!("no groups: {data}"))?;
        let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
        let text = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        Ok(rules.map(|rule| ["name", "query", "health", "lastError"].map(|key| text(rule, key))).collect())
    }

    fn ask(&self, target: &str) -> Result<Value, String> {
        let (status, body) = get(&self.addr, target);
        let mut answer: Value = serde_json::from_str(&body).map_err(|error| format!("{status}: {error}: {body}"))?;
        match status {
            200 => Ok(answer["data"].take()),
            status => Err(format!("{status}: {}", answer["error"])),
        }
    }
}

/// How long after a workload its last scrape is there.
pub const SCRAPED: Duration = Duration::from_millis(2500);

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
