//! Takes typed values out of the layers and collects every problem, so that all are named at once.
//!
//! A bad value is replaced by the lowest one allowed, and reading goes on: the result is thrown away when there is any
//! problem. An empty text means "not set". Lists are TOML arrays or comma-separated text.

use super::layers::{Given, Layers};
use gravity_domain::auth::Secret;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Reads each key once.
#[derive(Debug)]
pub(super) struct Reader {
    layers: Layers,
    warnings: Vec<String>,
}

impl Reader {
    /// Over these layers.
    pub(super) fn new(layers: Layers) -> Self {
        Self {
            layers,
            warnings: Vec::new(),
        }
    }

    /// The problems and the warnings, one line each.
    pub(super) fn finish(self) -> (Vec<String>, Vec<String>) {
        (self.layers.problems, self.warnings)
    }

    /// Adds something to be said at the start that does not stop it.
    pub(super) fn warn(&mut self, line: impl Into<String>) {
        self.warnings.push(line.into());
    }

    /// Adds a problem with `key`.
    pub(super) fn refuse(&mut self, key: &str, why: impl Display) {
        let given = self.layers.values.get(key);
        let is_set = |given: &&Given| given.value.as_str() != Some("");
        // What nobody has set is nobody's line to correct.
        let source = given.filter(is_set).map(|given| given.source.as_str());
        let name = match super::names::SHORT_NAMES.iter().find(|(_, of)| *of == key) {
            Some((name, _)) if source.is_none_or(|source| !source.starts_with(name)) => {
                format!("{key} ({name})")
            }
            _ => key.to_owned(),
        };
        let line = match source {
            Some(source) => format!("{source}: {name}: {why}"),
            None => format!("{name}: {why}"),
        };
        self.layers.problems.push(line);
    }

    fn given(&mut self, key: &str) -> Option<Given> {
        let given = self.layers.values.get(key).cloned();
        if given.is_none() {
            self.layers
                .problems
                .push(format!("{key}: is missing from default.toml"));
        }
        given
    }

    /// A text; empty when not set.
    pub(super) fn text(&mut self, key: &str) -> String {
        match self.given(key).map(|given| given.value) {
            Some(toml::Value::String(text)) => text.trim().to_owned(),
            Some(toml::Value::Integer(number)) => number.to_string(),
            Some(_) => {
                self.refuse(key, "must be a text");
                String::new()
            }
            None => String::new(),
        }
    }

    /// A text that must not be empty.
    pub(super) fn required(&mut self, key: &str) -> String {
        let text = self.text(key);
        if text.is_empty() {
            self.refuse(key, "must not be empty");
        }
        text
    }

    /// A text, `None` when not set.
    pub(super) fn optional(&mut self, key: &str) -> Option<String> {
        Some(self.text(key)).filter(|text| !text.is_empty())
    }

    /// A secret, `None` when not set. Kept as given, spaces included.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        match self.given(key)?.value {
            toml::Value::String(text) => Some(text).filter(|text| !text.is_empty()).map(Secret::new),
            _ => {
                self.refuse(key, "must be a text");
                None
            }
        }
    }

    /// The path of a file or directory, `None` when not set.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional(key).map(PathBuf::from)
    }

    /// The path of a file that must be readable, `None` when not set.
    pub(super) fn readable_file(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        if let Err(error) = std::fs::File::open(&path).and_then(|mut file| {
            use std::io::Read;
            file.read(&mut [0u8; 1])
        }) {
            self.refuse(key, format!("{} cannot be read: {error}", path.display()));
        }
        Some(path)
    }

    /// A whole number within `range`.
    pub(super) fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> u64 {
        let least = *range.start();
        let Some(given) = self.given(key) else {
            return least;
        };
        let number = match &given.value {
            toml::Value::Integer(number) => u64::try_from(*number).ok(),
            toml::Value::String(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        match number.filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let why = format!(
                    "is {}, must be a whole number from {least} to {}",
                    given.value,
                    range.end()
                );
                self.refuse(key, why);
                least
            }
        }
    }

    /// As [`Self::number`], for sizes and counts.
    pub(super) fn count(&mut self, key: &str, range: RangeInclusive<u64>) -> usize {
        usize::try_from(self.number(key, range)).unwrap_or(usize::MAX)
    }

    /// As [`Self::number`], for what fits 32 bits.
    pub(super) fn small(&mut self, key: &str, range: RangeInclusive<u64>) -> u32 {
        u32::try_from(self.number(key, range)).unwrap_or(u32::MAX)
    }

    /// A time span in milliseconds.
    pub(super) fn millis(&mut self, key: &str, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(key, range))
    }

    /// A time span in seconds.
    pub(super) fn seconds(&mut self, key: &str, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(key, range))
    }

    /// A time span in hours.
    pub(super) fn hours(&mut self, key: &str, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(key, range) * 3_600)
    }

    /// `true` or `false`; `None` when the text is empty.
    pub(super) fn optional_flag(&mut self, key: &str) -> Option<bool> {
        let given = self.given(key)?;
        match &given.value {
            toml::Value::Boolean(flag) => return Some(*flag),
            toml::Value::String(text) => match text.trim() {
                "true" | "1" => return Some(true),
                "false" | "0" => return Some(false),
                "" => return None,
                _ => {}
            },
            _ => {}
        }
        self.refuse(key, format!("is {}, must be true or false", given.value));
        None
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &str) -> bool {
        self.optional_flag(key).unwrap_or(false)
    }

    /// A number from 0 to 1.
    pub(super) fn ratio(&mut self, key: &str) -> f64 {
        let Some(given) = self.given(key) else { return 0.0 };
        let number = match &given.value {
            toml::Value::Float(number) => Some(*number),
            toml::Value::Integer(0) => Some(0.0),
            toml::Value::Integer(1) => Some(1.0),
            toml::Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number| (0.0..=1.0).contains(number)) {
            Some(number) => number,
            None => {
                self.refuse(key, format!("is {}, must be a number from 0 to 1", given.value));
                0.0
            }
        }
    }

    /// A comma-separated list; each entry is parsed by `T`.
    pub(super) fn list<T: FromStr>(&mut self, key: &str, what: &str) -> Vec<T> {
        let entries: Vec<String> = match self.given(key).map(|given| given.value) {
            Some(toml::Value::String(text)) => text.split(',').map(str::to_owned).collect(),
            Some(toml::Value::Array(entries)) => entries
                .iter()
                .map(|entry| entry.as_str().map_or_else(|| entry.to_string(), str::to_owned))
                .collect(),
            Some(_) => {
                self.refuse(key, "must be a comma-separated list");
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut parsed = Vec::new();
        for entry in entries.iter().map(|entry| entry.trim()) {
            if entry.is_empty() {
                continue;
            }
            match entry.parse() {
                Ok(entry) => parsed.push(entry),
                Err(_) => self.refuse(key, format!("{entry:?} is not {what}")),
            }
        }
        parsed
    }

    /// One of the named choices.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(key);
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => *choice,
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.refuse(key, format!("is {text:?}, must be one of {}", names.join(", ")));
                choices[0].1
            }
        }
    }
}
