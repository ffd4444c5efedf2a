//! The project's commands: `cargo xtask <command>`. One file per command; each prints what it is about to do.
//!
//! This crate stays light, so that the first thing a newcomer runs is built in seconds: it does not depend on the
//! server but builds and runs it.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line program

mod bench;
mod chat;
mod dev;
mod faults;
mod lint;
mod load;
mod openapi;
mod outage;
mod test;
mod workspace;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a command ends with: an exit code to pass on, or an error to print.
type Outcome = Result<ExitCode, Box<dyn Error>>;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The project's commands",
    version,
    disable_version_flag = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine: Postgres, Redis, demo data and the server
    Dev(dev::Arguments),
    /// Kill, stop or restart a part of the running `dev`, to see what happens
    Outage(outage::Arguments),
    /// Talk as a demo user over the nodes of the running `dev`, in a terminal
    Chat(chat::Arguments),
    /// Break everything around the server, and check every promise
    Faults(faults::Arguments),
    /// Run all tests, with the stores they need
    Test(test::Arguments),
    /// Formatting, clippy, documentation and dependency rules; warnings are errors
    Lint(lint::Arguments),
    /// Measure the write path, each figure beside its baseline
    Bench(bench::Arguments),
    /// Measure what the server carries: sockets and messages of chat
    Load(load::Arguments),
    /// Write openapi.json from the code
    Openapi(openapi::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = workspace::enter().and_then(|()| match &arguments.command {
        Command::Dev(arguments) => dev::run(arguments),
        Command::Outage(arguments) => outage::run(arguments),
        Command::Chat(arguments) => chat::run(arguments),
        Command::Faults(arguments) => faults::run(arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::Lint(arguments) => lint::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Load(arguments) => load::run(arguments),
        Command::Openapi(arguments) => openapi::run(arguments),
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
