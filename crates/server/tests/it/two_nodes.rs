//! Two servers, each with a buffer of its own, on one Postgres.

use gravity_test_support::builders::task;
use gravity_test_support::test_app::{TestApp, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::outage::{cut_off, state_of};
use crate::{new_task, setup, start, titles};

const TASKS: &str = "/api/v1/tasks";

/// Two nodes; each can be cut off.
async fn two() -> (TestApp, TestApp) {
    let one = setup().proxied().start().await;
    let two = one.another_node().start().await;
    (one, two)
}

async fn read(app: &TestApp, path: &str) -> Value {
    app.alice().get(path).await.must_be(200).data()
}

#[tokio::test]
async fn what_one_node_commits_the_other_shows() {
    let one = start().await;
    let two = one.another_node().start().await;
    let path = format!("{TASKS}/{}", new_task(&one.alice(), "x").await);
    assert_eq!(read(&two, &path).await["title"], "x");
    two.alice().put(&path, json!({"title": "y"})).await.must_be(200);
    assert_eq!(read(&one, &path).await["title"], "y");
    one.alice().delete(&path).await.must_be(204);
    two.alice().get(&path).await.problem(404, "not_found");
    assert!(titles(&two.alice()).await.is_empty());
}

#[tokio::test]
async fn edits_of_different_fields_on_both_sides_of_an_outage_are_merged() {
    let (one, two) = two().await;
    let path = format!("{TASKS}/{}", new_task(&one.alice(), "first").await);
    read(&two, &path).await;
    cut_off(&two).await;
    two.alice()
        .put(&path, json!({"status": "completed"}))
        .await
        .must_be(202);
    one.alice()
        .put(&path, json!({"title": "second", "description": "d"}))
        .await
        .must_be(200);
    two.proxy().pass();
    two.drained().await;
    let merged = read(&one, &path).await;
    assert_eq!(merged, read(&two, &path).await);
    assert_eq!(
        (&merged["title"], &merged["description"], &merged["status"]),
        (&json!("second"), &json!("d"), &json!("completed"))
    );
}

#[tokio::test]
async fn a_late_write_never_overwrites_a_newer_field() {
    let (one, two) = two().await;
    let path = format!("{TASKS}/{}", new_task(&one.alice(), "first").await);
    read(&two, &path).await;
    cut_off(&two).await;
    let late = two
        .alice()
        .put(&path, json!({"title": "late"}))
        .await
        .must_be(202);
    one.alice()
        .put(&path, json!({"title": "newer"}))
        .await
        .must_be(200);
    two.proxy().pass();
    two.drained().await;
    assert_eq!(read(&one, &path).await["title"], "newer");
    assert_eq!(read(&two, &path).await["title"], "newer");
    assert_eq!(
        state_of(&two.alice(), &late.must_header("operation-id")).await,
        "superseded"
    );
    assert_eq!(
        state_of(&one.alice(), &late.must_header("operation-id")).await,
        "superseded"
    );
}

#[tokio::test]
async fn a_newer_write_wins_whichever_side_of_the_outage_it_was_on() {
    let (one, two) = two().await;
    let path = format!("{TASKS}/{}", new_task(&one.alice(), "first").await);
    for app in [&one, &two] {
        read(app, &path).await;
        cut_off(app).await;
    }
    one.alice()
        .put(&path, json!({"title": "older"}))
        .await
        .must_be(202);
    two.alice()
        .put(&path, json!({"title": "newer"}))
        .await
        .must_be(202);
    two.proxy().pass();
    two.drained().await;
    one.proxy().pass();
    one.drained().await;
    assert_eq!(read(&one, &path).await["title"], "newer");
    assert_eq!(read(&one, &path).await, read(&two, &path).await);
}

#[tokio::test]
async fn a_late_write_never_undoes_a_delete() {
    let (one, two) = two().await;
    let path = format!("{TASKS}/{}", new_task(&one.alice(), "first").await);
    read(&two, &path).await;
    cut_off(&two).await;
    let late = two
        .alice()
        .put(&path, json!({"title": "late"}))
        .await
        .must_be(202);
    one.alice().delete(&path).await.must_be(204);
    two.proxy().pass();
    two.drained().await;
    for app in [&one, &two] {
        app.alice().get(&path).await.problem(404, "not_found");
        assert!(titles(&app.alice()).await.is_empty());
    }
    let state = state_of(&two.alice(), &late.must_header("operation-id")).await;
    assert_eq!(state, "superseded");
}

#[tokio::test]
async fn a_retry_that_two_nodes_took_in_the_dark_is_one_task() {
    let (one, two) = two().await;
    cut_off(&one).await;
    cut_off(&two).await;
    let first = one.alice().post(TASKS, task("once")).key("k").await.must_be(202);
    let again = two.alice().post(TASKS, task("once")).key("k").await.must_be(202);
    assert_eq!(first.id(), again.id());
    assert_eq!(
        first.must_header("operation-id"),
        again.must_header("operation-id")
    );
    one.proxy().pass();
    two.proxy().pass();
    one.drained().await;
    two.drained().await;
    assert_eq!(titles(&one.alice()).await, ["once"]);
    assert_eq!(titles(&two.alice()).await, ["once"]);
    assert_eq!(one.reported("/buffer/deadLetters").await, 0);
    assert_eq!(two.reported("/buffer/deadLetters").await, 0);
}

#[tokio::test]
async fn both_nodes_see_the_same_rows_after_busy_days_apart() {
    let (one, two) = two().await;
    let alice = one.alice();
    let mut paths = Vec::new();
    for number in 0..5 {
        paths.push(format!("{TASKS}/{}", new_task(&alice, &number.to_string()).await));
    }
    for path in &paths {
        read(&two, path).await;
    }
    titles(&one.alice()).await;
    titles(&two.alice()).await;
    cut_off(&one).await;
    cut_off(&two).await;
    let words = ["pending", "in_progress", "completed", "cancelled"];
    for round in 0..24 {
        let app = if round % 3 == 0 { &one } else { &two };
        let path = &paths[(round * 7) % paths.len()];
        let body = if round % 2 == 0 {
            json!({"title": format!("round {round}")})
        } else {
            json!({"status": words[round % words.len()], "description": format!("round {round}")})
        };
        app.alice().put(path, body).await.must_be(202);
        app.alice()
            .post(TASKS, task(&format!("new {round}")))
            .await
            .must_be(202);
    }
    two.proxy().pass();
    one.proxy().pass();
    one.drained().await;
    two.drained().await;
    let rows = crate::all_tasks(&one.alice()).await;
    assert_eq!(rows, crate::all_tasks(&two.alice()).await);
    assert_eq!(rows.len(), 29);
    // By the clocks of both nodes, which are one here: the last round that touched a field has it.
    let last = |index: usize, even: bool| {
        (0..24)
            .rev()
            .find(|round| (round * 7) % 5 == index && (round % 2 == 0) == even)
            .expect("a round")
    };
    for (index, path) in paths.iter().enumerate() {
        let row = read(&one, path).await;
        assert_eq!(row["title"], format!("round {}", last(index, true)));
        assert_eq!(row["description"], format!("round {}", last(index, false)));
        assert_eq!(row["status"], words[last(index, false) % words.len()]);
    }
}

#[tokio::test]
async fn one_nodes_outage_is_not_the_others() {
    let (one, two) = two().await;
    cut_off(&one).await;
    let stranger = Uuid::now_v7();
    one.actor(stranger, "service")
        .post(TASKS, task("buffered"))
        .await
        .must_be(202);
    two.actor(stranger, "service")
        .post(TASKS, task("direct"))
        .await
        .must_be(201);
    one.proxy().pass();
    one.drained().await;
    eventually("both are there", || async {
        (titles(&two.actor(stranger, "service")).await.len() == 2).then_some(())
    })
    .await;
}
