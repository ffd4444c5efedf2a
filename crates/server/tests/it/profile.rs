//! The profile while everything is up.

use serde_json::{Value, json};

use crate::start;

#[tokio::test]
async fn a_profile_is_answered_whole() {
    let app = start().await;
    let read = app.alice().get("/api/v1/profile").await;
    let expected = json!({
        "id": "[id]", "username": "alice", "name": "Alice", "avatarUrl": null, "role": "user", "status": "active",
        "createdAt": "[time]", "updatedAt": "[time]", "version": 1, "sync": "committed",
    });
    assert_eq!(read.shape(), json!({"status": 200, "body": {"data": expected}}));
    assert_eq!(read.id(), app.alice().id.to_string());
}

#[tokio::test]
async fn an_update_sets_the_fields_given_and_null_clears() {
    let app = start().await;
    let alice = app.alice();
    let avatar = "https://example.com/a.png?x=1#y";
    let updated = alice
        .put("/api/v1/profile", json!({"avatarUrl": avatar}))
        .await
        .must_be(200);
    let data = updated.data();
    assert_eq!(
        (&data["name"], &data["avatarUrl"]),
        (&json!("Alice"), &json!(avatar))
    );
    assert_eq!(
        (&data["version"], &data["sync"]),
        (&json!(2), &json!("committed"))
    );
    assert!(updated.header("operation-id").is_some());

    let data = alice
        .put("/api/v1/profile", json!({"name": null}))
        .await
        .must_be(200)
        .data();
    assert_eq!(
        (&data["name"], &data["avatarUrl"]),
        (&Value::Null, &json!(avatar))
    );
    let both = json!({"name": "A. Liddell", "avatarUrl": null});
    let data = alice.put("/api/v1/profile", both).await.must_be(200).data();
    assert_eq!(alice.get("/api/v1/profile").await.must_be(200).data(), data);
    assert_eq!(
        (&data["name"], &data["avatarUrl"], &data["version"]),
        (&json!("A. Liddell"), &Value::Null, &json!(4))
    );

    let bob = app.bob().get("/api/v1/profile").await.must_be(200).data();
    assert_eq!((&bob["username"], &bob["version"]), (&json!("bob"), &json!(1)));
}

#[tokio::test]
async fn names_and_avatars_have_their_form() {
    let app = start().await;
    let alice = app.alice();
    let longest = format!("https://example.com/{}", "a".repeat(2_048 - 20));
    for good in [
        json!({"name": "x"}),
        json!({"name": "😀".repeat(255)}),
        json!({"avatarUrl": "http://x.org"}),
        json!({"avatarUrl": longest}),
    ] {
        alice.put("/api/v1/profile", good).await.must_be(200);
    }
    let wrong = [
        (json!({"name": ""}), "name"),
        (json!({"name": "x".repeat(256)}), "name"),
        (json!({"name": "a\nb"}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"avatarUrl": ""}), "avatarUrl"),
        (json!({"avatarUrl": "javascript:alert(1)"}), "avatarUrl"),
        (json!({"avatarUrl": "data:image/png;base64,AAAA"}), "avatarUrl"),
        (json!({"avatarUrl": "ftp://example.com/a"}), "avatarUrl"),
        (json!({"avatarUrl": "//example.com/a"}), "avatarUrl"),
        (json!({"avatarUrl": "not a url"}), "avatarUrl"),
        (json!({"avatarUrl": format!("{longest}a")}), "avatarUrl"),
    ];
    for (body, field) in wrong {
        let problem = alice
            .put("/api/v1/profile", body.clone())
            .await
            .problem(422, "validation_failed");
        assert_eq!(problem.errors.len(), 1, "{body}");
        assert_eq!(problem.errors[0].0, field, "{body}");
    }
    alice
        .put("/api/v1/profile", json!({}))
        .await
        .problem(400, "empty_update");
}

#[tokio::test]
async fn a_machine_account_has_no_profile() {
    let app = start().await;
    app.admin().get("/api/v1/profile").await.problem(404, "not_found");
    app.admin()
        .put("/api/v1/profile", json!({"name": "x"}))
        .await
        .problem(404, "not_found");
}
