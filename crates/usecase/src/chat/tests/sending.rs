//! Messages on their way.

use super::*;
use crate::chat::{ChatError, MessageJudge, NewSend, SendMessage, SendPorts, Sent};
use crate::sync::IdempotencyKey;
use gravity_domain::chat::Signal;
use gravity_domain::chat::ports::MockLive;
use gravity_domain::sync::ports::Judge;
use gravity_domain::sync::{Applied, Fingerprint, Refusal, Refused, Verdict, WriteError, WriteOutcome};

/// What sending has: its lane, its limit, and what those who are there were told.
struct Desk {
    send: SendMessage,
    lane: Appended,
    left: Arc<Mutex<u32>>,
    told: Arc<Mutex<Vec<(UserId, Signal)>>>,
}

fn desk_over(world: &World, store: MockOperationStore, calls: u32) -> Desk {
    let (buffer, lane) = world.buffer();
    let buffer = Arc::new(buffer);
    let judge = || MessageJudge::new(Arc::new(world.cache()), Arc::new(world.breaker()), buffer.clone());
    let rows = world.clone();
    let reader = world.reader(&buffer, move |id| {
        rows.messages.iter().find(|message| message.id.0 == id).cloned()
    });
    let (limiter, left) = limiter(calls);
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut live = MockLive::new();
    let sink = Arc::clone(&told);
    live.expect_signal()
        .returning(move |user, signal| sink.lock().unwrap().push((user, signal)));
    let ports = SendPorts {
        store: Arc::new(world.store()),
        judge: Arc::new(judge()),
        breaker: Arc::new(world.breaker()),
        buffer: buffer.clone(),
        live: Arc::new(live),
        limiter: Arc::new(limiter),
        quota: SendMessage::per_minute(30),
    };
    let reader = Arc::new(reader.judged_by(Arc::new(judge())));
    Desk {
        send: SendMessage::new(world.writer(&buffer, store), reader, ports),
        lane,
        left,
        told,
    }
}

/// A Postgres that answers sends so.
fn answering(answer: impl Fn(&Operation) -> Verdict + Send + 'static) -> MockOperationStore {
    let mut store = MockOperationStore::new();
    store
        .expect_apply()
        .returning(move |operation| Ok(answer(operation)));
    store
}

fn commits(is_repeat: bool) -> MockOperationStore {
    answering(move |operation| {
        let mut message = None;
        Message::apply(&mut message, operation);
        Verdict::Applied(Applied {
            superseded: false,
            state: Message {
                seq: Some(11),
                is_repeat,
                ..message.unwrap()
            }
            .into_state(),
        })
    })
}

fn dark(world: &World) -> Desk {
    desk_over(world, MockOperationStore::new(), 5)
}

fn new(n: u128, client_message_id: Option<Uuid>, text: &str) -> NewSend {
    NewSend {
        conversation_id: with(n),
        client_message_id,
        content: content(text),
    }
}

fn header(key: &str, body: u8) -> WriteRequest {
    WriteRequest {
        key: Some(IdempotencyKey {
            key: key.to_owned(),
            fingerprint: Fingerprint([body; 32]),
        }),
        ..request()
    }
}

impl Desk {
    async fn send(&self, id: u64, text: &str) -> Result<Sent, ChatError> {
        self.send.run(request(), new(2, Some(client_id(id)), text)).await
    }

    fn left(&self) -> u32 {
        *self.left.lock().unwrap()
    }
}

fn refusal(result: Result<Sent, ChatError>) -> WriteError {
    match result {
        Err(ChatError::Write(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn is_reused(result: Result<Sent, ChatError>) -> bool {
    matches!(refusal(result), WriteError::NotAllowed(Refusal::MessageIdReused))
}

fn is_blocked(result: Result<Sent, ChatError>) -> bool {
    matches!(refusal(result), WriteError::NotAllowed(Refusal::Blocked))
}

#[tokio::test]
async fn a_message_is_stored_and_counts_and_its_id_derives_from_the_clients() {
    let desk = desk_over(&World::new(true), commits(false), 5);
    let sent = desk.send(1, "hi").await.unwrap();
    assert!(matches!(&sent.outcome, WriteOutcome::Committed(message) if message.seq == Some(11)));
    assert_eq!(sent.message().id, ChatMessageId::of(ME, client_id(1)));
    assert_eq!((sent.is_replay, sent.rate.remaining, desk.left()), (false, 4, 4));
    assert!(desk.told.lock().unwrap().is_empty(), "its commit tells of it");
}

#[tokio::test]
async fn a_repeat_by_the_clients_id_gets_the_same_message_and_does_not_count() {
    let desk = desk_over(&World::new(true), commits(false), 5);
    let first = desk.send(1, "hi").await.unwrap();
    let again = desk.send(1, "hi").await.unwrap();
    assert_eq!(
        (first.message(), first.operation_id),
        (again.message(), again.operation_id)
    );
    assert_eq!((again.is_replay, again.rate.remaining, desk.left()), (true, 4, 4));
}

#[tokio::test]
async fn a_repeat_whose_operation_is_forgotten_is_told_by_the_message() {
    let desk = desk_over(&World::new(true), commits(true), 5);
    assert!(desk.send(1, "hi").await.unwrap().is_replay);
    assert_eq!(desk.left(), 5);
}

#[tokio::test]
async fn the_clients_id_of_another_message_is_a_conflict() {
    let desk = desk_over(&World::new(true), commits(false), 5);
    desk.send(1, "hi").await.unwrap();
    assert!(is_reused(desk.send(1, "other").await));
    let elsewhere = new(3, Some(client_id(1)), "hi");
    assert!(is_reused(desk.send.run(request(), elsewhere).await));
    assert_eq!(desk.left(), 4);
}

#[tokio::test]
async fn a_key_by_header_behaves_as_in_all_of_http() {
    let desk = desk_over(&World::new(true), commits(false), 5);
    let first = desk.send.run(header("k", 1), new(2, None, "hi")).await.unwrap();
    let operation = OperationId::for_key(ME, "k");
    assert_eq!(first.operation_id, operation);
    assert_eq!(first.message().client_message_id, operation.created_entity());
    let again = desk.send.run(header("k", 1), new(2, None, "hi")).await.unwrap();
    assert!(again.is_replay && again.message() == first.message());
    let other = desk.send.run(header("k", 2), new(2, None, "other")).await;
    assert!(matches!(refusal(other), WriteError::KeyReused));
}

#[tokio::test]
async fn with_both_the_header_names_the_operation_and_the_client_the_message() {
    let desk = desk_over(&World::new(true), commits(false), 5);
    let both = new(2, Some(client_id(1)), "hi");
    let sent = desk.send.run(header("k", 1), both).await.unwrap();
    assert_eq!(sent.operation_id, OperationId::for_key(ME, "k"));
    assert_eq!(sent.message().client_message_id, client_id(1));
}

#[tokio::test]
async fn without_any_name_every_send_is_another_message() {
    let desk = desk_over(&World::new(true), commits(false), 5);
    let first = desk.send.run(request(), new(2, None, "hi")).await.unwrap();
    let second = desk.send.run(request(), new(2, None, "hi")).await.unwrap();
    assert_ne!(first.message().id, second.message().id);
    assert_eq!(desk.left(), 3);
}

#[tokio::test]
async fn what_postgres_refuses_does_not_count() {
    let refused = answering(|_| {
        Verdict::Refused(Refused {
            refusal: Refusal::Blocked,
            events: Vec::new(),
        })
    });
    let desk = desk_over(&World::new(true), refused, 5);
    assert!(is_blocked(desk.send(1, "hi").await));
    let desk = desk_over(&World::new(true), answering(|_| Verdict::Missing), 5);
    assert!(matches!(refusal(desk.send(1, "hi").await), WriteError::NotFound));
    assert_eq!(desk.left(), 5);
}

#[tokio::test]
async fn over_the_limit_new_messages_are_refused_and_repeats_are_answered() {
    let world = World::new(true).pending(vec![sending(2, 900)]);
    let desk = desk_over(&world, MockOperationStore::new(), 0);
    let refused = desk.send(1, "hi").await;
    assert!(matches!(refused, Err(ChatError::RateLimited(rate)) if rate.quota.name == "chat_messages"));
    let again = desk.send(900, "waits").await.unwrap();
    assert!(again.is_replay);
    assert_eq!(
        (desk.left(), again.rate.remaining),
        (0, 0),
        "nothing was taken, so nothing is given back"
    );
    assert!(desk.lane.lock().unwrap().is_empty());
}

#[tokio::test]
async fn in_the_dark_a_message_is_accepted_and_told_to_both() {
    let desk = dark(&World::new(false));
    let sent = desk.send(1, "hi").await.unwrap();
    let WriteOutcome::Buffered(message) = &sent.outcome else {
        panic!("it was not buffered")
    };
    assert_eq!((message.seq, message.recipient), (None, Some(user(2))));
    assert_eq!((sent.is_replay, desk.left()), (false, 4));
    let accepted = Signal::Accepted(message.clone());
    assert_eq!(
        *desk.told.lock().unwrap(),
        [(user(2), accepted.clone()), (ME, accepted)]
    );
    assert_eq!(desk.lane.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn in_the_dark_a_repeat_is_neither_buffered_nor_told_again() {
    let desk = dark(&World::new(false));
    desk.send(1, "hi").await.unwrap();
    let again = desk.send(1, "hi").await.unwrap();
    assert!(again.is_replay && matches!(again.outcome, WriteOutcome::Buffered(_)));
    assert!(is_reused(desk.send(1, "other").await));
    assert_eq!(desk.lane.lock().unwrap().len(), 1);
    assert_eq!((desk.told.lock().unwrap().len(), desk.left()), (2, 4));
}

#[tokio::test]
async fn in_the_dark_a_message_is_known_by_its_own_id_whatever_named_the_request() {
    let desk = dark(&World::new(false));
    let same = || new(2, Some(client_id(1)), "hi");
    let first = desk.send.run(header("k", 1), same()).await.unwrap();
    for request in [request(), header("l", 1)] {
        let again = desk.send.run(request, same()).await.unwrap();
        assert!(again.is_replay && again.operation_id == first.operation_id);
        assert_eq!(again.message(), first.message());
    }
    for request in [request(), header("m", 1)] {
        let other = new(2, Some(client_id(1)), "other");
        assert!(is_reused(desk.send.run(request, other).await));
    }
    let other_key = new(2, Some(client_id(2)), "hi");
    let reused = desk.send.run(header("k", 2), other_key).await;
    assert!(matches!(refusal(reused), WriteError::KeyReused));
    assert_eq!(desk.lane.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_repeat_of_what_was_stored_meanwhile_says_so() {
    let first = sending(2, 900);
    let mut operation = Operation {
        id: OperationId::for_key(ME, &format!("message:{}", client_id(900))),
        ..first
    };
    let mut message = None;
    Message::apply(&mut message, &operation);
    let message = message.unwrap();
    let body = serde_json::json!({"content": "waits"});
    let path = with(2).to_string();
    operation.replay = Some(gravity_domain::sync::Replay {
        fingerprint: Fingerprint::of("message", &path, Some(&body)),
        accepted: serde_json::to_value(message.clone().into_state()).ok(),
    });
    let mut world = World::new(true).pending(vec![operation]);
    let desk = desk_over(&world, MockOperationStore::new(), 5);
    let waits = desk.send(900, "waits").await.unwrap();
    assert!(waits.is_replay && matches!(waits.outcome, WriteOutcome::Buffered(_)));
    world.messages.push(Message {
        seq: Some(11),
        ..message
    });
    let desk = desk_over(&world, MockOperationStore::new(), 5);
    let stored = desk.send(900, "waits").await.unwrap();
    assert!(stored.is_replay);
    assert!(matches!(stored.outcome, WriteOutcome::Committed(message) if message.seq == Some(11)));
}

#[tokio::test]
async fn in_the_dark_blocks_are_judged_by_what_is_known_and_by_what_waits() {
    let mut world = World::new(false);
    world.conversations[0].blocks.blocked_by_them = true;
    let desk = dark(&world);
    assert!(is_blocked(desk.send(1, "hi").await));
    let unnamed = desk.send.run(request(), new(2, None, "hi")).await;
    assert!(is_blocked(unnamed));
    assert_eq!(desk.left(), 5);

    let world = World::new(false).pending(vec![blocking(2, 900, true)]);
    assert!(is_blocked(dark(&world).send(1, "hi").await));

    let mut world = World::new(false).pending(vec![blocking(2, 900, false)]);
    world.conversations[0].blocks.blocked_by_me = true;
    assert!(dark(&world).send(1, "hi").await.is_ok());
}

#[tokio::test]
async fn in_the_dark_nothing_is_sent_where_the_sender_is_not_known_to_take_part() {
    let desk = dark(&World::new(false));
    for id in [None, Some(client_id(1))] {
        let elsewhere = desk.send.run(request(), new(4, id, "hi")).await;
        assert!(matches!(refusal(elsewhere), WriteError::NotFound));
    }
    let mut world = World::new(false);
    world.is_cold = true;
    let desk = dark(&world);
    for id in [None, Some(client_id(1))] {
        let unknown = desk.send.run(request(), new(2, id, "hi")).await;
        assert!(matches!(refusal(unknown), WriteError::Unknown));
    }
    assert_eq!(desk.left(), 5);
    assert!(desk.lane.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_behind_others_in_the_lane_is_judged_by_what_is_current() {
    let mut world = World::new(true).pending(vec![marking(2, 900, 9)]);
    world.conversations[0].blocks.blocked_by_them = true;
    let desk = dark(&world);
    assert!(is_blocked(desk.send(1, "hi").await));
    world.conversations[0].blocks.blocked_by_them = false;
    let sent = dark(&world).send(1, "hi").await.unwrap();
    assert!(matches!(sent.outcome, WriteOutcome::Buffered(_)));
}

#[tokio::test]
async fn only_messages_are_judged() {
    let mut world = World::new(false);
    world.is_cold = true;
    let judge = MessageJudge::new(
        Arc::new(world.cache()),
        Arc::new(world.breaker()),
        Arc::new(world.buffer().0),
    );
    for mut operation in [marking(2, 900, 9), blocking(2, 901, true)] {
        judge.judge(&mut operation, false).await.unwrap();
    }
    let unknown = judge.judge(&mut sending(2, 902), false).await;
    assert!(matches!(unknown, Err(WriteError::Unknown)));
}
