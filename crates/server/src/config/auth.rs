//! [`Auth`]: how callers are told apart, and what is expected of their tokens.
//!
//! Invariants: with tokens there are keys and an audience; what is about tokens is not set without them, because it
//! would look as if they were checked.

use std::path::PathBuf;
use std::time::Duration;

use mmap_token::Expected;

use super::quantity::parse_time;
use super::refusal::Refusal;
use super::sources::Settings;

/// How far clocks may be apart, unless it is said.
const LEEWAY: Duration = Duration::from_secs(30);
/// And at most: a token is taken for as long after its end.
const LEEWAY_MAX: Duration = Duration::from_mins(5);

/// How callers are told apart.
#[derive(Clone, Debug)]
pub enum Auth {
    /// They are taken at their word.
    Trust,
    /// By signed tokens.
    Jwt(Jwt),
}

/// Which tokens are taken.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Files of public keys; at least one.
    pub keys: Vec<PathBuf>,
    /// What their claims have to say; at least one audience.
    pub expected: Expected,
}

/// What is set.
///
/// # Errors
/// What does not fit together.
pub(super) fn read(settings: &Settings) -> Result<Auth, Refusal> {
    let text = |text: &str| if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) };
    let keys = settings.many("jwt-keys", |path| text(path).map(PathBuf::from))?;
    let audiences = settings.many("jwt-audience", text)?;
    let issuers = settings.many("jwt-issuer", text)?;
    let leeway = settings.one("jwt-leeway", parse_leeway)?;
    let is_jwt = settings.one("auth", parse_mode)?.unwrap_or(false);
    if !is_jwt {
        let set = [("jwt-keys", keys.is_empty()), ("jwt-audience", audiences.is_empty())];
        let set = set.into_iter().chain([("jwt-issuer", issuers.is_empty()), ("jwt-leeway", leeway.is_none())]);
        return match set.into_iter().find(|(_, is_unset)| !is_unset) {
            Some((key, _)) => {
                Err(settings.refuse(key, "no token is checked with --auth trust: say --auth jwt, or leave it out"))
            }
            None => Ok(Auth::Trust),
        };
    }
    if keys.is_empty() {
        let sentence = "`jwt` needs to know who signs: name a JWKS or PEM file of public keys with --jwt-keys FILE \
                        (mmapctl token keygen makes one)";
        return Err(settings.refuse("auth", sentence));
    }
    if audiences.is_empty() {
        let sentence = "`jwt` needs an audience, so that tokens made for other services are not taken here: name it \
                        with --jwt-audience NAME, as the tokens have it in aud";
        return Err(settings.refuse("auth", sentence));
    }
    let expected = Expected { audiences, issuers, leeway: leeway.unwrap_or(LEEWAY) };
    Ok(Auth::Jwt(Jwt { keys, expected }))
}

fn parse_mode(text: &str) -> Result<bool, String> {
    match text {
        "trust" => Ok(false),
        "jwt" => Ok(true),
        _ => Err(format!("`{text}` is not a mode: it is one of trust, jwt")),
    }
}

fn parse_leeway(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        time if time > LEEWAY_MAX => Err(format!("`{text}` is more than 5m, the most that clocks may be apart")),
        time => Ok(time),
    }
}
