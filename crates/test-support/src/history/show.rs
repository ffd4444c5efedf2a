//! Printing a history for people.

use std::fmt::Write as _;

use super::{Event, Failure, Fields, History, Seen, Silence, Time};

/// One line per answer, in order of time, then what was found in the stores.
#[must_use]
pub fn show(history: &History) -> String {
    let mut lines: Vec<(Time, String)> = Vec::new();
    for event in &history.events {
        match event {
            Event::Write(write) => {
                let id = write.entity.as_deref().unwrap_or("?");
                for (number, attempt) in write.attempts.iter().enumerate() {
                    let outcome = match &attempt.outcome {
                        Ok(ack) => {
                            let version = ack.version.map(|v| format!(" v{v}")).unwrap_or_default();
                            format!("{}{version}, operation {}", ack.status, ack.operation)
                        }
                        Err(failure) => failed(failure),
                    };
                    let retry = if number == 0 { "" } else { " (again)" };
                    let fields = fields(&write.fields);
                    let kind = write.kind.as_str();
                    let line = format!("{kind}{retry} {id} {fields} -> {outcome}");
                    lines.push((
                        attempt.start,
                        stamped(attempt.start, attempt.end, attempt.node, &line),
                    ));
                }
            }
            Event::Read(read) => {
                let what = read.entity.as_deref().unwrap_or("list");
                let line = format!("read {what} -> {}", seen(&read.seen));
                lines.push((read.start, stamped(read.start, read.end, read.node, &line)));
            }
        }
    }
    lines.sort();
    let mut text: String = lines.into_iter().map(|(_, line)| line + "\n").collect();
    facts(history, &mut text);
    text
}

fn facts(history: &History, text: &mut String) {
    for row in &history.facts.rows {
        let deleted = if row.deleted { " deleted" } else { "" };
        let shown = &row.shown;
        let _ = writeln!(
            text,
            "  in Postgres: {} v{}{deleted} {}",
            shown.entity,
            shown.version,
            fields(&shown.fields)
        );
    }
    for applied in &history.facts.applied {
        let superseded = if applied.superseded { ", superseded" } else { "" };
        let _ = writeln!(
            text,
            "  applied: {} {}{superseded}",
            applied.kind, applied.operation
        );
    }
    for letter in &history.facts.letters {
        let _ = writeln!(text, "  dead letter: {}: {}", letter.operation, letter.reason);
    }
    for view in &history.facts.views {
        let _ = writeln!(text, "  node {} shows: {}", view.node, seen(&view.seen));
    }
}

fn stamped(start: Time, end: Time, node: usize, line: &str) -> String {
    format!(
        "  {:>9.3}..{:.3} ms  node {node}  {line}",
        milliseconds(start),
        milliseconds(end)
    )
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn milliseconds(time: Time) -> f64 {
    time as f64 / 1_000.0
}

fn fields(fields: &Fields) -> String {
    let one =
        |(name, value): (&String, &Option<String>)| format!("{name}={}", value.as_deref().unwrap_or("null"));
    fields.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn seen(seen: &Seen) -> String {
    match seen {
        Seen::One(shown) => format!("v{} {}", shown.version, fields(&shown.fields)),
        Seen::Absent => "404".into(),
        Seen::All(all) => {
            let all: Vec<_> = all
                .iter()
                .map(|shown| format!("v{} {}", shown.version, fields(&shown.fields)))
                .collect();
            format!("[{}]", all.join(", "))
        }
        Seen::Failed(failure) => failed(failure),
    }
}

fn failed(failure: &Failure) -> String {
    match failure {
        Failure::Refused { status, code, .. } => format!("{status} {code}"),
        Failure::Silent(Silence::Cut) => "no answer (connection lost)".into(),
        Failure::Silent(Silence::GaveUp) => "no answer (the client gave up)".into(),
        Failure::Silent(Silence::TimedOut) => "no answer in time".into(),
    }
}
