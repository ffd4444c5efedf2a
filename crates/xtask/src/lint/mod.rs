//! `cargo xtask lint`: formatting, clippy, documentation and dependency rules; every warning is an error.

mod dependencies;
mod licence;

use std::error::Error;
use std::process::{ExitCode, Stdio};

use crate::{Outcome, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {}

type Step = Result<(), Box<dyn Error>>;

pub(crate) fn run(_: &Arguments) -> Outcome {
    let steps: [fn() -> Step; 5] = [format, dependencies::check, deny, clippy, doc];
    // All of them run, so that one run shows everything there is to mend.
    let problems: Vec<String> = steps
        .iter()
        .filter_map(|step| step().err())
        .map(|problem| problem.to_string())
        .collect();
    if problems.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(problems.join("\nerror: ").into())
    }
}

fn format() -> Step {
    workspace::run(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Step {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    workspace::run(workspace::cargo().args(arguments))
}

fn doc() -> Step {
    let arguments = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
    workspace::run(
        workspace::cargo()
            .args(arguments)
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// cargo-deny reads the same deny.toml more thoroughly; it is used where it is installed.
fn deny() -> Step {
    let installed = workspace::cargo()
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        eprintln!("cargo-deny is not installed; only the checks above ran on dependencies");
        return Ok(());
    }
    workspace::run(workspace::cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}
