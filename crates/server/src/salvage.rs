//! `gravity buffer salvage`: reads what can be read of a damaged write buffer.
//!
//! Every operation and dead letter found is printed as a line of JSON; what cannot be restored too, with its reason. With
//! `--apply` the operations are replayed into Postgres as well, in order of acceptance. That is safe to repeat: an operation
//! that was committed before is a duplicate, and newer writes win.

use crate::config::Config;
use gravity_domain::sync::ports::{BatchError, ReplayStore};
use gravity_domain::sync::{Operation, Verdict};
use gravity_infra::postgres::Pool;
use gravity_infra::sync::PostgresOperations;
use gravity_infra::write_buffer::salvage::{Salvaged, salvage};
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

const BATCH: usize = 200;
const TRIES: u32 = 10;
const REST: Duration = Duration::from_millis(500);

/// Why a salvage ended early.
#[derive(Debug, Error)]
pub enum SalvageError {
    /// The directory cannot be read, or the output cannot be written.
    #[error("the buffer cannot be read")]
    Files(#[from] io::Error),
    /// The settings for Postgres cannot work.
    #[error(transparent)]
    Settings(#[from] gravity_infra::postgres::SettingsError),
    /// Postgres stayed away; what was applied stays applied, and the command can be repeated.
    #[error("Postgres does not take the operations; repeat the command when it does")]
    Postgres(#[source] BatchError),
}

/// What was found and done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations found.
    pub operations: u64,
    /// Dead letters found.
    pub letters: u64,
    /// Remains that could not be restored.
    pub fragments: u64,
    /// Operations that are in Postgres now, those that were before included.
    pub applied: u64,
    /// Operations that Postgres refuses; their reasons are in the output.
    pub refused: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} dead letters, {} fragments; applied {}, refused {}",
            self.operations, self.letters, self.fragments, self.applied, self.refused
        )
    }
}

/// Prints what is found under `directory` to `out`, one JSON object per line, and applies it when `apply` has the settings.
///
/// # Errors
/// [`SalvageError`].
pub fn run(directory: &Path, apply: Option<&Config>, out: &mut dyn Write) -> Result<Report, SalvageError> {
    let mut report = Report::default();
    let mut operations = Vec::new();
    let mut failed = Ok(());
    salvage(directory, &mut |found| {
        let line = describe(&found);
        match found {
            Salvaged::Operation(operation) => {
                report.operations += 1;
                if apply.is_some() {
                    operations.push(*operation);
                }
            }
            Salvaged::Letter(_) => report.letters += 1,
            Salvaged::Fragment { .. } => report.fragments += 1,
        }
        if failed.is_ok() {
            failed = writeln!(out, "{line}");
        }
    })?;
    failed?;
    if let Some(config) = apply {
        let runtime = crate::runtime(1)?;
        let pool = Pool::new(&config.database.settings(), runtime.handle().clone())?;
        let store = PostgresOperations::new(pool);
        runtime.block_on(replay(&store, &operations, &mut report, out))?;
    }
    Ok(report)
}

fn describe(found: &Salvaged) -> Value {
    match found {
        Salvaged::Operation(operation) => json!({"operation": operation}),
        Salvaged::Letter(letter) => json!({"deadLetter": {
            "id": letter.id,
            "reason": letter.reason,
            "operation": letter.operation,
            "diedAt": letter.died_at,
        }}),
        Salvaged::Fragment {
            sequence, fault, raw, ..
        } => {
            json!({"fragment": {"sequence": sequence, "reason": fault, "bytes": raw.len()}})
        }
    }
}

async fn replay(
    store: &dyn ReplayStore,
    operations: &[Operation],
    report: &mut Report,
    out: &mut dyn Write,
) -> Result<(), SalvageError> {
    for batch in operations.chunks(BATCH) {
        let mut rest = batch;
        while !rest.is_empty() {
            match patiently(store, rest).await {
                Ok(verdicts) => {
                    for (operation, verdict) in rest.iter().zip(verdicts) {
                        count(operation, &verdict, report, out)?;
                    }
                    break;
                }
                // Those before it go alone first, then those after it.
                Err(BatchError::Operation { index, reason }) if index < rest.len() => {
                    let verdicts = patiently(store, &rest[..index])
                        .await
                        .map_err(SalvageError::Postgres)?;
                    for (operation, verdict) in rest.iter().zip(verdicts) {
                        count(operation, &verdict, report, out)?;
                    }
                    refused(&rest[index], &reason, report, out)?;
                    rest = &rest[index + 1..];
                }
                Err(error) => return Err(SalvageError::Postgres(error)),
            }
        }
    }
    Ok(())
}

async fn patiently(store: &dyn ReplayStore, operations: &[Operation]) -> Result<Vec<Verdict>, BatchError> {
    if operations.is_empty() {
        return Ok(Vec::new());
    }
    for _ in 1..TRIES {
        match store.replay(operations).await {
            Err(BatchError::Transient(_)) => tokio::time::sleep(REST).await,
            other => return other,
        }
    }
    store.replay(operations).await
}

fn count(
    operation: &Operation,
    verdict: &Verdict,
    report: &mut Report,
    out: &mut dyn Write,
) -> io::Result<()> {
    match verdict {
        Verdict::Applied(_) | Verdict::Duplicate(_) => {
            report.applied += 1;
            Ok(())
        }
        Verdict::Missing => refused(operation, "not_found", report, out),
        Verdict::PreconditionFailed { .. } => refused(operation, "version_mismatch", report, out),
        Verdict::Late { .. } => refused(operation, "late", report, out),
        Verdict::Refused(why) => refused(operation, why.refusal.as_str(), report, out),
    }
}

fn refused(operation: &Operation, reason: &str, report: &mut Report, out: &mut dyn Write) -> io::Result<()> {
    report.refused += 1;
    writeln!(
        out,
        "{}",
        json!({"refused": {"id": operation.id, "reason": reason}})
    )
}
