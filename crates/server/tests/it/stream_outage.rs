//! The stream while Postgres, Redis or both are away: what was known is still there, said to be stale; what was not is
//! never made up; actions are taken, shown at once, and applied once.

use gravity_test_support::actors::{ALICE, Actor};
use gravity_test_support::builders::item;
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::{TestApp, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::outage::{come_again, state_of};
use crate::setup;
use crate::stream::{ACTIONS, ITEMS, STREAM, act, ids, ingest, three, word};

async fn with_both() -> TestApp {
    setup().private_postgres().private_redis().start().await
}

/// Reads the list and each detail, so that they are known.
async fn look(actor: &Actor, all: &[String]) -> Answer {
    for id in all {
        actor.get(&format!("{STREAM}/{id}")).await.must_be(200);
    }
    actor.get(STREAM).await.must_be(200)
}

/// Said to be stale and, from the first second on, how old.
async fn is_stale(actor: &Actor, path: &str) {
    let answer = actor.get(path).await.must_be(200);
    assert_eq!(answer.header("gravity-consistency"), Some("stale"), "{path}");
    eventually("its age is told", || async {
        let age = actor.get(path).await.must_be(200).header("age")?.parse::<u64>();
        (age.expect("seconds") > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn actions_are_taken_in_the_dark_shown_at_once_and_applied_once() {
    let app = with_both().await;
    let alice = app.alice();
    let all = three(&app).await;
    look(&alice, &all).await;
    app.postgres().kill();

    let read = act(&alice, "read", &[&all[0]]).await.must_be(202);
    assert_eq!(read.data()["sync"], "pending");
    assert_eq!(word(&read.data()["results"][0]), "applied");
    let operation = read.must_header("operation-id");
    assert_eq!(state_of(&alice, &operation).await, "pending");
    act(&alice, "archive", &[&all[1]]).await.must_be(202);
    for path in [STREAM.to_owned(), format!("{STREAM}/{}", all[0])] {
        let shown = alice.get(&path).await.must_be(200);
        assert_eq!(shown.header("gravity-consistency"), Some("pending"), "{path}");
    }
    let page = alice.get(STREAM).await.json();
    assert_eq!(ids(&page["data"]), [all[0].clone(), all[2].clone()]);
    assert_eq!(
        (&page["data"][0]["isUnread"], &page["meta"]["unreadCount"]),
        (&json!(false), &json!(1))
    );
    let detail = |id: &String| alice.get(&format!("{STREAM}/{id}"));
    assert_eq!(detail(&all[0]).await.data()["isUnread"], false);
    assert_eq!(detail(&all[1]).await.data()["isArchived"], true);
    act(&alice, "unarchive", &[&all[1]]).await.must_be(202);
    act(&alice, "unread", &[&all[0]]).await.must_be(202);
    act(&alice, "read", &[&all[1]]).await.must_be(202);
    let page = alice.get(STREAM).await.json();
    assert_eq!(ids(&page["data"]), all);
    assert_eq!(page["meta"]["unreadCount"], 2);

    let stranger = Uuid::now_v7().to_string();
    come_again(&act(&alice, "read", &[&stranger]).await, "database_unavailable");
    come_again(&act(&app.bob(), "read", &[&all[0]]).await, "database_unavailable");
    let body = json!({"items": [item(ALICE, "x", "x", "2026-01-01T00:00:00.000Z")]});
    come_again(&app.service().post(ITEMS, body).await, "database_unavailable");

    app.postgres().start().unwrap();
    app.drained().await;
    let page = alice.get(STREAM).await.must_be(200);
    assert_eq!(page.header("gravity-consistency"), None);
    assert_eq!(ids(&page.data()), all);
    assert_eq!(page.json()["meta"]["unreadCount"], 2);
    assert_eq!(state_of(&alice, &operation).await, "applied");
    let counted = app
        .sql()
        .await
        .query_one(
            "SELECT count(*) FROM applied_operations WHERE entity = 'stream_action'",
            &[],
        )
        .await
        .unwrap()
        .get::<_, i64>(0);
    assert_eq!(counted, 5);
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
    let flags = app
        .sql()
        .await
        .query(
            "SELECT is_unread, is_archived FROM priority_items ORDER BY item_timestamp DESC",
            &[],
        )
        .await
        .unwrap();
    let flags: Vec<(bool, bool)> = flags.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(flags, [(true, false), (false, false), (true, false)]);
}

#[tokio::test]
async fn a_buffered_action_survives_a_kill_and_is_applied_by_the_next_start() {
    let app = with_both().await;
    let alice = app.alice();
    let all = three(&app).await;
    look(&alice, &all).await;
    app.postgres().kill();
    let body = json!({"action": "archive", "ids": [all[0]]});
    let first = alice.post(ACTIONS, body.clone()).key("k").await.must_be(202);
    app.kill();
    app.launch().await;
    let again = alice.post(ACTIONS, body).key("k").await.must_be(202);
    assert_eq!(again.json(), first.json());
    app.postgres().start().unwrap();
    app.drained().await;
    let page = alice.get(STREAM).await.must_be(200);
    assert_eq!(ids(&page.data()), all[1..]);
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
}

#[tokio::test]
async fn an_action_by_filter_reaches_in_the_dark_what_is_known() {
    let app = with_both().await;
    let alice = app.alice();
    let all = three(&app).await;
    let as_of = look(&alice, &all).await.json()["meta"]["asOf"].clone();
    app.postgres().kill();
    let body = json!({"action": "read", "filter": {"filter": "all"}, "asOf": as_of});
    let answer = alice.post(ACTIONS, body).await.must_be(202);
    assert_eq!(answer.data()["results"].as_array().unwrap().len(), 3);
    assert_eq!(alice.get(STREAM).await.json()["meta"]["unreadCount"], 0);
}

/// Kills what is named, and asks for what is known and for what is not.
async fn known_without(app: &TestApp, redis: bool, postgres: bool) {
    let alice = app.alice();
    let all = three(app).await;
    let known = look(&alice, &all).await;
    if redis {
        app.redis().kill();
        app.reports("/services/redis/status", false).await;
    }
    if postgres {
        app.postgres().kill();
        app.in_the_dark().await;
    }
    let page = alice.get(STREAM).await.must_be(200);
    assert_eq!(page.json()["data"], known.json()["data"]);
    let detail = format!("{STREAM}/{}", all[0]);
    alice.get(&detail).await.must_be(200);
    if postgres {
        is_stale(&alice, STREAM).await;
        is_stale(&alice, &detail).await;
        let stranger = app.actor(Uuid::now_v7(), "service");
        come_again(&stranger.get(STREAM).await, "database_unavailable");
        come_again(
            &alice.get(&format!("{STREAM}?filter=archived")).await,
            "database_unavailable",
        );
        let unknown = format!("{STREAM}/{}", Uuid::now_v7());
        come_again(&stranger.get(&unknown).await, "database_unavailable");
    } else {
        assert_eq!(page.header("gravity-consistency"), None);
    }
}

#[tokio::test]
async fn with_redis_away_everything_goes_on() {
    let app = with_both().await;
    known_without(&app, true, false).await;
    let alice = app.alice();
    for n in 0..5 {
        ingest(
            &app,
            vec![item(ALICE, &format!("n{n}"), "new", "2026-04-01T00:00:00.000Z")],
        )
        .await;
        let page = alice.get(STREAM).await.must_be(200);
        assert_eq!(page.data().as_array().unwrap().len(), 4 + n);
        assert!(page.took.as_millis() < 1_000, "{:?}", page.took);
    }
    let all = ids(&alice.get(STREAM).await.data());
    act(&alice, "archive", &[&all[0]]).await.must_be(200);
    assert_eq!(ids(&alice.get(STREAM).await.data()), all[1..]);
    app.redis().start().unwrap();
    app.healthy().await;
    assert_eq!(ids(&alice.get(STREAM).await.must_be(200).data()), all[1..]);
}

#[tokio::test]
async fn with_postgres_away_what_is_known_stays_and_nothing_is_made_up() {
    known_without(&with_both().await, false, true).await;
}

#[tokio::test]
async fn with_both_away_the_process_answers_what_it_has() {
    known_without(&with_both().await, true, true).await;
}

/// How many keys there are in its Redis.
async fn redis_keys(app: &TestApp) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", app.redis().port()))
        .await
        .unwrap();
    stream.write_all(b"DBSIZE\r\n").await.unwrap();
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    text.trim().trim_start_matches(':').parse().unwrap()
}

#[tokio::test]
async fn a_fresh_process_answers_in_the_dark_what_redis_has() {
    let app = with_both().await;
    let all = three(&app).await;
    let known = look(&app.alice(), &all).await;
    // What is kept there is kept beside the answer, not before it.
    eventually("Redis has it", || async {
        (redis_keys(&app).await > 3).then_some(())
    })
    .await;
    app.postgres().kill();
    app.kill();
    app.launch().await;
    let page = app.alice().get(STREAM).await.must_be(200);
    assert_eq!(page.json()["data"], known.json()["data"]);
    is_stale(&app.alice(), STREAM).await;
}

#[tokio::test]
async fn without_postgres_a_page_that_did_not_change_is_still_304() {
    let app = with_both().await;
    let all = three(&app).await;
    let tag = look(&app.alice(), &all).await.must_header("etag");
    app.postgres().kill();
    let same = app.alice().get(STREAM).header("if-none-match", &tag).await;
    assert_eq!(same.status, 304);
    app.in_the_dark().await;
    let same = app.alice().get(STREAM).header("if-none-match", &tag).await;
    assert_eq!(same.status, 304);
    let at_least = app.alice().get(&format!("{STREAM}?minVersion=1000000")).await;
    assert_ne!(at_least.status, 200, "what is older than asked for is no answer");
}

#[tokio::test]
async fn what_was_done_and_fed_just_before_the_dark_hides_nothing_in_it() {
    let app = with_both().await;
    let alice = app.alice();
    let all = three(&app).await;
    look(&alice, &all).await;
    act(&alice, "read", &[&all[0]]).await.must_be(200);
    act(&alice, "archive", &[&all[1]]).await.must_be(200);
    let unseen = item(ALICE, "unseen", "new", "2026-04-01T00:00:00.000Z");
    ingest(&app, vec![unseen]).await;
    app.postgres().kill();
    app.in_the_dark().await;

    let page = alice.get(STREAM).await.must_be(200);
    assert_eq!(page.header("gravity-consistency"), Some("stale"));
    assert_eq!(ids(&page.data()), [all[0].clone(), all[2].clone()]);
    assert_eq!(
        (&page.data()[0]["isUnread"], &page.json()["meta"]["unreadCount"]),
        (&json!(false), &json!(1))
    );
    let detail = alice.get(&format!("{STREAM}/{}", all[1])).await.must_be(200);
    assert_eq!(detail.data()["isArchived"], true);
    assert_eq!(detail.header("gravity-consistency"), Some("stale"));
    // The tag is not that of the page as it was.
    let again = alice
        .get(STREAM)
        .header("if-none-match", &page.must_header("etag"))
        .await;
    assert_eq!(again.status, 304);
    act(&alice, "unread", &[&all[0]]).await.must_be(202);
    act(&alice, "unarchive", &[&all[1]]).await.must_be(202);
    let page = alice.get(STREAM).await.must_be(200);
    assert_eq!(page.header("gravity-consistency"), Some("pending"));
    assert_eq!(ids(&page.data()), all);
    app.postgres().start().unwrap();
    app.drained().await;
    let page = alice.get(STREAM).await.must_be(200);
    assert_eq!(ids(&page.data())[1..], all);
    assert_eq!(page.json()["meta"]["unreadCount"], 4);
}

#[tokio::test]
async fn every_answer_in_the_dark_says_what_it_is() {
    let app = with_both().await;
    let alice = app.alice();
    let all = three(&app).await;
    let known = look(&alice, &all).await;
    let (tag, version) = (known.must_header("etag"), known.json()["meta"]["version"].clone());
    app.postgres().kill();
    app.in_the_dark().await;
    let same = alice.get(STREAM).header("if-none-match", &tag).await;
    assert_eq!(
        (same.status, same.header("gravity-consistency")),
        (304, Some("stale"))
    );
    assert!(same.header("age").is_some());
    let messages = alice
        .get(&format!("{STREAM}/{}/messages", all[0]))
        .await
        .must_be(200);
    assert_eq!(messages.header("gravity-consistency"), Some("stale"));
    assert!(messages.header("age").is_some());
    let changes = alice.get(&format!("{STREAM}/changes?since={version}")).await;
    if changes.status == 200 {
        assert_eq!(changes.header("gravity-consistency"), Some("stale"));
    } else {
        come_again(&changes, "database_unavailable");
    }
}

#[tokio::test]
async fn a_redis_that_hangs_delays_no_read_for_long() {
    let app = with_both().await;
    let all = three(&app).await;
    look(&app.alice(), &all).await;
    app.redis().pause().unwrap();
    for n in 0..5 {
        let fresh = app
            .alice()
            .get(&format!("{STREAM}?limit={}", n + 1))
            .await
            .must_be(200);
        assert!(fresh.took.as_millis() < 1_500, "{:?}", fresh.took);
        let told = ingest(
            &app,
            vec![item(ALICE, &format!("n{n}"), "new", "2026-04-01T00:00:00.000Z")],
        )
        .await;
        assert!(told.took.as_millis() < 1_500, "{:?}", told.took);
        let page: Value = app.alice().get(STREAM).await.must_be(200).data();
        assert_eq!(page.as_array().unwrap().len(), 4 + n);
    }
    app.redis().resume().unwrap();
    app.healthy().await;
}
