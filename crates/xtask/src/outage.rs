//! `cargo xtask outage <part> <act>`: breaks or mends a part of the running `cargo xtask dev`.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::{Outcome, dev};

#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Arguments {
    /// What to break or mend
    part: Part,
    /// How
    act: Act,
}

/// A part of what `dev` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Postgres,
    Redis,
    Server,
    /// The second node of `dev --nodes 2`
    Server2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Act {
    /// End it at once (SIGKILL), as a crash would
    Kill,
    /// Make it hang (SIGSTOP): it keeps its connections and answers nothing
    #[value(alias = "pause")]
    Stop,
    /// Let it go on after `stop` (SIGCONT)
    #[value(alias = "resume")]
    Cont,
    /// Start it again on the same port and data
    Start,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut stream = UnixStream::connect(dev::CONTROL)
        .map_err(|_| "nothing to break: `cargo xtask dev` is not running in this workspace")?;
    writeln!(stream, "{} {}", word(&arguments.part), word(&arguments.act))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", what)) => {
            println!("{what}");
            Ok(ExitCode::SUCCESS)
        }
        Some((_, why)) => Err(why.into()),
        None => Err("`cargo xtask dev` ended without an answer".into()),
    }
}

/// The order in a line that [`run`] sent.
pub(crate) fn parse(line: &str) -> Option<(Part, Act)> {
    let (part, act) = line.trim().split_once(' ')?;
    Some((Part::from_str(part, false).ok()?, Act::from_str(act, false).ok()?))
}

fn word(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
            Self::Server => "the server",
            Self::Server2 => "the second node",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_back_as_it_was_sent() {
        for part in Part::value_variants() {
            for act in Act::value_variants() {
                assert_eq!(
                    parse(&format!("{} {}\n", word(part), word(act))),
                    Some((*part, *act))
                );
            }
        }
        assert_eq!(parse("postgres explode\n"), None);
        assert_eq!(parse(""), None);
    }
}
