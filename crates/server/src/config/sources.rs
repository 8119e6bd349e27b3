//! Flags, environment variables and the file, merged into one set of texts by key.
//!
//! Flags win over variables, variables over the file; a repeatable key is taken whole from the first source
//! that has it. Nothing is interpreted here: a text keeps its origin, so that whoever finds it wrong can say
//! where it stands.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::keys::{CONFIG, KEYS, Key, MOUNT, command, find, nearest};
use super::mounts::text_of_table;
use super::refusal::Refusal;

/// The process's environment, or a test's.
pub type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

#[derive(Clone, Debug)]
enum Origin {
    Flag,
    Variable,
    File(PathBuf),
}

#[derive(Clone, Debug)]
struct Given {
    texts: Vec<String>,
    origin: Origin,
}

/// What was set, by key.
#[derive(Debug, Default)]
pub(super) struct Settings(HashMap<&'static str, Given>);

impl Settings {
    /// Reads all sources.
    ///
    /// # Errors
    /// The first that cannot be read, or what the command line asks for instead of serving (help, version).
    pub(super) fn read(
        args: impl IntoIterator<Item = OsString>,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Refusal> {
        Self::of(&command().try_get_matches_from(args)?, env)
    }

    /// Reads the other sources beside a command line that is read already.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub(super) fn of(matches: &ArgMatches, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Refusal> {
        let mut settings = Self::default();
        settings.add_flags(matches);
        settings.add_variables(env)?;
        if let Some(file) = settings.0.get(CONFIG).and_then(|given| given.texts.first()).map(PathBuf::from) {
            settings.add_file(&file)?;
        }
        Ok(settings)
    }

    /// The value of `key`, read by `parse`.
    ///
    /// # Errors
    /// The sentence of `parse`, with where the value stands.
    pub(super) fn one<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Refusal> {
        Ok(self.many(key, parse)?.pop())
    }

    /// The values of `key`, each read by `parse`; none if it is not set.
    ///
    /// # Errors
    /// As [`Settings::one`].
    pub(super) fn many<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Refusal> {
        let texts = self.0.get(key).map(|given| given.texts.as_slice()).unwrap_or_default();
        texts.iter().map(|text| parse(text).map_err(|sentence| self.refuse(key, &sentence))).collect()
    }

    /// A refusal of what `key` says, with where it stands.
    pub(super) fn refuse(&self, key: &'static str, sentence: &str) -> Refusal {
        Refusal::Wrong(format!("{}: {sentence}", self.place(key)))
    }

    /// Where the value of `key` stands, or would stand.
    pub(super) fn place(&self, key: &'static str) -> String {
        match self.0.get(key).map(|given| &given.origin) {
            Some(Origin::Variable) => find(key).map(Key::variable).unwrap_or_default(),
            Some(Origin::File(path)) => format!("{key} in {}", path.display()),
            Some(Origin::Flag) | None => format!("--{key}"),
        }
    }

    /// The texts of `key` as they were given, if it is set.
    pub(super) fn texts(&self, key: &str) -> Option<&[String]> {
        self.0.get(key).map(|given| given.texts.as_slice())
    }

    fn add(&mut self, key: &'static Key, texts: Vec<String>, origin: Origin) {
        self.0.entry(key.name).or_insert(Given { texts, origin });
    }

    fn add_flags(&mut self, matches: &ArgMatches) {
        for key in KEYS {
            // Not every command has every flag.
            let is_known = matches.try_contains_id(key.name).is_ok();
            if !is_known || matches.value_source(key.name) != Some(ValueSource::CommandLine) {
                continue;
            }
            let texts = if key.is_switch() {
                vec![matches.get_flag(key.name).to_string()]
            } else {
                matches.get_many::<String>(key.name).into_iter().flatten().cloned().collect()
            };
            self.add(key, texts, Origin::Flag);
        }
    }

    fn add_variables(&mut self, env: &dyn Fn(&str) -> Option<OsString>) -> Result<(), Refusal> {
        for key in KEYS {
            let variable = key.variable();
            let Some(value) = env(&variable) else { continue };
            let Ok(text) = value.into_string() else {
                return Err(Refusal::Wrong(format!("{variable}: its value is not UTF-8")));
            };
            let texts: Vec<String> = match key.many {
                true => text.split_whitespace().map(str::to_owned).collect(),
                false => vec![text],
            };
            // An empty variable is one that is not set: that is how scripts unset one.
            if texts.iter().any(|text| !text.is_empty()) {
                self.add(key, texts, Origin::Variable);
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<(), Refusal> {
        let wrong = |what: String| Refusal::Wrong(format!("the configuration file {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            wrong(format!("line {line}: {}", error.message().trim_end()))
        })?;
        for (name, value) in &table {
            let Some(key) = find(name).filter(|key| key.name != CONFIG) else {
                return Err(wrong(format!("unknown key `{name}`: did you mean `{}`", nearest(name))));
            };
            let texts = texts_of(key, value).map_err(|what| wrong(format!("{name}: {what}")))?;
            self.add(key, texts, Origin::File(path.to_owned()));
        }
        Ok(())
    }
}

fn texts_of(key: &Key, value: &toml::Value) -> Result<Vec<String>, String> {
    match value.as_array() {
        Some(items) if key.many => items.iter().map(|item| text_of(key, item)).collect(),
        _ => Ok(vec![text_of(key, value)?]),
    }
}

fn text_of(key: &Key, value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::Table(table) if key.name == MOUNT => text_of_table(table),
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(on) => Ok(on.to_string()),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(format!("a value of type {} does not fit here", value.type_str()))
        }
    }
}
