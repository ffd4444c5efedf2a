//! Counting what happened.

use std::fmt;

use gravity_test_support::history::{Event, Failure, History, Seen};

/// What happened, in numbers.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Writes answered as committed.
    pub committed: u64,
    /// Writes answered as buffered.
    pub buffered: u64,
    /// Writes that never got an answer.
    pub unanswered: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Answers 503.
    pub unavailable: u64,
    /// Reads answered 200 or 404.
    pub reads: u64,
    /// Dead letters.
    pub letters: u64,
    /// Operations that a newer write had overtaken.
    pub superseded: u64,
    /// How long each answer took, in microseconds.
    pub took: Vec<u64>,
}

impl Tally {
    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.buffered += other.buffered;
        self.unanswered += other.unanswered;
        self.retries += other.retries;
        self.unavailable += other.unavailable;
        self.reads += other.reads;
        self.letters += other.letters;
        self.superseded += other.superseded;
        self.took.extend(&other.took);
    }

    /// Counts a history.
    pub(crate) fn of(history: &History) -> Self {
        let mut tally = Self {
            letters: history.facts.letters.len() as u64,
            superseded: history
                .facts
                .applied
                .iter()
                .filter(|applied| applied.superseded)
                .count() as u64,
            ..Self::default()
        };
        for event in &history.events {
            match event {
                Event::Write(write) => {
                    tally.retries += write.attempts.len() as u64 - 1;
                    let ack = write
                        .attempts
                        .iter()
                        .find_map(|attempt| attempt.outcome.as_ref().ok());
                    match ack {
                        Some(ack) if ack.status == 202 => tally.buffered += 1,
                        Some(_) => tally.committed += 1,
                        None => tally.unanswered += 1,
                    }
                    for attempt in &write.attempts {
                        tally.answer(attempt.end - attempt.start, attempt.outcome.as_ref().err());
                    }
                }
                Event::Read(read) => match &read.seen {
                    Seen::Failed(failure) => tally.answer(read.end - read.start, Some(failure)),
                    _ => {
                        tally.reads += 1;
                        tally.answer(read.end - read.start, None);
                    }
                },
            }
        }
        tally
    }

    /// What this share of the answers took at most, in milliseconds.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank"
    )]
    pub fn took_ms(&self, share: f64) -> u64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        let rank = (took.len() as f64 * share).ceil() as usize;
        took.get(rank.saturating_sub(1)).map_or(0, |took| took / 1_000)
    }

    fn answer(&mut self, took: u64, failure: Option<&Failure>) {
        if let Some(Failure::Refused { status: 503, .. }) = failure {
            self.unavailable += 1;
        }
        if !matches!(failure, Some(Failure::Silent(_))) {
            self.took.push(took);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} committed, {} buffered, {} unanswered, {} retries, {} x 503, {} reads, {} letters, {} superseded, p99 {} ms, slowest {} ms",
            self.committed,
            self.buffered,
            self.unanswered,
            self.retries,
            self.unavailable,
            self.reads,
            self.letters,
            self.superseded,
            self.took_ms(0.99),
            self.took_ms(1.0),
        )
    }
}
