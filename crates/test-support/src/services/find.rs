//! Finding PostgreSQL 15+ and Redis 7+ (or Valkey) on this machine.
//!
//! `PATH` comes first, then the usual places of distributions and Homebrew, newest first. Every candidate is run
//! with `--version`: a wrapper on `PATH` may be broken, and a version too old is passed over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ServiceError;

/// The oldest PostgreSQL that will do.
pub const POSTGRES_MINIMUM: u32 = 15;
/// The oldest Redis (or Valkey) that will do.
pub const REDIS_MINIMUM: u32 = 7;

/// PostgreSQL's server programs.
#[derive(Clone, Debug)]
pub struct PostgresPrograms {
    /// The directory that holds `postgres` and `initdb`.
    pub bin: PathBuf,
    /// Its major version.
    pub major: u32,
}

/// The Redis or Valkey server program.
#[derive(Clone, Debug)]
pub struct RedisProgram {
    /// The program.
    pub program: PathBuf,
    /// Its major version.
    pub major: u32,
}

/// Finds PostgreSQL.
///
/// # Errors
/// [`ServiceError::Missing`], naming what was found and not good enough.
pub fn postgres() -> Result<PostgresPrograms, ServiceError> {
    let mut rejected = Vec::new();
    for bin in on_path("postgres").chain(usual_postgres_places()) {
        let version = version_of(&bin.join("postgres")).filter(|_| version_of(&bin.join("initdb")).is_some());
        match version {
            Some(major) if major >= POSTGRES_MINIMUM => return Ok(PostgresPrograms { bin, major }),
            Some(major) => rejected.push(format!("{} is version {major}", bin.display())),
            None if bin.join("postgres").exists() => {
                rejected.push(format!("{} does not run, or lacks initdb", bin.display()));
            }
            None => {}
        }
    }
    Err(missing("PostgreSQL", POSTGRES_MINIMUM, &rejected))
}

/// Finds Redis or Valkey.
///
/// # Errors
/// [`ServiceError::Missing`], naming what was found and not good enough.
pub fn redis() -> Result<RedisProgram, ServiceError> {
    let mut rejected = Vec::new();
    for name in ["redis-server", "valkey-server"] {
        for directory in on_path(name).chain(usual_redis_places()) {
            let program = directory.join(name);
            match version_of(&program) {
                Some(major) if major >= REDIS_MINIMUM => return Ok(RedisProgram { program, major }),
                Some(major) => rejected.push(format!("{} is version {major}", program.display())),
                None if program.exists() => rejected.push(format!("{} does not run", program.display())),
                None => {}
            }
        }
    }
    Err(missing("Redis", REDIS_MINIMUM, &rejected))
}

fn missing(name: &str, minimum: u32, rejected: &[String]) -> ServiceError {
    let found = if rejected.is_empty() {
        String::new()
    } else {
        format!(" ({})", rejected.join("; "))
    };
    ServiceError::Missing(format!(
        "{name} {minimum} or newer was not found{found}; `cargo xtask dev` and `cargo xtask test` install it"
    ))
}

/// The directories of `PATH` that hold the program, symbolic links followed.
pub(super) fn on_path(program: &str) -> impl Iterator<Item = PathBuf> {
    #[allow(clippy::disallowed_methods)] // not a setting: where the system looks for programs
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found: Vec<PathBuf> = std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .filter(|candidate| candidate.is_file())
        .filter_map(|candidate| Some(resolve(&candidate)?.parent()?.to_path_buf()))
        .collect();
    found.into_iter()
}

/// Follows links only where that keeps the program's name: one binary may serve under several.
fn resolve(candidate: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(candidate).ok()?;
    if real.file_name() == candidate.file_name() {
        Some(real)
    } else {
        Some(candidate.to_path_buf())
    }
}

fn usual_postgres_places() -> impl Iterator<Item = PathBuf> {
    let versioned = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ];
    let plain = [
        "/usr/local/pgsql/bin",
        "/usr/local/bin",
        "/opt/homebrew/bin",
        "/usr/bin",
    ];
    let newest_first = versioned
        .into_iter()
        .flat_map(|(base, prefix, suffix)| newest(Path::new(base), prefix, suffix));
    newest_first.chain(plain.into_iter().map(PathBuf::from))
}

fn usual_redis_places() -> impl Iterator<Item = PathBuf> {
    [
        "/usr/bin",
        "/usr/local/bin",
        "/usr/sbin",
        "/opt/homebrew/bin",
        "/home/linuxbrew/.linuxbrew/bin",
        "/snap/bin",
    ]
    .into_iter()
    .map(PathBuf::from)
}

/// The folders `base/<prefix><version>/<suffix>`, highest version first.
fn newest(base: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base) else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((
                first_number(name.strip_prefix(prefix)?)?,
                entry.path().join(suffix),
            ))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, path)| path).collect()
}

fn version_of(program: &Path) -> Option<u32> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        parse_version(&text)
    } else {
        None
    }
}

/// The major version in `postgres (PostgreSQL) 15.18 …` or `Redis server v=7.0.15 sha=…`.
fn parse_version(text: &str) -> Option<u32> {
    text.split_whitespace()
        .map(|word| {
            word.strip_prefix("v=")
                .or_else(|| word.strip_prefix('v'))
                .unwrap_or(word)
        })
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .find_map(first_number)
}

fn first_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_version("initdb (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(
            parse_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64"),
            Some(7)
        );
        assert_eq!(parse_version("Valkey server v=8.1.0 sha=00000000:0"), Some(8));
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn the_newest_installed_version_comes_first() {
        let base = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "17"] {
            fs::create_dir_all(base.path().join(version).join("bin")).unwrap();
        }
        let found = newest(base.path(), "", "bin");
        let expected: Vec<PathBuf> = ["17", "15", "9.6"]
            .iter()
            .map(|v| base.path().join(v).join("bin"))
            .collect();
        assert_eq!(found, expected);
    }
}
