//! `cargo xtask bench`: what the promises cost and what they give. Built in release; needs a quiet machine.

use gravity_test_support::services::install;

use crate::{Outcome, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Operations in the backlog that is drained
    #[arg(long, default_value_t = 50_000)]
    backlog: u64,
    /// Leave out the write buffer's own benchmark
    #[arg(long)]
    no_buffer: bool,
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
        "bench",
        "--server",
    ])
    .arg(&server)
    .args(["--seconds", &arguments.seconds.to_string()])
    .args(["--backlog", &arguments.backlog.to_string()]);
    workspace::run(&mut load)?;
    let mut stream = workspace::cargo();
    stream
        .args([
            "run",
            "--release",
            "--package",
            "gravity-load",
            "--",
            "stream",
            "--server",
        ])
        .arg(&server)
        .args(["--seconds", &arguments.seconds.to_string()]);
    workspace::run(&mut stream)?;
    if !arguments.no_buffer {
        let mut buffer = workspace::cargo();
        buffer.args(["bench", "--package", "gravity-infra", "--bench", "write_buffer"]);
        workspace::run(&mut buffer)?;
    }
    Ok(std::process::ExitCode::SUCCESS)
}
