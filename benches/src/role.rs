//! What the programs `bench-peer` and `bench-peer-system` do, as their first argument says. They are started by the
//! benchmarks, not by people.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::mapped;
use crate::peers::settings::Settings;
use crate::peers::{echo, framed};

/// Plays the role of the first argument.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let role = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let outcome = match role.to_str() {
        Some("guard") => guard(&args),
        Some("echo") => serve_echo(&args),
        Some("framed") => serve_framed(&args),
        Some("mapped") => access_mapped(&args),
        _ => Err("roles: guard PROGRAM ARGS..., echo SETTINGS SOCKET, framed SOCKET, mapped FILE ACCESS".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes another program that is asked to end when whoever started it is gone.
fn guard(args: &[OsString]) -> Result<(), String> {
    let [program, args @ ..] = args else { return Err("guard needs a program".to_owned()) };
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| format!("no death signal: {error}"))?;
    let error = Command::new(program).args(args).exec();
    Err(format!("{}: {error}", program.display()))
}

fn text(arg: Option<&OsString>) -> Result<&str, String> {
    arg.and_then(|arg| arg.to_str()).ok_or_else(|| "an argument is missing".to_owned())
}

fn serve_echo(args: &[OsString]) -> Result<(), String> {
    let settings: Settings = serde_json::from_str(text(args.first())?).map_err(|error| error.to_string())?;
    settings.runtime()?.block_on(echo::serve(settings, text(args.get(1))?))
}

fn serve_framed(args: &[OsString]) -> Result<(), String> {
    let socket = text(args.first())?;
    Settings::TUNED.runtime()?.block_on(framed::serve(socket)).map_err(|error| error.to_string())
}

fn access_mapped(args: &[OsString]) -> Result<(), String> {
    let access = serde_json::from_str(text(args.get(1))?).map_err(|error| error.to_string())?;
    let sample = mapped::act(text(args.first())?.as_ref(), access)?;
    println!("{}", serde_json::to_string(&sample).map_err(|error| error.to_string())?);
    Ok(())
}
