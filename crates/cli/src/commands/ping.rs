//! `ping`: whether a server is there and serves, and how far away it is.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{
    context::Context,
    exit::{Exit, Failure},
    output, units,
};

/// Ask the server how it is; exit code 6 if it does not serve
#[derive(Debug, Args)]
pub(crate) struct Ping {}

impl Ping {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let pong = context.client.ping().await?;
        let server = &context.reporter.server;
        if context.is_json() {
            output::json(&json!({
                "server": server,
                "serving": pong.serving,
                "round_trip_us": u64::try_from(pong.round_trip.as_micros()).unwrap_or(u64::MAX),
                "node": pong.node,
            }))?;
        } else if pong.serving {
            let node = pong.node.map(|node| format!(" (node {node})")).unwrap_or_default();
            output::line(&format!("{server} serves: {}{node}", units::human_duration(pong.round_trip)))?;
        }
        if pong.serving {
            return Ok(());
        }
        let message = format!("{server} answers but does not serve: one of its mounts fails, or it is shutting down");
        Err(Failure { exit: Exit::Unavailable, message }.into())
    }
}
