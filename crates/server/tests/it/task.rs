//! Tasks while everything is up.

use std::collections::HashSet;

use gravity_domain::clock::{Hlc, NodeId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{all_tasks, new_task, start, titles};

#[tokio::test]
async fn a_created_task_is_answered_whole_and_found_where_location_says() {
    let app = start().await;
    let body = json!({"title": "Write the report", "description": "All of it", "status": "in_progress"});
    let created = app.alice().post("/api/v1/tasks", body).await;
    let expected = json!({
        "id": "[id]", "title": "Write the report", "description": "All of it", "status": "in_progress",
        "createdAt": "[time]", "updatedAt": "[time]", "version": 1, "sync": "committed",
    });
    assert_eq!(
        created.shape(),
        json!({"status": 201, "body": {"data": expected}})
    );
    assert_eq!(
        created.must_header("location"),
        format!("/api/v1/tasks/{}", created.id())
    );
    assert!(Uuid::try_parse(&created.must_header("operation-id")).is_ok());
    assert_eq!(created.must_header("cache-control"), "private, no-cache");

    let read = app
        .alice()
        .get(&created.must_header("location"))
        .await
        .must_be(200);
    assert_eq!(read.json(), created.json());
    assert_eq!(read.header("etag"), created.header("etag"));
    assert_eq!(read.header("gravity-consistency"), None);
}

#[tokio::test]
async fn a_task_needs_a_title_and_nothing_else() {
    let app = start().await;
    let created = app
        .alice()
        .post("/api/v1/tasks", json!({"title": "x"}))
        .await
        .must_be(201)
        .data();
    assert_eq!(
        (&created["description"], &created["status"]),
        (&Value::Null, &json!("pending"))
    );
    let explicit = json!({"title": "x", "description": null});
    let created = app
        .alice()
        .post("/api/v1/tasks", explicit)
        .await
        .must_be(201)
        .data();
    assert_eq!(created["description"], Value::Null);
    let empty = json!({"title": "x", "description": ""});
    app.alice().post("/api/v1/tasks", empty).await.must_be(201);
}

#[tokio::test]
async fn an_update_sets_the_fields_given_and_no_other() {
    let app = start().await;
    let alice = app.alice();
    let body = json!({"title": "first", "description": "kept"});
    let created = alice.post("/api/v1/tasks", body).await.must_be(201);
    let path = created.must_header("location");

    let updated = alice.put(&path, json!({"status": "completed"})).await;
    let expected = json!({
        "id": "[id]", "title": "first", "description": "kept", "status": "completed",
        "createdAt": "[time]", "updatedAt": "[time]", "version": 2, "sync": "committed",
    });
    assert_eq!(
        updated.shape(),
        json!({"status": 200, "body": {"data": expected}})
    );
    assert_eq!(updated.data()["createdAt"], created.data()["createdAt"]);

    let cleared = alice
        .put(&path, json!({"description": null, "title": "second"}))
        .await
        .must_be(200)
        .data();
    assert_eq!(cleared["description"], Value::Null);
    assert_eq!(
        (&cleared["title"], &cleared["status"]),
        (&json!("second"), &json!("completed"))
    );
    assert_eq!(alice.get(&path).await.must_be(200).data(), cleared);
}

#[tokio::test]
async fn every_status_can_be_set_and_no_other_word() {
    let app = start().await;
    let path = format!("/api/v1/tasks/{}", new_task(&app.alice(), "x").await);
    for status in ["in_progress", "completed", "cancelled", "pending"] {
        let updated = app
            .alice()
            .put(&path, json!({"status": status}))
            .await
            .must_be(200);
        assert_eq!(updated.data()["status"], status);
    }
    for status in ["done", "Pending", "", "in-progress"] {
        let refused = app
            .alice()
            .put(&path, json!({"status": status}))
            .await
            .problem(422, "validation_failed");
        assert_eq!(
            refused.errors,
            [("status".to_owned(), "invalid_format".to_owned())]
        );
    }
}

#[tokio::test]
async fn an_update_of_nothing_is_refused() {
    let app = start().await;
    let path = format!("/api/v1/tasks/{}", new_task(&app.alice(), "x").await);
    app.alice()
        .put(&path, json!({}))
        .await
        .problem(400, "empty_update");
    let refused = app
        .alice()
        .put(&path, json!({"title": null}))
        .await
        .problem(422, "validation_failed");
    assert_eq!(refused.errors, [("title".to_owned(), "invalid_type".to_owned())]);
}

#[tokio::test]
async fn a_deleted_task_is_gone_for_every_call() {
    let app = start().await;
    let alice = app.alice();
    let path = format!("/api/v1/tasks/{}", new_task(&alice, "x").await);
    let deleted = alice.delete(&path).await;
    assert_eq!(deleted.shape(), json!({"status": 204}));
    assert!(Uuid::try_parse(&deleted.must_header("operation-id")).is_ok());
    alice.delete(&path).await.problem(404, "not_found");
    alice.get(&path).await.problem(404, "not_found");
    alice
        .put(&path, json!({"title": "back"}))
        .await
        .problem(404, "not_found");
    assert!(all_tasks(&alice).await.is_empty());
}

#[tokio::test]
async fn anothers_task_is_not_there() {
    let app = start().await;
    let path = format!("/api/v1/tasks/{}", new_task(&app.alice(), "alice's").await);
    for other in [app.bob(), app.admin(), app.service()] {
        let theirs = other.get(&path).await;
        theirs.problem(404, "not_found");
        let none = other.get(&format!("/api/v1/tasks/{}", Uuid::now_v7())).await;
        assert_eq!(
            theirs.json()["detail"],
            none.json()["detail"],
            "one cannot tell it from none"
        );
        other
            .put(&path, json!({"title": "mine now"}))
            .await
            .problem(404, "not_found");
        other.delete(&path).await.problem(404, "not_found");
        assert!(all_tasks(&other).await.is_empty());
    }
    assert_eq!(titles(&app.alice()).await, ["alice's"]);
}

#[tokio::test]
async fn an_id_that_is_no_uuid_is_refused() {
    let app = start().await;
    for id in [
        "1",
        "x",
        "0199a3c2-0000-7000-8000-00000000000",
        "0199a3c20000700080000000000000ab",
        "%00",
        "..%2fprofile",
    ] {
        let path = format!("/api/v1/tasks/{id}");
        app.alice().get(&path).await.problem(400, "invalid_id");
        app.alice()
            .put(&path, json!({"title": "x"}))
            .await
            .problem(400, "invalid_id");
        app.alice().delete(&path).await.problem(400, "invalid_id");
    }
}

#[tokio::test]
async fn the_list_is_newest_first_and_paged() {
    let app = start().await;
    let alice = app.alice();
    let empty = alice.get("/api/v1/tasks").await;
    let meta = json!({"nextCursor": null, "hasMore": false});
    assert_eq!(
        empty.shape(),
        json!({"status": 200, "body": {"data": [], "meta": meta}})
    );
    for number in 0..25 {
        new_task(&alice, &number.to_string()).await;
    }
    let newest_first: Vec<String> = (0..25).rev().map(|number: i32| number.to_string()).collect();
    assert_eq!(titles(&alice).await, newest_first);

    let first = alice.get("/api/v1/tasks").await.must_be(200).json();
    assert_eq!(
        first["data"].as_array().unwrap().len(),
        20,
        "20 when no limit is given"
    );
    assert_eq!(first["meta"]["hasMore"], true);
    let cursor = first["meta"]["nextCursor"].as_str().unwrap();
    let second = alice
        .get(&format!("/api/v1/tasks?cursor={cursor}&limit=5"))
        .await
        .must_be(200)
        .json();
    assert_eq!(second["data"].as_array().unwrap().len(), 5);
    assert_eq!(
        second["meta"], meta,
        "a page that ends the list says so, even a full one"
    );
    assert!(titles(&app.bob()).await.is_empty());
}

#[tokio::test]
async fn paging_has_no_gap_and_no_repeat_while_tasks_come_and_go() {
    let app = start().await;
    let alice = app.alice();
    for number in 0..30 {
        new_task(&alice, &format!("old {number}")).await;
    }
    let mut seen = Vec::new();
    let mut query = "?limit=4".to_owned();
    loop {
        let page = alice
            .get(&format!("/api/v1/tasks{query}"))
            .await
            .must_be(200)
            .json();
        let tasks = page["data"].as_array().unwrap();
        seen.extend(
            tasks
                .iter()
                .map(|task| task["title"].as_str().unwrap().to_owned()),
        );
        new_task(&alice, &format!("new {}", seen.len())).await;
        // What was seen may go, and the list goes on behind it all the same.
        let last = tasks.last().unwrap()["id"].as_str().unwrap().to_owned();
        alice.delete(&format!("/api/v1/tasks/{last}")).await.must_be(204);
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => query = format!("?limit=4&cursor={cursor}"),
            None => break,
        }
    }
    let expected: Vec<String> = (0..30).rev().map(|number| format!("old {number}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn tasks_of_the_same_millisecond_are_all_paged() {
    let app = start().await;
    let sql = app.sql().await;
    let at = 1_767_225_600_000;
    let stamp = Hlc {
        wall_ms: at,
        counter: 0,
        node: NodeId(1),
    }
    .to_bytes()
    .to_vec();
    let rows = "INSERT INTO tasks (id, user_id, title, status, created_at, updated_at, version, created_stamp, title_stamp, \
                description_stamp, status_stamp) SELECT gen_random_uuid(), $1, 't' || n, 'pending', \
                to_timestamp($2::bigint / 1000), to_timestamp($2::bigint / 1000), 1, $3, $3, $3, $3 \
                FROM generate_series(1, 57) n";
    let at = i64::try_from(at).unwrap();
    sql.execute(rows, &[&app.alice().id, &at, &stamp]).await.unwrap();
    let mut ids = HashSet::new();
    let mut pages = 0;
    let mut query = "?limit=10".to_owned();
    loop {
        let page = app
            .alice()
            .get(&format!("/api/v1/tasks{query}"))
            .await
            .must_be(200)
            .json();
        pages += 1;
        for task in page["data"].as_array().unwrap() {
            assert!(ids.insert(task["id"].as_str().unwrap().to_owned()), "a repeat");
        }
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => query = format!("?limit=10&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!((ids.len(), pages), (57, 6));
}

#[tokio::test]
async fn the_list_can_be_narrowed_to_a_status() {
    let app = start().await;
    let alice = app.alice();
    for (title, status) in [
        ("a", "pending"),
        ("b", "completed"),
        ("c", "pending"),
        ("d", "cancelled"),
    ] {
        alice
            .post("/api/v1/tasks", json!({"title": title, "status": status}))
            .await
            .must_be(201);
    }
    let narrowed = |status: &'static str| {
        let alice = alice.clone();
        async move {
            let page = alice
                .get(&format!("/api/v1/tasks?status={status}&limit=1"))
                .await
                .must_be(200)
                .json();
            let title = page["data"]
                .get(0)
                .map(|task| task["title"].as_str().unwrap().to_owned());
            (title, page["meta"]["hasMore"].as_bool().unwrap())
        }
    };
    assert_eq!(narrowed("pending").await, (Some("c".to_owned()), true));
    assert_eq!(narrowed("completed").await, (Some("b".to_owned()), false));
    assert_eq!(narrowed("in_progress").await, (None, false));
    for status in ["done", "", "PENDING", "pending,completed"] {
        alice
            .get(&format!("/api/v1/tasks?status={status}"))
            .await
            .problem(400, "invalid_parameter");
    }
}
