//! Those who are not there are told: by Web Push and by the operator's webhook, once, whatever happens to the node.

#[path = "../../../infra/tests/notify/receiver.rs"]
#[allow(dead_code, reason = "its other users read more of what it got")]
mod receiver;

use gravity_test_support::test_app::{TestApp, eventually};
use receiver::Receiver;
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::chat::{CHAT, say, talk};
use crate::setup;

/// The example keys of RFC 8291.
const VAPID_PRIVATE: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";
const VAPID_PUBLIC: &str =
    "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8";
const BROWSER: &str =
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const BROWSER_SECRET: &str = "BTBZMqHH6r4Tts7J_aSIgg";

async fn jobs(app: &TestApp) -> i64 {
    let sql = app.sql().await;
    let row = sql.query_one("SELECT count(*) FROM notification_jobs", &[]).await;
    row.expect("the table is there").get(0)
}

async fn no_jobs(app: &TestApp) {
    eventually("all jobs are seen to", || async {
        (jobs(app).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_two_nodes_one_tells_the_absent_of_each_message_once_by_each_way() {
    let receiver = Receiver::start(&["201 Created"; 40]).await;
    let one = setup()
        .private_redis()
        .set("PUSH_ALLOW_LOOPBACK", "true")
        .set("VAPID_PRIVATE_KEY", VAPID_PRIVATE)
        .set("VAPID_SUBJECT", "mailto:ops@example.com")
        .set("WEBHOOK_URL", receiver.url("/hook"))
        .set("WEBHOOK_SECRET", "whsec_of_the_test")
        .start()
        .await;
    let two = one.another_node().start().await;
    let key = one.bob().get(&format!("{CHAT}/notifications/vapid-key")).await;
    assert!(key.must_be(200).data().to_string().contains(VAPID_PUBLIC));
    let subscription = json!({
        "endpoint": receiver.url("/push"),
        "keys": {"p256dh": BROWSER, "auth": BROWSER_SECRET},
    });
    let path = format!("{CHAT}/notifications/subscriptions");
    one.bob().post(&path, subscription).await.must_be(201);

    let talk = talk(&one.alice(), "bob").await;
    for number in 0..6 {
        let node = if number % 2 == 0 { &one } else { &two };
        say(&node.alice(), &talk, &format!("message {number}"))
            .await
            .must_be(201);
    }
    no_jobs(&one).await;
    let requests = receiver.requests();
    let of = |path: &str| -> Vec<_> {
        let line = format!("POST {path} HTTP/1.1");
        requests.iter().filter(|request| request.line == line).collect()
    };
    let topics: BTreeSet<&str> = of("/push").iter().map(|push| push.header("topic")).collect();
    let snippets: BTreeSet<String> = of("/hook")
        .iter()
        .map(|post| serde_json::from_slice::<Value>(&post.body).expect("JSON"))
        .map(|event| event["data"]["snippet"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!((of("/push").len(), topics.len()), (6, 6));
    assert_eq!((of("/hook").len(), snippets.len()), (6, 6));
    assert!(snippets.contains("message 5"));
}

#[tokio::test]
async fn a_job_survives_the_death_of_its_node() {
    let nobody = Receiver::start(&[]).await.url("/hook");
    let mut app = setup()
        .private_redis()
        .set("PUSH_ALLOW_LOOPBACK", "true")
        .set("WEBHOOK_URL", nobody)
        .set("WEBHOOK_SECRET", "whsec_of_the_test")
        .start()
        .await;
    let talk = talk(&app.alice(), "bob").await;
    say(&app.alice(), &talk, "are you there?").await.must_be(201);
    let sql = app.sql().await;
    eventually("it was tried", || async {
        let tried = "SELECT FROM notification_jobs WHERE last_error = 'connect'";
        sql.query_opt(tried, &[]).await.expect("the table is there")
    })
    .await;
    app.kill();
    let receiver = Receiver::start(&["200 OK"; 5]).await;
    app.set("WEBHOOK_URL", receiver.url("/hook"));
    sql.execute("UPDATE notification_jobs SET run_at = now()", &[])
        .await
        .expect("the table is there");
    app.start().await;
    no_jobs(&app).await;
    let event: Value = serde_json::from_slice(&receiver.only_request().body).expect("JSON");
    assert_eq!(event["data"]["snippet"], "are you there?");
}

#[tokio::test]
async fn whoever_has_read_it_or_does_not_want_to_know_is_not_told() {
    let receiver = Receiver::start(&["200 OK"; 5]).await;
    let app = setup()
        .private_redis()
        .set("PUSH_ALLOW_LOOPBACK", "true")
        .set("WEBHOOK_URL", receiver.url("/hook"))
        .set("WEBHOOK_SECRET", "whsec_of_the_test")
        .start()
        .await;
    let talk = talk(&app.alice(), "bob").await;
    say(&app.alice(), &talk, "read at once").await.must_be(201);
    app.bob()
        .post(&format!("{talk}/read"), json!({}))
        .await
        .must_be(200);
    no_jobs(&app).await;
    app.bob()
        .put(
            &format!("{CHAT}/notifications/preferences"),
            json!({"webhook": false}),
        )
        .await
        .must_be(200);
    say(&app.alice(), &talk, "not wanted").await.must_be(201);
    no_jobs(&app).await;
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn an_endpoint_that_leads_inwards_is_refused() {
    let app = crate::start().await;
    for endpoint in [
        "https://127.0.0.1/x",
        "https://169.254.169.254/latest",
        "https://localhost/x",
        "http://push.example.com/x",
        "https://[::ffff:10.0.0.1]/x",
    ] {
        let subscription = json!({"endpoint": endpoint, "keys": {"p256dh": BROWSER, "auth": BROWSER_SECRET}});
        let path = format!("{CHAT}/notifications/subscriptions");
        assert_eq!(
            app.bob().post(&path, subscription).await.status,
            422,
            "{endpoint}"
        );
    }
    let path = format!("{CHAT}/notifications/vapid-key");
    app.bob().get(&path).await.problem(404, "not_found");
}
