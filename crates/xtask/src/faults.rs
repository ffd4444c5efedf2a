//! `cargo xtask faults`: breaks everything around the server, and checks every promise.

use gravity_test_support::services::install;

use crate::{Outcome, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many schedules; each takes about six seconds
    #[arg(long, default_value_t = 20)]
    schedules: u64,
    /// Where they are derived from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The index of the first schedule
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// One kind only; `list` names them all
    #[arg(long)]
    only: Option<String>,
    /// Go on after a violation
    #[arg(long)]
    keep_going: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    install::ensure(&mut |line| eprintln!("==> {line}"))?;
    let server = workspace::build_server(true)?;
    let mut faults = workspace::cargo();
    faults
        .args(["run", "--release", "--package", "gravity-faults", "--"])
        .arg("--server")
        .arg(server)
        .args(["--schedules", &arguments.schedules.to_string()])
        .args(["--seed", &arguments.seed.to_string()])
        .args(["--first", &arguments.first.to_string()]);
    if let Some(only) = &arguments.only {
        faults.args(["--only", only]);
    }
    if arguments.keep_going {
        faults.arg("--keep-going");
    }
    Ok(workspace::exit_code(workspace::status(&mut faults)?))
}
