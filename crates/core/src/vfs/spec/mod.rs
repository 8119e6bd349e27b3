//! [`MountSpec`]: a mount as asked for, `PREFIX=URL` with the options in the URL's query.
//!
//! Invariants: a spec is validated when it is made; it holds no secret, because credentials come from the
//! environment and a URL with a user or a password in it is refused. It opens nothing.

mod place;
mod options;

use std::fmt;
use std::path::Path;

use url::Url;

pub(super) use self::options::Options;
pub(super) use self::place::{Cloud, Place};

use crate::error::{Error, Result};
use crate::path::{PATH_MAX, check_segment};

/// A mount as asked for: `PREFIX=URL`, the URL's query holding the options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    prefix: String,
    place: Place,
    options: Options,
}

impl MountSpec {
    /// Reads `PREFIX=URL`. A prefix with a `=` in it needs [`MountSpec::new`].
    ///
    /// # Errors
    /// [`Errno::Inval`](crate::error::Errno::Inval) with what is wrong.
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
        Ok(Self { prefix, place, options })
    }

    /// The mount of a folder of this machine at `prefix`, with the default options.
    ///
    /// # Errors
    /// EINVAL for a bad prefix or a folder that is not an absolute path.
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
    use crate::error::Errno;

    fn refused(text: &str) -> Error {
        MountSpec::parse(text).expect_err(text)
    }

    #[test]
    fn a_good_spec_is_shown_as_it_was_written() {
        for text in [
            "/=memory:",
            "/=memory:?ro",
            "/data=s3://bucket/folder/sub?allow_http&endpoint=http://127.0.0.1:9000&region=eu-west-1",
            "/=s3://bucket?region=a%26b",
            "/a/b=gs://bucket",
            "/db=s3://bucket/db?layout=log",
            "/db=file:///srv/db?ro&layout=log",
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
            ("/=s3://b/x?layout=log&unsafe-overwrite", "another server"),
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
