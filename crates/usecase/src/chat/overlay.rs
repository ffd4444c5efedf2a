//! A user's pending messages, read marks and blocks, folded over what is known of chat.
//!
//! Pending operations are read before the base, so one that drains in between is seen twice. A lane drains in order: when the
//! base shows a pending message stored, those that were accepted before it are stored too.

use crate::sync::Read;
use gravity_domain::chat::{Conversation, Message, ReadMarker};
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ports::WriteBuffer;
use gravity_domain::sync::{BufferError, Change, Entity, EntityKind, Freshness, Operation, Pending};
use std::collections::HashSet;

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Its place in the buffer: the order of acceptance.
    pub(super) sequence: u64,
    /// It, without a place in its conversation.
    pub(super) message: Message,
}

/// The chat operations of one user that wait in the buffer, each kind in order of acceptance.
#[derive(Default)]
pub(super) struct PendingChat {
    messages: Vec<Waiting>,
    marks: Vec<Operation>,
    blocks: Vec<Operation>,
}

impl PendingChat {
    /// Those of `user`.
    pub(super) async fn of(buffer: &dyn WriteBuffer, user: UserId) -> Result<Self, BufferError> {
        Ok(Self {
            messages: messages_of(buffer, user).await?,
            marks: operations(buffer.pending_of(user, EntityKind::ReadMarker).await?),
            blocks: blocks_of(buffer, user).await?,
        })
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.marks.is_empty() && self.blocks.is_empty()
    }

    /// How fresh a list is that these are folded into.
    pub(super) fn over(&self, base: Freshness) -> Freshness {
        if self.is_empty() { base } else { Freshness::Pending }
    }

    /// The conversations that have messages waiting.
    pub(super) fn written(&self) -> HashSet<ConversationId> {
        let messages = self.messages.iter();
        messages.map(|waiting| waiting.message.conversation_id).collect()
    }

    /// The conversations whose counts may change.
    pub(super) fn counted(&self) -> HashSet<ConversationId> {
        let marks = self.marks.iter().filter_map(marked);
        self.written().into_iter().chain(marks).collect()
    }

    /// Whether they change the conversation.
    pub(super) fn touch(&self, conversation: &Conversation) -> bool {
        self.messages
            .iter()
            .any(|waiting| waiting.message.conversation_id == conversation.id)
            || self.marks_in(conversation.id).next().is_some()
            || blocked_by_me(&self.blocks, conversation.other.id).is_some()
    }

    /// The conversation as it will be, and how fresh that is.
    pub(super) fn read(&self, base: &Conversation, freshness: Freshness) -> Read<Conversation> {
        Read {
            value: self.fold(base),
            freshness: if self.touch(base) {
                Freshness::Pending
            } else {
                freshness
            },
        }
    }

    /// The conversation as it will be.
    pub(super) fn fold(&self, base: &Conversation) -> Conversation {
        let mut folded = base.clone();
        let mut marker = Some(base.marker());
        for operation in self.marks_in(base.id) {
            ReadMarker::apply(&mut marker, operation);
        }
        if let Some(marker) = marker.filter(|marker| marker.read_seq > base.read_seq) {
            folded.read_seq = marker.read_seq;
            folded.marked = marker.marked;
            folded.unread = marker.unread.min(base.last_seq.saturating_sub(marker.read_seq));
        }
        if let Some(last) = self.last_unstored(base) {
            folded.updated_at = base.updated_at.max(last.created_at);
            folded.last_message = Some(last.clone());
            folded.read_seq = base.last_seq.max(folded.read_seq);
            folded.unread = 0;
        }
        if let Some(is_blocked) = blocked_by_me(&self.blocks, base.other.id) {
            folded.blocks.blocked_by_me = is_blocked;
        }
        folded
    }

    /// Whether `other` is blocked, where what waits says so.
    pub(super) fn blocks(&self, other: UserId) -> Option<bool> {
        blocked_by_me(&self.blocks, other)
    }

    /// The block operations.
    pub(super) fn block_operations(&self) -> &[Operation] {
        &self.blocks
    }

    fn marks_in(&self, id: ConversationId) -> impl Iterator<Item = &Operation> {
        self.marks
            .iter()
            .filter(move |operation| marked(operation) == Some(id))
    }

    fn last_unstored(&self, base: &Conversation) -> Option<&Message> {
        let here = self.messages.iter().map(|waiting| &waiting.message);
        let last = here.rev().find(|message| message.conversation_id == base.id)?;
        let is_stored = base
            .last_message
            .as_ref()
            .is_some_and(|known| known.id == last.id);
        (!is_stored).then_some(last)
    }
}

/// The messages of `user` that wait.
pub(super) async fn messages_of(buffer: &dyn WriteBuffer, user: UserId) -> Result<Vec<Waiting>, BufferError> {
    let pending = buffer.pending_of(user, EntityKind::Message).await?;
    Ok(pending.iter().filter_map(waiting).collect())
}

/// The block operations of `user` that wait.
pub(super) async fn blocks_of(buffer: &dyn WriteBuffer, user: UserId) -> Result<Vec<Operation>, BufferError> {
    Ok(operations(buffer.pending_of(user, EntityKind::Block).await?))
}

/// The message that a pending operation makes.
pub(super) fn waiting(pending: &Pending) -> Option<Waiting> {
    let mut message = None;
    Message::apply(&mut message, &pending.operation);
    message.map(|message| Waiting {
        sequence: pending.sequence,
        message,
    })
}

/// Whether these operations block `other`: the latest says.
pub(super) fn blocked_by_me(operations: &[Operation], other: UserId) -> Option<bool> {
    operations
        .iter()
        .filter_map(|operation| match &operation.change {
            Change::Block(change) if change.blocked == other => Some((operation.accepted_at, change)),
            _ => None,
        })
        .max_by_key(|(stamp, _)| *stamp)
        .map(|(_, change)| change.is_blocked)
}

fn marked(operation: &Operation) -> Option<ConversationId> {
    match &operation.change {
        Change::ReadMark(mark) => Some(mark.conversation_id),
        _ => None,
    }
}

fn operations(pending: Vec<Pending>) -> Vec<Operation> {
    pending.into_iter().map(|pending| pending.operation).collect()
}
