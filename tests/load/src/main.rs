//! `gravity-load bench`: what the promises cost and what they give, each figure beside its baseline in the same run.
//!
//! Run by `cargo xtask bench`. Servers, Postgres and Redis are private to the run and on this machine; the generator
//! shares its cores, so ratios are what to read. Postgres runs with fsync on.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line program

mod baseline;
mod bench;
mod bounds;
mod chat;
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
    /// Measure chat: sockets on two nodes, idle and talking, while Postgres dies and while a node does
    Chat {
        /// The server's program
        #[arg(long)]
        server: PathBuf,
        /// Seconds of each exchange
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Sockets that sit idle on one node
        #[arg(long, default_value_t = 10_000)]
        idle: usize,
        /// Sockets that talk, in pairs
        #[arg(long, default_value_t = 1_000)]
        talking: usize,
        /// Messages a second, all in all
        #[arg(long, default_value_t = 1_000)]
        rate: u32,
        /// Messages a second while acknowledgements are measured, with Postgres and without
        #[arg(long, default_value_t = 500)]
        ack_rate: u32,
        /// Bytes of a message's text
        #[arg(long, default_value_t = 64)]
        payload: usize,
        /// Sockets of each user who talks
        #[arg(long, default_value_t = 1)]
        devices: usize,
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
        Command::Chat {
            server,
            seconds,
            idle,
            talking,
            rate,
            ack_rate,
            payload,
            devices,
        } => chat::run(&chat::Plan {
            server,
            seconds,
            idle,
            talking,
            rate,
            ack_rate,
            payload,
            devices,
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
