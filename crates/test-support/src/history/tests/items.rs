//! The flags of items of a stream.

use super::*;

/// A run with an item whose flags were `true` and `false` at first.
fn with_item() -> Run {
    let mut run = Run::new();
    run.history.facts.initial.push(Row {
        user: "u".into(),
        deleted: false,
        shown: flagged(1, "true", "false"),
    });
    run
}

fn flagged(version: u64, unread: &str, archived: &str) -> Shown {
    Shown {
        entity: TASK.into(),
        version,
        fields: fields(&[("unread", unread), ("archived", archived)]),
    }
}

impl Run {
    fn act(&mut self, field: &str, value: &str, status: u16, applied: bool) {
        let write = self.write(Kind::Update, None, status, 9, applied);
        write.fields = fields(&[(field, value)]);
    }

    fn item_row(&mut self, unread: &str, archived: &str) {
        self.row(9, "", false);
        let shown = flagged(9, unread, archived);
        if let Some(row) = self.history.facts.rows.last_mut() {
            row.shown = shown.clone();
        }
        if let Some(view) = self.history.facts.views.last_mut() {
            view.seen = Seen::One(shown);
        }
    }
}

#[test]
fn a_wrong_flag_of_an_item_is_found_in_the_row_in_a_read_and_in_a_view() {
    let run = || {
        let mut run = with_item();
        run.read(Seen::One(flagged(1, "true", "false")));
        run.act("unread", "false", 200, true);
        run.read(Seen::One(flagged(4, "false", "false")));
        run.act("archived", "true", 202, true);
        run.read(Seen::One(flagged(4, "false", "true")));
        run
    };
    let mut right = run();
    right.item_row("false", "true");
    assert_eq!(check(&right.history), []);
    let mut wrong = run();
    wrong.item_row("true", "true");
    assert_eq!(wrong.broken(), [Broken::Reordered]);
    let mut wrong = run();
    wrong.read(Seen::One(flagged(4, "false", "false")));
    wrong.item_row("false", "true");
    assert_eq!(wrong.broken(), [Broken::StaleRead]);
    let mut wrong = run();
    wrong.item_row("false", "true");
    wrong.history.facts.views[0].seen = Seen::One(flagged(9, "false", "false"));
    assert_eq!(wrong.broken(), [Broken::Diverged]);
}

#[test]
fn an_action_on_an_item_that_is_lost_dropped_or_answered_404_is_found() {
    for (status, broken) in [(200, Broken::Lost), (202, Broken::Dropped)] {
        let mut run = with_item();
        run.act("unread", "false", status, false);
        run.item_row("false", "false");
        assert_eq!(run.broken(), [broken]);
    }
    let mut run = with_item();
    run.fail(Kind::Update, None, refused(404, false));
    run.item_row("true", "false");
    assert_eq!(run.broken(), [Broken::WrongStatus]);
    let mut run = with_item();
    run.read(Seen::Absent);
    run.item_row("true", "false");
    assert_eq!(run.broken(), [Broken::StaleRead]);
}
