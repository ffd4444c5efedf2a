//! Where settings come from, lowest first: the defaults built into the binary, `default.toml` and `$GRAVITY_ENV.toml` of
//! the configuration directory, `.env`, the environment. Each layer overrides single keys of those below.
//!
//! Which keys exist is what the built-in `config/default.toml` says: it names every one. An unknown key in a file
//! or an unknown `GRAVITY__…` variable is a problem, never ignored. An empty variable counts as not given.

use super::names;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const DEFAULT: &str = include_str!("../../../../config/default.toml");
const DEVELOPMENT: &str = include_str!("../../../../config/development.toml");
const PRODUCTION: &str = include_str!("../../../../config/production.toml");

/// What the process was started with.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The environment, empty values left out.
    pub environment: BTreeMap<String, String>,
    /// What `.env` holds, empty values left out.
    pub dotenv: BTreeMap<String, String>,
    /// The working directory's `config/`, when there is one.
    pub config_dir: Option<PathBuf>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Surroundings {
    /// The process's own.
    pub fn of_process() -> Self {
        let mut found = Self::default();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().map(str::to_owned) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => found.add_variable(name, value),
                Err(_) if is_ours(&name) => found.problems.push(format!("{name}: is not UTF-8")),
                Err(_) => {}
            }
        }
        match dotenvy::from_path_iter(".env") {
            Ok(lines) => found.read_dotenv(lines),
            Err(dotenvy::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => found.problems.push(".env: cannot be read".to_owned()),
        }
        let beside = PathBuf::from("config");
        found.config_dir = beside.is_dir().then_some(beside);
        found
    }

    /// Only these variables: no `.env`, no directory. What tests start a server with.
    pub fn of_variables<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let mut found = Self::default();
        for (name, value) in variables {
            found.add_variable(name.into(), value.into());
        }
        found
    }

    fn add_variable(&mut self, name: String, value: String) {
        if !value.is_empty() {
            self.environment.insert(name, value);
        }
    }

    fn read_dotenv(&mut self, lines: impl Iterator<Item = Result<(String, String), dotenvy::Error>>) {
        for (index, line) in lines.enumerate() {
            match line {
                Ok((name, value)) if !value.is_empty() => {
                    self.dotenv.insert(name, value);
                }
                Ok(_) => {}
                // The error would show the line, which may hold a secret.
                Err(_) => self
                    .problems
                    .push(format!(".env: setting number {} cannot be read", index + 1)),
            }
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .get(name)
            .or_else(|| self.dotenv.get(name))
            .map(String::as_str)
    }

    /// `GRAVITY_ENV`, else `production`.
    pub fn environment_name(&self) -> String {
        self.variable("GRAVITY_ENV").unwrap_or("production").to_owned()
    }
}

/// A value and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// As TOML; a variable is a string.
    pub(super) value: toml::Value,
    /// For problems: a file or a variable.
    pub(super) source: String,
}

/// Every key with the value of the highest layer that gives one.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    /// By `section.key`.
    pub(super) values: BTreeMap<String, Given>,
    /// What is wrong so far, one line each.
    pub(super) problems: Vec<String>,
}

impl Layers {
    /// Reads all layers.
    pub(super) fn read(from: &Surroundings) -> Self {
        let mut layers = Self {
            values: BTreeMap::new(),
            problems: from.problems.clone(),
        };
        layers.add_text("built-in default.toml", DEFAULT, true);
        layers.add_files(from);
        layers.add_variables(&from.dotenv, " in .env");
        layers.add_variables(&from.environment, "");
        layers
    }

    fn add_files(&mut self, from: &Surroundings) {
        let name = from.environment_name();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || !name.chars().all(is_name) {
            self.problems
                .push("GRAVITY_ENV: may have letters, digits, - and _ only".to_owned());
            return;
        }
        let given = from.variable("GRAVITY_CONFIG_DIR").map(PathBuf::from);
        if let Some(missing) = given.as_ref().filter(|dir| !dir.is_dir()) {
            self.problems.push(format!(
                "GRAVITY_CONFIG_DIR: {} is not a directory",
                missing.display()
            ));
            return;
        }
        let built_in = match name.as_str() {
            "development" => Some(DEVELOPMENT),
            "production" => Some(PRODUCTION),
            "test" => Some(""),
            _ => None,
        };
        let mut read_own = false;
        if let Some(dir) = given.or_else(|| from.config_dir.clone()) {
            self.add_file(&dir.join("default.toml"));
            read_own = self.add_file(&dir.join(format!("{name}.toml")));
        }
        match built_in {
            _ if read_own => {}
            Some(text) => self.add_text(&format!("built-in {name}.toml"), text, false),
            None => self.problems.push(format!(
                "GRAVITY_ENV: {name} is none of development, production and test, and there is no {name}.toml"
            )),
        }
    }

    /// True when there is such a file.
    fn add_file(&mut self, path: &Path) -> bool {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.add_text(&path.display().to_string(), &text, false);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => {
                self.problems
                    .push(format!("{}: cannot be read: {error}", path.display()));
                true
            }
        }
    }

    fn add_text(&mut self, source: &str, text: &str, defines: bool) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                // Its `Display` would show the line, which may hold a secret.
                let line = error.span().map_or(0, |span| {
                    text[..span.start.min(text.len())].lines().count().max(1)
                });
                self.problems
                    .push(format!("{source}: line {line}: {}", error.message()));
                return;
            }
        };
        for (section, content) in table {
            let Some(keys) = content.as_table().filter(|_| is_section(&section)) else {
                self.problems
                    .push(format!("{source}: {section}: is not a section"));
                continue;
            };
            for (key, value) in keys {
                let key = format!("{section}.{key}");
                if defines || self.values.contains_key(&key) {
                    let source = source.to_owned();
                    let value = value.clone();
                    self.values.insert(key, Given { value, source });
                } else {
                    self.problems.push(format!("{source}: {key}: is not a setting"));
                }
            }
        }
    }

    fn add_variables(&mut self, variables: &BTreeMap<String, String>, suffix: &str) {
        let mut given: BTreeMap<String, &str> = BTreeMap::new();
        for (name, value) in variables {
            let Some(key) = key_of_variable(name) else {
                continue;
            };
            if !self.values.contains_key(&key) {
                self.problems.push(format!("{name}{suffix}: is not a setting"));
                continue;
            }
            if let Some(other) = given.insert(key.clone(), name)
                && variables.get(other) != Some(value)
            {
                self.problems.push(format!(
                    "{name}{suffix}: differs from {other}, which is the same setting"
                ));
            }
            let given = Given {
                value: toml::Value::String(value.clone()),
                source: format!("{name}{suffix}"),
            };
            self.values.insert(key, given);
        }
    }
}

fn is_section(name: &str) -> bool {
    [
        "server",
        "database",
        "redis",
        "auth",
        "buffer",
        "http",
        "stream",
        "chat",
        "telemetry",
    ]
    .contains(&name)
}

fn is_ours(name: &str) -> bool {
    name.starts_with("GRAVITY_") || names::key_of(name).is_some()
}

fn key_of_variable(name: &str) -> Option<String> {
    match name.strip_prefix("GRAVITY__") {
        Some(rest) => Some(rest.to_lowercase().replacen("__", ".", 1)),
        None => names::key_of(name).map(str::to_owned),
    }
}
