//! What became of a write: `GET /api/v1/operations/{id}` while everything is up.

use serde_json::json;
use uuid::Uuid;

use crate::start;

#[tokio::test]
async fn a_committed_write_is_an_applied_operation() {
    let app = start().await;
    let alice = app.alice();
    let created = alice
        .post("/api/v1/tasks", json!({"title": "x"}))
        .await
        .must_be(201);
    let path = created.must_header("location");
    let profile = alice
        .put("/api/v1/profile", json!({"name": "A"}))
        .await
        .must_be(200);
    let updated = alice
        .put(&path, json!({"title": "y"}))
        .key("k")
        .await
        .must_be(200);
    let deleted = alice.delete(&path).await.must_be(204);
    let cases = [
        (&created, "task", "create", created.id()),
        (&updated, "task", "update", created.id()),
        (&deleted, "task", "delete", created.id()),
        (&profile, "profile", "update", alice.id.to_string()),
    ];
    for (write, entity, kind, target) in cases {
        let operation = write.must_header("operation-id");
        let answer = alice.get(&format!("/api/v1/operations/{operation}")).await;
        let expected = json!({
            "id": "[id]", "entity": entity, "entityId": "[id]", "kind": kind, "state": "applied",
            "acceptedAt": "[time]", "appliedAt": "[time]", "attempts": 1, "reason": null,
        });
        assert_eq!(answer.shape(), json!({"status": 200, "body": {"data": expected}}));
        assert_eq!((answer.id(), answer.text_of("entityId")), (operation, target));
    }
}

#[tokio::test]
async fn anothers_operation_is_not_there() {
    let app = start().await;
    let created = app
        .alice()
        .post("/api/v1/tasks", json!({"title": "x"}))
        .await
        .must_be(201);
    let path = format!("/api/v1/operations/{}", created.must_header("operation-id"));
    app.alice().get(&path).await.must_be(200);
    app.bob().get(&path).await.problem(404, "not_found");
    app.admin().get(&path).await.problem(404, "not_found");
    app.alice()
        .get(&format!("/api/v1/operations/{}", Uuid::now_v7()))
        .await
        .problem(404, "not_found");
    app.alice()
        .get("/api/v1/operations/x")
        .await
        .problem(400, "invalid_id");
}
