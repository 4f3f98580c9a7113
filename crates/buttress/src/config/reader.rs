//! Tables that know where they stand in their file, and which of their keys were asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use buttress_core::ConfigError;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::FileError;

/// What is set in a file: each key with its tables, and its value as it is written.
pub(super) type Facts = BTreeMap<String, String>;

/// The text, and what was found in it.
pub(super) struct Source<'a> {
    pub(super) path: Option<&'a Path>,
    pub(super) text: &'a str,
    pub(super) facts: RefCell<Facts>,
}

impl Source<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count()
    }

    pub(super) fn error(&self, at: usize, key: &str, says: String) -> FileError {
        FileError::new(self.path, self.line(at), key.to_owned(), says)
    }

    /// What the parser says, without the text around it.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> FileError {
        let says = format!("is not TOML: {}", error.message());
        self.error(error.span().map_or(0, |span| span.start), "", says)
    }

    fn written(&self, value: &Spanned<DeValue<'_>>) -> String {
        let text = self.text.get(value.span()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let short: String = line.chars().take(60).collect();
        if short.len() < text.len() { format!("{short} …") } else { short }
    }
}

/// One table of a file.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    /// With all the tables it is in: empty for the file itself.
    pub(super) path: String,
    at: usize,
    entries: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
}

/// One value of a table.
pub(super) struct Value<'a> {
    source: &'a Source<'a>,
    pub(super) path: String,
    value: &'a Spanned<DeValue<'a>>,
}

type Result<T> = std::result::Result<T, FileError>;

impl<'a> Table<'a> {
    pub(super) fn new(source: &'a Source<'a>, path: String, at: usize, entries: &'a DeTable<'a>) -> Self {
        Self { source, path, at, entries, known: RefCell::default() }
    }

    fn inside(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of this key, which is known from now on.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        let (source, path) = (self.source, self.inside(key));
        if !value.get_ref().is_table() {
            let written = source.text.get(value.span()).unwrap_or_default();
            source.facts.borrow_mut().insert(path.clone(), written.to_owned());
        }
        Some(Value { source, path, value })
    }

    /// Changes something if this key is there.
    pub(super) fn with<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(key).map(|value| read(&value)).transpose()
    }

    /// The value of a key that has to be there.
    pub(super) fn need(&self, key: &'static str) -> Result<Value<'a>> {
        self.get(key).ok_or_else(|| self.wrong(format!("needs the key `{key}`")))
    }

    /// The tables in this one, by names that the user gives.
    pub(super) fn tables(&self) -> impl Iterator<Item = Result<(&'a str, Table<'a>)>> {
        self.entries.iter().map(|(key, value)| {
            let name: &'a str = key.get_ref();
            let value = Value { source: self.source, path: self.inside(name), value };
            Ok((name, value.table()?))
        })
    }

    /// All values, by names that the user gives.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.entries.iter().map(|(key, value)| {
            let name: &'a str = key.get_ref();
            let (source, path) = (self.source, self.inside(name));
            let written = source.text.get(value.span()).unwrap_or_default();
            source.facts.borrow_mut().insert(path.clone(), written.to_owned());
            (name, Value { source, path, value })
        })
    }

    /// An error about the table as a whole.
    pub(super) fn wrong(&self, says: String) -> FileError {
        self.source.error(self.at, &self.path, says)
    }

    /// An error of a configuration, at the key that it is about.
    pub(super) fn check<T>(&self, result: std::result::Result<T, ConfigError>) -> Result<T> {
        result.map_err(|error| match self.entries.get_key_value(error.field()) {
            Some((_, value)) => {
                Value { source: self.source, path: self.inside(error.field()), value }.wrong(error.rule())
            }
            None => {
                self.wrong(format!("has a {} of {}, which {}", error.field(), error.value(), error.rule()))
            }
        })
    }

    /// An error if there is a key that nobody has asked for.
    pub(super) fn finish(self) -> Result<()> {
        let known = self.known.into_inner();
        let unknown = self.entries.keys().filter(|key| !known.contains(&&**key.get_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let name: &str = key.get_ref();
        let nearest = known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, &name.to_lowercase().replace('-', "_")), known))
            .min()
            .filter(|(distance, known)| *distance <= 1 + known.len() / 3);
        let says = match nearest {
            Some((_, nearest)) => format!("is no key that is known here; did you mean `{nearest}`?"),
            None => format!("is no key that is known here; those are {}", list(&known)),
        };
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Err(self.source.error(key.span().start, &path, says))
    }
}

fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

impl<'a> Value<'a> {
    /// An error about this value: `rule` begins with "must".
    pub(super) fn wrong(&self, rule: &str) -> FileError {
        let says = format!("is {}, but {rule}", self.source.written(self.value));
        self.source.error(self.value.span().start, &self.path, says)
    }

    pub(super) fn check<T>(&self, result: std::result::Result<T, ConfigError>) -> Result<T> {
        result.map_err(|error| self.wrong(error.rule()))
    }

    pub(super) fn table(&self) -> Result<Table<'a>> {
        let DeValue::Table(entries) = self.value.get_ref() else {
            return Err(self.wrong("must be a table"));
        };
        Ok(Table::new(self.source, self.path.clone(), self.value.span().start, entries))
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    #[cfg(feature = "grpc")]
    pub(super) fn string(&self) -> Result<&'a str> {
        self.text().ok_or_else(|| self.wrong("must be text in quotes"))
    }

    #[cfg(feature = "grpc")]
    pub(super) fn strings(&self) -> Result<Vec<&'a str>> {
        let wrong = || self.wrong("must be a list of texts, such as [\"a\", \"b\"]");
        let DeValue::Array(values) = self.value.get_ref() else { return Err(wrong()) };
        let text = |value: &'a Spanned<DeValue<'a>>| value.get_ref().as_str();
        values.iter().map(text).collect::<Option<_>>().ok_or_else(wrong)
    }

    pub(super) fn bool(&self) -> Result<bool> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong("must be true or false"))
    }

    /// A time with its unit.
    pub(super) fn duration(&self) -> Result<Duration> {
        let parsed = self.text().and_then(|text| humantime::parse_duration(text).ok());
        parsed.ok_or_else(|| {
            self.wrong("must be a time with its unit, such as \"500ms\", \"10s\" or \"1m 30s\"")
        })
    }

    pub(super) fn whole(&self) -> Option<i64> {
        let number = self.value.get_ref().as_integer()?;
        i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
    }

    pub(super) fn number<T: TryFrom<i64>>(&self) -> Result<T> {
        let number = self.whole().and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.wrong("must be a whole number that is not negative and not too large"))
    }

    pub(super) fn float(&self) -> Result<f64> {
        let float = match self.value.get_ref() {
            DeValue::Float(float) => float.as_str().replace('_', "").parse().ok(),
            _ => self.whole().map(|number| number as f64),
        };
        float.ok_or_else(|| self.wrong("must be a number"))
    }

    /// A share, as a fraction.
    pub(super) fn share(&self) -> Result<f64> {
        let percent = |text: &str| text.strip_suffix('%')?.trim_end().parse::<f64>().ok();
        match self.text() {
            Some(text) => percent(text)
                .map(|percent| percent / 100.0)
                .ok_or_else(|| self.wrong("must be a share, such as \"50%\" or 0.5")),
            None => self.float(),
        }
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        let chosen = self.text().and_then(|text| choices.iter().find(|(name, _)| *name == text));
        let names = || choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        chosen.map(|(_, choice)| *choice).ok_or_else(|| self.wrong(&format!("must be one of {}", names())))
    }

    /// `None` where "none" is written.
    pub(super) fn or_none<T>(&self, read: impl FnOnce(&Self) -> Result<T>) -> Result<Option<T>> {
        if self.text() == Some("none") { Ok(None) } else { read(self).map(Some) }
    }
}
