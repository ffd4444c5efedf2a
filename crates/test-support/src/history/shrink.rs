//! The shortest history that shows a violation.

use super::{Event, History, Seen, Violation, check};

/// The part of `history` that is about the violation's entity, without the events that it does not need: dropping any
/// other would make the violation go away. Without an entity, the history as it is.
#[must_use]
pub fn shrink(history: &History, violation: &Violation) -> History {
    let Some(entity) = &violation.entity else {
        return history.clone();
    };
    let mut small = about(history, entity);
    if !shows(&small, violation) {
        return history.clone();
    }
    let mut at = small.events.len();
    while at > 0 {
        at -= 1;
        let dropped = small.events.remove(at);
        if !shows(&small, violation) {
            small.events.insert(at, dropped);
        }
    }
    small
}

fn shows(history: &History, violation: &Violation) -> bool {
    check(history)
        .iter()
        .any(|found| found.broken == violation.broken && found.entity == violation.entity)
}

/// The part of a history that is about one entity.
#[must_use]
pub fn about(history: &History, entity: &str) -> History {
    let mut small = history.clone();
    let owners: Vec<String> = small
        .events
        .iter()
        .filter_map(|event| owner(event, entity))
        .collect();
    small.events.retain_mut(|event| match event {
        Event::Write(write) => write.entity.as_deref() == Some(entity),
        Event::Read(read) => match &mut read.seen {
            Seen::All(all) => {
                all.retain(|shown| shown.entity == entity);
                owners.contains(&read.user)
            }
            _ => read.entity.as_deref() == Some(entity),
        },
    });
    small.events.sort_by_key(Event::start);
    let facts = &mut small.facts;
    // A row that the same create left under another id belongs to the case.
    let titles: Vec<_> = small
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Write(write) => write.fields.get("title").cloned(),
            Event::Read(_) => None,
        })
        .collect();
    facts.initial.retain(|row| row.shown.entity == entity);
    facts.rows.retain(|row| {
        row.shown.entity == entity
            || row
                .shown
                .fields
                .get("title")
                .is_some_and(|title| titles.contains(title))
    });
    facts.applied.retain(|applied| applied.entity == entity);
    facts
        .letters
        .retain(|letter| letter.entity.as_deref().is_none_or(|id| id == entity));
    facts.views.retain(|view| view.entity == entity);
    small
}

fn owner(event: &Event, entity: &str) -> Option<String> {
    match event {
        Event::Write(write) if write.entity.as_deref() == Some(entity) => Some(write.user.clone()),
        _ => None,
    }
}
