//! Judging what was read of one entity while the run went on.

use super::entity::{Case, Unexplained};
use super::{Broken, Kind, Read, Shown, Time, Violation};

/// A read that said something about the entity.
pub(super) struct SeenRead<'a> {
    pub(super) read: &'a Read,
    /// `None` when it was not there.
    pub(super) shown: Option<&'a Shown>,
}

impl Case<'_> {
    pub(super) fn check_reads(&self, found: &mut Vec<Violation>) {
        for seen in &self.reads {
            match seen.shown {
                None => self.check_absent(seen.read, found),
                Some(shown) => self.check_shown(seen.read, shown, found),
            }
        }
    }

    fn check_absent(&self, read: &Read, found: &mut Vec<Violation>) {
        let created = self.initial.is_some()
            || self
                .writes
                .iter()
                .any(|span| span.write.kind == Kind::Create && span.binds(Some(read.node), read.start));
        let may_be_deleted = self
            .writes
            .iter()
            .any(|span| span.may_delete() && span.start < read.end);
        if created && !may_be_deleted {
            let how = if read.entity.is_some() {
                "answered 404"
            } else {
                "missing from a list"
            };
            self.report(found, Broken::StaleRead, format!("an acknowledged task is {how}"));
        }
    }

    fn check_shown(&self, read: &Read, shown: &Shown, found: &mut Vec<Violation>) {
        let deleted = self
            .writes
            .iter()
            .any(|span| span.write.kind == Kind::Delete && span.binds(Some(read.node), read.start));
        if deleted {
            self.report(
                found,
                Broken::Resurrected,
                "shown after its delete was acknowledged",
            );
            return;
        }
        for (field, value) in &shown.fields {
            // What began before the read ended may be seen; what was acknowledged before it began must be.
            let value = (field.as_str(), value.as_deref());
            let times = (read.end, read.start);
            if let Some((how, why)) = self.unexplained(value, Some(read.node), times) {
                let broken = match how {
                    Unexplained::Unknown => Broken::Invented,
                    Unexplained::Outdated => Broken::StaleRead,
                };
                self.report(found, broken, format!("{value:?} was read: {why}"));
            }
        }
    }

    /// With one node, the versions that answers show never go down, except that a write may have been counted twice
    /// until the drain finds it done.
    pub(super) fn check_versions(&self, found: &mut Vec<Violation>) {
        let rules = self.history.rules;
        if rules.nodes > 1 || rules.damaged || self.is_item() {
            return;
        }
        let mut answers: Vec<(Time, Time, u64)> = Vec::new();
        for seen in &self.reads {
            if let Some(shown) = seen.shown {
                answers.push((seen.read.start, seen.read.end, shown.version));
            }
        }
        for span in &self.writes {
            let first = span.write.attempts.iter().find(|attempt| attempt.outcome.is_ok());
            if let Some(attempt) = first
                && let Some(version) = attempt.outcome.as_ref().ok().and_then(|ack| ack.version)
            {
                answers.push((span.start, attempt.end, version));
            }
        }
        let twice = self.writes.iter().filter(|span| span.may_count_twice()).count() as u64;
        for (start, _, version) in &answers {
            let earlier = answers.iter().filter(|(_, end, _)| end < start);
            if let Some((_, _, highest)) = earlier.max_by_key(|(_, _, version)| *version)
                && *highest > version + twice
            {
                let message = format!("version {highest} was answered, then {version}");
                self.report(found, Broken::WentBack, message);
            }
        }
    }
}
