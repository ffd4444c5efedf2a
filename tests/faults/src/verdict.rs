//! Saying which promise was broken, and keeping what shows it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gravity_test_support::history::{self, History, Violation};

use crate::Failure;
use crate::plan::Plan;

/// Different violations that are printed for one schedule.
const MOST_SHOWN: usize = 4;
const LOG_LINES: usize = 12;

/// One violation of each kind, with the shortest history that shows it; everything about its entity goes to a file in
/// `home`.
pub(crate) fn judge(history: &History, home: &Path) -> Result<Vec<String>, Failure> {
    let mut seen = BTreeSet::new();
    let mut all = history::check(history);
    let total = all.len();
    all.retain(|found| seen.insert(found.broken));
    all.truncate(MOST_SHOWN);
    let whole = |found: &Violation| {
        let entity = found.entity.as_deref()?;
        let about = history::show(&history::about(history, entity));
        Some(format!(
            "{}\n  {}\n{about}\n",
            found.broken.promise(),
            found.message
        ))
    };
    if !all.is_empty() {
        fs::write(
            home.join("entities.txt"),
            all.iter().filter_map(whole).collect::<String>(),
        )?;
    }
    let text = |found: &Violation| {
        let (entity, events) = match &found.entity {
            Some(entity) => (entity.as_str(), history::show(&history::shrink(history, found))),
            None => ("-", String::new()),
        };
        format!(
            "{}\n  {} (entity {entity}; {total} violations in all)\n{events}",
            found.broken.promise(),
            found.message,
        )
    };
    Ok(all.iter().map(text).collect())
}

/// Keeps the logs and what was found.
pub(crate) fn keep(plan: &Plan, evidence: &Path, home: &Path, violations: &[String]) -> Result<(), Failure> {
    let folder = evidence.join(format!("{}-{}", plan.seed, plan.index));
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    fs::write(folder.join("plan.txt"), format!("{plan:#?}\n"))?;
    fs::write(folder.join("violations.txt"), violations.join("\n\n"))?;
    Ok(())
}

/// The end of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
