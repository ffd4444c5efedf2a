//! Fault schedules: the real server, real stores, concurrent users, and everything around it breaking.
//!
//! A schedule is derived from (seed, index). It starts one or two nodes on a fresh database, lets users create, change,
//! delete and read tasks, read and act on the items of their streams, and write to each other, while its [`plan`] kills, stops, cuts and fills things, heals everything, waits until the
//! buffers are empty, and hands what the users did and what the stores hold to the checker in
//! `gravity_test_support::history`. The plan is deterministic; what the machine makes of it is not, so a seed shows a
//! violation again with some luck, not for sure. The recorded history is what counts, and it is printed.
//!
//! ```text
//! users --HTTP--> gravity (one or two) --> fault proxy --> Postgres, Redis (private, one of each for all schedules)
//! ```

mod act;
mod admin;
mod chat;
mod client;
mod disk;
mod facts;
mod node;
pub mod plan;
mod random;
mod schedule;
mod stores;
mod stream;
mod tally;
mod user;
mod verdict;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use plan::Kind;
pub use tally::Tally;

use plan::Plan;
use stores::Stores;

/// What fails without being a broken promise: a program that is missing, a store that does not start.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many schedules.
    pub schedules: u64,
    /// Where they are derived from.
    pub seed: u64,
    /// The index of the first.
    pub first: u64,
    /// These kinds in turn; all of them when empty.
    pub kinds: Vec<Kind>,
    /// The server's program.
    pub server: PathBuf,
    /// Where logs and histories of broken schedules are kept.
    pub evidence: PathBuf,
    /// Whether to go on after a violation, or to stop at the first.
    pub keep_going: bool,
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Summary {
    /// Schedules that were run.
    pub schedules: u64,
    /// What happened in them.
    pub tally: Tally,
    /// Each broken promise, printed for people: promise, seed and index, shortest history.
    pub violations: Vec<String>,
}

/// Runs schedules; `tell` is given one line for each, and the text of each violation.
///
/// # Errors
/// The server's program is missing, or a store could not be run.
pub async fn run(options: &Options, tell: &mut (dyn FnMut(&str) + Send)) -> Result<Summary, Failure> {
    if !options.server.is_file() {
        let path = options.server.display();
        return Err(format!(
            "{path}: no such program; build it with `cargo build --bin gravity`, or name it"
        )
        .into());
    }
    let stores = Stores::start(&options.server).await?;
    let mut summary = Summary::default();
    for index in options.first..options.first + options.schedules {
        let plan = Plan::new(options.seed, index, &options.kinds);
        let begun = Instant::now();
        let result = schedule::run(&plan, &stores, options).await?;
        summary.schedules += 1;
        tell(&progress(&plan, &result, begun.elapsed()));
        summary.tally.add(&result.tally);
        for violation in result.violations {
            let text = format!("{violation}\n{}", replay(options, &plan));
            tell(&text);
            summary.violations.push(text);
        }
        if !summary.violations.is_empty() && !options.keep_going {
            break;
        }
    }
    Ok(summary)
}

fn progress(plan: &Plan, result: &schedule::Outcome, took: Duration) -> String {
    let verdict = if result.violations.is_empty() {
        "ok"
    } else {
        "VIOLATION"
    };
    format!(
        "{:>4} {:<22} {:<4} {} node{} {:>5.1} s  {} {verdict}",
        plan.index,
        plan.kind.name(),
        plan.engine,
        plan.nodes,
        if plan.nodes == 1 { " " } else { "s" },
        took.as_secs_f64(),
        result.tally,
    )
}

fn replay(options: &Options, plan: &Plan) -> String {
    let only = if options.kinds.is_empty() {
        String::new()
    } else {
        format!(" --only {}", plan.kind.name())
    };
    format!(
        "again: cargo xtask faults --seed {} --first {} --schedules 1{only}",
        plan.seed, plan.index
    )
}

/// The server's program beside the running one, as cargo lays them out: `target/<profile>/gravity`.
#[must_use]
pub fn built_server() -> Option<PathBuf> {
    let current = std::env::current_exe().ok()?;
    let folders = current.ancestors().skip(1).take(2);
    folders
        .map(|folder| folder.join("gravity"))
        .find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}
