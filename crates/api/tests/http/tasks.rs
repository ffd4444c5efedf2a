//! Tasks: the answers to the letter.

use crate::ports::ALICE;
use crate::world::{Call, NOW, World, refused};
use serde_json::{Value, json};

const TASKS: &str = "/api/v1/tasks";

#[actix_web::test]
async fn a_task_is_created_read_changed_listed_and_deleted() {
    let world = World::new();
    let client = world.client().await;
    let body = json!({ "title": "Cafe\u{301}", "description": "a\r\nb", "status": "in_progress" });
    let made = client.post("alice", TASKS, &body).await;
    assert_eq!(made.status, 201);
    let id = made.data()["id"].as_str().unwrap().to_owned();
    let expected = json!({ "data": {
        "id": id, "title": "Café", "description": "a\nb", "status": "in_progress",
        "createdAt": "2023-11-14T22:13:20.000Z", "updatedAt": "2023-11-14T22:13:20.000Z",
        "version": 1, "sync": "committed",
    }});
    assert_eq!(made.json(), expected);
    let path = format!("{TASKS}/{id}");
    assert_eq!(made.header("location"), Some(path.as_str()));
    assert!(made.header("operation-id").is_some());
    let read = client.get("alice", &path).await;
    assert_eq!((read.status.as_u16(), read.json()), (200, expected));
    assert_eq!(read.header("etag"), made.header("etag"));
    assert_eq!(read.header("cache-control"), Some("private, no-cache"));
    assert_eq!(read.header("gravity-consistency"), None);

    world.clock.set(NOW + 1_000);
    let changed = client
        .put(
            "alice",
            &path,
            &json!({ "description": null, "status": "completed" }),
        )
        .await;
    assert_eq!(changed.status, 200);
    let expected = json!({
        "id": id, "title": "Café", "description": null, "status": "completed",
        "createdAt": "2023-11-14T22:13:20.000Z", "updatedAt": "2023-11-14T22:13:21.000Z",
        "version": 2, "sync": "committed",
    });
    assert_eq!(changed.data(), expected);
    let list = client.get("alice", TASKS).await;
    assert_eq!(
        list.json(),
        json!({ "data": [expected], "meta": { "nextCursor": null, "hasMore": false } })
    );

    let gone = client.send("DELETE", &path, Call::by("alice")).await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (204, ""));
    assert!(gone.header("operation-id").is_some());
    refused(
        &client.send("DELETE", &path, Call::by("alice")).await,
        404,
        "not_found",
    );
    refused(&client.get("alice", &path).await, 404, "not_found");
}

#[actix_web::test]
async fn anothers_task_is_as_if_it_were_not_there() {
    let client = World::new().client().await;
    let path = client.task("mine").await;
    refused(&client.get("bob", &path).await, 404, "not_found");
    refused(
        &client.put("bob", &path, &json!({ "title": "x" })).await,
        404,
        "not_found",
    );
    refused(
        &client.send("DELETE", &path, Call::by("bob")).await,
        404,
        "not_found",
    );
    assert_eq!(client.get("bob", TASKS).await.json()["data"], json!([]));
}

#[actix_web::test]
async fn paging_has_no_gap_and_no_repeat_while_tasks_are_added() {
    let world = World::new();
    let client = world.client().await;
    for n in 0..7 {
        world.clock.set(NOW + n * 10);
        client.task(&format!("t{n}")).await;
    }
    let mut titles = Vec::new();
    let mut query = "?limit=3".to_owned();
    loop {
        let page = client.get("alice", &format!("{TASKS}{query}")).await.json();
        titles.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|task| task["title"].clone()),
        );
        world
            .clock
            .set(NOW + 10_000 + i64::try_from(titles.len()).unwrap());
        client.task("later").await;
        let Value::String(cursor) = &page["meta"]["nextCursor"] else {
            assert_eq!(page["meta"]["hasMore"], false);
            break;
        };
        assert_eq!(page["meta"]["hasMore"], true);
        query = format!("?limit=3&cursor={cursor}");
    }
    assert_eq!(json!(titles), json!(["t6", "t5", "t4", "t3", "t2", "t1", "t0"]));
}

#[actix_web::test]
async fn the_list_takes_a_status_and_refuses_what_it_does_not_know() {
    let client = World::new().client().await;
    client
        .post("alice", TASKS, &json!({ "title": "a", "status": "completed" }))
        .await;
    client.task("b").await;
    let done = client.get("alice", "/api/v1/tasks?status=completed").await.json();
    assert_eq!(done["data"].as_array().unwrap().len(), 1);
    for (query, code) in [
        ("status=done", "invalid_parameter"),
        ("limit=0", "invalid_parameter"),
        ("limit=101", "invalid_parameter"),
        ("limit=x", "invalid_parameter"),
        ("limit=1&limit=2", "invalid_parameter"),
        ("cursor=rubbish", "invalid_cursor"),
        ("cursor=", "invalid_cursor"),
        ("page=2", "unknown_parameter"),
    ] {
        refused(&client.get("alice", &format!("{TASKS}?{query}")).await, 400, code);
    }
}

#[actix_web::test]
async fn an_id_that_is_no_uuid_is_refused() {
    let client = World::new().client().await;
    let braced = format!("%7B{}%7D", ALICE.0);
    for id in [
        "x",
        "1",
        braced.as_str(),
        &ALICE.0.simple().to_string(),
        "%00",
        "%ff",
        "..%2f",
    ] {
        refused(
            &client.get("alice", &format!("{TASKS}/{id}")).await,
            400,
            "invalid_id",
        );
    }
    refused(
        &client.get("alice", &format!("{TASKS}/{}", ALICE.0)).await,
        404,
        "not_found",
    );
}

#[actix_web::test]
async fn a_write_the_database_refuses_is_409_and_tells_nothing_of_it() {
    let world = World::new();
    let client = world.client().await;
    world.set(|memory| &memory.rejects, true);
    let reply = client.post("alice", TASKS, &json!({ "title": "a" })).await;
    refused(&reply, 409, "write_refused");
    assert!(!reply.text.contains("secret"));
}
