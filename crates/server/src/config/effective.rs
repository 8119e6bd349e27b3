//! The effective configuration as a file: each key with its value and where that came from.
//!
//! Invariants: what is written can be read back and says the same; no secret is in it.

use std::fmt::Write as _;

use super::keys::{CONFIG, KEYS, Key};
use super::sources::Settings;
use super::validated::Config;

/// What stands for a secret.
const HIDDEN: &str = "***";
/// Words in the name of a URL's option that make its value a secret.
const SECRET_WORDS: [&str; 6] = ["key", "pass", "secret", "sig", "token", "credential"];

/// `config`, which was made of `settings`, as a TOML file.
pub(super) fn effective(settings: &Settings, config: &Config) -> String {
    let mut text = String::from("# The effective configuration of mmapd.\n");
    for key in KEYS.iter().filter(|key| key.name != CONFIG) {
        // Writing to a string cannot fail.
        let _ = match (settings.texts(key.name), config.computed(key.name).or_else(|| key.default())) {
            (Some(texts), _) => writeln!(text, "{} = {} # {}", key.name, value(key, texts), settings.place(key.name)),
            // Written down it would win over the variable.
            (None, Some(default)) if key.name == "log" => {
                writeln!(text, "# log is not set: RUST_LOG says, or else {}", quoted(&default))
            }
            (None, Some(default)) => writeln!(text, "{} = {} # default", key.name, value(key, &[default])),
            (None, None) => writeln!(text, "# {} is not set", key.name),
        };
    }
    text
}

fn value(key: &Key, texts: &[String]) -> String {
    let shown: Vec<String> = texts.iter().map(|text| scalar(key, &without_secrets(text))).collect();
    match (key.many, shown.as_slice()) {
        (false, [one]) => one.clone(),
        _ => format!("[{}]", shown.join(", ")),
    }
}

fn scalar(key: &Key, text: &str) -> String {
    let is_number = !text.is_empty() && text.len() < 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_number && (text == "0" || !text.starts_with('0'));
    match (key.is_switch(), text.to_ascii_lowercase().as_str()) {
        (true, "true" | "1" | "yes" | "on") => "true".to_owned(),
        (true, _) => "false".to_owned(),
        (false, _) if is_plain => text.to_owned(),
        (false, _) => quoted(text),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `text` with what may be a secret in its URLs hidden: user and password, and options named as secrets are. No setting
/// wants any of them; one that has them all the same must not show them in a terminal's scrollback.
fn without_secrets(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        shown.push_str(head);
        let end = tail.find(['/', '?', '#', '&', ' ', ',']).unwrap_or(tail.len());
        rest = match tail[..end].rfind('@') {
            Some(at) => {
                shown.push_str(HIDDEN);
                &tail[at..]
            }
            None => tail,
        };
    }
    shown.push_str(rest);
    let Some((head, query)) = shown.split_once('?') else { return shown };
    let options = query.split('&').map(|option| match option.split_once('=') {
        Some((name, _)) if SECRET_WORDS.iter().any(|word| name.to_ascii_lowercase().contains(word)) => {
            format!("{name}={HIDDEN}")
        }
        _ => option.to_owned(),
    });
    format!("{head}?{}", options.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_are_hidden_and_nothing_else() {
        for (text, shown) in [
            ("/=s3://key:hunter2@bucket/x?ro", "/=s3://***@bucket/x?ro"),
            ("/=s3://b?endpoint=http://u:p@host:1&ro", "/=s3://b?endpoint=http://***@host:1&ro"),
            ("/=s3://b?secret_key=abc&region=eu", "/=s3://b?secret_key=***&region=eu"),
            ("/=file:///srv/a@b?ro", "/=file:///srv/a@b?ro"),
            ("unix:/run/m.sock", "unix:/run/m.sock"),
            ("info,object_store=warn", "info,object_store=warn"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }

    #[test]
    fn any_text_is_read_back_from_its_toml() {
        for text in ["plain", "with \"quotes\" and \\", "two\nlines\t\u{7f}", "ünï"] {
            let table: toml::Table = format!("x = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }
}
