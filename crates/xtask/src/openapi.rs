//! `cargo xtask openapi`: the API's description, written from the code, and checked against it in CI.

use std::fs;
use std::process::{Command, ExitCode, Stdio};

use crate::{Outcome, workspace};

const FILE: &str = "openapi.json";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing; fail when the file is not what the code says
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let program = workspace::build_server(false)?;
    let output = Command::new(program)
        .arg("openapi")
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("`gravity openapi` failed ({})", output.status).into());
    }
    let mut current = String::from_utf8(output.stdout)?;
    if !current.ends_with('\n') {
        current.push('\n');
    }
    if !arguments.check {
        fs::write(FILE, current)?;
        println!("wrote {FILE}");
        return Ok(ExitCode::SUCCESS);
    }
    let stored = fs::read_to_string(FILE).unwrap_or_default();
    match first_difference(&stored, &current) {
        None => Ok(ExitCode::SUCCESS),
        Some(line) => Err(format!(
            "{FILE} differs from the code, first in line {line}; run `cargo xtask openapi`"
        )
        .into()),
    }
}

/// The number of the first line that differs.
fn first_difference(stored: &str, current: &str) -> Option<usize> {
    if stored == current {
        return None;
    }
    let same = stored
        .lines()
        .zip(current.lines())
        .take_while(|(old, new)| old == new)
        .count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
    }
}
