//! [`Place`]: where a mount's files lie, as its URL says.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::path::check_segment;

/// Where a mount's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::vfs) enum Place {
    /// A folder of this machine.
    Folder(PathBuf),
    /// This process's memory.
    Memory,
    /// A bucket or container of an object store, and the start of its keys, without slashes at its ends.
    Bucket(Cloud, String, String),
}

/// Whose object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vfs) enum Cloud {
    /// Amazon's S3, or one that speaks its protocol.
    S3,
    /// Google's.
    Gcs,
    /// Microsoft's.
    Azure,
}

impl Place {
    pub(super) fn read(text: &str, url: &Url) -> std::result::Result<Self, String> {
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
