//! Profiles.

use crate::ports::ALICE;
use crate::world::{NOW, World, refused};
use serde_json::json;

const PROFILE: &str = "/api/v1/profile";

#[actix_web::test]
async fn a_profile_is_read_and_changed_field_by_field() {
    let world = World::new();
    let client = world.client().await;
    let first = client.get("alice", PROFILE).await;
    assert_eq!(
        first.json(),
        json!({ "data": {
            "id": ALICE.0, "username": "alice", "name": null, "avatarUrl": null, "role": "user", "status": "active",
            "createdAt": "2023-11-14T22:13:20.000Z", "updatedAt": "2023-11-14T22:13:20.000Z",
            "version": 1, "sync": "committed",
        }})
    );
    world.clock.set(NOW + 1);
    let url = "https://example.org/a.png";
    let changed = client
        .put("alice", PROFILE, &json!({ "name": "Ada", "avatarUrl": url }))
        .await;
    assert_eq!(changed.status, 200);
    assert_eq!(
        (&changed.data()["name"], &changed.data()["avatarUrl"]),
        (&json!("Ada"), &json!(url))
    );
    assert!(changed.header("operation-id").is_some());
    let cleared = client.put("alice", PROFILE, &json!({ "avatarUrl": null })).await;
    assert_eq!(
        (&cleared.data()["name"], &cleared.data()["avatarUrl"]),
        (&json!("Ada"), &json!(null))
    );
    assert_eq!(cleared.data()["version"], 3);
}

#[actix_web::test]
async fn an_avatar_is_an_http_address_and_a_name_has_1_to_255_characters() {
    let client = World::new().client().await;
    for body in [
        json!({ "avatarUrl": "javascript:alert(1)" }),
        json!({ "avatarUrl": "ftp://example.org/a" }),
        json!({ "avatarUrl": "" }),
        json!({ "avatarUrl": format!("https://example.org/{}", "a".repeat(2_048)) }),
        json!({ "name": "" }),
        json!({ "name": "a".repeat(256) }),
        json!({ "name": true }),
    ] {
        refused(
            &client.put("alice", PROFILE, &body).await,
            422,
            "validation_failed",
        );
    }
    refused(
        &client.put("alice", PROFILE, &json!({ "username": "x" })).await,
        400,
        "unknown_field",
    );
    refused(
        &client.put("alice", PROFILE, &json!({ "role": "admin" })).await,
        400,
        "unknown_field",
    );
}

#[actix_web::test]
async fn a_machine_has_no_profile() {
    refused(
        &World::new().client().await.get("machine", PROFILE).await,
        404,
        "not_found",
    );
}
