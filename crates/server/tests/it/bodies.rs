//! Bodies: what is no JSON, what is not the JSON a call takes, and how text is taken.

use gravity_test_support::actors::Actor;
use gravity_test_support::calls::Answer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::start;

async fn create(actor: &Actor, body: impl Into<Vec<u8>>) -> Answer {
    actor.call(Method::POST, "/api/v1/tasks").raw(body).await
}

#[tokio::test]
async fn what_is_no_json_is_refused_as_malformed() {
    let app = start().await;
    let deep = format!("{{\"title\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let bodies: [&[u8]; 12] = [
        b"",
        b" ",
        b"{",
        b"{\"title\":\"x\"",
        b"{\"title\":\"x\"}{}",
        b"{\"title\":\"x\"} trailing",
        b"{'title':'x'}",
        b"{\"title\":\"x\",}",
        b"{\"title\":\"\xff\xfe\"}",
        b"{\"title\":\"\\ud800\"}",
        b"{\"title\":\"a\tb\"}",
        deep.as_bytes(),
    ];
    for body in bodies {
        create(&app.alice(), body).await.problem(400, "malformed_json");
    }
}

#[tokio::test]
async fn json_that_is_no_object_is_refused() {
    let app = start().await;
    for body in ["[]", "null", "1", "\"title\"", "[{\"title\":\"x\"}]"] {
        create(&app.alice(), body).await.problem(400, "invalid_body");
    }
}

#[tokio::test]
async fn a_field_nobody_knows_is_refused_by_name() {
    let app = start().await;
    for body in [
        json!({"title": "x", "titel": "y"}),
        json!({"title": "x", "Title": "y"}),
        json!({"title": "x", "id": "0199a3c2-0000-7000-8000-00000000000a"}),
    ] {
        let name = body
            .as_object()
            .unwrap()
            .keys()
            .find(|name| *name != "title")
            .unwrap()
            .clone();
        let problem = app
            .alice()
            .post("/api/v1/tasks", body)
            .await
            .problem(400, "unknown_field");
        assert!(problem.detail.contains(&name), "{problem:?}");
    }
    app.alice()
        .put("/api/v1/profile", json!({"role": "admin"}))
        .await
        .problem(400, "unknown_field");
    let long = "z".repeat(10_000);
    let problem = app
        .alice()
        .post("/api/v1/tasks", json!({ long: 1 }))
        .await
        .problem(400, "unknown_field");
    assert!(
        problem.detail.len() < 300,
        "a name of the caller's is not repeated at length"
    );
}

#[tokio::test]
async fn a_doubled_field_is_refused_by_name_at_any_depth() {
    let app = start().await;
    for body in [
        r#"{"title":"x","title":"x"}"#,
        r#"{"title":"x","\u0074itle":"y"}"#,
        r#"{"title":{"title":1,"title":2}}"#,
        r#"{"description":[{"title":1,"title":1}]}"#,
    ] {
        let problem = create(&app.alice(), body).await.problem(400, "duplicate_field");
        assert!(problem.detail.contains("title"), "{problem:?}");
    }
}

#[tokio::test]
async fn everything_wrong_with_a_body_is_said_at_once() {
    let app = start().await;
    let body = json!({"title": "", "description": 5, "status": "done"});
    let problem = app
        .alice()
        .post("/api/v1/tasks", body)
        .await
        .problem(422, "validation_failed");
    let expected = [
        ("title", "required"),
        ("description", "invalid_type"),
        ("status", "invalid_format"),
    ];
    assert_eq!(
        problem.errors,
        expected.map(|(field, code)| (field.to_owned(), code.to_owned()))
    );
}

#[tokio::test]
async fn values_of_a_wrong_type_are_refused_field_by_field() {
    let app = start().await;
    let wrong = [
        json!(1),
        json!(true),
        json!([]),
        json!({}),
        json!(null),
        json!(1.5),
    ];
    for value in wrong {
        let problem = app
            .alice()
            .post("/api/v1/tasks", json!({"title": value}))
            .await
            .problem(422, "validation_failed");
        assert_eq!(
            problem.errors,
            [("title".to_owned(), "invalid_type".to_owned())],
            "{value}"
        );
    }
    let problem = app
        .alice()
        .post("/api/v1/tasks", json!({}))
        .await
        .problem(422, "validation_failed");
    assert_eq!(problem.errors, [("title".to_owned(), "required".to_owned())]);
    let nothing = json!({"title": "x", "status": null});
    let problem = app
        .alice()
        .post("/api/v1/tasks", nothing)
        .await
        .problem(422, "validation_failed");
    assert_eq!(problem.errors, [("status".to_owned(), "invalid_type".to_owned())]);
}

#[tokio::test]
async fn length_counts_characters_after_normalisation() {
    let app = start().await;
    let alice = app.alice();
    for title in ["x", &"x".repeat(255), &"😀".repeat(255)] {
        let created = alice
            .post("/api/v1/tasks", json!({"title": title}))
            .await
            .must_be(201);
        assert_eq!(created.data()["title"], *title);
    }
    let decomposed = "e\u{301}".repeat(255);
    let created = alice
        .post("/api/v1/tasks", json!({"title": decomposed}))
        .await
        .must_be(201);
    assert_eq!(created.data()["title"], "é".repeat(255), "it is stored after NFC");
    for title in ["x".repeat(256), "😀".repeat(256), "e\u{301}".repeat(256)] {
        let problem = alice
            .post("/api/v1/tasks", json!({"title": title}))
            .await
            .problem(422, "validation_failed");
        assert_eq!(problem.errors, [("title".to_owned(), "too_long".to_owned())]);
    }
    let longest = json!({"title": "x", "description": "é".repeat(10_000)});
    alice.post("/api/v1/tasks", longest).await.must_be(201);
    let longer = json!({"title": "x", "description": "é".repeat(10_001)});
    let problem = alice
        .post("/api/v1/tasks", longer)
        .await
        .problem(422, "validation_failed");
    assert_eq!(
        problem.errors,
        [("description".to_owned(), "too_long".to_owned())]
    );
}

#[tokio::test]
async fn control_characters_are_refused_except_tabs_and_newlines_in_long_text() {
    let app = start().await;
    let alice = app.alice();
    for bad in [
        "\0", "\u{1}", "\t", "\n", "\r", "\u{1b}", "\u{7f}", "\u{85}", "\u{9f}",
    ] {
        let problem = alice
            .post("/api/v1/tasks", json!({"title": format!("a{bad}b")}))
            .await;
        let problem = problem.problem(422, "validation_failed");
        assert_eq!(
            problem.errors,
            [("title".to_owned(), "invalid_character".to_owned())],
            "{bad:?}"
        );
    }
    for bad in ["\0", "\u{b}", "\u{c}", "\u{1b}", "\u{7f}", "\u{85}"] {
        let body = json!({"title": "x", "description": format!("a{bad}b")});
        let problem = alice
            .post("/api/v1/tasks", body)
            .await
            .problem(422, "validation_failed");
        assert_eq!(
            problem.errors,
            [("description".to_owned(), "invalid_character".to_owned())],
            "{bad:?}"
        );
    }
    let body = json!({"title": "x", "description": "a\tb\nc\r\nd"});
    let created = alice.post("/api/v1/tasks", body).await.must_be(201);
    assert_eq!(created.data()["description"], "a\tb\nc\nd");
}

#[tokio::test]
async fn markup_is_data_and_comes_back_as_it_was_given() {
    let app = start().await;
    let markup = "<script>alert(1)</script> & \" ' \u{2028} \u{202e}";
    let created = app
        .alice()
        .post("/api/v1/tasks", json!({"title": markup}))
        .await
        .must_be(201);
    assert_eq!(created.header("content-type"), Some("application/json"));
    let read = app
        .alice()
        .get(&format!("/api/v1/tasks/{}", created.id()))
        .await
        .must_be(200);
    assert_eq!(read.data()["title"], markup);
}

#[tokio::test]
async fn a_body_may_have_64_kib_and_no_byte_more() {
    let app = start().await;
    let padded = |length: usize| {
        let mut body = br#"{"title":"x"}"#.to_vec();
        body.resize(length, b' ');
        body
    };
    create(&app.alice(), padded(65_536)).await.must_be(201);
    for length in [65_537, 200_000, 3_000_000] {
        create(&app.alice(), padded(length))
            .await
            .problem(413, "payload_too_large");
    }
    app.alice()
        .post("/api/v1/tasks", json!({"title": "after"}))
        .await
        .must_be(201);
}

#[tokio::test]
async fn only_json_in_utf_8_and_not_encoded_is_taken() {
    let app = start().await;
    let body = br#"{"title":"x"}"#;
    let call = || app.alice().call(Method::POST, "/api/v1/tasks");
    for good in [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
    ] {
        call().body(good, *body).await.must_be(201);
    }
    for bad in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=latin1",
        "*/*",
    ] {
        call()
            .body(bad, *body)
            .await
            .problem(415, "unsupported_media_type");
    }
    call()
        .raw(*body)
        .header("content-encoding", "gzip")
        .await
        .problem(415, "unsupported_media_type");
    call()
        .raw(*body)
        .header("content-type", "application/json")
        .await
        .problem(415, "unsupported_media_type");
    let untyped = app.alice().call(Method::POST, "/api/v1/tasks").await;
    untyped.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn the_same_rules_hold_for_every_call_with_a_body() {
    let app = start().await;
    let alice = app.alice();
    let task = crate::new_task(&alice, "x").await;
    let task_path = format!("/api/v1/tasks/{task}");
    let calls: [(Method, &str); 6] = [
        (Method::POST, "/api/v1/tasks"),
        (Method::PUT, &task_path),
        (Method::PUT, "/api/v1/profile"),
        (Method::POST, "/api/v1/auth/register"),
        (Method::POST, "/api/v1/auth/login"),
        (Method::POST, "/api/v1/auth/refresh"),
    ];
    for (method, path) in calls {
        let call = || alice.call(method.clone(), path);
        call().raw("{").await.problem(400, "malformed_json");
        call().raw("[]").await.problem(400, "invalid_body");
        call()
            .raw(r#"{"nonsense":1}"#)
            .await
            .problem(400, "unknown_field");
        call()
            .raw(r#"{"name":1,"name":1}"#)
            .await
            .problem(400, "duplicate_field");
        call()
            .body("text/plain", "{}")
            .await
            .problem(415, "unsupported_media_type");
        call()
            .raw(vec![b' '; 70_000])
            .await
            .problem(413, "payload_too_large");
    }
    let unchanged: Value = alice.get(&task_path).await.must_be(200).data();
    assert_eq!(unchanged["version"], 1);
}
