use super::*;
use gravity_domain::chat::{PresenceStatus, Signal};
use proptest::prelude::*;

#[tokio::test(start_paused = true)]
async fn entries_are_heard_once_and_in_order_with_their_cursors() {
    let world = World::new();
    let socket = world.begun().await;
    for number in 1..=3 {
        world.commit(number);
        world.commit_again(number);
    }
    let heard = frames(&socket);
    assert_eq!(numbers(&heard), [1, 2, 3]);
    assert_eq!(heard[2]["cursor"], "0.3.0");
}

impl World {
    /// A hint of an entry that is in the log already.
    fn commit_again(&self, number: u64) {
        let event = self.logs.entries.lock().unwrap()[&self.user][number as usize - 1].clone();
        self.hint(&event);
    }
}

#[tokio::test(start_paused = true)]
async fn hints_out_of_order_are_put_in_order_without_reading_the_log() {
    let world = World::new();
    let socket = world.begun().await;
    let events: Vec<_> = (1..=3)
        .map(|number| world.logs.number(world.user, number))
        .collect();
    for at in [2, 1, 0] {
        world.hint(&events[at]);
    }
    assert_eq!(numbers(&frames(&socket)), [1, 2, 3]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.logs.reads.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_missing_entry_is_read_from_the_log_and_nothing_is_heard_past_it_before() {
    let world = World::new();
    let socket = world.begun().await;
    world.logs.number(world.user, 1);
    world.logs.is_away.store(true, SeqCst);
    world.commit(2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(numbers(&frames(&socket)).is_empty());
    world.logs.is_away.store(false, SeqCst);
    let mut heard = Vec::new();
    until(|| {
        heard.extend(numbers(&frames(&socket)));
        heard.len() >= 2
    })
    .await;
    assert_eq!(heard, [1, 2]);
    world.commit(3);
    assert_eq!(numbers(&frames(&socket)), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_begins_anew_sends_its_sockets_away() {
    let world = World::new();
    let socket = world.begun().await;
    world.commit(1);
    world.logs.epoch.store(9, SeqCst);
    world.logs.number(world.user, 2);
    world.commit(3);
    until(|| closes(&frames(&socket)) == [4102]).await;
    let back = world.socket(Wish::Since("0.1.0".parse().unwrap())).await;
    let ready = &frames(&back)[0];
    assert_eq!(ready["payload"]["resume"]["status"], "reset");
    assert_eq!(ready["cursor"], "9.3.0");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_another_epoch_is_noticed_without_any_hint() {
    let world = World::new();
    let socket = world.begun().await;
    world
        .hub
        .mode_changed(super::super::Mode::Degraded, Timestamp::EPOCH);
    world.logs.epoch.store(9, SeqCst);
    world
        .hub
        .mode_changed(super::super::Mode::Normal, Timestamp::EPOCH);
    let mut heard = Vec::new();
    until(|| {
        heard.extend(frames(&socket));
        closes(&heard) == [4102]
    })
    .await;
    assert_eq!(types(&heard)[..2], ["system.status", "system.status"]);
    assert_eq!(heard[0]["payload"]["mode"], "degraded");
}

#[tokio::test(start_paused = true)]
async fn hints_that_were_missed_are_found_after_a_resync_and_while_the_relay_is_down() {
    let world = World::new();
    let socket = world.begun().await;
    world.logs.number(world.user, 1);
    world.hub.resync("silence");
    let mut heard = Vec::new();
    until(|| {
        heard.extend(frames(&socket));
        numbers(&heard) == [1]
    })
    .await;
    assert_eq!(heard[0]["type"], "resync");

    let mut relay = MockRelay::new();
    relay.expect_watch().return_const(());
    relay.expect_is_up().return_const(false);
    let world = World::over(SocketSettings::default(), Arc::new(relay));
    let socket = world.begun().await;
    world.logs.number(world.user, 1);
    let mut heard = Vec::new();
    until(|| {
        heard.extend(numbers(&frames(&socket)));
        heard == [1]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_serialisation_serves_all_sockets_of_a_user() {
    let world = World::new();
    let (one, two) = (world.begun().await, world.begun().await);
    world.commit(1);
    let mut context = Context::from_waker(Waker::noop());
    let mut next = |socket: &Socket| match socket.outbox.poll_next(&mut context) {
        Poll::Ready(Some(frame)) => frame.as_ptr(),
        _ => panic!("nothing was heard"),
    };
    assert_eq!(next(&one), next(&two));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_closed_and_the_others_go_on() {
    let world = World::new();
    let (slow, quick) = (world.begun().await, world.begun().await);
    for number in 1..=256 {
        world.commit(number);
    }
    assert_eq!(numbers(&frames(&quick)).len(), 256);
    world.commit(257);
    assert_eq!(frames(&slow), [json!({"close": 4202})]);
    world.commit(258);
    assert_eq!(numbers(&frames(&quick)), [257, 258]);
}

#[tokio::test(start_paused = true)]
async fn signals_go_to_those_who_are_there_and_carry_no_cursor() {
    let world = World::new();
    let socket = world.begun().await;
    let other = UserId::random();
    let conversation_id = ConversationId::of(world.user, other);
    let typing = Signal::Typing {
        conversation_id,
        user_id: other,
    };
    let presence = Signal::Presence {
        user_id: other,
        status: PresenceStatus::Offline,
        last_seen: Some(Timestamp::EPOCH),
    };
    for signal in [typing, presence] {
        world.hub.deliver(world.user, Hint::Signal(signal));
    }
    let heard = frames(&socket);
    assert_eq!(types(&heard), ["typing", "presence"]);
    assert!(heard.iter().all(|frame| frame.get("cursor").is_none()));
    world
        .hub
        .deliver(other, Hint::Signal(Signal::StreamChanged { version: 1 }));
    assert!(frames(&socket).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Hints are lost, repeated and reordered; sockets come with any cursor at any moment; the log is away for a while.
    #[test]
    fn whatever_happens_to_hints_every_socket_hears_its_log_whole_and_in_order(
        steps in proptest::collection::vec((0u8..8, any::<u16>()), 1..80)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let mut sockets: Vec<(u64, Arc<Socket>, Vec<u64>)> = Vec::new();
            let mut told: Vec<UserEvent> = Vec::new();
            for (step, choice) in steps {
                let length = world.logs.end(world.user).offset;
                match step {
                    0..=2 => {
                        let event = world.logs.number(world.user, length + 1);
                        if step == 0 { world.hint(&event); }
                        told.push(event);
                    }
                    3 | 4 if !told.is_empty() => world.hint(&told[usize::from(choice) % told.len()].clone()),
                    5 => {
                        let from = u64::from(choice) % (length + 1);
                        let cursor = EventCursor { epoch: 0, offset: from, stream: 0 };
                        let socket = world.attached();
                        world.logs.delay.store(u64::from(choice) % 3 * 10, SeqCst);
                        let begin = begin::begin(&world.hub, &socket, world.user, Wish::Since(cursor), None);
                        let meanwhile = async {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            let event = world.logs.number(world.user, length + 1);
                            if choice % 5 > 0 { world.hint(&event); }
                            event
                        };
                        let ((), event) = tokio::join!(begin, meanwhile);
                        told.push(event);
                        sockets.push((from, socket, Vec::new()));
                        if sockets.len() > 15 { sockets.remove(0); }
                    }
                    6 => world.logs.is_away.store(choice % 2 == 0, SeqCst),
                    _ => tokio::time::sleep(Duration::from_millis(u64::from(choice) % 100)).await,
                }
                for (_, socket, heard) in &mut sockets {
                    heard.extend(numbers(&frames(socket)));
                }
            }
            world.logs.is_away.store(false, SeqCst);
            world.hub.resync("the test ends");
            tokio::time::sleep(Duration::from_secs(30)).await;
            let length = world.logs.end(world.user).offset;
            for (from, socket, heard) in &mut sockets {
                heard.extend(numbers(&frames(socket)));
                assert_eq!(*heard, (*from + 1..=length).collect::<Vec<_>>(), "from {from}");
            }
        });
    }
}
