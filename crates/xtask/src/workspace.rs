//! Where the workspace is, and running cargo in it.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// Makes the workspace root the working directory, so that every path here may be relative to it.
pub(crate) fn enter() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .ok_or("the workspace root is gone")?;
    std::env::set_current_dir(root).map_err(|error| format!("{}: {error}", root.display()).into())
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(variable("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Prints and runs a command; fails when the command does.
pub(crate) fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = status(command)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{}` failed ({status})", shown(command)).into())
    }
}

/// Prints and runs a command.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus, Box<dyn Error>> {
    eprintln!("$ {}", shown(command));
    command
        .status()
        .map_err(|error| format!("`{}`: {error}", shown(command)).into())
}

/// A command's exit code as our own.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Builds the server and returns where it is.
pub(crate) fn build_server(release: bool) -> Result<PathBuf, Box<dyn Error>> {
    let mut build = cargo();
    build.args(["build", "--package", "gravity-server", "--bin", "gravity"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    let target = variable("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let program = target
        .join(if release { "release" } else { "debug" })
        .join("gravity");
    Ok(std::path::absolute(program)?)
}

/// The lines of a file.
pub(crate) fn lines(file: &str) -> std::io::Result<Vec<String>> {
    Ok(std::fs::read_to_string(file)?
        .lines()
        .map(str::to_owned)
        .collect())
}

/// A variable of the caller's environment, if it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    #[allow(clippy::disallowed_methods)] // the one place where the project's commands read the environment
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}
