//! Conversations of the demonstration: most of the pairs that the people make, twenty messages each, some of them unread.
//!
//! They are operations, as requests make them, and the ids of all are derived from names: a second run finds them applied.

use gravity_domain::chat::{Content, NewMessage, ReadMark};
use gravity_domain::clock::{Hlc, NodeId, Timestamp};
use gravity_domain::id::{ChatMessageId, ConversationId, OperationId, UserId};
use gravity_domain::sync::{Change, Operation};
use uuid::Uuid;

/// How many conversations there are.
pub(super) const CONVERSATIONS: usize = 50;
/// How many messages each has.
pub(super) const LENGTH: usize = 20;
const MINUTES_BETWEEN: u64 = 17;

const TEXTS: [&str; 21] = [
    "Hi! How are you?",
    "Fine, thanks. And you?",
    "Did you see the eclipse?",
    "Only the end of it, there were clouds.",
    "Are we still on for Friday?",
    "Yes, at seven.",
    "Could you bring the photographs?",
    "Sure 👍",
    "I found the book you were looking for.",
    "No way! Where?",
    "In the second-hand shop by the station.",
    "You are the best ❤️",
    "The train is late again…",
    "Take your time.",
    "À tout à l'heure !",
    "Спасибо, до встречи",
    "明日は何時がいいですか？",
    "شكراً جزيلاً",
    "First line.\nSecond line.",
    "What was the name of that bakery?",
    "Ask Ines, she knows.",
];

/// Those who talk, in the order of their conversations.
pub(super) fn pairs(people: &[UserId]) -> Vec<(UserId, UserId)> {
    let others = move |(index, one): (usize, &UserId)| {
        let one = *one;
        people[index + 1..].iter().map(move |other| (one, *other))
    };
    let all = people.iter().enumerate().flat_map(others);
    all.take(CONVERSATIONS).collect()
}

/// All messages, oldest first, then what has been read of them. `now` is later than all of them.
pub(super) fn operations(people: &[UserId], now: Timestamp, node: NodeId) -> Vec<Operation> {
    let pairs = pairs(people);
    let millis = MINUTES_BETWEEN * 60_000;
    let total = pairs.len() * LENGTH;
    let stamp = |number: usize| Hlc {
        wall_ms: u64::try_from(now.millis())
            .unwrap_or(0)
            .saturating_sub(millis * (total - number) as u64),
        counter: 0,
        node,
    };
    let mut operations = Vec::with_capacity(total + pairs.len());
    for number in 0..total {
        let (talk, place) = (number % pairs.len(), number / pairs.len());
        operations.push(message(pairs[talk], talk, place, stamp(number)));
    }
    for (talk, pair) in pairs.into_iter().enumerate() {
        if let Some(place) = [Some(LENGTH - 1), Some(LENGTH * 3 / 4), None][talk % 3] {
            operations.extend(marks(pair, talk, place, stamp(total - 1)));
        }
    }
    operations
}

/// Who sends the message: neither takes turns strictly.
fn sender((one, other): (UserId, UserId), talk: usize, place: usize) -> UserId {
    if (place * 7 + talk * 3) % 5 < 2 {
        one
    } else {
        other
    }
}

fn client_id(talk: usize, place: usize) -> Uuid {
    super::derived(&format!("message-{talk}-{place}"))
}

fn operation(user: UserId, name: &str, stamp: Hlc, change: Change) -> Operation {
    Operation::new(OperationId::for_key(user, name), user, change, stamp)
}

fn message(pair: (UserId, UserId), talk: usize, place: usize, stamp: Hlc) -> Operation {
    let user = sender(pair, talk, place);
    let text = TEXTS[(talk * 5 + place) % TEXTS.len()];
    let client_message_id = client_id(talk, place);
    let message = NewMessage {
        conversation_id: ConversationId::of(pair.0, pair.1),
        client_message_id,
        content: Content::parse(text).unwrap_or_else(|error| unreachable!("{text:?} {error}")),
        recipient: None,
    };
    let change = Change::Message {
        id: ChatMessageId::of(user, client_message_id),
        message,
    };
    operation(user, &format!("seed-message-{talk}-{place}"), stamp, change)
}

/// Both have read up to this message.
fn marks(pair: (UserId, UserId), talk: usize, place: usize, stamp: Hlc) -> [Operation; 2] {
    let message_id = ChatMessageId::of(sender(pair, talk, place), client_id(talk, place));
    [pair.0, pair.1].map(|user| {
        let mark = ReadMark {
            conversation_id: ConversationId::of(pair.0, pair.1),
            message_id: Some(message_id),
            up_to: 0,
        };
        operation(user, &format!("seed-read-{talk}"), stamp, Change::ReadMark(mark))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn there_are_fifty_conversations_and_a_thousand_messages_and_every_run_makes_the_same() {
        let people: Vec<UserId> = (1..=11).map(|number| UserId(Uuid::from_u128(number))).collect();
        let now = Timestamp::from_millis(1_700_000_000_000);
        let operations = operations(&people, now, NodeId(1));
        let ids: HashSet<OperationId> = operations.iter().map(|operation| operation.id).collect();
        assert_eq!(ids.len(), operations.len());
        let messages = operations.iter().filter_map(|operation| match &operation.change {
            Change::Message { id, message } => Some((id, message.conversation_id)),
            _ => None,
        });
        let messages: HashSet<_> = messages.collect();
        assert_eq!(messages.len(), 1_000);
        let conversations: HashSet<_> = messages.iter().map(|(_, conversation)| conversation).collect();
        assert_eq!(conversations.len(), 50);
        assert!(
            operations
                .iter()
                .all(|operation| operation.accepted_at.timestamp() < now)
        );
        assert!(operations[..1_000].is_sorted_by_key(|operation| operation.accepted_at));
        let again: Vec<OperationId> = super::operations(&people, now, NodeId(1))
            .iter()
            .map(|operation| operation.id)
            .collect();
        assert!(operations.iter().map(|operation| operation.id).eq(again));
    }
}
