//! What every session store must do; each adapter is put through all of it.

use super::memory_sessions::MemorySessions;
use super::redis_sessions::RedisSessions;
use crate::redis::{Redis, RedisSettings};
use futures_util::future::join_all;
use gravity_domain::auth::{
    NewSession, RefreshClaims, RefreshTokens, Role, Rotation, Secret, SessionStore, Spend,
};
use gravity_domain::clock::{SystemClock, Timestamp, WallClock};
use gravity_domain::error::StoreError;
use gravity_domain::id::{SessionId, UserId};
use gravity_domain::sync::ports::Breaker;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const GRACE_MS: i64 = 10_000;
const MOST: usize = 3;

/// A breaker that always lets through.
pub(super) struct Closed;

impl Breaker for Closed {
    fn allows_writes(&self) -> bool {
        true
    }
    fn allows_reads(&self) -> bool {
        true
    }
    fn failed(&self, _: &StoreError) {}
}

pub(super) fn redis(url: &str) -> Redis {
    let settings = RedisSettings::new(Secret::new(url));
    Redis::new(settings, Handle::current(), Arc::new(Closed)).unwrap()
}

fn tokens() -> RefreshTokens {
    RefreshTokens::new(&Secret::new("0123456789abcdef0123456789abcdef"))
}

fn claims() -> RefreshClaims {
    RefreshClaims {
        session_id: SessionId::random(),
        user_id: UserId::random(),
        generation: 0,
    }
}

fn now() -> Timestamp {
    SystemClock.now()
}

fn new_session(claims: RefreshClaims) -> NewSession {
    NewSession {
        id: claims.session_id,
        user_id: claims.user_id,
        role: Role::Admin,
        client: Some("a browser, \"quoted\" ü".into()),
        refresh_hash: tokens().hash(claims),
        created_at: now(),
        expires_at: now().plus_millis(60_000),
    }
}

fn spend(claims: RefreshClaims, now: Timestamp) -> Spend {
    Spend {
        session_id: claims.session_id,
        user_id: claims.user_id,
        generation: claims.generation,
        presented: tokens().hash(claims),
        successor: tokens().hash(claims.next()),
        now,
        grace: Duration::from_millis(GRACE_MS.unsigned_abs()),
        expires_at: now.plus_millis(120_000),
    }
}

async fn a_session_is_listed_with_what_was_stored(store: &dyn SessionStore) {
    let claims = claims();
    let new = new_session(claims);
    store.create(new.clone()).await.unwrap();
    let listed = store.list(claims.user_id).await.unwrap();
    assert_eq!(listed.len(), 1);
    let session = &listed[0];
    assert_eq!((session.id, session.user_id), (new.id, new.user_id));
    assert_eq!((session.role, session.generation), (Role::Admin, 0));
    assert_eq!(session.client, new.client);
    assert_eq!(
        (session.created_at, session.expires_at),
        (new.created_at, new.expires_at)
    );
    assert!(store.list(UserId::random()).await.unwrap().is_empty());
}

async fn refreshing_moves_to_the_next_generation(store: &dyn SessionStore) {
    let mut claims = claims();
    store.create(new_session(claims)).await.unwrap();
    for generation in 1..=3 {
        let at = now();
        let rotation = store.rotate(&spend(claims, at)).await.unwrap();
        let Rotation::Rotated(session) = rotation else {
            panic!("{rotation:?}");
        };
        assert_eq!(session.generation, generation);
        assert_eq!(
            (session.last_used_at, session.expires_at),
            (at, at.plus_millis(120_000))
        );
        claims = claims.next();
    }
    let listed = store.list(claims.user_id).await.unwrap();
    assert_eq!(listed[0].generation, 3);
}

async fn a_token_just_spent_gets_the_present_generation_again(store: &dyn SessionStore) {
    let claims = claims();
    store.create(new_session(claims)).await.unwrap();
    let at = now();
    store.rotate(&spend(claims, at)).await.unwrap();
    for later in [0, 1, GRACE_MS] {
        let rotation = store.rotate(&spend(claims, at.plus_millis(later))).await.unwrap();
        let Rotation::Replayed(session) = rotation else {
            panic!("{rotation:?}");
        };
        assert_eq!(session.generation, 1);
    }
    let next = store
        .rotate(&spend(claims.next(), at.plus_millis(20_000)))
        .await
        .unwrap();
    assert!(matches!(next, Rotation::Rotated(session) if session.generation == 2));
}

async fn a_token_spent_long_ago_revokes_the_session(store: &dyn SessionStore) {
    let claims = claims();
    store.create(new_session(claims)).await.unwrap();
    let at = now();
    store.rotate(&spend(claims, at)).await.unwrap();
    let reused = store
        .rotate(&spend(claims, at.plus_millis(GRACE_MS + 1)))
        .await
        .unwrap();
    assert_eq!(reused, Rotation::Revoked);
    let successor = store.rotate(&spend(claims.next(), at)).await.unwrap();
    assert_eq!(successor, Rotation::Unknown);
    assert!(store.list(claims.user_id).await.unwrap().is_empty());
}

async fn a_token_two_generations_old_revokes_at_once(store: &dyn SessionStore) {
    let claims = claims();
    store.create(new_session(claims)).await.unwrap();
    let at = now();
    store.rotate(&spend(claims, at)).await.unwrap();
    store.rotate(&spend(claims.next(), at)).await.unwrap();
    assert_eq!(store.rotate(&spend(claims, at)).await.unwrap(), Rotation::Revoked);
}

async fn tokens_that_never_were_change_nothing(store: &dyn SessionStore) {
    let known = claims();
    store.create(new_session(known)).await.unwrap();
    let strangers = [
        claims(),
        known.next(),
        RefreshClaims {
            user_id: UserId::random(),
            ..known
        },
    ];
    for stranger in strangers {
        assert_eq!(
            store.rotate(&spend(stranger, now())).await.unwrap(),
            Rotation::Unknown
        );
    }
    let mut forged = spend(known, now());
    forged.presented = tokens().hash(claims());
    assert_eq!(store.rotate(&forged).await.unwrap(), Rotation::Unknown);
    let rotation = store.rotate(&spend(known, now())).await.unwrap();
    assert!(matches!(rotation, Rotation::Rotated(_)));
}

async fn of_many_tabs_that_refresh_at_once_one_rotates_and_the_others_get_the_same(store: &dyn SessionStore) {
    let claims = claims();
    store.create(new_session(claims)).await.unwrap();
    let at = now();
    let spends: Vec<Spend> = (0..16).map(|_| spend(claims, at)).collect();
    let rotations = join_all(spends.iter().map(|spend| store.rotate(spend))).await;
    let mut rotated = 0;
    for rotation in rotations {
        let session = match rotation.unwrap() {
            Rotation::Rotated(session) => {
                rotated += 1;
                session
            }
            Rotation::Replayed(session) => session,
            other => panic!("{other:?}"),
        };
        assert_eq!(session.generation, 1);
    }
    assert_eq!(rotated, 1);
}

async fn only_the_owner_ends_a_session_and_only_once(store: &dyn SessionStore) {
    let claims = claims();
    store.create(new_session(claims)).await.unwrap();
    assert!(!store.revoke(UserId::random(), claims.session_id).await.unwrap());
    assert!(store.revoke(claims.user_id, claims.session_id).await.unwrap());
    assert!(!store.revoke(claims.user_id, claims.session_id).await.unwrap());
    assert_eq!(
        store.rotate(&spend(claims, now())).await.unwrap(),
        Rotation::Unknown
    );
}

async fn a_session_past_its_end_is_gone(store: &dyn SessionStore) {
    let claims = claims();
    let ended = NewSession {
        created_at: now().plus_millis(-1_000),
        expires_at: now().plus_millis(-1),
        ..new_session(claims)
    };
    store.create(ended).await.unwrap();
    assert!(store.list(claims.user_id).await.unwrap().is_empty());
    assert_eq!(
        store.rotate(&spend(claims, now())).await.unwrap(),
        Rotation::Unknown
    );
    assert!(!store.revoke(claims.user_id, claims.session_id).await.unwrap());
}

async fn the_session_that_would_end_first_makes_room(store: &dyn SessionStore) {
    let user_id = UserId::random();
    let mut all = Vec::new();
    for number in 0..5 {
        let claims = RefreshClaims { user_id, ..claims() };
        let session = NewSession {
            created_at: now().plus_millis(number),
            expires_at: now().plus_millis(60_000 + number * 10),
            ..new_session(claims)
        };
        store.create(session).await.unwrap();
        all.push(claims);
    }
    let left: Vec<SessionId> = store.list(user_id).await.unwrap().iter().map(|s| s.id).collect();
    assert_eq!(left, [all[4].session_id, all[3].session_id, all[2].session_id]);
    assert_eq!(
        store.rotate(&spend(all[0], now())).await.unwrap(),
        Rotation::Unknown
    );
}

async fn hold_to_the_contract(store: &dyn SessionStore) {
    a_session_is_listed_with_what_was_stored(store).await;
    refreshing_moves_to_the_next_generation(store).await;
    a_token_just_spent_gets_the_present_generation_again(store).await;
    a_token_spent_long_ago_revokes_the_session(store).await;
    a_token_two_generations_old_revokes_at_once(store).await;
    tokens_that_never_were_change_nothing(store).await;
    of_many_tabs_that_refresh_at_once_one_rotates_and_the_others_get_the_same(store).await;
    only_the_owner_ends_a_session_and_only_once(store).await;
    a_session_past_its_end_is_gone(store).await;
    the_session_that_would_end_first_makes_room(store).await;
}

#[tokio::test]
async fn sessions_in_this_process_hold_to_the_contract() {
    hold_to_the_contract(&MemorySessions::new(1_000, MOST, Arc::new(SystemClock))).await;
}

#[tokio::test]
async fn sessions_in_redis_hold_to_the_contract() {
    let redis = redis(gravity_test_support::services::shared::redis());
    hold_to_the_contract(&RedisSessions::new(redis, MOST)).await;
}

#[tokio::test]
async fn sessions_in_this_process_are_bounded_over_all_users() {
    let store = MemorySessions::new(2, MOST, Arc::new(SystemClock));
    let all: Vec<RefreshClaims> = (0..3).map(|_| claims()).collect();
    for (number, claims) in (0..).zip(&all) {
        let session = NewSession {
            expires_at: now().plus_millis(60_000 + number * 10),
            ..new_session(*claims)
        };
        store.create(session).await.unwrap();
    }
    assert!(store.list(all[0].user_id).await.unwrap().is_empty());
    assert_eq!(store.list(all[2].user_id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn redis_keeps_no_refresh_token_and_forgets_what_has_ended() {
    let server = gravity_test_support::services::Redis::start_private().unwrap();
    let redis = redis(&server.url());
    let store = RedisSessions::new(redis.clone(), MOST);
    let claims = claims();
    store.create(new_session(claims)).await.unwrap();
    store.rotate(&spend(claims, now())).await.unwrap();
    let keys: Vec<String> = redis.command("keys", redis::cmd("KEYS").arg("*")).await.unwrap();
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in &keys {
        let ttl: i64 = redis.command("pttl", redis::cmd("PTTL").arg(key)).await.unwrap();
        assert!((1..=120_000).contains(&ttl), "{key}: {ttl}");
        let dump: Vec<u8> = redis.command("dump", redis::cmd("DUMP").arg(key)).await.unwrap();
        for token in [claims, claims.next()] {
            let token = tokens().issue(token);
            let found = dump
                .windows(token.expose().len())
                .any(|part| part == token.expose().as_bytes());
            assert!(!found);
        }
    }
}

#[tokio::test]
async fn while_redis_is_down_calls_fail_quickly_and_work_again_after() {
    let server = gravity_test_support::services::Redis::start_private().unwrap();
    let store = RedisSessions::new(redis(&server.url()), MOST);
    store.create(new_session(claims())).await.unwrap();
    server.kill();
    for _ in 0..3 {
        let began = tokio::time::Instant::now();
        let failed = store.list(UserId::random()).await;
        assert!(failed.is_err_and(|error| error.is_outage()));
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    server.start().unwrap();
    let again = async {
        while store.create(new_session(claims())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.unwrap();
    server.pause().unwrap();
    let began = tokio::time::Instant::now();
    assert!(store.list(UserId::random()).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(1));
    server.resume().unwrap();
}
