//! `token`: keys and tokens for servers with `--auth jwt`. Nothing here talks to a server.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use mmap_client::Capability;
use mmap_token::{Audience, Claims, Expected, KeySet, PathClaim, PrivateKey, Rights, TOKEN_MAX, Unverified, now};
use serde_json::{Value, json};

use crate::{exit::Failure, output, units};

/// Make and read the tokens of servers with --auth jwt
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Keygen(Keygen),
    Mint(Mint),
    Show(Show),
}

/// Make a key (Ed25519) that signs tokens, and the public half for the server's --jwt-keys
#[derive(Debug, Args)]
struct Keygen {
    /// Where to write the private key; it must not be there yet, and only its owner can read it
    key: PathBuf,
    /// Add the public key to this JWKS file, which is made if it is missing; printed otherwise
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// The key's id [default: its thumbprint]
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
}

/// Sign a token, and print it
#[derive(Debug, Args)]
struct Mint {
    /// The private key in PEM (PKCS #8): Ed25519, P-256 or RSA
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The id that the server knows the key by [default: its thumbprint; none for RSA]
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// Who it is for: the owner of processes and mappings
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// What it allows, with commas: FileRead, FileWrite, SystemInfo
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "FileRead,FileWrite", value_parser = capability)]
    capabilities: Vec<String>,
    /// For which files: PREFIX:r or PREFIX:rw; may be repeated [default: all]
    #[arg(long = "path", value_name = "PREFIX:RIGHTS", value_parser = path_claim)]
    paths: Vec<PathClaim>,
    /// For which server: its --jwt-audience
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// By whom: the server's --jwt-issuer, if it has one
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// How long it holds
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::parse_duration)]
    ttl: Duration,
}

/// Say what a token allows, to whom, and until when
#[derive(Debug, Args)]
struct Show {
    /// A file with the token [default: standard input]
    file: Option<PathBuf>,
    /// Check its signature with these public keys (JWKS or PEM), as a server does; may be repeated
    #[arg(long, value_name = "FILE")]
    jwt_keys: Vec<PathBuf>,
}

impl Token {
    pub(crate) fn run(&self, is_json: bool) -> Result<()> {
        match &self.command {
            Command::Keygen(keygen) => keygen.run(),
            Command::Mint(mint) => mint.run(),
            Command::Show(show) => show.run(is_json),
        }
    }
}

impl Keygen {
    fn run(&self) -> Result<()> {
        let (key, pem) = PrivateKey::generate()?;
        let jwk = key.public_jwk(self.kid.as_deref())?;
        // Read before anything is written: a broken file must not leave half of the work done.
        let set = self.jwks.as_deref().map(|path| with_key(path, &jwk)).transpose()?;
        let shown = self.key.display();
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.key)
            .with_context(|| format!("cannot make {shown}"))?;
        file.write_all(pem.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {shown}"))?;
        match (&self.jwks, set) {
            (Some(path), Some(set)) => replace(path, &set),
            _ => output::json(&json!({ "keys": [jwk] })),
        }
    }
}

/// The set of keys in a file, with one more.
fn with_key(path: &Path, jwk: &Value) -> Result<Value> {
    let shown = path.display();
    let mut set = match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{shown} is not a JWKS"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({ "keys": [] }),
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    let Some(keys) = set.get_mut("keys").and_then(Value::as_array_mut) else {
        return Err(Failure::usage(format!("{shown} is not a JWKS: it has no list of keys")).into());
    };
    if keys.iter().any(|known| known["kid"] == jwk["kid"]) {
        let id = &jwk["kid"];
        return Err(Failure::conflict(format!("{shown} has a key {id} already: choose another --kid")).into());
    }
    keys.push(jwk.clone());
    Ok(set)
}

/// At once: a server may be reading it.
fn replace(path: &Path, set: &Value) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("cannot write {}", path.display());
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(failed)?;
    writeln!(file, "{}", serde_json::to_string_pretty(set)?).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

impl Mint {
    fn run(&self) -> Result<()> {
        let shown = self.key.display();
        let pem = fs::read_to_string(&self.key).with_context(|| format!("cannot read {shown}"))?;
        let key = PrivateKey::from_pem(&pem).with_context(|| format!("cannot use {shown}"))?;
        let own_id = || key.public_jwk(None).ok().and_then(|jwk| jwk["kid"].as_str().map(str::to_owned));
        let id = self.kid.clone().or_else(own_id);
        let made = now();
        let claims = Claims {
            sub: self.subject.clone(),
            capabilities: self.capabilities.clone(),
            paths: Some(self.paths.clone()).filter(|paths| !paths.is_empty()),
            aud: self.audience.clone().map(Audience::One),
            iss: self.issuer.clone(),
            exp: made.saturating_add(self.ttl.as_secs().max(1)),
            nbf: Some(made),
            iat: Some(made),
        };
        output::line(&key.mint(id.as_deref(), &claims)?)
    }
}

fn capability(text: &str) -> Result<String, String> {
    let all = [Capability::FileRead, Capability::FileWrite, Capability::SystemInfo];
    let known = all.iter().find(|known| known.as_str() == text.trim());
    known.map(|known| known.as_str().to_owned()).ok_or_else(|| {
        format!("{text:?} is no capability: the known ones are {}", all.map(Capability::as_str).join(", "))
    })
}

fn path_claim(text: &str) -> Result<PathClaim, String> {
    let (prefix, rights) = match text.rsplit_once(':') {
        Some((prefix, "r")) => (prefix, Rights::R),
        Some((prefix, "rw")) => (prefix, Rights::Rw),
        Some(_) | None => return Err(format!("{text:?} has no rights: write /data:r or /data:rw")),
    };
    let is_prefix = prefix == "/" || (prefix.starts_with('/') && !prefix.ends_with('/'));
    if !is_prefix {
        return Err(format!("{prefix:?} is no prefix: write / or /data, without a / at the end"));
    }
    Ok(PathClaim { prefix: prefix.to_owned(), rights })
}

impl Show {
    fn run(&self, is_json: bool) -> Result<()> {
        let token = self.token()?;
        let shown = mmap_token::peek(&token).map_err(|fault| Failure::failed(format!("this is no token: {fault}")))?;
        let checked = self.check(&token)?;
        if is_json {
            return output::json(&json!({
                "algorithm": shown.algorithm,
                "kid": shown.key_id,
                "claims": shown.claims,
                "holds": checked.as_ref().map(Result::is_ok),
                "why_not": checked.and_then(Result::err),
            }));
        }
        words(&shown).iter().try_for_each(|line| output::line(line))?;
        match checked {
            None => output::line("signature    not checked: name the public keys with --jwt-keys"),
            Some(Ok(())) => output::line("signature    right, by one of these keys"),
            Some(Err(why)) => Err(Failure::failed(format!("the token does not hold: {why}")).into()),
        }
    }

    fn token(&self) -> Result<String> {
        let mut text = String::new();
        let limit = TOKEN_MAX as u64 * 2;
        match &self.file {
            Some(path) => {
                let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
                file.take(limit).read_to_string(&mut text)
            }
            None => io::stdin().lock().take(limit).read_to_string(&mut text),
        }
        .context("cannot read the token")?;
        Ok(text.trim().to_owned())
    }

    /// `None`: there are no keys to check it with.
    fn check(&self, token: &str) -> Result<Option<Result<(), String>>> {
        if self.jwt_keys.is_empty() {
            return Ok(None);
        }
        let mut keys = Vec::new();
        for path in &self.jwt_keys {
            let shown = path.display();
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
            keys.extend(KeySet::read(&text).with_context(|| format!("cannot use {shown}"))?);
        }
        let checked = KeySet::of(keys)?.verify(token, &Expected::default(), now());
        Ok(Some(checked.map(drop).map_err(|fault| fault.to_string())))
    }
}

/// What a token says, for people.
fn words(token: &Unverified) -> Vec<String> {
    let Claims { sub, capabilities, paths, aud, iss, exp, nbf, .. } = &token.claims;
    // Whoever made it may have put anything into it, also what a terminal would obey.
    let plain = |text: &str| text.escape_debug().to_string();
    let mut lines = vec![format!("subject      {}", plain(sub))];
    lines.push(format!(
        "may          {}",
        match capabilities.as_slice() {
            [] => "nothing: it has no capabilities".to_owned(),
            names => names.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", "),
        }
    ));
    match paths.as_deref() {
        None => lines.push("files        all".to_owned()),
        Some([]) => lines.push("files        none".to_owned()),
        Some(paths) => lines.extend(paths.iter().map(|path| {
            let rights = if path.rights == Rights::Rw { "look and change" } else { "look" };
            format!("files        {} and below: {rights}", plain(&path.prefix))
        })),
    }
    if let Some(from) = nbf.filter(|from| *from > now()) {
        lines.push(format!("begins       {}", moment(from)));
    }
    lines.push(format!("ends         {}", moment(*exp)));
    let audience = match aud {
        None => "nobody in particular: a server refuses it".to_owned(),
        Some(Audience::One(one)) => plain(one),
        Some(Audience::Many(many)) => many.iter().map(|one| plain(one)).collect::<Vec<_>>().join(", "),
    };
    lines.push(format!("audience     {audience}"));
    lines.extend(iss.iter().map(|issuer| format!("issuer       {}", plain(issuer))));
    let key = token.key_id.as_deref().map_or_else(String::new, |id| format!(", key {}", plain(id)));
    lines.push(format!("algorithm    {}{key}", plain(&token.algorithm)));
    lines
}

fn moment(seconds: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let (at, now) = (units::human_time(at), now());
    match seconds.checked_sub(now) {
        Some(left) if left > 0 => format!("{at}, in {}", units::human_duration(Duration::from_secs(left))),
        _ => format!("{at}, {} ago", units::human_duration(Duration::from_secs((now - seconds).max(1)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_prefix_and_rights() {
        assert_eq!(path_claim("/a:b:rw"), Ok(PathClaim { prefix: "/a:b".into(), rights: Rights::Rw }));
        assert_eq!(path_claim("/:r"), Ok(PathClaim { prefix: "/".into(), rights: Rights::R }));
        for text in ["", "/a", "/a:w", "a:r", "/a/:r", ":r"] {
            assert!(path_claim(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_told_in_words_that_no_terminal_obeys() {
        let claims = Claims {
            sub: "al\u{1b}[2Jice".into(),
            capabilities: vec!["FileRead".into()],
            paths: Some(vec![PathClaim { prefix: "/a".into(), rights: Rights::R }]),
            aud: None,
            iss: None,
            exp: 1,
            nbf: None,
            iat: None,
        };
        let text = words(&Unverified { algorithm: "EdDSA".into(), key_id: Some("k".into()), claims }).join("\n");
        assert!(!text.contains('\u{1b}'));
        for part in ["may          FileRead", "/a and below: look", "1970-01-01 00:00:01Z", "ago", "EdDSA, key k"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
