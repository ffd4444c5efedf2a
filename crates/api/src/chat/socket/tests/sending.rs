use super::*;
use crate::chat::socket::following::IsRepeat;
use crate::chat::socket::frames::Acked;
use crate::chat::socket::hub::Sending;
use gravity_domain::chat::{Content, Message, Signal};
use uuid::Uuid;

fn message(world: &World, seq: Option<u64>) -> Message {
    let (other, client_message_id) = (UserId::random(), Uuid::now_v7());
    Message {
        id: ChatMessageId::of(world.user, client_message_id),
        conversation_id: ConversationId::of(world.user, other),
        seq,
        sender_id: world.user,
        client_message_id,
        content: Content::parse("hi").unwrap(),
        created_at: Timestamp::EPOCH,
        recipient: Some(other),
        events: Vec::new(),
        is_repeat: false,
    }
}

/// Stores the message: what its commit tells the sender's sockets.
fn store(world: &World, message: &Message) {
    let shown = json!({"id": message.id, "conversationId": message.conversation_id, "seq": 1,
        "senderId": message.sender_id, "clientMessageId": message.client_message_id, "content": "hi",
        "createdAt": message.created_at, "durability": "stored"});
    let payload = json!({"message": shown, "durability": "stored"});
    let event = world.logs.append(world.user, EventKind::MessageNew, &payload);
    world.hint(&event);
}

fn sending() -> Sending<'static> {
    Sending {
        id: None,
        is_registered: true,
    }
}

fn statuses(frames: &[Value]) -> Vec<&str> {
    let of = |frame: &'_ Value| (frame["type"] == "message.ack").then_some(());
    let acks = frames.iter().filter(|frame| of(frame).is_some());
    acks.map(|frame| frame["payload"]["status"].as_str().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_sending_socket_is_told_stored_once_and_the_others_get_the_message() {
    let world = World::new();
    let (sender, other) = (world.begun().await, world.begun().await);
    let sent = message(&world, Some(1));
    assert!(world.hub.sending(&sender, sent.client_message_id, None));
    store(&world, &sent);
    world
        .hub
        .taken(&sender, &Acked::from(&sent), Some(IsRepeat(false)), sending());
    let heard = frames(&sender);
    assert_eq!(types(&heard), ["message.ack"]);
    assert_eq!(statuses(&heard), ["stored"]);
    assert_eq!(heard[0]["cursor"], "0.1.0");
    assert_eq!(types(&frames(&other)), ["message.new"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_before_the_log_is_not_repeated_by_it() {
    let world = World::new();
    let sender = world.begun().await;
    let sent = message(&world, Some(1));
    world.hub.sending(&sender, sent.client_message_id, None);
    world
        .hub
        .taken(&sender, &Acked::from(&sent), Some(IsRepeat(false)), sending());
    assert_eq!(statuses(&frames(&sender)), ["stored"]);
    store(&world, &sent);
    assert!(frames(&sender).is_empty());
    world.commit(2);
    assert_eq!(numbers(&frames(&sender)), [2]);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_message_gets_its_second_ack_and_the_sender_never_hears_it_as_new() {
    let world = World::new();
    let (sender, other) = (world.begun().await, world.begun().await);
    let sent = message(&world, None);
    world.hub.sending(&sender, sent.client_message_id, None);
    world
        .hub
        .deliver(world.user, Hint::Signal(Signal::Accepted(sent.clone())));
    world.hub.taken(&sender, &Acked::from(&sent), None, sending());
    store(&world, &sent);
    let heard = frames(&sender);
    assert_eq!(types(&heard), ["message.ack", "message.ack"]);
    assert_eq!(statuses(&heard), ["accepted", "stored"]);
    let others = frames(&other);
    assert_eq!(types(&others), ["message.new", "message.new"]);
    assert_eq!(others[0]["payload"]["durability"], "accepted");
    assert_eq!(others[0]["payload"]["message"]["seq"], Value::Null);
    assert!(others[0].get("cursor").is_none());
}

#[tokio::test(start_paused = true)]
async fn an_accepted_message_that_is_stored_before_its_answer_is_out_is_told_stored_only() {
    let world = World::new();
    let sender = world.begun().await;
    let sent = message(&world, None);
    world.hub.sending(&sender, sent.client_message_id, None);
    store(&world, &sent);
    world.hub.taken(&sender, &Acked::from(&sent), None, sending());
    assert_eq!(statuses(&frames(&sender)), ["stored"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_stored_before_is_answered_and_forgotten() {
    let world = World::new();
    let sender = world.begun().await;
    let sent = message(&world, Some(1));
    for _ in 0..2 {
        world.hub.sending(&sender, sent.client_message_id, None);
        world
            .hub
            .taken(&sender, &Acked::from(&sent), Some(IsRepeat(true)), sending());
        assert_eq!(statuses(&frames(&sender)), ["stored"]);
    }
    store(&world, &sent);
    assert_eq!(types(&frames(&sender)), ["message.new"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_set_aside_is_rejected_for_all_sockets_of_its_sender() {
    let world = World::new();
    let (sender, other) = (world.begun().await, world.begun().await);
    let sent = message(&world, None);
    world.hub.sending(&sender, sent.client_message_id, None);
    world.hub.taken(&sender, &Acked::from(&sent), None, sending());
    frames(&sender);
    let signal = Signal::Rejected {
        client_message_id: sent.client_message_id,
        message_id: sent.id,
        code: "write_refused".to_owned(),
    };
    world.hub.deliver(world.user, Hint::Signal(signal));
    for socket in [&sender, &other] {
        let heard = frames(socket);
        assert_eq!(statuses(&heard), ["rejected"]);
        assert_eq!(heard[0]["payload"]["error"]["code"], "write_refused");
    }
}
