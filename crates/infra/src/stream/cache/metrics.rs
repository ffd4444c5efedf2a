//! What is counted. The counters of the hits that nothing else is done for are made once.

use metrics::{Counter, counter};

/// Where an answer was sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Process,
    Redis,
    Postgres,
    Stale,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Stale => "stale",
        }
    }
}

/// What was sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Page,
    Detail,
    Version,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Detail => "detail",
            Self::Version => "version",
        }
    }
}

fn total(kind: Kind, level: Level, found: bool) -> Counter {
    let result = if found { "hit" } else { "miss" };
    counter!("gravity_stream_cache_total", "kind" => kind.as_str(), "level" => level.as_str(), "result" => result)
}

/// Counts one search.
pub(super) fn count(kind: Kind, level: Level, found: bool) {
    total(kind, level, found).increment(1);
}

/// A value in Redis that cannot be what was stored.
pub(super) fn malformed(kind: Kind) {
    counter!("gravity_stream_cache_malformed_total", "kind" => kind.as_str()).increment(1);
}

/// The counters of level 1.
pub(super) struct Hits {
    pub(super) page: Counter,
    pub(super) detail: Counter,
    pub(super) version: Counter,
    pub(super) invalidations: Counter,
}

impl Default for Hits {
    fn default() -> Self {
        Self {
            page: total(Kind::Page, Level::Process, true),
            detail: total(Kind::Detail, Level::Process, true),
            version: total(Kind::Version, Level::Process, true),
            invalidations: counter!("gravity_stream_cache_invalidations_total"),
        }
    }
}
