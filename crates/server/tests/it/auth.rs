//! Registration, login and sessions, in Redis and in the process.

use gravity_test_support::actors::Actor;
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::{TestApp, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{setup, start};

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const REFRESH: &str = "/api/v1/auth/refresh";
const LOGOUT: &str = "/api/v1/auth/logout";
const SESSIONS: &str = "/api/v1/auth/sessions";
const PASSWORD: &str = "correct horse battery";

/// Two servers: sessions in the process, and in Redis.
async fn both() -> [TestApp; 2] {
    [start().await, setup().private_redis().start().await]
}

async fn register(app: &TestApp, username: &str) -> Answer {
    app.nobody()
        .post(REGISTER, json!({"username": username, "password": PASSWORD}))
        .await
}

async fn login(app: &TestApp, username: &str) -> Pair {
    Pair::of(
        &app.nobody()
            .post(LOGIN, json!({"username": username, "password": PASSWORD}))
            .await
            .must_be(200),
    )
}

async fn refresh(app: &TestApp, token: &str) -> Answer {
    app.nobody().post(REFRESH, json!({"refreshToken": token})).await
}

struct Pair {
    access: String,
    refresh: String,
}

impl Pair {
    #[track_caller]
    fn of(answer: &Answer) -> Self {
        Self {
            access: answer.text_of("accessToken"),
            refresh: answer.text_of("refreshToken"),
        }
    }

    fn actor(&self, app: &TestApp) -> Actor {
        app.nobody().with_token(&*self.access)
    }
}

async fn sessions(actor: &Actor) -> Vec<Value> {
    actor
        .get(SESSIONS)
        .await
        .must_be(200)
        .data()
        .as_array()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn a_registered_user_can_log_in_and_work() {
    for app in both().await {
        let body = json!({"username": "Carol.D_1", "password": PASSWORD, "name": "Carol", "email": "carol@example.com"});
        let registered = app.nobody().post(REGISTER, body).await;
        let expected = json!({
            "id": "[id]", "username": "carol.d_1", "name": "Carol", "avatarUrl": null, "role": "user", "status": "active",
            "createdAt": "[time]", "updatedAt": "[time]", "version": 1, "sync": "committed", "email": "carol@example.com",
        });
        assert_eq!(
            registered.shape(),
            json!({"status": 201, "body": {"data": expected}})
        );
        assert_eq!(registered.must_header("cache-control"), "no-store");

        let answer = app
            .nobody()
            .post(LOGIN, json!({"username": "CAROL.d_1", "password": PASSWORD}))
            .await
            .must_be(200);
        assert_eq!(answer.must_header("cache-control"), "no-store");
        let data = answer.data();
        assert_eq!(
            (&data["tokenType"], &data["expiresIn"]),
            (&json!("Bearer"), &json!(900))
        );
        assert_eq!(data.as_object().unwrap().len(), 4);
        let carol = Pair::of(&answer).actor(&app);
        let profile = carol.get("/api/v1/profile").await.must_be(200).data();
        assert_eq!(
            (&profile["id"], &profile["email"]),
            (&json!(registered.id()), &Value::Null),
            "no e-mail in a profile"
        );
        crate::new_task(&carol, "x").await;
        for secret in [
            PASSWORD,
            "carol@example.com",
            carol.token().unwrap(),
            &Pair::of(&answer).refresh,
        ] {
            assert!(!app.log().contains(secret), "the log shows a secret");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_field_by_field() {
    let app = start().await;
    let long = "x".repeat(129);
    let cases = [
        (
            json!({"username": "ab", "password": PASSWORD}),
            "username",
            "too_short",
        ),
        (
            json!({"username": "x".repeat(33), "password": PASSWORD}),
            "username",
            "too_long",
        ),
        (
            json!({"username": "has space", "password": PASSWORD}),
            "username",
            "invalid_format",
        ),
        (
            json!({"username": "häschen", "password": PASSWORD}),
            "username",
            "invalid_format",
        ),
        (
            json!({"username": "a\u{0}bc", "password": PASSWORD}),
            "username",
            "invalid_character",
        ),
        (json!({"password": PASSWORD}), "username", "required"),
        (
            json!({"username": "carol", "password": "too short"}),
            "password",
            "too_short",
        ),
        (
            json!({"username": "carol", "password": long}),
            "password",
            "too_long",
        ),
        (json!({"username": "carol"}), "password", "required"),
        (
            json!({"username": "carol", "password": PASSWORD, "email": "no address"}),
            "email",
            "invalid_format",
        ),
        (
            json!({"username": "carol", "password": PASSWORD, "name": ""}),
            "name",
            "required",
        ),
    ];
    for (body, field, code) in cases {
        let problem = app
            .nobody()
            .post(REGISTER, body.clone())
            .await
            .problem(422, "validation_failed");
        assert_eq!(problem.errors, [(field.to_owned(), code.to_owned())], "{body}");
    }
    let body = json!({"username": "carol", "password": PASSWORD, "role": "admin"});
    app.nobody()
        .post(REGISTER, body)
        .await
        .problem(400, "unknown_field");
    register(&app, "alice").await.problem(409, "username_taken");
    register(&app, "ALICE").await.problem(409, "username_taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_registrations_of_one_name_at_the_same_time_one_wins() {
    let app = start().await;
    let body = || json!({"username": "carol", "password": PASSWORD});
    let calls: Vec<_> = (0..6)
        .map(|_| tokio::spawn(app.nobody().post(REGISTER, body()).into_future()))
        .collect();
    let mut won = 0;
    for call in calls {
        let answer = call.await.unwrap();
        if answer.status == 201 {
            won += 1;
        } else {
            answer.problem(409, "username_taken");
        }
    }
    assert_eq!(won, 1);
    login(&app, "carol").await;
}

#[tokio::test]
async fn wrong_credentials_look_alike_whether_or_not_the_user_exists() {
    let app = start().await;
    register(&app, "carol").await.must_be(201);
    let attempt = |username: &str, password: &str| {
        app.nobody()
            .post(LOGIN, json!({"username": username, "password": password}))
            .header("x-request-id", "same")
    };
    let wrong = attempt("carol", "wrong password 1").await;
    wrong.problem(401, "invalid_credentials");
    let others = [
        attempt("nobody.here", PASSWORD).await,
        attempt("not a name!", PASSWORD).await,
        attempt("", "").await,
        attempt("alice", "no password is set").await,
    ];
    for other in others {
        assert_eq!(other.body, wrong.body);
        assert_eq!(other.header("www-authenticate"), wrong.header("www-authenticate"));
    }
    app.sql()
        .await
        .execute(
            "UPDATE users SET status = 'suspended' WHERE username = 'carol'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        attempt("carol", PASSWORD).await.body,
        wrong.body,
        "a suspended user is told nothing either"
    );
}

#[tokio::test]
async fn a_refresh_token_is_spent_by_its_use_and_leads_on() {
    for app in both().await {
        register(&app, "carol").await.must_be(201);
        let mut pair = login(&app, "carol").await;
        for _ in 0..3 {
            let answer = refresh(&app, &pair.refresh).await.must_be(200);
            assert_eq!(answer.must_header("cache-control"), "no-store");
            let next = Pair::of(&answer);
            assert_ne!(next.refresh, pair.refresh);
            next.actor(&app).get("/api/v1/profile").await.must_be(200);
            pair = next;
        }
        assert_eq!(
            sessions(&pair.actor(&app)).await.len(),
            1,
            "it is still the one session"
        );
    }
}

#[tokio::test]
async fn two_tabs_that_refresh_at_once_get_the_same_session() {
    for app in both().await {
        register(&app, "carol").await.must_be(201);
        let first = login(&app, "carol").await;
        let (one, two) = tokio::join!(refresh(&app, &first.refresh), refresh(&app, &first.refresh));
        let (one, two) = (Pair::of(&one.must_be(200)), Pair::of(&two.must_be(200)));
        assert_eq!(one.refresh, two.refresh, "both have the successor");
        let again = Pair::of(&refresh(&app, &one.refresh).await.must_be(200));
        again.actor(&app).get("/api/v1/profile").await.must_be(200);
    }
}

#[tokio::test]
async fn a_spent_token_used_again_later_ends_the_session() {
    for redis in [false, true] {
        let setup = setup().set("GRAVITY__AUTH__REFRESH_REUSE_SECONDS", "0");
        let app = if redis {
            setup.private_redis().start().await
        } else {
            setup.start().await
        };
        register(&app, "carol").await.must_be(201);
        let other = login(&app, "carol").await;
        let stolen = login(&app, "carol").await;
        let next = Pair::of(&refresh(&app, &stolen.refresh).await.must_be(200));
        // The grace of no seconds ends with the millisecond.
        let reused = eventually("the spent token is refused", || async {
            let answer = refresh(&app, &stolen.refresh).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        reused.problem(401, "unauthenticated");
        refresh(&app, &next.refresh).await.problem(401, "unauthenticated");
        refresh(&app, &other.refresh).await.must_be(200);
    }
}

#[tokio::test]
async fn what_is_no_refresh_token_is_refused() {
    let app = start().await;
    register(&app, "carol").await.must_be(201);
    let pair = login(&app, "carol").await;
    let mut turned = pair.refresh.clone().into_bytes();
    let middle = turned.len() / 2;
    turned[middle] = if turned[middle] == b'A' { b'B' } else { b'A' };
    let turned = String::from_utf8(turned).unwrap();
    for token in ["", "x", turned.as_str(), pair.access.as_str()] {
        refresh(&app, token).await.problem(401, "unauthenticated");
    }
    app.nobody()
        .post(REFRESH, json!({}))
        .await
        .problem(422, "validation_failed");
    app.nobody()
        .with_token(pair.refresh.as_str())
        .get("/api/v1/profile")
        .await
        .problem(401, "unauthenticated");
    refresh(&app, &pair.refresh).await.must_be(200);
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one() {
    for app in both().await {
        register(&app, "carol").await.must_be(201);
        let body = json!({"username": "carol", "password": PASSWORD});
        let one = Pair::of(
            &app.nobody()
                .post(LOGIN, body)
                .header("user-agent", "Firefox on a desk")
                .await
                .must_be(200),
        );
        let two = login(&app, "carol").await;
        let carol = one.actor(&app);
        let listed = carol.get(SESSIONS).await.must_be(200);
        assert_eq!(
            listed.json()["meta"],
            json!({"nextCursor": null, "hasMore": false})
        );
        let all = sessions(&carol).await;
        assert_eq!(all.len(), 2);
        let (own, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|session| session["current"] == true);
        let (own, other) = (own[0].clone(), other[0].clone());
        assert_eq!(own["client"], "Firefox on a desk");
        let id = |session: &Value| session["id"].as_str().unwrap().to_owned();

        let path = format!("{SESSIONS}/{}", id(&other));
        app.bob().delete(&path).await.problem(404, "not_found");
        app.bob().get(SESSIONS).await.must_be(200);
        assert_eq!(carol.delete(&path).await.must_be(204).body.len(), 0);
        carol.delete(&path).await.problem(404, "not_found");
        carol
            .delete(&format!("{SESSIONS}/x"))
            .await
            .problem(400, "invalid_id");
        refresh(&app, &two.refresh).await.problem(401, "unauthenticated");
        refresh(&app, &one.refresh).await.must_be(200);
        assert_eq!(sessions(&carol).await.len(), 1);
    }
}

#[tokio::test]
async fn logout_ends_the_session_named_or_the_current_one() {
    for app in both().await {
        register(&app, "carol").await.must_be(201);
        let (one, two, three) = (
            login(&app, "carol").await,
            login(&app, "carol").await,
            login(&app, "carol").await,
        );
        let carol = one.actor(&app);
        carol
            .post(LOGOUT, json!({"refreshToken": two.refresh}))
            .await
            .must_be(204);
        refresh(&app, &two.refresh).await.problem(401, "unauthenticated");
        carol.call(Method::POST, LOGOUT).await.must_be(204);
        refresh(&app, &one.refresh).await.problem(401, "unauthenticated");
        three.actor(&app).post(LOGOUT, json!({})).await.must_be(204);
        refresh(&app, &three.refresh)
            .await
            .problem(401, "unauthenticated");
        carol.call(Method::POST, LOGOUT).await.must_be(204);

        let victim = login(&app, "carol").await;
        // The same answer whether the token is another's or nobody's.
        let nobodys = format!("{}x", &victim.refresh[..victim.refresh.len() - 1]);
        for token in [&victim.refresh, &nobodys] {
            let theft = app.bob().post(LOGOUT, json!({"refreshToken": token})).await;
            theft.problem(422, "validation_failed");
        }
        refresh(&app, &victim.refresh).await.must_be(200);
    }
}

#[tokio::test]
async fn sessions_in_redis_outlive_the_server() {
    let app = setup().private_redis().start().await;
    register(&app, "carol").await.must_be(201);
    let pair = login(&app, "carol").await;
    app.kill();
    app.start().await;
    refresh(&app, &pair.refresh).await.must_be(200);
    let other = app.another_node().start().await;
    assert_eq!(
        sessions(&pair.actor(&other)).await.len(),
        1,
        "another node knows them too"
    );
}

#[tokio::test]
async fn passwords_are_kept_as_argon2id_hashes() {
    let app = start().await;
    register(&app, "carol").await.must_be(201);
    let row = app
        .sql()
        .await
        .query_one("SELECT password_hash FROM credentials", &[])
        .await
        .unwrap();
    let hash: String = row.get(0);
    assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
}
