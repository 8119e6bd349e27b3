//! [`Claims`]: what a token says.
//!
//! ```json
//! { "sub": "renderer-7", "aud": "mmapd", "iss": "https://id.example", "exp": 1790000000, "nbf": 1789996400,
//!   "capabilities": ["FileRead", "FileWrite"], "paths": [{ "prefix": "/scenes", "rights": "rw" }] }
//! ```
//!
//! Claims that are not known are passed over, as RFC 7519 says; inside of `paths` they are an error, because one could
//! be a restriction. `null` is no way to leave a claim out.

use serde::{Deserialize, Deserializer, Serialize};

/// Bytes of the longest subject.
pub const SUBJECT_MAX: usize = 255;
/// Path claims of one token.
pub const PATHS_MAX: usize = 64;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who it is for: the owner of processes and mappings.
    pub sub: String,
    /// What its holder may do, by the names of capabilities: a list, or one text with spaces between. None without it.
    #[serde(default, deserialize_with = "names", skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Which files. All without it; none if it is empty.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathClaim>>,
    /// Who is to take it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub aud: Option<Audience>,
    /// Who made it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// When it ends, in seconds since 1970.
    #[serde(deserialize_with = "seconds")]
    pub exp: u64,
    /// When it begins.
    #[serde(default, deserialize_with = "some_seconds", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it was made.
    #[serde(default, deserialize_with = "some_seconds", skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
}

/// The right to some files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathClaim {
    /// The file of this path and all below it; `/` is everything.
    pub prefix: String,
    /// What may be done there.
    pub rights: Rights,
}

/// What may be done to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rights {
    /// Look.
    R,
    /// Look and change.
    Rw,
}

/// Who a token is meant for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl Audience {
    /// Whether `name` is among them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(many) => many.iter().any(|one| one == name),
        }
    }
}

impl Claims {
    /// Checks what the form alone does not say.
    ///
    /// # Errors
    /// A phrase that says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.sub.is_empty() || self.sub.len() > SUBJECT_MAX || self.sub.chars().any(char::is_control) {
            return Err(format!("sub has to have 1 to {SUBJECT_MAX} bytes without control characters"));
        }
        match &self.paths {
            Some(paths) if paths.len() > PATHS_MAX => Err(format!("paths has more than {PATHS_MAX} entries")),
            Some(_) | None => Ok(()),
        }
    }
}

/// Left out is one thing, `null` is another.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Names::deserialize(deserializer)? {
        Names::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
        Names::List(list) => list,
    })
}

/// RFC 7519's NumericDate: parts of a second are cut off.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    // A number of text form, so that no cast decides what a time beyond all clocks means.
    let whole = || number.to_string().split('.').next().and_then(|whole| whole.parse().ok());
    number.as_u64().or_else(whole).ok_or_else(|| serde::de::Error::custom("a time is not a number of seconds"))
}

fn some_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    seconds(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Claims, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn capabilities_are_a_list_or_a_text_with_spaces() {
        for form in [r#"["FileRead","FileWrite"]"#, r#""FileRead  FileWrite""#] {
            let claims = read(&format!(r#"{{"sub":"a","exp":1,"capabilities":{form}}}"#)).expect(form);
            assert_eq!(claims.capabilities, ["FileRead", "FileWrite"]);
        }
        assert!(read(r#"{"sub":"a","exp":1}"#).expect("enough").capabilities.is_empty());
    }

    #[test]
    fn paths_left_out_are_all_and_an_empty_list_is_none_and_null_is_neither() {
        assert_eq!(read(r#"{"sub":"a","exp":1}"#).expect("enough").paths, None);
        assert_eq!(read(r#"{"sub":"a","exp":1,"paths":[]}"#).expect("enough").paths, Some(vec![]));
        for wrong in [
            "null",
            r#"["/a"]"#,
            r#"[{"prefix":"/a"}]"#,
            r#"[{"prefix":"/a","rights":"w"}]"#,
            r#"[{"prefix":"/a","rights":"r","until":"noon"}]"#,
            r#"{"prefix":"/a","rights":"r"}"#,
        ] {
            assert!(read(&format!(r#"{{"sub":"a","exp":1,"paths":{wrong}}}"#)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_claim_said_twice_or_of_a_wrong_type_is_refused_and_one_that_is_unknown_is_not() {
        for wrong in [
            r#"{"sub":"a","sub":"b","exp":1}"#,
            r#"{"sub":7,"exp":1}"#,
            r#"{"sub":"a"}"#,
            r#"{"exp":1}"#,
            r#"{"sub":"a","exp":"1"}"#,
            r#"{"sub":"a","exp":null}"#,
            r#"{"sub":"a","exp":-1}"#,
            r#"{"sub":"a","exp":1e300}"#,
            r#"{"sub":"a","exp":1,"nbf":null}"#,
            r#"{"sub":"a","exp":1,"iss":["a"]}"#,
            r#"{"sub":"a","exp":1,"capabilities":null}"#,
            "[]",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read(r#"{"sub":"a","exp":1.9,"groups":["x"]}"#).expect("enough").exp, 1);
    }

    #[test]
    fn a_subject_is_a_name() {
        let long = "x".repeat(SUBJECT_MAX + 1);
        for (sub, good) in [("a", true), ("ü@b", true), ("", false), ("a\nb", false), (&long, false)] {
            let claims = Claims { sub: sub.to_owned(), ..read(r#"{"sub":"a","exp":1}"#).expect("enough") };
            assert_eq!(claims.check().is_ok(), good, "{sub:?}");
        }
    }
}
