//! What must hold when everything is healed and drained:
//!
//! - every acknowledged message is stored once, and whatever is stored was sent (R1, R2);
//! - places in a conversation count from 1 without gaps, and those of one sender are in the order in which one node
//!   acknowledged them (R3);
//! - no marker is behind what was acknowledged, and what is unread is what counting gives;
//! - every log counts from 1 without gaps, and a socket that resumed has been told all of it from where it began, in order
//!   and once, but for its own messages, which were acknowledged to it; and the newest version of its user's stream.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_postgres::Client as Postgres;
use uuid::Uuid;

use super::follower::Place;
use super::{Chatter, Pair, Record};
use crate::client::Request;

/// Sockets that come back, and nodes that look at the logs, are given this long.
const PATIENCE: Duration = Duration::from_secs(15);

struct Stored {
    seq: i64,
    sender: String,
    client_id: Uuid,
    content: String,
}

/// What is broken, as text.
pub(crate) async fn check(postgres: &Postgres, pairs: &[Pair]) -> Result<Vec<String>, crate::Failure> {
    let mut broken = Vec::new();
    for pair in pairs {
        let stored = stored(postgres, &pair.conversation).await?;
        let places = stored.iter().map(|message| message.seq);
        if !places.eq(1..=i64::try_from(stored.len())?) {
            broken.push(format!("the places of {} have gaps", pair.conversation));
        }
        for chatter in &pair.chatters {
            let record = chatter.take();
            broken.extend(messages(chatter, &record, &stored));
            broken.extend(markers(postgres, pair, chatter, &record, &stored).await?);
            broken.extend(log(postgres, chatter, &record).await?);
            broken.extend(record.broken);
        }
    }
    Ok(broken)
}

async fn stored(postgres: &Postgres, conversation: &str) -> Result<Vec<Stored>, crate::Failure> {
    let id: Uuid = conversation.parse()?;
    let select = "SELECT seq, sender_id::text, client_message_id, content FROM messages WHERE conversation_id = $1 ORDER BY seq";
    let rows = postgres.query(select, &[&id]).await?;
    Ok(rows
        .iter()
        .map(|row| Stored {
            seq: row.get(0),
            sender: row.get(1),
            client_id: row.get(2),
            content: row.get(3),
        })
        .collect())
}

fn messages(chatter: &Chatter, record: &Record, stored: &[Stored]) -> Vec<String> {
    let mut broken = Vec::new();
    let own = stored.iter().filter(|message| message.sender == chatter.id);
    let mut by_id = BTreeMap::<Uuid, &Stored>::new();
    for message in own {
        if by_id.insert(message.client_id, message).is_some() {
            broken.push(format!("R2 exactly once: {} is stored twice", message.content));
        }
    }
    // By node: the place of the last one that it acknowledged; and of the last that was stored at once, by any.
    let mut last = BTreeMap::<usize, (u64, i64)>::new();
    let mut last_stored: Option<(u64, i64)> = None;
    let mut wanted = BTreeSet::new();
    for sent in &record.sent {
        wanted.insert(sent.id);
        let found = by_id.get(&sent.id);
        match (sent.acknowledged, found) {
            (Some(_), None) => {
                broken.push(format!(
                    "R1 durable: {} was acknowledged and is not stored",
                    sent.content
                ));
            }
            (None, Some(message)) if sent.refused && sent.tries == 1 => {
                broken.push(format!("{} was refused and is stored", message.content));
            }
            (Some((at, node, at_once)), Some(message)) => {
                if message.content != sent.content {
                    broken.push(format!("{} is stored as {}", sent.content, message.content));
                }
                // What was tried elsewhere too may have been stored by that node, which does not know what this one accepted.
                let of_node = last.get(&node).filter(|_| sent.nodes.len() == 1);
                for (earlier, place) in of_node.copied().into_iter().chain(last_stored) {
                    if earlier < sent.begun && place > message.seq {
                        broken.push(format!(
                            "R3 in order: {} has place {}, and one that was acknowledged before has {place} ({sent:?})",
                            sent.content, message.seq
                        ));
                    }
                }
                last.insert(node, (at, message.seq));
                if at_once {
                    last_stored = Some((at, message.seq));
                }
            }
            _ => {}
        }
    }
    for (id, message) in by_id {
        if !wanted.contains(&id) {
            broken.push(format!("{} is stored and was never sent", message.content));
        }
    }
    broken
}

async fn markers(
    postgres: &Postgres,
    pair: &Pair,
    chatter: &Chatter,
    record: &Record,
    stored: &[Stored],
) -> Result<Vec<String>, crate::Failure> {
    let (conversation, user): (Uuid, Uuid) = (pair.conversation.parse()?, chatter.id.parse()?);
    let select = "SELECT read_seq FROM conversation_participants WHERE conversation_id = $1 AND user_id = $2";
    let read: i64 = postgres.query_one(select, &[&conversation, &user]).await?.get(0);
    let mut broken = Vec::new();
    if u64::try_from(read)? < record.read_seq {
        broken.push(format!(
            "R1 durable: {} had read up to {}, and the marker is at {read}",
            chatter.id, record.read_seq
        ));
    }
    let unread = stored
        .iter()
        .filter(|message| message.sender != chatter.id && message.seq > read)
        .count();
    for node in 0..chatter.client.bases().len() {
        let answer = chatter
            .client
            .send(node, &Request::get("/api/chat/conversations/unread-count"), None)
            .await;
        let Ok(answer) = answer else { continue };
        if answer.status == 200 && answer.json()["data"]["total"].as_u64() != Some(unread as u64) {
            broken.push(format!(
                "node {node} counts {} unread for {}, and {unread} are",
                answer.text, chatter.id
            ));
        }
    }
    Ok(broken)
}

/// The entries of a log: a message's row is two of them. Written apart from what the server does, which is what is checked.
const LOG: &str = r#"
    SELECT "offset", type, payload FROM user_events WHERE user_id = $1 AND message_id IS NULL
    UNION ALL
    SELECT "offset" - 1, 'message.new', json_build_object('durability', 'stored', 'message', json_build_object(
        'id', message.id, 'conversationId', conversation_id, 'seq', seq, 'senderId', sender_id, 'content', content,
        'clientMessageId', client_message_id, 'createdAt', chat_time(message.created_at), 'durability', 'stored'))
    FROM user_events JOIN messages AS message ON message.id = message_id WHERE user_id = $1
    UNION ALL
    SELECT "offset", 'conversation.updated', json_build_object('conversationId', conversation_id, 'unread', unread,
        'lastSeq', seq, 'asOfSeq', seq, 'readSeq', read_seq)
    FROM user_events JOIN messages AS message ON message.id = message_id WHERE user_id = $1
    ORDER BY 1"#;

async fn log(postgres: &Postgres, chatter: &Chatter, record: &Record) -> Result<Vec<String>, crate::Failure> {
    let user: Uuid = chatter.id.parse()?;
    let rows = postgres.query(LOG, &[&user]).await?;
    let entries = rows.len();
    let rows: BTreeMap<u64, (String, Value)> = rows
        .iter()
        .map(|row| {
            (
                u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
                (row.get(1), row.get(2)),
            )
        })
        .collect();
    let head = rows.last_key_value().map_or(0, |(offset, _)| *offset);
    let mut broken = Vec::new();
    if entries != rows.len() || !rows.keys().copied().eq(1..=head) {
        broken.push(format!(
            "the log of {} has gaps, or two entries at one offset",
            chatter.id
        ));
    }
    let select = "SELECT version FROM stream_versions WHERE user_id = $1";
    let stream = postgres.query_opt(select, &[&user]).await?;
    let stream = stream.map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
    let deadline = Instant::now() + PATIENCE;
    let is_behind = |at: Place| at.offset < head || at.stream < stream;
    while chatter.follower.log().cursor.is_none_or(is_behind) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = chatter.follower.log();
    broken.extend(told.broken.iter().cloned());
    let (Some(base), Some(cursor)) = (told.base, told.cursor) else {
        broken.push(format!("the socket of {} never became ready", chatter.id));
        return Ok(broken);
    };
    if is_behind(cursor) {
        broken.push(format!(
            "the socket of {} is at {cursor:?}, its log at {head}, and its stream at {stream}",
            chatter.id
        ));
    }
    for (offset, (kind, payload)) in rows.range(base.offset + 1..) {
        let own = payload["message"]["clientMessageId"]
            .as_str()
            .and_then(|id| id.parse().ok());
        let may_be_left_out = kind == "message.new" && own.is_some_and(|id: Uuid| told.own.contains(&id));
        match told.events.get(offset) {
            Some((other, shown)) if other == kind && shown == payload => {}
            // The socket that sent it is told so in its place.
            Some((ack, shown))
                if ack == "message.ack"
                    && may_be_left_out
                    && shown["status"] == "stored"
                    && shown["clientMessageId"] == payload["message"]["clientMessageId"] => {}
            Some((other, shown)) => broken.push(format!(
                "{} was told {other} {shown} at {offset}, and the log has {kind} {payload}",
                chatter.id
            )),
            None if may_be_left_out || *offset > cursor.offset => {}
            None => broken.push(format!(
                "{} was never told {kind} {payload} at {offset}",
                chatter.id
            )),
        }
    }
    for (id, words) in &told.settled {
        // Each try has an answer of its own, and all say the same.
        let sent = record.sent.iter().find(|sent| sent.id == *id);
        let tries = sent.map_or(1, |sent| sent.tries);
        if words.len() > tries || words.iter().any(|word| *word != words[0]) {
            broken.push(format!("{id}, sent {tries} times, was settled as {words:?}"));
        }
    }
    Ok(broken)
}
