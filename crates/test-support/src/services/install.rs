//! Installing missing servers with the system's package manager.
//!
//! Done only as root or where `sudo` asks no password; otherwise the error names the command to run. What a
//! distribution starts or creates by itself on installation is not wanted: Debian is told beforehand to make no
//! cluster of its own, and a service the installation started is stopped and disabled.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ServiceError;
use super::find::{self, PostgresPrograms, RedisProgram};

/// A package manager and, per server, the packages to try in turn.
struct Manager {
    program: &'static str,
    refresh: Option<&'static [&'static str]>,
    install: &'static [&'static str],
    postgres: &'static [&'static [&'static str]],
    redis: &'static [&'static [&'static str]],
    wants_root: bool,
}

const MANAGERS: &[Manager] = &[
    Manager {
        program: "apt-get",
        refresh: Some(&["update"]),
        install: &["install", "-y", "--no-install-recommends"],
        postgres: &[&["postgresql"]],
        redis: &[&["redis-server"], &["valkey-server"]],
        wants_root: true,
    },
    Manager {
        program: "dnf",
        refresh: None,
        install: &["install", "-y"],
        postgres: &[&["postgresql-server"]],
        redis: &[&["valkey"], &["redis"]],
        wants_root: true,
    },
    Manager {
        program: "apk",
        refresh: None,
        install: &["add", "--no-cache"],
        postgres: &[&["postgresql"], &["postgresql17"], &["postgresql16"]],
        redis: &[&["valkey"], &["redis"]],
        wants_root: true,
    },
    Manager {
        program: "pacman",
        refresh: None,
        install: &["-Sy", "--noconfirm", "--needed"],
        postgres: &[&["postgresql"]],
        redis: &[&["valkey"], &["redis"]],
        wants_root: true,
    },
    Manager {
        program: "brew",
        refresh: None,
        install: &["install"],
        postgres: &[&["postgresql@17"]],
        redis: &[&["redis"], &["valkey"]],
        wants_root: false,
    },
];

/// Finds both servers, installing what is missing. `tell` is given a line for each long step.
///
/// # Errors
/// [`ServiceError::Missing`] with the command to run, when they are missing and cannot be installed from here.
pub fn ensure(tell: &mut dyn FnMut(&str)) -> Result<(PostgresPrograms, RedisProgram), ServiceError> {
    let (postgres, redis) = (find::postgres(), find::redis());
    if let (Ok(postgres), Ok(redis)) = (&postgres, &redis) {
        return Ok((postgres.clone(), redis.clone()));
    }
    let Some(manager) = MANAGERS
        .iter()
        .find(|manager| find::on_path(manager.program).next().is_some())
    else {
        return Err(ServiceError::Missing(
            "PostgreSQL 15+ and Redis 7+ are needed, and no known package manager is here to install them"
                .into(),
        ));
    };
    let prefix = privilege(manager, postgres.is_err(), redis.is_err())?;
    if let Some(refresh) = manager.refresh {
        tell(&format!("refreshing the package list ({})", manager.program));
        run(manager, &prefix, refresh);
    }
    if postgres.is_err() {
        tell("installing PostgreSQL (about a minute)");
        without_own_cluster(manager, &prefix);
        let was_active = active_service("postgresql");
        first_that_works(manager, &prefix, manager.postgres);
        quiet_service("postgresql", was_active, &prefix);
    }
    if redis.is_err() {
        tell("installing Redis");
        let services = ["redis-server", "valkey-server", "redis", "valkey"];
        let active: Vec<bool> = services.iter().map(|service| active_service(service)).collect();
        first_that_works(manager, &prefix, manager.redis);
        for (service, was_active) in services.into_iter().zip(active) {
            quiet_service(service, was_active, &prefix);
        }
    }
    Ok((find::postgres()?, find::redis()?))
}

/// What goes before a command to run it as root.
fn privilege(manager: &Manager, postgres: bool, redis: bool) -> Result<Vec<String>, ServiceError> {
    if !manager.wants_root || rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let quiet = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if quiet.is_ok_and(|status| status.success()) {
        return Ok(vec!["sudo".into(), "-n".into()]);
    }
    Err(ServiceError::Missing(format!(
        "PostgreSQL 15+ and Redis 7+ are needed. Run this, then try again:\n\n    {}\n",
        by_hand(manager, postgres, redis)
    )))
}

fn by_hand(manager: &Manager, postgres: bool, redis: bool) -> String {
    let mut words = Vec::new();
    let sudo: &[&str] = if manager.wants_root { &["sudo"] } else { &[] };
    if let Some(refresh) = manager.refresh {
        words.extend(sudo);
        words.push(manager.program);
        words.extend(refresh);
        words.push("&&");
    }
    words.extend(sudo);
    words.push(manager.program);
    words.extend(manager.install);
    for (wanted, choices) in [(postgres, manager.postgres), (redis, manager.redis)] {
        if let (true, Some(packages)) = (wanted, choices.first()) {
            words.extend(packages.iter());
        }
    }
    words.join(" ")
}

fn first_that_works(manager: &Manager, prefix: &[String], choices: &[&[&str]]) {
    for packages in choices {
        let arguments: Vec<&str> = manager.install.iter().chain(packages.iter()).copied().collect();
        if run(manager, prefix, &arguments) {
            return;
        }
    }
}

/// Runs the package manager, its output on our standard error.
fn run(manager: &Manager, prefix: &[String], arguments: &[&str]) -> bool {
    let arguments: Vec<&str> = ["env", "DEBIAN_FRONTEND=noninteractive", manager.program]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    as_root(prefix, &arguments)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .is_ok_and(|s| s.success())
}

fn as_root(prefix: &[String], arguments: &[&str]) -> Command {
    let words: Vec<&str> = prefix
        .iter()
        .map(String::as_str)
        .chain(arguments.iter().copied())
        .collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Debian's packages make and start a cluster unless this file, read on installation, says otherwise.
fn without_own_cluster(manager: &Manager, prefix: &[String]) {
    const FILE: &str = "/etc/postgresql-common/createcluster.conf";
    if manager.program != "apt-get" || Path::new(FILE).exists() {
        return;
    }
    let script = format!("mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' > {FILE}");
    let _ = as_root(prefix, &["sh", "-c", &script]).status();
}

fn active_service(name: &str) -> bool {
    quietly(Command::new("systemctl").args(["is-active", "--quiet", name]))
}

/// Stops a service that this installation started.
fn quiet_service(name: &str, was_active: bool, prefix: &[String]) {
    if was_active {
        return;
    }
    if Path::new("/run/systemd/system").exists() {
        if active_service(name) {
            quietly(&mut as_root(prefix, &["systemctl", "disable", "--now", name]));
        }
    } else if fs::exists(format!("/etc/init.d/{name}")).unwrap_or(false) {
        quietly(&mut as_root(prefix, &["service", name, "stop"]));
    }
}

fn quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_run_by_hand_names_only_what_is_missing() {
        let apt = &MANAGERS[0];
        assert_eq!(
            by_hand(apt, true, true),
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends postgresql redis-server"
        );
        assert_eq!(
            by_hand(apt, false, true),
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends redis-server"
        );
        assert_eq!(
            by_hand(&MANAGERS[1], true, false),
            "sudo dnf install -y postgresql-server"
        );
    }
}
