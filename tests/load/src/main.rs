//! `gravity-load bench`: what the promises cost and what they give, each figure beside its baseline in the same run.
//!
//! Run by `cargo xtask bench`. Servers, Postgres and Redis are private to the run and on this machine; the generator
//! shares its cores, so ratios are what to read. Postgres runs with fsync on.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line program

mod baseline;
mod bench;
mod bounds;
mod client;
mod generate;
mod report;
mod server;
mod stream;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// The server's allocator, so that the baseline has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Load on a gravity server", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the write path: healthy, in the dark, and coming back
    Bench {
        /// The server's program
        #[arg(long)]
        server: PathBuf,
        /// Seconds of each measurement
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Operations in the backlog that is drained
        #[arg(long, default_value_t = 50_000)]
        backlog: u64,
    },
    /// Measure reads of streams: hot, shared, cold, mixed, and in the dark
    Stream {
        /// The server's program
        #[arg(long)]
        server: PathBuf,
        /// Seconds of each measurement
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Users, each with a stream of 100 items
        #[arg(long, default_value_t = 10_000)]
        users: usize,
        /// Measure only the mix and what it is compared with
        #[arg(long)]
        mix_only: bool,
    },
    /// Serve the same handler without the write path's machinery (started by `bench`)
    Baseline,
    /// Serve the bytes of a page from memory and nothing else (started by `stream`)
    Ceiling,
    /// Serve pages from Postgres without a cache (started by `stream`)
    Floor,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bench {
            server,
            seconds,
            backlog,
        } => bench::run(&bench::Plan {
            server,
            seconds,
            backlog,
        }),
        Command::Stream {
            server,
            seconds,
            users,
            mix_only,
        } => stream::run(&stream::Plan {
            server,
            seconds,
            users,
            mix_only,
        }),
        Command::Ceiling => bounds::ceiling(),
        Command::Floor => bounds::floor(),
        Command::Baseline => baseline::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
