//! Planted violations of each promise: the checker must find every one of them, and nothing in a clean run.

mod items;

use super::*;

const TASK: &str = "task-1";

/// A run with one user, written line by line.
struct Run {
    history: History,
    now: Time,
    operations: u64,
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), Some((*value).to_owned()));
    pairs.iter().map(owned).collect()
}

fn shown(version: u64, title: &str) -> Shown {
    Shown {
        entity: TASK.into(),
        version,
        fields: fields(&[("title", title)]),
    }
}

impl Run {
    fn new() -> Self {
        let rules = Rules {
            nodes: 1,
            damaged: false,
            postgres_untouched: false,
            request_limit: 5_000_000,
        };
        Self {
            history: History {
                rules,
                restarts: Vec::new(),
                events: Vec::new(),
                facts: Facts::default(),
            },
            now: 0,
            operations: 0,
        }
    }

    fn tick(&mut self) -> (Time, Time) {
        self.now += 1_000;
        (self.now, self.now + 500)
    }

    /// An answered write; `applied` also leaves its row in `applied_operations`.
    fn write(
        &mut self,
        kind: Kind,
        title: Option<&str>,
        status: u16,
        version: u64,
        applied: bool,
    ) -> &mut Write {
        self.operations += 1;
        let operation = format!("op-{}", self.operations);
        let (start, end) = self.tick();
        if applied {
            self.history.facts.applied.push(AppliedRow {
                operation: operation.clone(),
                entity: TASK.into(),
                kind: kind.as_str().into(),
                superseded: false,
            });
        }
        let ack = Ack {
            status,
            operation,
            version: Some(version),
            body: format!("v{version}"),
        };
        self.push(kind, title, start, end, Ok(ack))
    }

    fn push(
        &mut self,
        kind: Kind,
        title: Option<&str>,
        start: Time,
        end: Time,
        outcome: Result<Ack, Failure>,
    ) -> &mut Write {
        self.history.events.push(Event::Write(Write {
            user: "u".into(),
            entity: Some(TASK.into()),
            kind,
            fields: title.map(|title| fields(&[("title", title)])).unwrap_or_default(),
            attempts: vec![Attempt {
                node: 0,
                start,
                end,
                outcome,
            }],
        }));
        match self.history.events.last_mut() {
            Some(Event::Write(write)) => write,
            _ => unreachable!("a write was pushed"),
        }
    }

    fn create(&mut self, title: &str) {
        self.write(Kind::Create, Some(title), 201, 1, true);
    }

    fn update(&mut self, title: &str, version: u64) {
        self.write(Kind::Update, Some(title), 200, version, true);
    }

    fn fail(&mut self, kind: Kind, title: Option<&str>, failure: Failure) {
        let (start, end) = self.tick();
        self.push(kind, title, start, end, Err(failure));
    }

    fn read(&mut self, seen: Seen) {
        let (start, end) = self.tick();
        let entity = (!matches!(seen, Seen::All(_))).then(|| TASK.to_owned());
        self.history.events.push(Event::Read(Read {
            user: "u".into(),
            entity,
            node: 0,
            start,
            end,
            seen,
        }));
    }

    fn row(&mut self, version: u64, title: &str, deleted: bool) {
        let shown = shown(version, title);
        let seen = if deleted {
            Seen::Absent
        } else {
            Seen::One(shown.clone())
        };
        self.history.facts.rows.push(Row {
            user: "u".into(),
            deleted,
            shown,
        });
        self.history.facts.views.push(View {
            node: 0,
            entity: TASK.into(),
            seen,
        });
    }

    fn broken(&self) -> Vec<Broken> {
        let mut all: Vec<_> = check(&self.history)
            .into_iter()
            .map(|found| found.broken)
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

/// A run with a bit of everything, and nothing wrong.
fn clean() -> Run {
    let mut run = Run::new();
    run.create("a");
    run.read(Seen::One(shown(1, "a")));
    run.update("b", 2);
    run.read(Seen::All(vec![shown(2, "b")]));
    run.write(Kind::Update, Some("c"), 202, 3, true);
    run.read(Seen::One(shown(3, "c")));
    run.read(Seen::Failed(refused(503, true)));
    run
}

fn refused(status: u16, retry_after: bool) -> Failure {
    Failure::Refused {
        status,
        code: "code".into(),
        retry_after,
    }
}

#[test]
fn a_run_that_kept_every_promise_has_no_violation() {
    let mut run = clean();
    run.row(3, "c", false);
    assert_eq!(check(&run.history), []);
}

#[test]
fn a_committed_write_that_is_gone_is_found() {
    let mut run = Run::new();
    run.write(Kind::Create, Some("a"), 201, 1, false);
    assert_eq!(run.broken(), [Broken::Lost]);
    let mut run = clean();
    assert_eq!(run.broken(), [Broken::Lost], "applied, but there is no row");
    run.row(2, "c", false);
    assert_eq!(
        run.broken(),
        [Broken::Lost],
        "one effect is missing from the version"
    );
}

#[test]
fn a_buffered_write_without_a_row_or_a_letter_is_found() {
    let mut run = clean();
    run.write(Kind::Update, Some("d"), 202, 4, false);
    run.row(3, "c", false);
    assert!(run.broken().contains(&Broken::Dropped));
}

#[test]
fn a_write_that_took_effect_twice_is_found() {
    let mut run = clean();
    run.row(4, "c", false);
    assert_eq!(run.broken(), [Broken::Doubled]);

    let mut run = clean();
    let again = run.history.facts.applied[1].clone();
    run.history.facts.applied.push(again);
    run.row(4, "c", false);
    assert_eq!(run.broken(), [Broken::Doubled]);
}

#[test]
fn a_retried_create_that_made_two_rows_is_found() {
    let mut run = Run::new();
    run.create("a");
    run.row(1, "a", false);
    let mut other = run.history.facts.rows[0].clone();
    other.shown.entity = "task-2".into();
    run.history.facts.rows.push(other);
    assert!(run.broken().contains(&Broken::Doubled));
}

#[test]
fn an_older_value_that_won_is_found() {
    let mut run = clean();
    run.row(3, "b", false);
    assert_eq!(run.broken(), [Broken::Reordered]);
}

#[test]
fn a_read_of_an_older_value_is_found() {
    let mut run = clean();
    run.read(Seen::One(shown(3, "b")));
    run.row(3, "c", false);
    assert_eq!(run.broken(), [Broken::StaleRead]);
}

#[test]
fn a_task_missing_from_a_list_or_answered_404_is_found() {
    for seen in [Seen::All(vec![]), Seen::Absent] {
        let mut run = clean();
        run.read(seen);
        run.row(3, "c", false);
        assert_eq!(run.broken(), [Broken::StaleRead]);
    }
}

#[test]
fn a_version_that_goes_down_is_found() {
    let mut run = clean();
    run.read(Seen::One(shown(2, "c")));
    run.row(3, "c", false);
    assert_eq!(run.broken(), [Broken::WentBack]);
}

#[test]
fn a_resurrected_task_is_found_in_reads_and_in_the_row() {
    let mut run = clean();
    run.write(Kind::Delete, None, 202, 4, true);
    run.read(Seen::Absent);
    run.row(4, "c", true);
    assert_eq!(check(&run.history), []);
    run.read(Seen::All(vec![shown(3, "c")]));
    assert!(run.broken().contains(&Broken::Resurrected));

    let mut run = clean();
    run.write(Kind::Delete, None, 204, 4, true);
    run.row(4, "c", false);
    assert_eq!(run.broken(), [Broken::Resurrected]);

    let mut run = clean();
    run.write(Kind::Delete, None, 204, 4, true);
    run.update("d", 5);
    run.row(5, "d", true);
    assert_eq!(run.broken(), [Broken::Resurrected]);
}

#[test]
fn a_replay_that_is_answered_otherwise_is_found() {
    let mut run = clean();
    run.row(3, "c", false);
    let (start, end) = run.tick();
    if let Event::Write(write) = &mut run.history.events[0] {
        let mut again = write.attempts[0].clone();
        (again.start, again.end) = (start, end);
        write.attempts.push(again);
    }
    assert_eq!(check(&run.history), []);
    if let Event::Write(write) = &mut run.history.events[0]
        && let Ok(ack) = &mut write.attempts[1].outcome
    {
        ack.operation = "op-9".into();
    }
    assert_eq!(run.broken(), [Broken::ReplayChanged]);
}

#[test]
fn a_restarted_node_may_take_a_replay_for_a_new_write_but_not_answer_it_otherwise() {
    for (status, restarted, is_allowed) in [(202, true, true), (202, false, false), (200, true, false)] {
        let mut run = clean();
        run.row(3, "c", false);
        let (start, end) = run.tick();
        if restarted {
            run.history.restarts.push(Restart { node: 0, at: start });
        }
        if let Event::Write(write) = &mut run.history.events[2] {
            let mut again = write.attempts[0].clone();
            (again.start, again.end) = (start, end);
            if let Ok(ack) = &mut again.outcome {
                ack.status = status;
                ack.body = "otherwise".into();
            }
            write.attempts.push(again);
        }
        assert_eq!(run.broken().is_empty(), is_allowed, "{status} {restarted}");
    }
}

#[test]
fn a_delete_sent_again_may_be_answered_404_only_after_a_restart() {
    for restarted in [false, true] {
        let mut run = clean();
        run.write(Kind::Delete, None, 204, 4, true);
        run.row(4, "c", true);
        let (start, end) = run.tick();
        if restarted {
            run.history.restarts.push(Restart { node: 0, at: start });
        }
        if let Some(Event::Write(write)) = run.history.events.last_mut() {
            write.attempts.push(Attempt {
                node: 0,
                start,
                end,
                outcome: Err(refused(404, false)),
            });
        }
        assert_eq!(run.broken().is_empty(), restarted);
    }
}

#[test]
fn a_write_buffered_after_an_open_answer_may_be_counted_twice_until_the_drain() {
    for (status, is_allowed) in [(503, true), (404, false)] {
        let mut run = Run::new();
        run.create("a");
        let write = run.write(Kind::Update, Some("b"), 202, 3, true);
        let mut first = write.attempts[0].clone();
        write.attempts[0].start += 100;
        first.end = first.start + 50;
        first.outcome = Err(refused(status, true));
        write.attempts.insert(0, first);
        run.read(Seen::One(shown(2, "b")));
        run.row(2, "b", false);
        assert_eq!(!run.broken().contains(&Broken::WentBack), is_allowed, "{status}");
    }
}

#[test]
fn a_wrong_status_and_a_503_without_retry_after_are_found() {
    for failure in [refused(500, false), refused(503, false), refused(401, false)] {
        let mut run = clean();
        run.fail(Kind::Update, Some("x"), failure);
        run.row(3, "c", false);
        assert_eq!(run.broken(), [Broken::WrongStatus]);
    }
    let mut run = clean();
    run.fail(Kind::Update, Some("x"), refused(404, false));
    run.row(3, "c", false);
    assert_eq!(run.broken(), [Broken::WrongStatus], "nobody deleted it");
}

#[test]
fn a_slow_answer_is_found() {
    let mut run = clean();
    run.row(3, "c", false);
    if let Some(Event::Read(read)) = run.history.events.last_mut() {
        read.end = read.start + 6_000_000;
    }
    assert_eq!(run.broken(), [Broken::Slow]);
}

#[test]
fn a_node_that_differs_from_postgres_after_the_drain_is_found() {
    let mut run = clean();
    run.row(3, "c", false);
    run.history.facts.views[0].seen = Seen::One(shown(3, "b"));
    assert_eq!(run.broken(), [Broken::Diverged]);
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    let mut run = clean();
    run.row(3, "z", false);
    assert_eq!(run.broken(), [Broken::Invented]);
}

#[test]
fn a_dead_letter_is_an_answer_only_where_something_explains_it() {
    let mut run = clean();
    run.write(Kind::Update, Some("d"), 202, 4, false);
    run.row(3, "c", false);
    run.history.facts.letters.push(Letter {
        operation: "op-4".into(),
        entity: Some(TASK.into()),
        reason: "checksum_mismatch".into(),
    });
    assert_eq!(run.broken(), [Broken::NeedlessLetter]);
    run.history.rules.damaged = true;
    assert_eq!(run.broken(), []);
}

#[test]
fn a_loss_through_damage_must_be_announced() {
    let mut run = clean();
    run.write(Kind::Update, Some("d"), 202, 4, false);
    run.row(3, "c", false);
    run.history.rules.damaged = true;
    assert!(run.broken().contains(&Broken::Dropped));
    run.history.facts.announced = true;
    assert_eq!(run.broken(), []);
}

#[test]
fn what_damage_took_binds_again_once_a_retry_has_brought_it_back() {
    let mut run = Run::new();
    run.create("a");
    let first = run.write(Kind::Delete, None, 202, 2, true).attempts[0].clone();
    run.read(Seen::One(shown(1, "a")));
    let (start, end) = run.tick();
    let again = Attempt { start, end, ..first };
    match &mut run.history.events[1] {
        Event::Write(delete) => delete.attempts.push(again),
        Event::Read(_) => unreachable!("it is the delete"),
    }
    run.row(2, "a", true);
    assert!(run.broken().contains(&Broken::Resurrected));
    run.history.rules.damaged = true;
    assert_eq!(run.broken(), [Broken::Resurrected]);
    run.history.facts.announced = true;
    assert_eq!(run.broken(), []);
    run.read(Seen::One(shown(1, "a")));
    assert_eq!(run.broken(), [Broken::Resurrected]);
}

#[test]
fn a_write_in_the_buffer_is_found_where_postgres_was_never_touched() {
    let mut run = clean();
    run.row(3, "c", false);
    run.history.rules.postgres_untouched = true;
    assert_eq!(run.broken(), [Broken::NeedlessBuffering]);
}

#[test]
fn an_unanswered_write_may_take_effect_at_any_later_time_or_never() {
    let silent = Failure::Silent(Silence::GaveUp);
    let mut run = Run::new();
    run.create("a");
    run.fail(Kind::Update, Some("late"), silent);
    run.update("b", 2);
    run.read(Seen::One(shown(2, "b")));
    let mut never = run.history.clone();
    run.read(Seen::One(shown(3, "late")));
    run.history.facts.applied.push(AppliedRow {
        operation: "unknown".into(),
        entity: TASK.into(),
        kind: "update".into(),
        superseded: false,
    });
    run.row(3, "late", false);
    assert_eq!(check(&run.history), []);

    let mut second = Run::new();
    second.row(2, "b", false);
    never.facts.rows = second.history.facts.rows;
    never.facts.views = second.history.facts.views;
    assert_eq!(check(&never), []);
}

#[test]
fn a_create_that_was_never_answered_is_recognised_by_its_title() {
    let mut run = Run::new();
    run.fail(Kind::Create, Some("a"), Failure::Silent(Silence::Cut));
    if let Some(Event::Write(write)) = run.history.events.last_mut() {
        write.entity = None;
    }
    run.history.facts.applied.push(AppliedRow {
        operation: "unknown".into(),
        entity: TASK.into(),
        kind: "create".into(),
        superseded: false,
    });
    run.row(1, "a", false);
    assert_eq!(check(&run.history), []);
}

#[test]
fn concurrent_writes_may_end_in_either_order() {
    for last in ["b", "c"] {
        let mut run = Run::new();
        run.create("a");
        run.update("b", 2);
        run.update("c", 3);
        let times = [(3_000, 3_900), (3_500, 3_700)];
        for (event, (start, end)) in run.history.events.iter_mut().skip(1).zip(times) {
            if let Event::Write(write) = event {
                (write.attempts[0].start, write.attempts[0].end) = (start, end);
            }
        }
        run.row(3, last, false);
        assert_eq!(check(&run.history), []);
    }
}

#[test]
fn a_node_that_was_killed_may_be_a_second_ahead_of_another_but_not_of_itself() {
    for (killed, other_node, is_allowed) in [(true, true, true), (false, true, false), (true, false, false)] {
        let mut run = Run::new();
        run.history.rules.nodes = 2;
        run.create("a");
        run.update("b", 2);
        run.update("c", 3);
        if killed {
            run.history.restarts.push(Restart { node: 0, at: 1_900 });
        }
        if let (true, Some(Event::Write(write))) = (other_node, run.history.events.last_mut()) {
            write.attempts[0].node = 1;
        }
        run.row(3, "b", false);
        assert_eq!(run.broken().is_empty(), is_allowed, "{killed} {other_node}");
    }
}

#[test]
fn the_shortest_history_keeps_only_what_shows_the_violation() {
    let mut run = clean();
    run.read(Seen::One(shown(3, "b")));
    run.row(3, "c", false);
    let violation = check(&run.history).remove(0);
    let small = shrink(&run.history, &violation);
    assert_eq!(small.events.len(), 3, "{}", show(&small));
    assert!(show(&small).contains("title=b"));
}
