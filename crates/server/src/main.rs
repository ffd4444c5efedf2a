//! The `gravity` program: reads the command line, and leaves the work to the library.
//!
//! Exit status: 0 done, 1 it did not work (stderr says why), 2 the command line is wrong.

use clap::{Parser, Subcommand};
use gravity_server::app::{App, openapi};
use gravity_server::config::Config;
use gravity_server::telemetry::Telemetry;
use gravity_server::{healthcheck, listen, migrations, raise_file_limit, salvage, seed, shutdown};
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tasks and profiles over HTTP. Acknowledged writes are never lost, whatever happens to Postgres or Redis.
#[derive(Parser)]
#[command(name = "gravity", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default). Settings come from config/, .env and the environment
    Serve,
    /// Bring the schema of Postgres up to date
    Migrate,
    /// Put demonstration data into Postgres; does nothing that is done already
    Seed {
        /// Also with GRAVITY_ENV=production, although everybody can know the passwords of these users
        #[arg(long)]
        public_passwords: bool,
    },
    /// Print the description of the API as JSON
    Openapi,
    /// About the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask the server on this machine whether it is ready
    Healthcheck,
    /// About the write buffer
    #[command(subcommand)]
    Buffer(BufferCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Name every problem, one per line; exit status 1 when there is any
    Check,
}

#[derive(Subcommand)]
enum BufferCommand {
    /// Read what can be read of a damaged buffer, and print each operation as a line of JSON
    Salvage {
        /// Replay the operations into Postgres as well
        #[arg(long)]
        apply: bool,
        /// The directory that was moved aside, BUFFER.damaged-TIME
        directory: PathBuf,
    },
}

type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    match run(&Arguments::parse().command.unwrap_or(Command::Serve)) {
        Ok(code) => code,
        Err(error) => {
            say(&mut std::io::stderr(), &with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        message.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    message
}

fn run(command: &Command) -> Outcome {
    match command {
        Command::Serve => serve(),
        Command::Migrate => migrate(),
        Command::Seed { public_passwords } => demonstrate(*public_passwords),
        Command::Openapi => {
            say(&mut std::io::stdout(), &openapi());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Check) => check(),
        Command::Healthcheck => match healthcheck::ready(&Config::load()?.server)? {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(why) => Err(why.into()),
        },
        Command::Buffer(BufferCommand::Salvage { apply, directory }) => {
            let config = apply.then(Config::load).transpose()?;
            let report = salvage::run(directory, config.as_ref(), &mut std::io::stdout().lock())?;
            say(&mut std::io::stderr(), &report.to_string());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn serve() -> Outcome {
    let config = Config::load()?;
    let _telemetry = Telemetry::start(&config.telemetry)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let listener = listen(&config.server)?;
    let app = App::build(config)?;
    let stop = {
        let _inside = app.handle().enter();
        shutdown::on_signal()?
    };
    app.run(listener, &stop)?;
    Ok(ExitCode::SUCCESS)
}

fn migrate() -> Outcome {
    let report = migrations::run(&Config::load()?)?;
    let line = if report.applied.is_empty() {
        "the schema is up to date".to_owned()
    } else {
        format!("applied {}", report.applied.join(" "))
    };
    say(&mut std::io::stdout(), &line);
    Ok(ExitCode::SUCCESS)
}

fn demonstrate(public_passwords: bool) -> Outcome {
    let report = seed::run(&Config::load()?, public_passwords)?;
    say(&mut std::io::stdout(), &report.to_string());
    Ok(ExitCode::SUCCESS)
}

fn check() -> Outcome {
    let config = Config::load()?;
    let problems = App::check(&config);
    for problem in &problems {
        say(&mut std::io::stderr(), &with_causes(problem));
    }
    for warning in &config.warnings {
        say(&mut std::io::stderr(), &format!("warning: {warning}"));
    }
    if !problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    say(
        &mut std::io::stdout(),
        &format!("the settings for {} are fine", config.environment),
    );
    Ok(ExitCode::SUCCESS)
}

/// A reader that went away (`gravity openapi | head`) is no failure of ours.
fn say(to: &mut dyn Write, line: &str) {
    let _ = writeln!(to, "{line}");
}
