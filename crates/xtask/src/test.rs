//! `cargo xtask test`: every test of the workspace, on one Postgres and one Redis for all of them.
//!
//! Plain `cargo test` works too where both servers are installed; each test binary then starts its own.

use gravity_test_support::services::{Postgres, Redis, install, shared};

use crate::{Outcome, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to `cargo test`; without any, the whole workspace is tested
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    install::ensure(&mut |line| eprintln!("==> {line}"))?;
    // The short fault schedules run the program itself.
    workspace::build_server(false)?;
    let (postgres, redis) = (Postgres::start_private()?, Redis::start_private()?);
    let mut test = workspace::cargo();
    test.arg("test");
    if !names_packages(&arguments.cargo) {
        test.arg("--workspace");
    }
    test.args(&arguments.cargo)
        .env(shared::POSTGRES_VARIABLE, postgres.url("postgres"))
        .env(shared::REDIS_VARIABLE, redis.url());
    // Most of the time tests wait for what they have broken to heal: more of them at once than there are cores.
    if workspace::variable("RUST_TEST_THREADS").is_none() {
        test.env("RUST_TEST_THREADS", "4");
    }
    Ok(workspace::exit_code(workspace::status(&mut test)?))
}

fn names_packages(arguments: &[String]) -> bool {
    let mut ours = arguments.iter().take_while(|argument| *argument != "--");
    ours.any(|argument| {
        ["-p", "--package", "--workspace"].contains(&argument.as_str()) || argument.starts_with("--package=")
    })
}
