//! `cargo xtask lint`: formatting, clippy, documentation and dependency rules; every warning is an error.

mod dependencies;
mod licence;

use std::process::{ExitCode, Stdio};

use crate::{Outcome, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Outcome {
    workspace::run(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    dependencies::check()?;
    deny()?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    workspace::run(workspace::cargo().args(clippy))?;
    let doc = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
    workspace::run(workspace::cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(ExitCode::SUCCESS)
}

/// cargo-deny reads the same deny.toml more thoroughly; it is used where it is installed.
fn deny() -> Result<(), Box<dyn std::error::Error>> {
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
