//! `cargo xtask load`: what the running server carries. Built in release; needs a quiet machine.

use gravity_test_support::services::install;

use crate::{Outcome, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What is loaded: `chat`
    #[arg(value_parser = ["chat"])]
    what: String,
    /// How, as `gravity-load <what> --help` tells: `--idle`, `--talking`, `--rate`, `--payload`, `--devices`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    how: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    install::ensure(&mut |line| eprintln!("==> {line}"))?;
    let server = workspace::build_server(true)?;
    let mut load = workspace::cargo();
    load.args([
        "run",
        "--release",
        "--package",
        "gravity-load",
        "--",
        &arguments.what,
        "--server",
    ])
    .arg(&server)
    .args(&arguments.how);
    workspace::run(&mut load)?;
    Ok(std::process::ExitCode::SUCCESS)
}
