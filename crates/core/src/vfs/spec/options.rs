//! [`Options`]: what a mount's query says, and what of it goes with which place.

use url::Url;

use super::place::{Cloud, Place};

/// The options that a mount's query may hold, for the sentence that refuses another.
const OPTIONS: &str = "layout=object|local|log, ro, endpoint=, region=, allow_http, unsafe-overwrite";

/// What a mount's query says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::vfs) struct Options {
    pub(super) layout: Option<String>,
    pub(in crate::vfs) read_only: bool,
    pub(in crate::vfs) unsafe_overwrite: bool,
    pub(in crate::vfs) allow_http: bool,
    pub(in crate::vfs) endpoint: Option<String>,
    pub(in crate::vfs) region: Option<String>,
}

impl Options {
    pub(super) fn read(url: &Url) -> std::result::Result<Self, String> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for (key, value) in url.query_pairs() {
            if seen.contains(&key) {
                return Err(format!("the option {key} is given twice"));
            }
            match key.as_ref() {
                "layout" => options.layout = Some(known_layout(&value)?),
                "ro" => options.read_only = flag("ro", &value)?,
                "unsafe-overwrite" => options.unsafe_overwrite = flag("unsafe-overwrite", &value)?,
                "allow_http" => options.allow_http = flag("allow_http", &value)?,
                "endpoint" => options.endpoint = Some(endpoint(&value)?),
                "region" if value.is_empty() => return Err("the option region is empty".into()),
                "region" => options.region = Some(value.into_owned()),
                other => {
                    let other = other.escape_debug();
                    return Err(format!("there is no option {other}: the options are {OPTIONS}"));
                }
            }
            seen.push(key);
        }
        Ok(options)
    }

    /// Whether files lie in a database.
    pub(in crate::vfs) fn is_log(&self) -> bool {
        self.layout.as_deref() == Some("log")
    }

    pub(super) fn check(&self, place: &Place) -> std::result::Result<(), String> {
        let is = |name: &str| self.layout.as_deref() == Some(name);
        if self.unsafe_overwrite && self.is_log() {
            return Err("unsafe-overwrite is not for layout=log, which could not tell another server's writes".into());
        }
        match place {
            Place::Folder(_) if is("object") => {
                return Err(
                    "layout=object is not for a folder, which has no conditional write: use layout=local".into()
                );
            }
            Place::Memory | Place::Bucket(..) if is("local") => {
                return Err("layout=local is for a folder (file:///dir): use layout=object".into());
            }
            Place::Folder(_) | Place::Memory if self.endpoint.is_some() || self.region.is_some() || self.allow_http => {
                return Err("endpoint=, region= and allow_http are for s3, gs and az".into());
            }
            Place::Folder(_) if self.unsafe_overwrite => {
                return Err("unsafe-overwrite is for object stores: a folder is checked without it".into());
            }
            Place::Bucket(Cloud::Gcs | Cloud::Azure, ..) if self.region.is_some() => {
                return Err("region= is for s3".into());
            }
            Place::Folder(_) | Place::Memory | Place::Bucket(..) => {}
        }
        match &self.endpoint {
            Some(endpoint) if endpoint.starts_with("http://") && !self.allow_http => {
                Err("the endpoint is not encrypted: add allow_http if that is meant, or write https".into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn to_query(&self) -> String {
        let mut flags = Vec::new();
        for (flag, on) in
            [("ro", self.read_only), ("unsafe-overwrite", self.unsafe_overwrite), ("allow_http", self.allow_http)]
        {
            if on {
                flags.push(flag.to_owned());
            }
        }
        for (key, value) in [("layout", &self.layout), ("endpoint", &self.endpoint), ("region", &self.region)] {
            if let Some(value) = value {
                flags.push(format!("{key}={}", query_value(value)));
            }
        }
        if flags.is_empty() { String::new() } else { format!("?{}", flags.join("&")) }
    }
}

/// A value as it stands in a query; plain ones are left readable.
fn query_value(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:/[]".contains(c);
    if value.chars().all(is_plain) {
        return value.to_owned();
    }
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

fn known_layout(name: &str) -> std::result::Result<String, String> {
    match name {
        "object" | "local" | "log" => Ok(name.to_owned()),
        other => Err(format!("there is no layout {}: it is one of object, local, log", other.escape_debug())),
    }
}

fn flag(name: &str, value: &str) -> std::result::Result<bool, String> {
    match value {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("the option {name} stands alone or is true or false, not {}", other.escape_debug())),
    }
}

fn endpoint(value: &str) -> std::result::Result<String, String> {
    let url = Url::parse(value).map_err(|error| format!("the endpoint cannot be read as a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("the endpoint is an http or https URL, as in https://s3.example.org".into());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("the endpoint has no place for credentials: give them in the environment".into());
    }
    Ok(value.trim_end_matches('/').to_owned())
}
