//! Presence.

use crate::{PATIENCE, redis, server, user};
use gravity_domain::chat::{ConnectionId, PresenceBoard as _, PresenceStatus};
use gravity_domain::clock::{SystemClock, Timestamp, WallClock as _};
use gravity_domain::id::UserId;
use gravity_infra::chat::{PresenceSettings, RedisPresence};
use gravity_test_support::services;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

fn connection() -> ConnectionId {
    ConnectionId(Uuid::new_v4())
}

fn board(lease: Duration) -> RedisPresence {
    let settings = PresenceSettings {
        lease,
        grace: Duration::from_millis(1_000),
        ..PresenceSettings::default()
    };
    RedisPresence::new(redis(services::shared::redis()), settings)
}

const LONG: Duration = Duration::from_secs(75);

async fn status(board: &RedisPresence, user: UserId) -> (PresenceStatus, Option<Timestamp>) {
    let found = board.look_up(&[user]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].user_id, user);
    (found[0].status, found[0].last_seen)
}

#[tokio::test]
async fn somebody_is_there_from_the_first_arrival_to_the_last_leaving() {
    let board = board(LONG);
    let (user, one, two) = (user(), connection(), connection());
    assert_eq!(status(&board, user).await, (PresenceStatus::Offline, None));
    assert!(board.arrived(user, one).await.unwrap());
    assert!(!board.arrived(user, two).await.unwrap());
    assert!(!board.arrived(user, two).await.unwrap());
    assert_eq!(status(&board, user).await, (PresenceStatus::Online, None));
    assert!(!board.left(user, one).await.unwrap());
    assert_eq!(status(&board, user).await.0, PresenceStatus::Online);
    assert!(board.left(user, two).await.unwrap());
    let (status, seen) = status(&board, user).await;
    assert_eq!(status, PresenceStatus::Offline);
    let ago = SystemClock.now().millis_since(seen.unwrap());
    assert!(ago < 10_000, "{ago} ms ago");
    assert!(board.arrived(user, one).await.unwrap());
}

#[tokio::test]
async fn leases_that_nobody_renews_end_and_tell_when_they_were_renewed_last() {
    let board = board(Duration::from_millis(400));
    let (renewed, dead) = (user(), user());
    let (one, two) = (connection(), connection());
    board.arrived(renewed, one).await.unwrap();
    board.arrived(dead, two).await.unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        board.renew(&[(renewed, one)]).await.unwrap();
        assert_eq!(status(&board, renewed).await.0, PresenceStatus::Online);
        let (status, seen) = status(&board, dead).await;
        if status == PresenceStatus::Offline {
            assert!(seen.is_some());
            break;
        }
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        board.arrived(dead, two).await.unwrap(),
        "the first anywhere, again"
    );
}

#[tokio::test]
async fn a_lease_that_was_lost_comes_back_with_its_renewal() {
    let board = board(LONG);
    let (user, one, two) = (user(), connection(), connection());
    board.renew(&[(user, one), (user, two)]).await.unwrap();
    assert_eq!(status(&board, user).await.0, PresenceStatus::Online);
    assert!(!board.left(user, one).await.unwrap());
    assert!(board.left(user, two).await.unwrap());
}

#[tokio::test]
async fn many_are_looked_up_in_their_order() {
    let board = board(LONG);
    let users: Vec<UserId> = (0..450).map(|_| user()).collect();
    let there: Vec<(UserId, ConnectionId)> = users
        .iter()
        .step_by(3)
        .map(|user| (*user, connection()))
        .collect();
    board.renew(&there).await.unwrap();
    let found = board.look_up(&users).await.unwrap();
    assert_eq!(found.len(), users.len());
    for (place, (user, presence)) in users.iter().zip(&found).enumerate() {
        assert_eq!(presence.user_id, *user);
        let is_there = presence.status == PresenceStatus::Online;
        assert_eq!(is_there, place % 3 == 0, "{place}");
    }
    assert!(board.look_up(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_many_who_leave_at_once_exactly_one_is_the_last() {
    let board = Arc::new(board(LONG));
    let user = user();
    let connections: Vec<ConnectionId> = (0..16).map(|_| connection()).collect();
    let arrivals = connections
        .iter()
        .map(|connection| board.arrived(user, *connection));
    let first: Vec<bool> = futures_util::future::try_join_all(arrivals).await.unwrap();
    assert_eq!(first.iter().filter(|first| **first).count(), 1);
    let leavings = connections.iter().map(|connection| board.left(user, *connection));
    let last: Vec<bool> = futures_util::future::try_join_all(leavings).await.unwrap();
    assert_eq!(last.iter().filter(|last| **last).count(), 1);
}

#[tokio::test]
async fn nobodys_presence_is_told_without_redis() {
    let server = server();
    let board = RedisPresence::new(redis(&server.url()), PresenceSettings::default());
    let (user, one) = (user(), connection());
    board.arrived(user, one).await.unwrap();
    server.kill();
    assert!(board.look_up(&[user]).await.is_err());
    assert!(board.left(user, one).await.is_err());
}
