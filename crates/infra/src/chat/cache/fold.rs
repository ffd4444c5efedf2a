//! What an entry of a log changes in a snapshot of the same user.
//!
//! A snapshot other than an inbox may have more than its place in the log says, for it was read after it: what it has already
//! is passed over, told by places in the conversation, which only grow.

use super::Place;
use super::snapshots::Weigh;
use gravity_domain::chat::{
    BlockStatus, Blocked, Content, Conversation, EventKind, Inbox, Message, MessagePage, UserEvent,
};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::page::PageLimit;
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;

/// An entry, as far as snapshots show it.
#[derive(Debug)]
pub(super) enum Told {
    Message(Message),
    Counts(Counts),
    Block(BlockTold),
    /// Nothing that they show.
    Other,
}

/// The payload of `conversation.updated`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    conversation_id: ConversationId,
    unread: u64,
    last_seq: u64,
    read_seq: u64,
}

/// The payload of `block.updated`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockTold {
    user_id: UserId,
    conversation_id: Option<ConversationId>,
    #[serde(flatten)]
    status: BlockStatus,
}

/// The payload of `message.new`.
#[derive(Deserialize)]
struct Sent {
    message: SentMessage,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentMessage {
    id: ChatMessageId,
    conversation_id: ConversationId,
    seq: u64,
    sender_id: UserId,
    client_message_id: Uuid,
    content: Content,
    created_at: Timestamp,
}

impl From<SentMessage> for Message {
    fn from(sent: SentMessage) -> Self {
        Self {
            id: sent.id,
            conversation_id: sent.conversation_id,
            seq: Some(sent.seq),
            sender_id: sent.sender_id,
            client_message_id: sent.client_message_id,
            content: sent.content,
            created_at: sent.created_at,
            recipient: None,
            events: Vec::new(),
            is_repeat: false,
        }
    }
}

impl Told {
    /// `None`: a payload that is not understood.
    pub(super) fn read(event: &UserEvent) -> Option<Self> {
        let payload = &*event.payload;
        match event.kind {
            EventKind::MessageNew => {
                let sent: Sent = serde_json::from_str(payload).ok()?;
                Some(Self::Message(sent.message.into()))
            }
            EventKind::ConversationUpdated => serde_json::from_str(payload).ok().map(Self::Counts),
            EventKind::BlockUpdated => serde_json::from_str(payload).ok().map(Self::Block),
            EventKind::MessageAck | EventKind::MessageRead | EventKind::NotificationNew => Some(Self::Other),
        }
    }

    /// Roughly.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.bytes(),
            Self::Counts(_) | Self::Block(_) | Self::Other => 0,
        }
    }

    fn conversation(&self) -> Option<ConversationId> {
        match self {
            Self::Message(message) => Some(message.conversation_id),
            Self::Counts(counts) => Some(counts.conversation_id),
            Self::Block(block) => block.conversation_id,
            Self::Other => None,
        }
    }
}

/// A snapshot that can follow the log.
pub(super) trait Fold<K>: Weigh + Clone + Send + Sync + 'static {
    /// Folds in what is told at `offset`, the one after its own. `None`: what comes of it cannot be known, and `this` is not to
    /// be used.
    fn fold(this: &mut Arc<Self>, key: &K, offset: u64, told: &Told) -> Option<()>;
}

impl Fold<UserId> for Inbox {
    fn fold(this: &mut Arc<Self>, _: &UserId, offset: u64, told: &Told) -> Option<()> {
        if this.version.checked_add(1)? != offset {
            return None;
        }
        let inbox = Arc::make_mut(this);
        inbox.version = offset;
        let Some(id) = told.conversation() else {
            return Some(());
        };
        match inbox.conversations.iter().position(|held| held.id == id) {
            Some(place) => change_listed(inbox, place, told),
            // Blocks are shown with their conversation only.
            None => matches!(told, Told::Block(_)).then_some(()),
        }
    }
}

/// Changes the conversation at `place`, and moves it to where it belongs.
fn change_listed(inbox: &mut Inbox, place: usize, told: &Told) -> Option<()> {
    let mut changed = inbox.conversations.remove(place);
    let before = changed.unread;
    change(&mut changed, told)?;
    let after = changed.unread;
    let totals = &mut inbox.unread;
    totals.total = totals.total.checked_sub(before)?.checked_add(after)?;
    totals.conversations = totals
        .conversations
        .checked_sub(u64::from(before > 0))?
        .checked_add(u64::from(after > 0))?;
    let key = changed.key();
    let place = inbox.conversations.partition_point(|held| held.key() > key);
    inbox.conversations.insert(place, changed);
    Some(())
}

fn change(conversation: &mut Conversation, told: &Told) -> Option<()> {
    match told {
        Told::Message(message) => {
            let seq = message.seq?;
            if seq > conversation.last_seq {
                if seq != conversation.last_seq + 1 {
                    return None;
                }
                conversation.last_seq = seq;
                conversation.updated_at = conversation.updated_at.max(message.created_at);
                conversation.last_message = Some(message.clone());
            }
        }
        Told::Counts(counts) => {
            if counts.last_seq > conversation.last_seq {
                return None;
            }
            if counts.last_seq == conversation.last_seq && counts.read_seq >= conversation.read_seq {
                conversation.read_seq = counts.read_seq;
                conversation.unread = counts.unread;
            }
        }
        Told::Block(block) => conversation.blocks = block.status,
        Told::Other => {}
    }
    Some(())
}

impl Fold<Place> for Conversation {
    fn fold(this: &mut Arc<Self>, key: &Place, _: u64, told: &Told) -> Option<()> {
        if told.conversation() != Some(key.1) {
            return Some(());
        }
        change(Arc::make_mut(this), told)
    }
}

impl Fold<Place> for MessagePage {
    fn fold(this: &mut Arc<Self>, key: &Place, _: u64, told: &Told) -> Option<()> {
        let Told::Message(message) = told else {
            return Some(());
        };
        if message.conversation_id != key.1 {
            return Some(());
        }
        let newest = this.messages.first().map_or(Some(0), |newest| newest.seq)?;
        let seq = message.seq?;
        if seq <= newest {
            return Some(());
        }
        if seq != newest + 1 {
            return None;
        }
        let page = Arc::make_mut(this);
        page.messages.insert(0, message.clone());
        if page.messages.len() > PageLimit::MAX {
            page.messages.truncate(PageLimit::MAX);
            page.has_more = true;
        }
        Some(())
    }
}

impl Fold<UserId> for Vec<Blocked> {
    /// Nobody is told since when somebody is blocked, nor how they look.
    fn fold(this: &mut Arc<Self>, _: &UserId, _: u64, told: &Told) -> Option<()> {
        let Told::Block(block) = told else {
            return Some(());
        };
        let is_listed = this.iter().any(|blocked| blocked.user_id == block.user_id);
        match (block.status.blocked_by_me, is_listed) {
            (true, false) => return None,
            (false, true) => Arc::make_mut(this).retain(|blocked| blocked.user_id != block.user_id),
            (true, true) | (false, false) => {}
        }
        Some(())
    }
}
