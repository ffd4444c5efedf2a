//! The stream: fed by services, listed, read and acted on by its user, on one node and on two.

use gravity_test_support::actors::{ALICE, Actor, BOB};
use gravity_test_support::builders::item;
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::{TestApp, eventually};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

use crate::outage::state_of;
use crate::{setup, start};

pub(crate) const STREAM: &str = "/v2/stream";
pub(crate) const ACTIONS: &str = "/v2/stream/actions";
pub(crate) const ITEMS: &str = "/v2/ingest/items";

/// Ingests items; the results.
pub(crate) async fn ingest(app: &TestApp, items: Vec<Value>) -> Answer {
    app.service()
        .post(ITEMS, json!({ "items": items }))
        .await
        .must_be(200)
}

/// Three items of Alice, the newest first; their ids.
pub(crate) async fn three(app: &TestApp) -> Vec<String> {
    let answer = ingest(
        app,
        vec![
            item(ALICE, "c", "third", "2026-01-03T00:00:00.000Z"),
            item(ALICE, "b", "second", "2026-01-02T00:00:00.000Z"),
            item(ALICE, "a", "first", "2026-01-01T00:00:00.000Z"),
        ],
    )
    .await;
    ids(&answer.data()["results"])
}

/// The `id` of each.
pub(crate) fn ids(items: &Value) -> Vec<String> {
    let id = |item: &Value| item["id"].as_str().expect("an id").to_owned();
    items.as_array().expect("a list").iter().map(id).collect()
}

/// The version that an ingest has brought the user to.
pub(crate) fn version_of(answer: &Answer, user: Uuid) -> u64 {
    answer.data()["versions"][user.to_string()]
        .as_u64()
        .expect("a version")
}

pub(crate) async fn act(actor: &Actor, action: &str, ids: &[&String]) -> Answer {
    actor.post(ACTIONS, json!({"action": action, "ids": ids})).await
}

async fn list(actor: &Actor, query: &str) -> Answer {
    actor.get(&format!("{STREAM}{query}")).await.must_be(200)
}

#[tokio::test]
async fn what_a_service_ingests_its_user_lists_and_reads() {
    let app = start().await;
    let told = ingest(&app, vec![item(ALICE, "a", "first", "2026-01-01T00:00:00.000Z")]).await;
    let result = &told.data()["results"][0];
    assert_eq!(
        (&result["index"], &result["externalId"], &result["status"]),
        (&json!(0), &json!("a"), &json!("created"))
    );
    let (id, version) = (&ids(&told.data()["results"])[0], version_of(&told, ALICE));
    let page = list(&app.alice(), "").await.json();
    let shown = json!({
        "id": id, "title": "first", "source": "email", "priority": "medium", "isUnread": true, "isArchived": false,
        "snippet": "about first", "timestamp": "2026-01-01T00:00:00.000Z", "version": version,
        "participants": [{"id": page["data"][0]["participants"][0]["id"], "name": "Grace", "avatarUrl": "https://example.com/g.png"}],
    });
    assert_eq!(page["data"], json!([shown]));
    let meta = &page["meta"];
    assert_eq!(
        (
            &meta["version"],
            &meta["unreadCount"],
            &meta["hasMore"],
            &meta["nextCursor"]
        ),
        (&json!(version), &json!(1), &json!(false), &Value::Null)
    );
    let detail = app
        .alice()
        .get(&format!("{STREAM}/{id}"))
        .await
        .must_be(200)
        .data();
    let mut expected = shown;
    expected["messages"] = detail["messages"].clone();
    assert_eq!(detail, expected, "detail and list agree");
    assert_eq!(detail["messages"][0]["content"], "first it is");
    assert_eq!(detail["messages"][0]["senderId"], detail["participants"][0]["id"]);

    let again = ingest(&app, vec![item(ALICE, "a", "first", "2026-01-01T00:00:00.000Z")]).await;
    assert_eq!(again.data()["results"][0]["status"], "unchanged");
    assert_eq!(version_of(&again, ALICE), version);
    let changed = ingest(
        &app,
        vec![item(ALICE, "a", "renamed", "2026-01-01T00:00:00.000Z")],
    )
    .await;
    assert_eq!(changed.data()["results"][0]["status"], "updated");
    assert!(version_of(&changed, ALICE) > version);
    assert_eq!(list(&app.alice(), "").await.data()[0]["title"], "renamed");
}

#[tokio::test]
async fn a_long_stream_comes_in_pages_without_a_gap_or_a_double() {
    let app = start().await;
    let many = (0..25).map(|n| {
        item(
            ALICE,
            &format!("{n}"),
            &format!("item {n}"),
            // Pairs share a timestamp.
            &format!("2026-01-01T00:00:{:02}.000Z", n / 2),
        )
    });
    ingest(&app, many.collect()).await;
    let (mut seen, mut query) = (Vec::new(), "?limit=7".to_owned());
    loop {
        let page = list(&app.alice(), &query).await.json();
        seen.extend(ids(&page["data"]));
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => query = format!("?limit=7&cursor={cursor}"),
            None => break,
        }
    }
    let whole = ids(&list(&app.alice(), "?limit=100").await.data());
    assert_eq!(seen, whole);
    assert_eq!(whole.len(), 25);
}

#[tokio::test]
async fn a_list_can_be_narrowed_and_wrong_questions_are_refused() {
    let app = start().await;
    let mut urgent = item(ALICE, "u", "urgent", "2026-02-01T00:00:00.000Z");
    urgent["priority"] = json!("high");
    urgent["source"] = json!("calendar");
    ingest(&app, vec![urgent]).await;
    let all = three(&app).await;
    let alice = app.alice();
    act(&alice, "read", &[&all[0]]).await.must_be(200);
    act(&alice, "archive", &[&all[1]]).await.must_be(200);
    let titles = |answer: Answer| -> Vec<String> {
        let data = answer.data();
        let title = |item: &Value| item["title"].as_str().expect("a title").to_owned();
        data.as_array().expect("a list").iter().map(title).collect()
    };
    for (query, expected) in [
        ("", vec!["urgent", "third", "first"]),
        ("?filter=unread", vec!["urgent", "first"]),
        ("?filter=archived", vec!["second"]),
        ("?priority=high", vec!["urgent"]),
        ("?source=email", vec!["third", "first"]),
        (
            "?source=email&source=calendar&priority=high&priority=low",
            vec!["urgent"],
        ),
        (
            "?since=2026-01-03T00:00:00.000Z&until=2026-02-01T00:00:00.000Z",
            vec!["third"],
        ),
    ] {
        assert_eq!(titles(list(&alice, query).await), expected, "{query}");
    }
    for query in [
        "?filter=all&x=1",
        "?limit=0",
        "?limit=101",
        "?cursor=x",
        "?priority=urgent",
        "?since=yesterday",
    ] {
        let refused = alice.get(&format!("{STREAM}{query}")).await;
        assert!(
            [400, 422].contains(&refused.status),
            "{query}: {}",
            refused.status
        );
    }
}

#[tokio::test]
async fn an_action_changes_flags_counts_and_version() {
    let app = start().await;
    let all = three(&app).await;
    let alice = app.alice();
    let before = list(&alice, "").await;
    assert_eq!(before.json()["meta"]["unreadCount"], 3);
    let read = act(&alice, "read", &[&all[0], &all[1]]).await.must_be(200);
    let stranger = Uuid::now_v7().to_string();
    let data = read.data();
    assert_eq!(
        (&data["sync"], data["results"].as_array().unwrap().len()),
        (&json!("committed"), 2)
    );
    let after = list(&alice, "").await;
    assert_eq!(after.json()["meta"]["unreadCount"], 1);
    assert!(after.json()["meta"]["version"].as_u64() > before.json()["meta"]["version"].as_u64());
    let missing = act(&alice, "archive", &[&all[2], &stranger])
        .await
        .must_be(200)
        .data();
    let words: Vec<&Value> = missing["results"].as_array().unwrap().iter().map(word).collect();
    assert_eq!(words, ["applied", "not_found"]);
    assert_eq!(list(&alice, "").await.json()["meta"]["unreadCount"], 0);
    assert_eq!(ids(&list(&alice, "").await.data()), all[..2]);
    assert_eq!(
        state_of(&alice, &read.must_header("operation-id")).await,
        "applied"
    );
    for (action, unread) in [("unarchive", 1), ("unread", 1)] {
        act(&alice, action, &[&all[2]]).await.must_be(200);
        assert_eq!(list(&alice, "").await.json()["meta"]["unreadCount"], unread);
    }
}

/// What became of one item.
pub(crate) fn word(result: &Value) -> &Value {
    &result["result"]
}

#[tokio::test]
async fn an_action_by_filter_leaves_alone_what_came_later() {
    let app = start().await;
    let all = three(&app).await;
    let alice = app.alice();
    let as_of = list(&alice, "").await.json()["meta"]["asOf"].clone();
    ingest(
        &app,
        vec![item(ALICE, "late", "late", "2026-01-01T12:00:00.000Z")],
    )
    .await;
    let by_filter = json!({"action": "read", "filter": {"filter": "unread"}, "asOf": as_of});
    let results = alice.post(ACTIONS, by_filter).await.must_be(200).data()["results"].clone();
    let mut applied = ids(&results);
    let mut expected = all.clone();
    applied.sort();
    expected.sort();
    assert_eq!(applied, expected);
    let left = list(&alice, "?filter=unread").await;
    assert_eq!(left.data()[0]["title"], "late");
    assert_eq!(left.json()["meta"]["unreadCount"], 1);
    let early = json!({"action": "read", "filter": {"filter": "unread"}});
    let refused = alice.post(ACTIONS, early).await;
    assert!(
        [400, 422].contains(&refused.status),
        "a filter needs asOf: {}",
        refused.status
    );
}

#[tokio::test]
async fn a_replayed_action_is_answered_as_the_first_time() {
    let app = start().await;
    let all = three(&app).await;
    let alice = app.alice();
    let body = json!({"action": "read", "ids": [all[0]]});
    let first = alice.post(ACTIONS, body.clone()).key("k").await.must_be(200);
    act(&alice, "unread", &[&all[0]]).await.must_be(200);
    let again = alice.post(ACTIONS, body).key("k").await.must_be(200);
    assert_eq!(again.json(), first.json());
    assert_eq!(
        again.must_header("operation-id"),
        first.must_header("operation-id")
    );
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let path = format!("{STREAM}/{}", all[0]);
    assert_eq!(alice.get(&path).await.data()["isUnread"], true);
}

#[tokio::test]
async fn changes_tell_what_is_new_changed_and_gone() {
    let app = start().await;
    let all = three(&app).await;
    let alice = app.alice();
    let changes = async |since: u64| alice.get(&format!("{STREAM}/changes?since={since}")).await;
    let everything = changes(0).await.must_be(200).data();
    let mut named: Vec<String> = serde_json::from_value(everything["changed"].clone()).unwrap();
    let mut expected = all.clone();
    named.sort();
    expected.sort();
    assert_eq!(named, expected);
    let version = everything["version"].as_u64().unwrap();
    let nothing = changes(version).await.must_be(200).data();
    assert_eq!(
        (&nothing["changed"], &nothing["removed"]),
        (&json!([]), &json!([]))
    );
    act(&alice, "archive", &[&all[1]]).await.must_be(200);
    let key = json!({"userId": ALICE, "source": "email", "externalId": "a"});
    app.service()
        .call(reqwest::Method::DELETE, ITEMS)
        .json(&json!({"items": [key]}))
        .await
        .must_be(200);
    let since = changes(version).await.must_be(200).data();
    assert_eq!(
        (&since["changed"], &since["removed"]),
        (&json!([all[1]]), &json!([all[2]]))
    );
    assert_eq!(since["hasMore"], false);
    alice
        .get(&format!("{STREAM}/{}", all[2]))
        .await
        .problem(404, "not_found");
    assert_eq!(ids(&list(&alice, "").await.data()), all[..1]);
    assert_eq!(changes(1_000_000).await.status, 400, "a version of the future");
}

#[tokio::test]
async fn a_long_conversation_goes_on_after_the_detail() {
    let app = start().await;
    let mut long = item(ALICE, "a", "long", "2026-01-01T00:00:00.000Z");
    let message = |n: usize| {
        json!({"externalId": format!("m{n}"), "senderType": "other", "contentType": "text", "content": format!("{n}"),
            "timestamp": format!("2026-01-01T00:{:02}:00.000Z", n % 60)})
    };
    long["messages"] = (0..60).map(message).collect();
    let id = ids(&ingest(&app, vec![long]).await.data()["results"])[0].clone();
    let detail = app
        .alice()
        .get(&format!("{STREAM}/{id}"))
        .await
        .must_be(200)
        .json();
    assert_eq!(detail["data"]["messages"].as_array().unwrap().len(), 50);
    assert_eq!(detail["data"]["messages"][0]["content"], "59");
    let cursor = detail["meta"]["messagesCursor"].as_str().expect("a cursor");
    let rest = app
        .alice()
        .get(&format!("{STREAM}/{id}/messages?cursor={cursor}"))
        .await
        .must_be(200);
    let contents: Vec<Value> = rest
        .data()
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].clone())
        .collect();
    assert_eq!(
        contents,
        (0..10).rev().map(|n| json!(n.to_string())).collect::<Vec<_>>()
    );
    assert_eq!(rest.json()["meta"]["hasMore"], false);
}

#[tokio::test]
async fn nobody_sees_or_touches_what_is_another_s() {
    let app = start().await;
    let all = three(&app).await;
    let bob = app.bob();
    for path in [
        format!("{STREAM}/{}", all[0]),
        format!("{STREAM}/{}/messages", all[0]),
    ] {
        bob.get(&path).await.problem(404, "not_found");
    }
    assert_eq!(list(&bob, "").await.data(), json!([]));
    let results = act(&bob, "archive", &[&all[0]]).await.must_be(200).data()["results"].clone();
    assert_eq!(word(&results[0]), "not_found");
    assert_eq!(list(&app.alice(), "").await.json()["meta"]["unreadCount"], 3);
    let body = || json!({"items": [item(BOB, "x", "x", "2026-01-01T00:00:00.000Z")]});
    app.bob().post(ITEMS, body()).await.problem(403, "forbidden");
    app.nobody()
        .post(ITEMS, body())
        .await
        .problem(401, "unauthenticated");
    app.admin().post(ITEMS, body()).await.must_be(200);
    assert_eq!(list(&bob, "").await.data().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_bad_item_fails_alone_and_a_large_body_is_taken() {
    let app = start().await;
    let mut bad = item(ALICE, "bad", "", "2026-01-01T00:00:00.000Z");
    bad["unknown"] = json!(1);
    let mut large = item(ALICE, "large", "large", "2026-01-01T00:00:00.000Z");
    large["messages"][0]["content"] = json!("x".repeat(90_000));
    let results = ingest(&app, vec![bad, large]).await.data()["results"].clone();
    assert_eq!(
        (&results[0]["status"], &results[1]["status"]),
        (&json!("failed"), &json!("created"))
    );
    assert!(!results[0]["error"].is_null());
    let too_large = app
        .service()
        .call(reqwest::Method::POST, ITEMS)
        .raw(vec![b' '; (4 << 20) + 1])
        .await;
    assert_eq!(too_large.status, 413);
}

#[tokio::test]
async fn a_page_that_did_not_change_costs_no_query() {
    let app = setup().private_redis().start().await;
    let all = three(&app).await;
    let alice = app.alice();
    let first = list(&alice, "").await;
    let tag = first.must_header("etag");
    let queries = async || app.metric("gravity_postgres_query_seconds_count").await;
    let before = queries().await;
    for _ in 0..5 {
        let same = alice.get(STREAM).header("if-none-match", &tag).await;
        assert_eq!(same.status, 304);
        assert_eq!(same.must_header("etag"), tag);
    }
    let asked = app
        .metric("gravity_postgres_query_seconds_count{query=\"stream")
        .await;
    list(&alice, "").await;
    assert_eq!(
        app.metric("gravity_postgres_query_seconds_count{query=\"stream")
            .await,
        asked
    );
    assert!(queries().await - before < 5.0, "not one for each answer");
    act(&alice, "read", &[&all[0]]).await.must_be(200);
    let other = alice.get(STREAM).header("if-none-match", &tag).await.must_be(200);
    assert_ne!(other.must_header("etag"), tag);
}

async fn two() -> (TestApp, TestApp) {
    let one = setup().private_redis().start().await;
    let two = one.another_node().start().await;
    (one, two)
}

#[tokio::test]
async fn what_one_node_ingests_the_next_read_through_the_other_shows() {
    let (one, two) = two().await;
    three(&one).await;
    assert_eq!(list(&two.alice(), "").await.data().as_array().unwrap().len(), 3);
    let mut times = Vec::new();
    for n in 0..5 {
        let new = item(ALICE, &format!("n{n}"), "new", "2026-03-01T00:00:00.000Z");
        ingest(&one, vec![new]).await;
        let since = Instant::now();
        eventually("the other node shows it", || async {
            let shown = list(&two.alice(), "").await.data().as_array().unwrap().len();
            (shown == 4 + n).then_some(())
        })
        .await;
        times.push(since.elapsed());
    }
    times.sort();
    assert!(times[2] < Duration::from_millis(100), "{times:?}");
}

#[tokio::test]
async fn whoever_names_a_version_reads_it_on_every_node() {
    let (one, two) = two().await;
    three(&one).await;
    for n in 0..20 {
        list(&two.alice(), "?limit=100").await;
        let told = ingest(
            &one,
            vec![item(ALICE, &format!("n{n}"), "new", "2026-03-01T00:00:00.000Z")],
        )
        .await;
        let version = version_of(&told, ALICE);
        let page = list(&two.alice(), &format!("?limit=100&minVersion={version}"))
            .await
            .json();
        assert!(page["meta"]["version"].as_u64().unwrap() >= version);
        assert_eq!(page["data"].as_array().unwrap().len(), 4 + n);
    }
    let all = ids(&list(&two.alice(), "?limit=100").await.data());
    for (n, id) in all.iter().take(10).enumerate() {
        let acted = act(&one.alice(), "read", &[id]).await.must_be(200);
        let tag = acted.must_header("etag");
        let page = two
            .alice()
            .get(STREAM)
            .header("if-none-match", &tag)
            .await
            .must_be(200);
        assert_eq!(page.json()["meta"]["unreadCount"], all.len() - n - 1);
    }
}

#[tokio::test]
async fn an_action_that_finds_nothing_names_no_operation() {
    let app = setup().start().await;
    let alice = app.alice();
    let body =
        json!({"action": "read", "filter": {"filter": "archived"}, "asOf": "2026-01-01T00:00:00.000Z"});
    let nothing = alice.post(ACTIONS, body.clone()).await.must_be(200);
    assert_eq!(nothing.header("operation-id"), None);
    assert_eq!(nothing.data()["results"], json!([]));
    // One that is to be told apart from its retry is written.
    let kept = alice.post(ACTIONS, body).key("k").await.must_be(200);
    assert_eq!(
        state_of(&alice, &kept.must_header("operation-id")).await,
        "applied"
    );
}
