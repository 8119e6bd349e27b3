//! [`MountSpec`]: a mount as asked for, `PREFIX=URL` with the options in the URL's query.
//!
//! Invariants: a spec is validated when it is made; it holds no secret, because credentials come from the
//! environment and a URL with a user or a password in it is refused. It opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{Errno, Error, Result};
use crate::path::{PATH_MAX, check_segment};

/// The options that a mount's query may hold, for the sentence that refuses another.
const OPTIONS: &str = "layout=object|local|log, ro, endpoint=, region=, allow_http, unsafe-overwrite";

/// A mount as asked for: `PREFIX=URL`, the URL's query holding the options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    prefix: String,
    place: Place,
    options: Options,
}

/// Where a mount's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder of this machine.
    Folder(PathBuf),
    /// This process's memory.
    Memory,
    /// A bucket or container of an object store, and the start of its keys, without slashes at its ends.
    Bucket(Cloud, String, String),
}

/// Whose object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cloud {
    /// Amazon's S3, or one that speaks its protocol.
    S3,
    /// Google's.
    Gcs,
    /// Microsoft's.
    Azure,
}

/// What a mount's query says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    layout: Option<String>,
    pub(super) read_only: bool,
    pub(super) unsafe_overwrite: bool,
    pub(super) allow_http: bool,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
}

impl MountSpec {
    /// Reads `PREFIX=URL`. A prefix with a `=` in it needs [`MountSpec::new`].
    ///
    /// # Errors
    /// [`Errno::Inval`] with what is wrong, [`Errno::NotSup`] for what this build does not have.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((prefix, url)) => Self::new(prefix, url),
            None => Err(bad("write a mount as PREFIX=URL, for example /data=s3://bucket/folder or /=memory:".into())),
        }
    }

    /// The mount of `url` at `prefix`.
    ///
    /// # Errors
    /// As [`MountSpec::parse`].
    pub fn new(prefix: &str, url: &str) -> Result<Self> {
        let prefix = check_prefix(prefix)?;
        let refuse = |what: String| bad(format!("mount {prefix}: {what}")).with("mount", &prefix);
        let parsed = Url::parse(url).map_err(|error| refuse(format!("the store's URL cannot be read: {error}")))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(refuse("credentials do not belong into the URL: give them in the environment".into()));
        }
        if parsed.fragment().is_some() {
            return Err(refuse("the store's URL has a #: write it as %23".into()));
        }
        let options = Options::read(&parsed).map_err(refuse)?;
        let place = Place::read(url, &parsed).map_err(refuse)?;
        options.check(&place).map_err(refuse)?;
        if options.layout.as_deref() == Some("log") {
            let message = format!("mount {prefix}: this build does not have the layout log yet: use layout=object");
            return Err(Error::new(Errno::NotSup, message).with("mount", &prefix).with("layout", "log"));
        }
        Ok(Self { prefix, place, options })
    }

    /// The mount of a folder of this machine at `prefix`, with the default options.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a bad prefix or a folder that is not an absolute path.
    pub fn of_folder(prefix: &str, folder: &Path) -> Result<Self> {
        let prefix = check_prefix(prefix)?;
        if !folder.is_absolute() {
            let message = format!("mount {prefix}: {} is not an absolute path", folder.display());
            return Err(bad(message).with("mount", &prefix));
        }
        Ok(Self { prefix, place: Place::Folder(folder.to_owned()), options: Options::default() })
    }

    /// The path prefix: `/`, or a path without a `/` at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where it lies, with its options and without secrets.
    pub fn url(&self) -> String {
        let options = self.options.to_query();
        format!("{}{options}", self.place)
    }

    /// Whether it is never written.
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }
}

impl fmt::Display for MountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.prefix, self.url())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, keys) = match self {
            Self::Memory => return f.write_str("memory:"),
            Self::Folder(folder) => {
                return match Url::from_file_path(folder) {
                    Ok(url) => url.fmt(f),
                    // Only a relative path cannot be said as a URL, and a place is never one.
                    Err(()) => write!(f, "file:{}", folder.display()),
                };
            }
            Self::Bucket(Cloud::S3, bucket, keys) => ("s3", bucket, keys),
            Self::Bucket(Cloud::Gcs, bucket, keys) => ("gs", bucket, keys),
            Self::Bucket(Cloud::Azure, bucket, keys) => ("az", bucket, keys),
        };
        match keys.as_str() {
            "" => write!(f, "{scheme}://{bucket}"),
            keys => write!(f, "{scheme}://{bucket}/{keys}"),
        }
    }
}

impl Place {
    fn read(text: &str, url: &Url) -> std::result::Result<Self, String> {
        let cloud = match url.scheme() {
            "file" => return folder(text, url),
            "memory" if url.path().trim_matches('/').is_empty() && url.host().is_none() => return Ok(Self::Memory),
            "memory" => return Err("memory: has no path: each mount of it is empty and its own".into()),
            "s3" => Cloud::S3,
            "gs" => Cloud::Gcs,
            "az" | "azure" => Cloud::Azure,
            other => return Err(format!("there is no store {other}: it is one of file, memory, s3, gs, az")),
        };
        let bucket = url.host_str().unwrap_or_default();
        if bucket.is_empty() || url.port().is_some() {
            let scheme = url.scheme();
            return Err(format!("name the bucket, as in {scheme}://bucket/folder; a host goes into endpoint="));
        }
        let keys = decode(url.path())?;
        let keys = keys.strip_prefix('/').unwrap_or(&keys);
        let keys = keys.strip_suffix('/').unwrap_or(keys);
        if !keys.is_empty() {
            for segment in keys.split('/') {
                check_segment(segment).map_err(|what| format!("the path in the bucket {what}"))?;
            }
        }
        Ok(Self::Bucket(cloud, bucket.to_owned(), keys.to_owned()))
    }
}

/// The folder of a `file:` URL. `file:relative` is refused, because the URL standard would silently take it
/// for `/relative`.
fn folder(text: &str, url: &Url) -> std::result::Result<Place, String> {
    let rest = text.get("file:".len()..).unwrap_or_default();
    if !rest.starts_with('/') {
        return Err("a file: URL needs an absolute path, as in file:///srv/data".into());
    }
    let folder =
        url.to_file_path().map_err(|()| "a file: URL names a folder of this machine, as in file:///srv/data")?;
    match folder.to_str() {
        Some(path) if path.contains('\0') => Err("the folder's path has a NUL".into()),
        _ => Ok(Place::Folder(folder)),
    }
}

fn decode(text: &str) -> std::result::Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or(u8::MAX)),
            _ => return Err("a % in the URL's path is not followed by two hexadecimal digits".into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "the URL's path is not UTF-8".into())
}

impl Options {
    fn read(url: &Url) -> std::result::Result<Self, String> {
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

    fn check(&self, place: &Place) -> std::result::Result<(), String> {
        let is = |name: &str| self.layout.as_deref() == Some(name);
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

    fn to_query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
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
                query.append_pair(key, value);
            }
        }
        let pairs = query.finish();
        if !pairs.is_empty() {
            flags.push(pairs);
        }
        if flags.is_empty() { String::new() } else { format!("?{}", flags.join("&")) }
    }
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

/// A mount's prefix as it is kept: `/`, or a path without a `/` at its end.
pub(super) fn check_prefix(prefix: &str) -> Result<String> {
    let shown = prefix.escape_debug();
    let refuse = |what: &str| Err(bad(format!("the mount's prefix {shown} {what}")).with("mount", &shown));
    if prefix == "/" {
        return Ok(prefix.to_owned());
    }
    if prefix.len() > PATH_MAX {
        return Err(bad(format!("the mount's prefix is longer than {PATH_MAX} bytes")).with("max", PATH_MAX));
    }
    let Some(rest) = prefix.strip_prefix('/') else {
        return refuse("does not begin with /");
    };
    for segment in rest.split('/') {
        if let Err(what) = check_segment(segment) {
            return refuse(what);
        }
    }
    Ok(prefix.to_owned())
}

fn bad(message: String) -> Error {
    Error::invalid("mount", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Error {
        MountSpec::parse(text).expect_err(text)
    }

    #[test]
    fn a_good_spec_is_shown_as_it_was_written() {
        for text in [
            "/=memory:",
            "/=memory:?ro",
            "/data=s3://bucket/folder/sub?allow_http&endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=eu-west-1",
            "/a/b=gs://bucket",
            "/z=az://container/keys?ro&unsafe-overwrite",
            "/srv=file:///srv/with%20space",
        ] {
            assert_eq!(MountSpec::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn flags_stand_bare_or_with_their_value() {
        assert!(MountSpec::parse("/=memory:?ro=true").expect("ro=true").is_read_only());
        assert!(!MountSpec::parse("/=memory:?ro=false").expect("ro=false").is_read_only());
        assert!(MountSpec::parse("/=azure://c/k/?ro").expect("azure").is_read_only());
        assert_eq!(refused("/=memory:?ro=maybe").errno(), Errno::Inval);
    }

    #[test]
    fn a_bad_spec_is_refused_with_the_way_out() {
        for (text, hint) in [
            ("memory:", "PREFIX=URL"),
            ("data=memory:", "does not begin with /"),
            ("/data/=memory:", "empty segment"),
            ("/a/../b=memory:", ".. segment"),
            ("/.mmapd-x=memory:", "reserved"),
            ("/=nonsense", "cannot be read"),
            ("/=ftp://host/x", "one of file, memory, s3, gs, az"),
            ("/=memory:?colour=red", "the options are layout=object|local|log, ro, endpoint="),
            ("/=memory:?ro&ro", "given twice"),
            ("/=memory:?layout=flat", "one of object, local, log"),
            ("/=memory:?layout=local", "layout=object"),
            ("/=file:///srv?layout=object", "no conditional write"),
            ("/=file:///srv?unsafe-overwrite", "for object stores"),
            ("/=file:///srv?region=x", "are for s3"),
            ("/=file:srv", "absolute"),
            ("/=s3:///folder", "name the bucket"),
            ("/=s3://b//x", "empty segment"),
            ("/=s3://b/x%2", "hexadecimal"),
            ("/=s3://b/x?endpoint=http://h:1", "add allow_http"),
            ("/=s3://b/x?endpoint=ftp://h", "http or https"),
            ("/=gs://b?region=x", "for s3"),
        ] {
            let error = refused(text);
            assert_eq!((error.errno(), error.field()), (Errno::Inval, Some("mount")), "{text}");
            assert!(error.message().contains(hint), "{text}: {error}");
        }
        assert_eq!(refused("/=s3://b?layout=log").errno(), Errno::NotSup);
    }

    #[test]
    fn secrets_in_a_url_are_refused_and_not_repeated() {
        for text in ["/=s3://key:hunter2@bucket/x", "/=s3://b/x?endpoint=https://key:hunter2@host"] {
            let error = refused(text);
            assert!(error.message().contains("environment") && !format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn a_folders_path_is_percent_decoded() {
        let spec = MountSpec::parse("/=file:///srv/a%20b%3F").expect("a folder");
        assert_eq!(spec.place(), &Place::Folder("/srv/a b?".into()));
        assert_eq!(MountSpec::of_folder("/", Path::new("/srv/a b?")).expect("a folder"), spec);
    }
}
