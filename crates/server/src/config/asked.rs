//! [`Asked`]: what the command line asks the program to do.

use std::ffi::OsString;

use super::effective::effective;
use super::health::{HealthQuestion, health_command};
use super::keys::{command, settings_args};
use super::refusal::Refusal;
use super::sources::{Env, Settings};
use super::validated::Config;

/// What the program is asked to do.
#[derive(Debug)]
pub enum Asked {
    /// Serve.
    Serve(Box<Config>),
    /// Tell how it would serve: the configuration, and its text.
    Check(Box<Config>, String),
    /// Ask a server how it is.
    Health(Box<HealthQuestion>),
}

impl Asked {
    /// Reads flags (the program's name first), environment and file.
    ///
    /// # Errors
    /// What is wrong, with where it stands; or that help or the version was asked for.
    pub fn read(args: impl IntoIterator<Item = OsString>, env: &Env<'_>) -> Result<Self, Refusal> {
        let check = clap::Command::new("check")
            .about("Read everything as a start would, print what comes of it, and change nothing")
            .args(settings_args());
        let config = clap::Command::new("config")
            .about("Look at the configuration")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand(check);
        let command = command().subcommand(config).subcommand(health_command()).args_conflicts_with_subcommands(true);
        let matches = command.try_get_matches_from(args)?;
        if let Some(matches) = matches.subcommand_matches("health") {
            return Ok(Self::Health(Box::new(HealthQuestion::read(matches, env)?)));
        }
        let check = matches.subcommand_matches("config").and_then(|matches| matches.subcommand_matches("check"));
        let settings = Settings::of(check.unwrap_or(&matches), env)?;
        let config = Box::new(Config::of(&settings, env)?);
        Ok(match check {
            Some(_) => {
                let text = effective(&settings, &config);
                Self::Check(config, text)
            }
            None => Self::Serve(config),
        })
    }
}
