//! Who is there, and who may know.

use super::*;
use crate::chat::{Connect, IssueTicket, LookUpPresence, RedeemTicket, ReplayLog, TellPresence, TellTyping};
use gravity_domain::auth::{Principal, Role};
use gravity_domain::chat::ports::{MockEventLog, MockLive, MockPresenceBoard, MockTickets};
use gravity_domain::chat::{
    ConnectionId, EventCursor, LogReplay, Presence, PresenceStatus, Signal, Ticket, TicketHolder,
};
use gravity_domain::sync::ReadError;

fn all_online() -> MockPresenceBoard {
    let mut board = MockPresenceBoard::new();
    board.expect_look_up().returning(|users| {
        let online = |user: &UserId| Presence {
            user_id: *user,
            status: PresenceStatus::Online,
            last_seen: None,
        };
        Ok(users.iter().map(online).collect())
    });
    board
}

async fn look_up(world: &World, board: MockPresenceBoard, ids: &[u128]) -> Vec<PresenceStatus> {
    let (cache, buffer) = (Arc::new(world.cache()), Arc::new(world.buffer().0));
    let ids: Vec<_> = ids.iter().map(|n| user(*n)).collect();
    let found = LookUpPresence::new(cache, buffer, Arc::new(board))
        .run(ME, &ids)
        .await;
    let order: Vec<_> = found.iter().map(|one| one.user_id).collect();
    assert_eq!(order, ids);
    found.into_iter().map(|one| one.status).collect()
}

/// Whom a call told what.
type Told = Arc<Mutex<Vec<(UserId, Signal)>>>;

fn live() -> (Arc<MockLive>, Told) {
    let mut live = MockLive::new();
    let told: Told = Arc::default();
    let sink = Arc::clone(&told);
    live.expect_signal()
        .returning(move |user, signal| sink.lock().unwrap().push((user, signal)));
    (Arc::new(live), told)
}

use PresenceStatus::{Online, Unknown};

#[tokio::test]
async fn presence_is_shown_of_those_only_whom_one_talks_with() {
    let mut world = World::new(true);
    world.held = 1;
    let found = look_up(&world, all_online(), &[4, 3, 1, 2, 3]).await;
    assert_eq!(found, [Unknown, Online, Unknown, Online, Online]);
}

#[tokio::test]
async fn presence_is_not_shown_across_a_block() {
    let mut world = World::new(true).pending(vec![blocking(3, 900, true)]);
    world.conversations[0].blocks.blocked_by_them = true;
    assert_eq!(look_up(&world, all_online(), &[2, 3]).await, [Unknown, Unknown]);
}

#[tokio::test]
async fn presence_is_unknown_when_it_cannot_be_told() {
    let mut board = MockPresenceBoard::new();
    board.expect_look_up().returning(|_| Err(away()));
    assert_eq!(look_up(&World::new(true), board, &[2]).await, [Unknown]);
    let mut world = World::new(false);
    world.is_cold = true;
    assert_eq!(look_up(&world, all_online(), &[2]).await, [Unknown]);
}

#[tokio::test]
async fn the_first_arrival_and_the_last_departure_are_told_to_those_who_may_know() {
    let mut world = World::new(true);
    world.conversations[1].blocks.blocked_by_me = true;
    let (first, second) = (ConnectionId(Uuid::from_u128(1)), ConnectionId(Uuid::from_u128(2)));
    let mut board = MockPresenceBoard::new();
    board.expect_arrived().returning(move |_, one| Ok(one == first));
    board.expect_left().returning(move |_, one| Ok(one == second));
    let (live, told) = live();
    let tell = TellPresence::new(
        Arc::new(world.cache()),
        Arc::new(world.buffer().0),
        Arc::new(board),
        live,
        Arc::new(MockClock::at(5)),
    );
    for connection in [first, second] {
        tell.arrived(ME, connection).await;
    }
    for connection in [first, second] {
        tell.left(ME, connection).await;
    }
    let told = told.lock().unwrap();
    let presence = |status, last_seen| Signal::Presence {
        user_id: ME,
        status,
        last_seen,
    };
    let online = presence(Online, None);
    let offline = presence(PresenceStatus::Offline, Some(at(5)));
    assert_eq!(*told, [(user(2), online), (user(2), offline)]);
}

#[tokio::test]
async fn typing_is_told_to_the_other_and_to_nobody_across_a_block() {
    let mut world = World::new(true);
    world.conversations[1].blocks.blocked_by_them = true;
    let (live, told) = live();
    let typing = TellTyping::new(Arc::new(world.cache()), Arc::new(world.buffer().0), live);
    typing.run(ME, with(2)).await.unwrap();
    typing.run(ME, with(3)).await.unwrap();
    assert!(matches!(typing.run(ME, with(4)).await, Err(ReadError::NotFound)));
    let signal = Signal::Typing {
        conversation_id: with(2),
        user_id: ME,
    };
    assert_eq!(*told.lock().unwrap(), [(user(2), signal)]);
}

#[tokio::test]
async fn typing_is_told_while_only_an_older_conversation_is_known() {
    let world = World::new(false).pending(vec![blocking(3, 900, true)]);
    let mut cache = MockChatCache::new();
    cache.expect_conversation().returning(|_, _| Err(away()));
    let remembered = world.clone();
    cache
        .expect_known_conversation()
        .returning(move |_, id| remembered.find(id).map(|one| Some(Arc::new(one))));
    let (live, told) = live();
    let typing = TellTyping::new(Arc::new(cache), Arc::new(world.buffer().0), live);
    typing.run(ME, with(2)).await.unwrap();
    typing.run(ME, with(3)).await.unwrap();
    assert!(matches!(typing.run(ME, with(4)).await, Err(ReadError::Unknown)));
    let told: Vec<_> = told.lock().unwrap().iter().map(|(user, _)| *user).collect();
    assert_eq!(told, [user(2)]);
}

#[tokio::test]
async fn a_ticket_lets_in_its_holder_until_the_token_ends() {
    let holder = TicketHolder {
        principal: Principal {
            user_id: ME,
            role: Role::User,
            session_id: None,
        },
        expires_at: at(9),
    };
    let mut tickets = MockTickets::new();
    tickets
        .expect_issue()
        .withf(move |asked| *asked == holder)
        .returning(|_| Ok(Ticket::new("t".to_owned())));
    tickets
        .expect_redeem()
        .returning(move |ticket| Ok((ticket.expose() == "t").then_some(holder)));
    let tickets = Arc::new(tickets);
    let ticket = IssueTicket::new(tickets.clone())
        .run(holder.principal, at(9))
        .await;
    let redeem = RedeemTicket::new(tickets);
    assert_eq!(redeem.run(&ticket.unwrap()).await.unwrap(), Some(holder));
    assert_eq!(redeem.run(&Ticket::new("u".to_owned())).await.unwrap(), None);
}

#[tokio::test]
async fn the_log_is_read_while_postgres_is_up_and_not_asked_for_while_it_is_away() {
    let head = EventCursor {
        epoch: 1,
        offset: 9,
        stream: 4,
    };
    for is_up in [true, false] {
        let world = World::new(is_up);
        let mut log = MockEventLog::new();
        if is_up {
            log.expect_head().times(1).returning(move |_| Ok(head));
            log.expect_heads()
                .times(1)
                .returning(move |_| Ok(vec![(ME, head)]));
            log.expect_since()
                .withf(|_, _, limit| *limit == ReplayLog::MOST)
                .times(1)
                .returning(move |_, _, _| Ok(LogReplay::Reset { head }));
        }
        let (log, breaker) = (Arc::new(log), Arc::new(world.breaker()));
        let connect = Connect::new(Arc::new(world.cache()), log.clone(), breaker.clone());
        assert_eq!(connect.run(ME).await.ok(), is_up.then_some(head));
        let replay = ReplayLog::new(log, breaker);
        assert_eq!(replay.run(ME, head).await.is_ok(), is_up);
        assert_eq!(replay.heads(&[ME]).await.is_ok(), is_up);
    }
}
