use super::*;
use crate::chat::socket::protocol::CloseCode;
use crate::chat::socket::{Mode, SocketSettings};

#[tokio::test(start_paused = true)]
async fn whoever_does_not_say_who_they_are_in_time_is_closed() {
    let world = World::new();
    let socket = world.hub.open().unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(frames(&socket).is_empty());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(frames(&socket), [json!({"close": 4408})]);
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_sent_in_time_and_must_be_answered() {
    let world = World::new();
    let (quiet, lively) = (world.begun().await, world.begun().await);
    let mut pings = 0;
    for _ in 0..65 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let heard = frames(&lively);
        if heard.contains(&json!({"control": 9})) {
            pings += 1;
            lively.heard.store(world.hub.now(), SeqCst);
        }
        assert!(closes(&heard).is_empty());
    }
    assert!((2..=3).contains(&pings), "{pings}");
    let heard = frames(&quiet);
    assert_eq!(heard, [json!({"close": 4203})], "what waited is of no use to it");
    quiet.outbox.abandon();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_token_is_told_before_and_then_it_is_the_end() {
    let world = World::new();
    let socket = world.begun().await;
    let now = 1_000_000;
    socket.authenticated_until(Timestamp::from_millis(now + 120_000));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(frames(&socket).is_empty());
    world.clock.set(now + 60_000);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(types(&frames(&socket)), ["auth.expiring"]);
    world.clock.set(now + 119_999);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(frames(&socket).is_empty());
    world.clock.set(now + 120_000);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(closes(&frames(&socket)), [4401]);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_user_loses_the_socket_within_30_s() {
    let world = World::new();
    let socket = world.begun().await;
    world.logs.is_suspended.store(true, SeqCst);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(closes(&frames(&socket)), [4403]);
}

#[tokio::test(start_paused = true)]
async fn one_socket_too_many_closes_the_oldest() {
    let world = World::with(SocketSettings {
        max_sockets_per_user: 2,
        ..SocketSettings::default()
    });
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(world.begun().await);
    }
    let closed: Vec<_> = sockets.iter().map(|socket| closes(&frames(socket))).collect();
    assert_eq!(closed, [vec![4409], vec![], vec![]]);
    world.commit(1);
    assert_eq!(numbers(&frames(&sockets[2])), [1]);
}

#[tokio::test(start_paused = true)]
async fn the_first_socket_is_an_arrival_and_a_gone_one_has_left_after_its_grace() {
    let world = World::new();
    let socket = world.begun().await;
    let told = || world.logs.told.lock().unwrap().clone();
    until(|| told() == [("arrived", world.user)]).await;
    world.hub.ended(&socket);
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(told().len(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(told()[1..], [("left", world.user)]);
}

#[tokio::test(start_paused = true)]
async fn the_relay_watches_a_user_from_the_first_socket_to_the_last() {
    let mut relay = MockRelay::new();
    relay.expect_watch().times(1).return_const(());
    relay.expect_unwatch().times(1).return_const(());
    relay.expect_is_up().return_const(true);
    let world = World::over(SocketSettings::default(), Arc::new(relay));
    let (one, two) = (world.begun().await, world.begun().await);
    assert_eq!(world.hub.sockets(), 2);
    world.hub.ended(&one);
    world.hub.ended(&two);
    world.hub.ended(&two);
    assert_eq!(world.hub.sockets(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_planned_end_spreads_the_return_and_closes_in_order() {
    let world = World::new();
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(world.begun().await);
    }
    let hub = Arc::clone(&world.hub);
    let stopping = tokio::spawn(async move { hub.shut_down(Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(world.hub.open().is_none());
    let mut returns = Vec::new();
    for socket in &sockets {
        let heard = frames(socket);
        assert_eq!(types(&heard), ["goaway", "-"]);
        assert_eq!(closes(&heard), [4100]);
        returns.push(heard[0]["payload"]["reconnectAfterMs"].as_u64().unwrap() / 1_000);
        world.hub.ended(socket);
    }
    returns.sort_unstable();
    assert_eq!(returns, (0..10).collect::<Vec<_>>());
    stopping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_planned_end_waits_for_what_is_still_being_said_but_not_for_ever() {
    let world = World::new();
    let hub = Arc::clone(&world.hub);
    let being_said = hub.take();
    let stopping = tokio::spawn(async move { hub.shut_down(Duration::ZERO).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!stopping.is_finished());
    drop(being_said);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(stopping.is_finished());

    let _never_ends = world.hub.take();
    let began = tokio::time::Instant::now();
    world.hub.shut_down(Duration::ZERO).await;
    assert!(began.elapsed() < Duration::from_millis(3_300));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_the_close_is_cut_off() {
    let world = World::new();
    let socket = world.begun().await;
    world.hub.close(&socket, CloseCode::ShuttingDown);
    assert_eq!(closes(&frames(&socket)), [4100]);
    tokio::time::timeout(Duration::from_secs(5), socket.over.notified())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_of_mode_is_told_once() {
    let world = World::new();
    let socket = world.begun().await;
    for _ in 0..2 {
        world.hub.mode_changed(Mode::Degraded, Timestamp::EPOCH);
    }
    let heard = frames(&socket);
    assert_eq!(types(&heard), ["system.status"]);
    assert_eq!(
        heard[0]["payload"],
        json!({"mode": "degraded", "since": "1970-01-01T00:00:00.000Z"})
    );
}
