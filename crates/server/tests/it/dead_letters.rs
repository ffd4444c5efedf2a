//! Writes that cannot be applied: set aside with their reason, shown to operators, retried or discarded.

use std::sync::Arc;

use gravity_domain::clock::{Hlc, NodeId, SystemClock};
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::ports::WriteBuffer as _;
use gravity_domain::sync::{Change, Operation};
use gravity_domain::task::TaskChange;
use gravity_infra::write_buffer::{BufferSettings, DurableBuffer};
use gravity_test_support::actors::{ADMIN, Actor};
use gravity_test_support::builders::{now_seconds, task};
use gravity_test_support::test_app::{Setup, TestApp, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::outage::{cut_off, state_of};
use crate::{buffered_task, new_task, setup, titles};

const TASKS: &str = "/api/v1/tasks";
const LETTERS: &str = "/api/v1/admin/dead-letters";

/// A server that can be cut off from Postgres, while the test itself still reaches it.
fn separable() -> Setup {
    setup().proxied().set("MAX_RETRY_ATTEMPTS", "2")
}

async fn run(app: &TestApp, sql: &str) {
    app.sql()
        .await
        .batch_execute(sql)
        .await
        .expect("the statement works");
}

async fn letters(app: &TestApp) -> Vec<Value> {
    app.admin()
        .get(LETTERS)
        .await
        .must_be(200)
        .data()
        .as_array()
        .expect("a list")
        .clone()
}

async fn dies(actor: &Actor, operation: &str) {
    eventually("the operation dies", || async {
        (state_of(actor, operation).await == "dead").then_some(())
    })
    .await;
}

/// A task that no constraint lets in, buffered and then dead. Its operation.
async fn bury(app: &TestApp, actor: &Actor) -> String {
    run(
        app,
        "ALTER TABLE tasks ADD CONSTRAINT no_such_title CHECK (title <> 'cursed')",
    )
    .await;
    cut_off(app).await;
    let cursed = actor
        .post(TASKS, task("cursed"))
        .await
        .must_be(202)
        .must_header("operation-id");
    buffered_task(actor, "after it").await;
    buffered_task(&app.bob(), "bob's").await;
    app.proxy().pass();
    dies(actor, &cursed).await;
    app.drained().await;
    cursed
}

#[tokio::test]
async fn a_write_that_a_constraint_refuses_dies_with_its_reason_and_the_others_go_on() {
    let app = separable().start().await;
    let alice = app.alice();
    let id = bury(&app, &alice).await;
    assert_eq!(titles(&alice).await, ["after it"]);
    assert_eq!(titles(&app.bob()).await, ["bob's"]);

    let operation = alice
        .get(&format!("/api/v1/operations/{id}"))
        .await
        .must_be(200)
        .data();
    assert_eq!(
        (&operation["state"], &operation["attempts"]),
        (&json!("dead"), &json!(2))
    );
    let reason = operation["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("check_violation"), "{reason}");
    assert_eq!(app.reported("/buffer/deadLetters").await, 1);
    assert_eq!(app.ready().await.must_be(200).json()["status"], "healthy");
    assert_eq!(app.metric("gravity_buffer_dead_letters").await, 1.0);
    assert_eq!(
        app.metric("gravity_drain_operations_total{outcome=\"dead\"}")
            .await,
        1.0
    );
    assert_eq!(
        app.admin().get("/api/v1/admin/buffer").await.data()["deadLetters"],
        1
    );

    let listed = app.admin().get(LETTERS).await;
    let letter = json!({
        "id": "[id]", "reason": reason, "diedAt": "[time]", "userId": "[id]", "entity": "task", "entityId": "[id]",
        "kind": "create", "acceptedAt": "[time]", "attempts": 2, "lastError": "[text]",
    });
    let mut shape = listed.shape();
    let error = &mut shape["body"]["data"][0]["lastError"];
    assert!(error.is_string() || error.is_null());
    *error = json!("[text]");
    let meta = json!({"nextCursor": null, "hasMore": false});
    assert_eq!(
        shape,
        json!({"status": 200, "body": {"data": [letter], "meta": meta}})
    );
    assert!(
        !listed.text().contains("cursed"),
        "what it would have written is its owner's"
    );
    app.alice().get(LETTERS).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_dead_letter_that_is_retried_after_the_cause_is_gone_is_applied() {
    let app = separable().start().await;
    let alice = app.alice();
    let id = bury(&app, &alice).await;
    let path = format!("{LETTERS}/{id}");
    app.admin()
        .post(&format!("{path}/retry"), json!({}))
        .await
        .must_be(202);
    dies(&alice, &id).await;

    run(&app, "ALTER TABLE tasks DROP CONSTRAINT no_such_title").await;
    app.kill();
    app.start().await;
    assert_eq!(letters(&app).await.len(), 1, "it is kept over a crash");
    let retried = app
        .admin()
        .post(&format!("{path}/retry"), json!({}))
        .await
        .must_be(202);
    assert_eq!(retried.must_header("operation-id"), id);
    eventually("it is applied", || async {
        (state_of(&alice, &id).await == "applied").then_some(())
    })
    .await;
    app.drained().await;
    let mut all = titles(&alice).await;
    all.sort();
    assert_eq!(all, ["after it", "cursed"]);
    assert!(letters(&app).await.is_empty());
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
    app.admin()
        .post(&format!("{path}/retry"), json!({}))
        .await
        .problem(404, "not_found");
    assert!(audited(&app, "dead_letter.retry", &id), "retries are audited");
}

#[tokio::test]
async fn a_dead_letter_can_be_discarded() {
    let app = separable().start().await;
    let alice = app.alice();
    let id = bury(&app, &alice).await;
    let path = format!("{LETTERS}/{id}");
    app.alice().delete(&path).await.problem(403, "forbidden");
    app.service().delete(&path).await.problem(403, "forbidden");
    app.admin().delete(&path).await.must_be(204);
    app.admin().delete(&path).await.problem(404, "not_found");
    alice
        .get(&format!("/api/v1/operations/{id}"))
        .await
        .problem(404, "not_found");
    assert!(letters(&app).await.is_empty());
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
    assert_eq!(titles(&alice).await, ["after it"]);
    assert!(audited(&app, "dead_letter.discard", &id), "discards are audited");
}

fn audited(app: &TestApp, action: &str, id: &str) -> bool {
    let admin = ADMIN.to_string();
    app.log()
        .lines()
        .any(|line| line.contains(action) && line.contains(id) && line.contains(&admin))
}

#[tokio::test]
async fn a_trigger_that_refuses_one_task_holds_up_no_other_user() {
    let app = separable().start().await;
    run(
        &app,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.title LIKE 'bad%' THEN RAISE EXCEPTION 'no %', NEW.title; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let alice = app.alice();
    let good = new_task(&alice, "good").await;
    cut_off(&app).await;
    let mut bad = Vec::new();
    for number in 0..8 {
        let body = task(&format!("bad {number}"));
        bad.push(
            alice
                .post(TASKS, body)
                .await
                .must_be(202)
                .must_header("operation-id"),
        );
        buffered_task(&app.bob(), &format!("bob's {number}")).await;
    }
    let edit = alice
        .put(&format!("{TASKS}/{good}"), json!({"title": "bad edit"}))
        .await
        .must_be(202);
    bad.push(edit.must_header("operation-id"));
    app.proxy().pass();
    for operation in &bad {
        dies(&alice, operation).await;
    }
    app.drained().await;
    assert_eq!(titles(&app.bob()).await.len(), 8);
    assert_eq!(titles(&alice).await, ["good"]);
    assert_eq!(app.reported("/buffer/deadLetters").await, 9);

    let mut seen = Vec::new();
    let mut query = "?limit=4".to_owned();
    loop {
        let page = app
            .admin()
            .get(&format!("{LETTERS}{query}"))
            .await
            .must_be(200)
            .json();
        let ids = page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|letter| letter["id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => query = format!("?limit=4&cursor={cursor}"),
            None => break,
        }
    }
    seen.sort();
    bad.sort();
    assert_eq!(seen, bad, "the list of dead letters is paged whole");
}

#[tokio::test]
async fn a_direct_write_that_a_constraint_refuses_is_told_so_and_not_buffered() {
    let app = separable().start().await;
    run(
        &app,
        "ALTER TABLE tasks ADD CONSTRAINT no_such_title CHECK (title <> 'cursed')",
    )
    .await;
    let refused = app.alice().post(TASKS, task("cursed")).await;
    refused.problem(409, "write_refused");
    assert!(
        !refused.text().contains("no_such_title") && !refused.text().contains("constraint"),
        "{}",
        refused.text()
    );
    assert_eq!(app.reported("/buffer/size").await, 0);
    assert!(letters(&app).await.is_empty());
}

#[tokio::test]
async fn a_condition_that_no_longer_holds_on_replay_makes_a_dead_letter() {
    let app = separable().start().await;
    let alice = app.alice();
    let id = new_task(&alice, "first").await;
    let path = format!("{TASKS}/{id}");
    let tag = alice.get(&path).await.must_header("etag");
    cut_off(&app).await;
    alice
        .put(&path, json!({"title": "x"}))
        .header("if-match", "\"9\"")
        .await
        .problem(412, "version_mismatch");
    let conditional = alice
        .put(&path, json!({"title": "on the first"}))
        .header("if-match", &tag)
        .await
        .must_be(202);
    let free = alice
        .put(&path, json!({"status": "completed"}))
        .await
        .must_be(202);
    run(&app, &format!("UPDATE tasks SET version = 7 WHERE id = '{id}'")).await;
    app.proxy().pass();
    dies(&alice, &conditional.must_header("operation-id")).await;
    app.drained().await;
    assert_eq!(
        state_of(&alice, &free.must_header("operation-id")).await,
        "applied"
    );
    let read = alice.get(&path).await.must_be(200).data();
    assert_eq!(
        (&read["title"], &read["status"]),
        (&json!("first"), &json!("completed"))
    );
    assert_eq!(letters(&app).await[0]["reason"], "version_mismatch");
}

#[tokio::test]
async fn an_operation_older_than_the_retention_time_is_parked_and_not_lost() {
    let app = setup().set("BUFFER_RETENTION_HOURS", "1").start().await;
    let alice = app.alice();
    let task_id = new_task(&alice, "first").await;
    app.kill();
    let id = OperationId::random();
    plant(&app, old_deletion(&alice, id, &task_id)).await;
    app.start().await;
    dies(&alice, &id.to_string()).await;
    app.drained().await;
    assert_eq!(letters(&app).await[0]["reason"], "expired");
    assert_eq!(titles(&alice).await, ["first"]);
    app.admin()
        .post(&format!("{LETTERS}/{id}/retry"), json!({}))
        .await
        .must_be(202);
    eventually("it leaves the buffer", || async {
        (!["pending", "dead"].contains(&&*state_of(&alice, &id.to_string()).await)).then_some(())
    })
    .await;
    assert!(
        letters(&app).await.is_empty(),
        "put back by an admin, its age counts no more"
    );
}

/// A delete that was accepted two hours ago.
fn old_deletion(actor: &Actor, id: OperationId, task: &str) -> Operation {
    let wall_ms = u64::try_from(now_seconds()).expect("after 1970") * 1_000 - 7_200_000;
    Operation::new(
        id,
        UserId(actor.id),
        Change::Task {
            id: TaskId(Uuid::try_parse(task).expect("an id")),
            change: TaskChange::Delete,
        },
        Hlc {
            wall_ms,
            counter: 0,
            node: NodeId(1),
        },
    )
}

/// Puts an operation into the buffer of a server that is down.
async fn plant(app: &TestApp, operation: Operation) {
    let settings = BufferSettings {
        min_free_bytes: 0,
        ..BufferSettings::new(&app.buffer_path())
    };
    let buffer = DurableBuffer::open(settings, Arc::new(SystemClock));
    buffer.append(operation).await.expect("the buffer takes it");
    buffer.close().await;
}
