//! `gravity-faults`: what `cargo xtask faults` runs.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line program

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gravity_faults::{Failure, Kind, Options, built_server, run};

/// Runs fault schedules against the server and checks every promise.
#[derive(Parser)]
#[command(name = "gravity-faults")]
struct Arguments {
    /// How many schedules
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
    /// The server's program; the one beside this program when not given
    #[arg(long)]
    server: Option<PathBuf>,
    /// Where logs and histories of broken schedules are kept
    #[arg(long, default_value = "target/faults")]
    evidence: PathBuf,
    /// Go on after a violation
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    match begin(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn begin(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let kinds = match arguments.only.as_deref() {
        None => Vec::new(),
        Some(name) => match Kind::named(name) {
            Some(kind) => vec![kind],
            None => {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                println!("{}", names.join("\n"));
                return Ok(ExitCode::from(u8::from(name != "list")));
            }
        },
    };
    let server = arguments
        .server
        .clone()
        .or_else(built_server)
        .ok_or("the server's program is not beside this one; name it with --server")?;
    let options = Options {
        schedules: arguments.schedules,
        seed: arguments.seed,
        first: arguments.first,
        kinds,
        server: std::path::absolute(server)?,
        evidence: arguments.evidence.clone(),
        keep_going: arguments.keep_going,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begun = std::time::Instant::now();
    let summary = runtime.block_on(run(&options, &mut |line| println!("{line}")))?;
    println!(
        "{} schedules in {:.0} s, seed {}: {}; {} violations",
        summary.schedules,
        begun.elapsed().as_secs_f64(),
        options.seed,
        summary.tally,
        summary.violations.len(),
    );
    Ok(if summary.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
