//! The operators' calls.

use crate::ports::ALICE;
use crate::world::{Call, World, refused};
use gravity_domain::clock::{Hlc, NodeId, Timestamp};
use gravity_domain::id::{OperationId, TaskId};
use gravity_domain::sync::{Change, DeadLetter, Operation};
use gravity_domain::task::TaskChange;
use serde_json::json;
use uuid::Uuid;

const LETTERS: &str = "/api/v1/admin/dead-letters";

fn bury(world: &World, id: u128, decodable: bool) -> OperationId {
    let id = OperationId(Uuid::from_u128(id));
    let operation = Operation {
        attempts: 3,
        last_error: Some("check_violation".into()),
        ..Operation::new(
            id,
            ALICE,
            Change::Task {
                id: TaskId(Uuid::from_u128(9)),
                change: TaskChange::Delete,
            },
            Hlc {
                wall_ms: 1_700_000_000_000,
                counter: 0,
                node: NodeId(1),
            },
        )
    };
    let letter = DeadLetter {
        id,
        operation: decodable.then_some(operation),
        user_id: Some(ALICE),
        reason: "not_found".into(),
        died_at: Timestamp::from_millis(1_700_000_001_000),
        raw: None,
    };
    world.memory.dead.lock().unwrap().insert(id, letter);
    id
}

#[actix_web::test]
async fn the_buffer_is_shown_to_operators_only() {
    let world = World::new();
    let client = world.client().await;
    let reply = client.get("root", "/api/v1/admin/buffer").await;
    assert_eq!(
        reply.json(),
        json!({ "data": {
            "state": "empty", "size": 0, "maxSize": 1_000_000, "bytes": 0, "oldestAgeSeconds": 0.0,
            "drainRatePerSecond": 12.5, "deadLetters": 0,
        }})
    );
    world.postgres_down();
    client
        .post("alice", "/api/v1/tasks", &json!({ "title": "a" }))
        .await;
    let reply = client.get("root", "/api/v1/admin/buffer").await;
    assert_eq!(
        (&reply.data()["size"], &reply.data()["oldestAgeSeconds"]),
        (&json!(1), &json!(1.5))
    );
    refused(
        &client.get("alice", "/api/v1/admin/buffer").await,
        403,
        "forbidden",
    );
    refused(
        &client.get("machine", "/api/v1/admin/buffer").await,
        403,
        "forbidden",
    );
}

#[actix_web::test]
async fn dead_letters_are_listed_page_by_page_without_what_they_would_have_written() {
    let world = World::new();
    let client = world.client().await;
    for id in 1..=3 {
        bury(&world, id, id != 2);
    }
    let first = client.get("root", &format!("{LETTERS}?limit=2")).await.json();
    assert_eq!(
        first["data"][0],
        json!({
            "id": Uuid::from_u128(1), "reason": "not_found", "diedAt": "2023-11-14T22:13:21.000Z", "userId": ALICE.0,
            "entity": "task", "entityId": Uuid::from_u128(9), "kind": "delete",
            "acceptedAt": "2023-11-14T22:13:20.000Z", "attempts": 3, "lastError": "check_violation",
        })
    );
    assert_eq!(first["data"][1]["entity"], json!(null));
    let cursor = first["meta"]["nextCursor"].as_str().unwrap();
    let rest = client
        .get("root", &format!("{LETTERS}?limit=2&cursor={cursor}"))
        .await
        .json();
    assert_eq!(rest["data"][0]["id"], json!(Uuid::from_u128(3)));
    assert_eq!(rest["meta"], json!({ "nextCursor": null, "hasMore": false }));
    refused(
        &client.get("root", &format!("{LETTERS}?cursor=x")).await,
        400,
        "invalid_cursor",
    );
}

#[actix_web::test]
async fn a_dead_letter_is_retried_or_discarded_once() {
    let world = World::new();
    let client = world.client().await;
    let (good, bad) = (bury(&world, 1, true), bury(&world, 2, false));
    let retry = |id: OperationId| {
        client.send(
            "POST",
            Box::leak(format!("{LETTERS}/{id}/retry").into_boxed_str()),
            Call::by("root"),
        )
    };
    let discard = |id: OperationId| {
        client.send(
            "DELETE",
            Box::leak(format!("{LETTERS}/{id}").into_boxed_str()),
            Call::by("root"),
        )
    };
    let report = client.get("alice", &format!("/api/v1/operations/{good}")).await;
    assert_eq!(
        (&report.data()["state"], &report.data()["reason"]),
        (&json!("dead"), &json!("not_found"))
    );
    let retried = retry(good).await;
    assert_eq!(retried.status, 202);
    assert_eq!(retried.header("operation-id"), Some(good.to_string().as_str()));
    assert_eq!(world.memory.pending.lock().unwrap().len(), 1);
    refused(&retry(good).await, 404, "not_found");
    refused(&retry(bad).await, 409, "undecodable");
    assert_eq!(discard(bad).await.status, 204);
    refused(&discard(bad).await, 404, "not_found");
}
