//! Judging one entity: what was written to it against what Postgres holds and what nodes show after the drain.

use super::reads::SeenRead;
use super::{
    AppliedRow, Attempt, Broken, Failure, Fields, History, Kind, Read, Row, Seen, Shown, Time, View,
    Violation, Write,
};

/// Everything about one entity.
pub(super) struct Case<'a> {
    pub(super) id: &'a str,
    pub(super) history: &'a History,
    pub(super) writes: Vec<Span<'a>>,
    pub(super) reads: Vec<SeenRead<'a>>,
    pub(super) initial: Option<&'a Row>,
    pub(super) row: Option<&'a Row>,
    pub(super) applied: Vec<&'a AppliedRow>,
    pub(super) views: Vec<&'a View>,
}

/// Why a value cannot be there.
pub(super) enum Unexplained {
    /// Nobody wrote it.
    Unknown,
    /// Something newer was acknowledged.
    Outdated,
}

/// A write and its place in time.
pub(super) struct Span<'a> {
    pub(super) write: &'a Write,
    /// It cannot have taken effect earlier.
    pub(super) start: Time,
    /// It has its place in the order by then; [`Time::MAX`] when nobody knows.
    pub(super) end: Time,
    /// The operation's id, if it was acknowledged.
    pub(super) operation: Option<&'a str>,
    /// Whether it may have taken effect at all.
    pub(super) possible: bool,
    /// Acknowledged, and then set aside with a reason or lost by damage that was announced: it binds nobody.
    pub(super) excused: bool,
    /// Damage was announced: it may have been lost, and brought back by a retry.
    restorable: bool,
}

impl<'a> Span<'a> {
    fn new(history: &'a History, write: &'a Write) -> Self {
        let attempts = &write.attempts;
        let ack = attempts
            .iter()
            .find_map(|attempt| attempt.outcome.as_ref().ok().map(|ack| (attempt, ack)));
        let silent_at = |node: Option<usize>| {
            attempts.iter().any(|attempt| {
                Some(attempt.node) != node && matches!(attempt.outcome, Err(Failure::Silent(_)))
            })
        };
        let last_ack = attempts.iter().rev().find(|attempt| attempt.outcome.is_ok());
        let end = match (ack, last_ack) {
            // Another node may still be about to stamp it.
            (Some((attempt, _)), _) if silent_at(Some(attempt.node)) => Time::MAX,
            // A replay where the first was not known has a place of its own until the drain knows better.
            (Some((attempt, first)), Some(last)) if last.outcome.as_ref() != Ok(first) => {
                attempt.end.max(last.end)
            }
            (Some((attempt, _)), _) => attempt.end,
            (None, _) if silent_at(None) => Time::MAX,
            (None, _) => attempts.last().map_or(Time::MAX, |attempt| attempt.end),
        };
        let operation = ack.map(|(_, ack)| ack.operation.as_str());
        let facts = &history.facts;
        let is_applied = |id: &str| facts.applied.iter().any(|applied| applied.operation == id);
        let is_dead = |id: &str| facts.letters.iter().any(|letter| letter.operation == id);
        let announced = history.rules.damaged && facts.announced;
        Self {
            write,
            start: attempts.first().map_or(0, |attempt| attempt.start),
            end,
            operation,
            possible: ack.is_some()
                || attempts
                    .iter()
                    .any(|attempt| attempt.outcome.as_ref().is_err_and(Failure::leaves_open)),
            excused: operation.is_some_and(|id| is_dead(id) || (announced && !is_applied(id))),
            restorable: announced,
        }
    }

    /// Whether it was buffered after it may have been committed without the node's knowing: until the drain finds that
    /// out, the node counts it twice.
    pub(super) fn may_count_twice(&self) -> bool {
        let attempts = &self.write.attempts;
        attempts.iter().enumerate().any(|(number, attempt)| {
            let Ok(ack) = &attempt.outcome else { return false };
            ack.status == 202
                && attempts[..number].iter().any(|earlier| match &earlier.outcome {
                    Ok(first) => first != ack,
                    Err(failure) => failure.leaves_open(),
                })
        })
    }

    /// From when on it is surely there, by this node's acknowledgement or by any: the first one, or the last one, when what was
    /// acknowledged before may have been lost by damage that was announced.
    pub(super) fn acked(&self, node: Option<usize>) -> Option<Time> {
        let attempts = self.write.attempts.iter();
        let mut acked = attempts
            .filter(|attempt| node.is_none_or(|node| attempt.node == node) && attempt.outcome.is_ok())
            .map(|attempt| attempt.end);
        if self.restorable {
            acked.next_back()
        } else {
            acked.next()
        }
    }

    fn is_kind(&self, kind: Kind) -> bool {
        self.write.kind == kind
    }

    /// A delete that may have taken effect.
    pub(super) fn may_delete(&self) -> bool {
        self.is_kind(Kind::Delete) && self.possible
    }

    /// Whether it was acknowledged (by `node`, if given) before `before`, and must therefore be seen then.
    pub(super) fn binds(&self, node: Option<usize>, before: Time) -> bool {
        !self.excused && self.acked(node).is_some_and(|at| at < before)
    }
}

impl<'a> Case<'a> {
    pub(super) fn new(history: &'a History, id: &'a str) -> Self {
        Self {
            id,
            history,
            writes: Vec::new(),
            reads: Vec::new(),
            initial: None,
            row: None,
            applied: Vec::new(),
            views: Vec::new(),
        }
    }

    pub(super) fn add_write(&mut self, write: &'a Write) {
        self.writes.push(Span::new(self.history, write));
    }

    /// `seen` is `Some(None)` when the entity was not there, and `None` when the read said nothing about it.
    pub(super) fn add_read(&mut self, read: &'a Read, seen: Option<Option<&'a Shown>>) {
        if let Some(shown) = seen {
            self.reads.push(SeenRead { read, shown });
        }
    }

    pub(super) fn is_task_of(&self, user: &str) -> bool {
        self.initial.is_none() && self.writes.iter().any(|span| span.write.user == user)
    }

    /// An item of a stream, fed before the run: its version is its user's, and so counts other items' changes too.
    pub(super) fn is_item(&self) -> bool {
        let has_flags = |row: &Row| row.shown.fields.contains_key("unread");
        self.initial.is_some_and(has_flags)
    }

    pub(super) fn check(&self, found: &mut Vec<Violation>) {
        self.check_operations(found);
        self.check_counts(found);
        self.check_row(found);
        self.check_refusals(found);
        self.check_reads(found);
        self.check_versions(found);
        self.check_views(found);
    }

    pub(super) fn report(&self, found: &mut Vec<Violation>, broken: Broken, message: impl Into<String>) {
        found.push(Violation {
            broken,
            entity: Some(self.id.to_owned()),
            message: message.into(),
        });
    }

    /// Every acknowledged write is applied, or dead with a reason.
    fn check_operations(&self, found: &mut Vec<Violation>) {
        let facts = &self.history.facts;
        for span in &self.writes {
            let Some(id) = span.operation else { continue };
            let is_dead = facts
                .letters
                .iter()
                .any(|letter| letter.operation == id && !letter.reason.is_empty());
            if span.excused || is_dead || self.applied.iter().any(|applied| applied.operation == id) {
                continue;
            }
            let attempts = &span.write.attempts;
            let buffered = attempts
                .iter()
                .find_map(|attempt| attempt.outcome.as_ref().ok())
                .is_some_and(|ack| ack.status == 202);
            let broken = if buffered { Broken::Dropped } else { Broken::Lost };
            let kind = span.write.kind.as_str();
            self.report(
                found,
                broken,
                format!("{kind} {id} is neither applied nor a dead letter"),
            );
        }
    }

    /// No more effects than writes, and one version per effect.
    fn check_counts(&self, found: &mut Vec<Violation>) {
        for kind in [Kind::Create, Kind::Update, Kind::Delete] {
            let sent = self
                .writes
                .iter()
                .filter(|span| span.is_kind(kind) && span.possible)
                .count();
            let applied = self
                .applied
                .iter()
                .filter(|applied| applied.kind == kind.as_str())
                .count();
            if applied > sent {
                let message = format!("{applied} {}s were applied, {sent} were sent", kind.as_str());
                self.report(found, Broken::Doubled, message);
            }
        }
        let Some(row) = self.row.filter(|_| !self.is_item()) else {
            return;
        };
        let effects = self.applied.iter().filter(|applied| !applied.superseded).count() as u64;
        let expected = self.initial.map_or(0, |initial| initial.shown.version) + effects;
        let version = row.shown.version;
        if version != expected {
            let broken = if version > expected {
                Broken::Doubled
            } else {
                Broken::Lost
            };
            let message = format!("the row is at version {version} after {effects} effects");
            self.report(found, broken, message);
        }
    }

    fn check_row(&self, found: &mut Vec<Violation>) {
        let Some(row) = self.row else {
            if !self.applied.is_empty() || self.initial.is_some() {
                self.report(
                    found,
                    Broken::Lost,
                    "operations were applied, but there is no row",
                );
            }
            return;
        };
        let may_exist = self.initial.is_some()
            || self
                .writes
                .iter()
                .any(|span| span.is_kind(Kind::Create) && span.possible);
        if !may_exist {
            self.report(found, Broken::Invented, "there is a row, but nobody created it");
            return;
        }
        if row.deleted {
            if !self.writes.iter().any(Span::may_delete) {
                self.report(found, Broken::Invented, "it is deleted, but nobody deleted it");
            }
            return;
        }
        let is_applied = |span: &Span<'_>| {
            let id = span.operation;
            self.applied
                .iter()
                .any(|applied| Some(applied.operation.as_str()) == id)
        };
        let deleted = |span: &&Span<'_>| span.is_kind(Kind::Delete) && is_applied(span);
        if let Some(span) = self.writes.iter().find(deleted) {
            let id = span.operation.unwrap_or_default();
            self.report(
                found,
                Broken::Resurrected,
                format!("delete {id} was applied, and the row lives"),
            );
        }
        for (field, value) in &row.shown.fields {
            let value = (field.as_str(), value.as_deref());
            if let Some((how, why)) = self.unexplained(value, None, (Time::MAX, Time::MAX)) {
                let broken = match how {
                    Unexplained::Unknown => Broken::Invented,
                    Unexplained::Outdated => Broken::Reordered,
                };
                self.report(found, broken, format!("the row has {value:?}: {why}"));
            }
        }
    }

    /// Why a field cannot have this value, when every write that began before `written` may have set it, and every one
    /// acknowledged (by `node`, if given) before `bound` counts. [`Broken::Invented`] when nobody wrote it at all.
    pub(super) fn unexplained(
        &self,
        (field, value): (&str, Option<&str>),
        node: Option<usize>,
        (written, bound): (Time, Time),
    ) -> Option<(Unexplained, String)> {
        let sets = |fields: &Fields| fields.get(field).map(|set| set.as_deref() == value);
        let later = |end: Time, writer: Option<&Span<'_>>| {
            self.writes.iter().find(|span| {
                let end = end.saturating_add(writer.map_or(0, |writer| self.skew(writer, span)));
                sets(&span.write.fields) == Some(false) && span.binds(node, bound) && span.start > end
            })
        };
        let was_there = |initial: &Row| sets(&initial.shown.fields) == Some(true);
        let first = self.initial.is_some_and(was_there).then(|| later(0, None));
        let writers = self.writes.iter().filter(|span| {
            let wrote = sets(&span.write.fields) == Some(true) || Self::leaves_null(span, field, value);
            wrote && span.possible && span.start < written
        });
        let mut overwritten = None;
        for newer in writers.map(|span| later(span.end, Some(span))).chain(first) {
            // One writer that nothing had to follow explains the value.
            overwritten = Some(newer?);
        }
        let Some(newer) = overwritten else {
            return Some((Unexplained::Unknown, "nobody had written that".into()));
        };
        let value = newer.write.fields.get(field).cloned().flatten();
        let id = newer.operation.unwrap_or_default();
        Some((
            Unexplained::Outdated,
            format!("operation {id} had set it to {value:?} since"),
        ))
    }

    /// How far the stamp of `writer` may be ahead of the one that another node gave `other`: a killed node starts at the
    /// ceiling it had reserved, and whoever sees its stamps follows.
    fn skew(&self, writer: &Span<'_>, other: &Span<'_>) -> Time {
        const RESERVED: Time = 1_000_000;
        let node = |span: &Span<'_>| {
            let mut attempts = span.write.attempts.iter();
            attempts
                .find(|attempt| attempt.outcome.is_ok())
                .map(|attempt| attempt.node)
        };
        let from = writer.end.saturating_sub(2 * RESERVED);
        let restarts = &self.history.restarts;
        let restarted = restarts
            .iter()
            .any(|restart| (from..=writer.end).contains(&restart.at));
        if node(writer) != node(other) && restarted {
            RESERVED
        } else {
            0
        }
    }

    /// A create sets every field: those it does not name are null.
    fn leaves_null(span: &Span<'_>, field: &str, value: Option<&str>) -> bool {
        span.is_kind(Kind::Create) && value.is_none() && !span.write.fields.contains_key(field)
    }

    /// A write is answered 404 only when something may have deleted its entity, and 2xx only when nothing surely has.
    fn check_refusals(&self, found: &mut Vec<Violation>) {
        let rules = self.history.rules;
        if rules.nodes > 1 || rules.damaged {
            return;
        }
        for span in &self.writes {
            let others = || {
                let others = self.writes.iter();
                others.filter(|other| other.is_kind(Kind::Delete) && !std::ptr::eq(other.write, span.write))
            };
            for attempt in &span.write.attempts {
                let missing = matches!(attempt.outcome, Err(Failure::Refused { status: 404, .. }));
                let deleted = others().any(|other| other.possible && other.start < attempt.end);
                if missing && !deleted && !self.forgot_delete(span, attempt) {
                    let message = format!("a {} was answered 404", span.write.kind.as_str());
                    self.report(found, Broken::WrongStatus, message);
                }
            }
            if span.operation.is_some() && others().any(|other| other.binds(None, span.start)) {
                let message = format!("a {} was accepted after the delete", span.write.kind.as_str());
                self.report(found, Broken::Resurrected, message);
            }
        }
    }

    /// A delete that took effect, sent again to a node that was restarted since: with Postgres away it knows that the
    /// task is gone, but not that this is the request that deleted it.
    fn forgot_delete(&self, span: &Span<'_>, attempt: &Attempt) -> bool {
        span.is_kind(Kind::Delete)
            && span.possible
            && span.start < attempt.start
            && self.history.restarted(attempt.node, span.start, attempt.end)
    }

    /// After the drain every node shows what Postgres has.
    fn check_views(&self, found: &mut Vec<Violation>) {
        let row = self.row.filter(|row| !row.deleted).map(|row| &row.shown);
        for view in &self.views {
            let same = match (&view.seen, row) {
                (Seen::Absent, None) => true,
                (Seen::One(shown), Some(row)) => shown == row,
                _ => false,
            };
            if !same {
                let message = format!("node {} shows {:?}, Postgres has {row:?}", view.node, view.seen);
                self.report(found, Broken::Diverged, message);
            }
        }
    }
}
