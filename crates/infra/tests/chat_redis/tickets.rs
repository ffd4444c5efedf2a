//! Tickets.

use crate::{redis, server, user};
use gravity_domain::auth::{Principal, Role};
use gravity_domain::chat::{Ticket, TicketHolder, Tickets as _};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::SessionId;
use gravity_infra::chat::{MemoryTickets, RedisTickets};
use gravity_test_support::services;
use uuid::Uuid;

fn holder() -> TicketHolder {
    TicketHolder {
        principal: Principal {
            user_id: user(),
            role: Role::Admin,
            session_id: Some(SessionId(Uuid::new_v4())),
        },
        expires_at: Timestamp::from_millis(1_763_734_767_123),
    }
}

fn tickets(url: &str) -> RedisTickets {
    RedisTickets::new(redis(url), MemoryTickets::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_spend_a_ticket_at_once_at_two_nodes_one_finds_the_holder() {
    let url = services::shared::redis();
    let nodes = [tickets(url), tickets(url)];
    let holder = holder();
    let ticket = nodes[0].issue(holder).await.unwrap();
    let tries = (0..16).map(|n| nodes[n % 2].redeem(&ticket));
    let found = futures_util::future::try_join_all(tries).await.unwrap();
    let found: Vec<TicketHolder> = found.into_iter().flatten().collect();
    assert_eq!(found, [holder]);
    let unknown = Ticket::new("x".to_owned());
    assert_eq!(nodes[0].redeem(&unknown).await.unwrap(), None);
}

#[tokio::test]
async fn redis_keeps_no_ticket_and_not_for_long() {
    let server = server();
    let tickets = tickets(&server.url());
    let ticket = tickets.issue(holder()).await.unwrap();
    let client = redis(&server.url());
    let keys: Vec<String> = client.command("keys", redis::cmd("KEYS").arg("*")).await.unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(!keys[0].contains(ticket.expose()));
    let kept: String = client
        .command("get", redis::cmd("GET").arg(&keys[0]))
        .await
        .unwrap();
    assert!(!kept.contains(ticket.expose()));
    let ttl: i64 = client
        .command("ttl", redis::cmd("PTTL").arg(&keys[0]))
        .await
        .unwrap();
    assert!((1..=30_000).contains(&ttl), "{ttl}");
    tickets.redeem(&ticket).await.unwrap();
    let left: u8 = client.command("size", &redis::cmd("DBSIZE")).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn without_redis_a_ticket_is_good_once_at_its_own_node() {
    let server = server();
    let tickets = tickets(&server.url());
    let before = tickets.issue(holder()).await.unwrap();
    server.kill();
    let mine = holder();
    let ticket = tickets.issue(mine).await.unwrap();
    assert_eq!(tickets.redeem(&ticket).await.unwrap(), Some(mine));
    assert!(
        tickets.redeem(&ticket).await.is_err(),
        "whether Redis knows it is unknown"
    );
    assert!(tickets.redeem(&before).await.is_err());
}
