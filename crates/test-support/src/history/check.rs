//! Judging a history: statuses and times of single answers here, each entity in [`super::entity`].

use std::collections::BTreeMap;

use super::entity::Case;
use super::{
    Attempt, Broken, Event, Failure, History, Kind, Read, Row, Seen, Shown, Silence, Time, Violation, Write,
};

/// Every broken promise of a history; empty when all were kept.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let history = &resolved(history);
    let mut found = Vec::new();
    for event in &history.events {
        match event {
            Event::Write(write) => check_write(history, write, &mut found),
            Event::Read(read) => check_read(history, read, &mut found),
        }
    }
    check_creates(history, &mut found);
    check_letters(history, &mut found);
    for case in cases(history).into_values() {
        case.check(&mut found);
    }
    found
}

/// Gives creates that were never answered the id under which their unique title was seen.
fn resolved(history: &History) -> History {
    let mut history = history.clone();
    let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut note = |user: &str, shown: &Shown| {
        if let Some(Some(title)) = shown.fields.get("title") {
            seen.entry((user.to_owned(), title.clone()))
                .or_insert_with(|| shown.entity.clone());
        }
    };
    for row in &history.facts.rows {
        note(&row.user, &row.shown);
    }
    for event in &history.events {
        if let Event::Read(Read {
            user,
            seen: Seen::All(all),
            ..
        }) = event
        {
            all.iter().for_each(|shown| note(user, shown));
        }
    }
    for event in &mut history.events {
        if let Event::Write(write) = event
            && write.kind == Kind::Create
            && write.entity.is_none()
            && let Some(Some(title)) = write.fields.get("title")
        {
            write.entity = seen.get(&(write.user.clone(), title.clone())).cloned();
        }
    }
    history
}

/// Everything about each entity.
fn cases(history: &History) -> BTreeMap<&str, Case<'_>> {
    let mut cases: BTreeMap<&str, Case<'_>> = BTreeMap::new();
    fn case<'a, 'c>(
        cases: &'c mut BTreeMap<&'a str, Case<'a>>,
        history: &'a History,
        id: &'a str,
    ) -> &'c mut Case<'a> {
        cases.entry(id).or_insert_with(|| Case::new(history, id))
    }
    for event in &history.events {
        match event {
            Event::Write(write) => {
                if let Some(id) = &write.entity {
                    case(&mut cases, history, id).add_write(write);
                }
            }
            Event::Read(read) => match (&read.entity, &read.seen) {
                (Some(id), seen) => case(&mut cases, history, id).add_read(read, seen_one(seen)),
                (None, Seen::All(all)) => {
                    for shown in all {
                        case(&mut cases, history, &shown.entity).add_read(read, Some(Some(shown)));
                    }
                }
                (None, _) => {}
            },
        }
    }
    for row in &history.facts.initial {
        case(&mut cases, history, &row.shown.entity).initial = Some(row);
    }
    for row in &history.facts.rows {
        case(&mut cases, history, &row.shown.entity).row = Some(row);
    }
    for applied in &history.facts.applied {
        case(&mut cases, history, &applied.entity).applied.push(applied);
    }
    // A list says of every task of its user that it does not show: it is not there.
    for event in &history.events {
        if let Event::Read(read) = event
            && let Seen::All(all) = &read.seen
        {
            for case in cases.values_mut().filter(|case| case.is_task_of(&read.user)) {
                if !all.iter().any(|shown| shown.entity == case.id) {
                    case.add_read(read, Some(None));
                }
            }
        }
    }
    for view in &history.facts.views {
        case(&mut cases, history, &view.entity).views.push(view);
    }
    cases
}

/// `Some(None)` is a 404; `None` says nothing about the entity.
fn seen_one(seen: &Seen) -> Option<Option<&Shown>> {
    match seen {
        Seen::One(shown) => Some(Some(shown)),
        Seen::Absent => Some(None),
        Seen::All(_) | Seen::Failed(_) => None,
    }
}

fn check_write(history: &History, write: &Write, found: &mut Vec<Violation>) {
    let mut report = |broken, message| {
        found.push(Violation {
            broken,
            entity: write.entity.clone(),
            message,
        });
    };
    let mut first: Option<(&Attempt, &super::Ack)> = None;
    for attempt in &write.attempts {
        match &attempt.outcome {
            Err(failure) => {
                if let Some(wrong) = not_allowed(failure) {
                    report(
                        Broken::WrongStatus,
                        format!("a {} was answered {wrong}", write.kind.as_str()),
                    );
                }
            }
            Ok(ack) => {
                if history.rules.postgres_untouched && ack.status == 202 {
                    report(Broken::NeedlessBuffering, format!("operation {}", ack.operation));
                }
                match first {
                    None => first = Some((attempt, ack)),
                    Some(first) => {
                        if let Some(difference) =
                            replay_difference(history, write.kind, first, (attempt, ack))
                        {
                            report(Broken::ReplayChanged, difference);
                        }
                    }
                }
            }
        }
        let failure = attempt.outcome.as_ref().err();
        if let Some(slow) = too_slow(history, attempt.start, attempt.end, failure) {
            report(Broken::Slow, format!("a {} took {slow}", write.kind.as_str()));
        }
    }
}

/// The operation is always the same. The answer may differ in how far the write has come when it comes from a node that
/// has not heard of the first: another one, or one that was restarted since and either takes it into the buffer again
/// because Postgres, which knows, is away, or knows that what it creates is there. After damage nothing is known.
fn replay_difference(
    history: &History,
    kind: Kind,
    (before, first): (&Attempt, &super::Ack),
    (attempt, again): (&Attempt, &super::Ack),
) -> Option<String> {
    if history.rules.damaged {
        return None;
    }
    if first.operation != again.operation {
        return Some(format!(
            "operation {} became {}",
            first.operation, again.operation
        ));
    }
    let restarted = history.restarted(attempt.node, before.start, attempt.end);
    let in_the_dark = again.status == 202 || kind == Kind::Create;
    let may_differ = history.rules.nodes > 1 || (restarted && in_the_dark);
    let same = first.status == again.status && first.body == again.body;
    (!may_differ && !same).then(|| {
        format!(
            "{} {} became {} {}",
            first.status, first.body, again.status, again.body
        )
    })
}

fn check_read(history: &History, read: &Read, found: &mut Vec<Violation>) {
    let failure = match &read.seen {
        Seen::Failed(failure) => Some(failure),
        _ => None,
    };
    let mut report = |broken, message| {
        found.push(Violation {
            broken,
            entity: read.entity.clone(),
            message,
        });
    };
    if let Some(wrong) = failure.and_then(not_allowed) {
        report(Broken::WrongStatus, format!("a read was answered {wrong}"));
    }
    if let Some(slow) = too_slow(history, read.start, read.end, failure) {
        report(Broken::Slow, format!("a read took {slow}"));
    }
}

/// 503 with `Retry-After` is always allowed; 404 is judged with the entity.
fn not_allowed(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Refused {
            status: 503,
            retry_after: true,
            ..
        }
        | Failure::Refused { status: 404, .. }
        | Failure::Silent(_) => None,
        Failure::Refused {
            status: 503, code, ..
        } => Some(format!("503 {code} without Retry-After")),
        Failure::Refused { status, code, .. } => Some(format!("{status} {code}")),
    }
}

fn too_slow(history: &History, start: Time, end: Time, failure: Option<&Failure>) -> Option<String> {
    let took = end.saturating_sub(start);
    let timed_out = failure == Some(&Failure::Silent(Silence::TimedOut));
    let answered = !matches!(failure, Some(Failure::Silent(_)));
    (timed_out || (answered && took > history.rules.request_limit)).then(|| {
        format!(
            "{} ms{}",
            took / 1_000,
            if timed_out { " and was never answered" } else { "" }
        )
    })
}

/// A retried create that made a second row leaves one with its unique title under an id that no answer gave.
fn check_creates(history: &History, found: &mut Vec<Violation>) {
    let mut by_title: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in &history.facts.rows {
        if let Some(Some(title)) = row.shown.fields.get("title") {
            by_title.entry((&row.user, title)).or_default().push(row);
        }
    }
    for event in &history.events {
        let Event::Write(write) = event else { continue };
        let (Kind::Create, Some(id), Some(Some(title))) =
            (write.kind, &write.entity, write.fields.get("title"))
        else {
            continue;
        };
        let rows = by_title.get(&(write.user.as_str(), title.as_str()));
        let other = rows.into_iter().flatten().find(|row| row.shown.entity != *id);
        if let Some(other) = other {
            found.push(Violation {
                broken: Broken::Doubled,
                entity: Some(id.clone()),
                message: format!("the same create also left the row {}", other.shown.entity),
            });
        }
    }
}

/// Clients of a run send nothing that Postgres would refuse, so only damage explains a dead letter.
fn check_letters(history: &History, found: &mut Vec<Violation>) {
    for letter in &history.facts.letters {
        if !history.rules.damaged || letter.reason.is_empty() {
            found.push(Violation {
                broken: Broken::NeedlessLetter,
                entity: letter.entity.clone(),
                message: format!("operation {}: {:?}", letter.operation, letter.reason),
            });
        }
    }
}
