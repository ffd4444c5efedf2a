//! Send a message.
//!
//! A message has two names that a retry may give: the request's `Idempotency-Key`, which names the operation, and the client's
//! id of the message, which names the message for all its life and, without a header, the operation too. A retry by either finds
//! what became of the first. The write path compares operations; what this adds is the message: one that is there already under
//! another operation, with the same content, is a replay, with other content a conflict.
//!
//! Replayed and refused sends do not count against the sender's limit: every send takes a place first, and gives it back.

use super::error::ChatError;
use super::judge::MessageJudge;
use super::known::ask;
use super::overlay::waiting;
use crate::sync::overlay::Source;
use crate::sync::{EntityReader, IdempotencyKey, WriteRequest, Writer, Written};
use gravity_domain::auth::{Quota, RateDecision, RateLimiter};
use gravity_domain::chat::{ChatStore, Content, Live, Message, NewMessage, Signal};
use gravity_domain::id::{ChatMessageId, ConversationId, OperationId, UserId};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{Change, EntityKind, Fingerprint, Found, Refusal, WriteError, WriteOutcome};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// `POST /api/chat/conversations/{id}/messages`, and `message.send` of a socket.
pub struct SendMessage {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<Message>>,
    ports: SendPorts,
}

/// What sending hangs on besides the write path.
pub struct SendPorts {
    /// What is stored.
    pub store: Arc<dyn ChatStore>,
    /// Judges what is to be buffered: the one that the reader of messages has.
    pub judge: Arc<MessageJudge>,
    /// The breaker before Postgres.
    pub breaker: Arc<dyn Breaker>,
    /// What waits.
    pub buffer: Arc<dyn WriteBuffer>,
    /// Tells those who are there of what is accepted.
    pub live: Arc<dyn Live>,
    /// Counts.
    pub limiter: Arc<dyn RateLimiter>,
    /// [`SendMessage::per_minute`].
    pub quota: Quota,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSend {
    /// Where to.
    pub conversation_id: ConversationId,
    /// The client's id for it.
    pub client_message_id: Option<Uuid>,
    /// What it says.
    pub content: Content,
}

/// A message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// It: stored, or accepted.
    pub outcome: WriteOutcome<Message>,
    /// It was sent before.
    pub is_replay: bool,
    /// The operation that sent it.
    pub operation_id: OperationId,
    /// What the limiter says.
    pub rate: RateDecision,
}

impl Sent {
    /// The message.
    pub fn message(&self) -> &Message {
        message_of(&self.outcome)
    }
}

/// How a send is named.
struct Named {
    user: UserId,
    /// By the request's header.
    has_header: bool,
    operation: Option<OperationId>,
    id: ChatMessageId,
    message: NewMessage,
}

type Outcome = (WriteOutcome<Message>, bool, OperationId);

impl SendMessage {
    /// Over these ports. The reader must be judged by a [`MessageJudge`].
    pub fn new(writer: Arc<Writer>, reader: Arc<EntityReader<Message>>, ports: SendPorts) -> Self {
        Self {
            writer,
            reader,
            ports,
        }
    }

    /// The quota: so many messages of one user in any minute, however they are sent.
    pub fn per_minute(messages: u32) -> Quota {
        Quota {
            name: "chat_messages",
            limit: messages,
            window: Duration::from_secs(60),
        }
    }

    /// Sends. The request's key is the header's; without one the client's id of the message makes the send safe to repeat.
    ///
    /// # Errors
    /// [`ChatError::RateLimited`], or [`ChatError::Write`]: [`WriteError::NotFound`] when the conversation is not the user's,
    /// [`WriteError::NotAllowed`] across a block or for a message's id that names another message,
    /// [`WriteError::KeyReused`] for a header's key that names another request, [`WriteError::Unknown`] when it cannot be
    /// judged now.
    pub async fn run(&self, mut request: WriteRequest, send: NewSend) -> Result<Sent, ChatError> {
        let named = name(&mut request, send);
        let SendPorts { limiter, quota, .. } = &self.ports;
        let key = named.user.to_string();
        let mut rate = limiter.check(quota, &key).await;
        if !rate.allowed && !self.is_there(&named).await {
            return Err(ChatError::RateLimited(rate));
        }
        let result = self.write(request, &named).await;
        if rate.allowed && !matches!(&result, Ok((_, false, _))) {
            limiter.give_back(quota, &key).await;
            rate.remaining = rate.remaining.saturating_add(1);
        }
        let (outcome, is_replay, operation_id) = result?;
        Ok(Sent {
            outcome,
            is_replay,
            operation_id,
            rate,
        })
    }

    /// Whether a message of this id is known: a send of it is no new one.
    async fn is_there(&self, named: &Named) -> bool {
        let found = self.reader.find(named.user, named.id.0, Source::StoreFirst).await;
        matches!(found, Ok((Found::Known(_), _)))
    }

    async fn write(&self, request: WriteRequest, named: &Named) -> Result<Outcome, WriteError> {
        let change = Change::Message {
            id: named.id,
            message: named.message.clone(),
        };
        match self.writer.write(request, &self.reader, |_| change).await {
            Ok(written) => Ok(self.written(written, named).await),
            Err(WriteError::KeyReused) => self.reused(named).await,
            Err(WriteError::Unknown) => self.undecided(named).await,
            Err(error) => Err(error),
        }
    }

    async fn written(&self, written: Written<Message>, named: &Named) -> Outcome {
        let Written {
            mut outcome,
            operation_id,
            replayed,
        } = written;
        if let (WriteOutcome::Buffered(message), false) = (&outcome, replayed) {
            self.tell(message);
        }
        if replayed && !named.has_header {
            outcome = self.as_it_is_now(outcome).await;
        }
        let is_replay = replayed || message_of(&outcome).is_repeat;
        (outcome, is_replay, operation_id)
    }

    /// Those who are there see it before it is stored.
    fn tell(&self, message: &Message) {
        let everyone = message.recipient.into_iter().chain([message.sender_id]);
        for user in everyone {
            self.ports.live.signal(user, Signal::Accepted(message.clone()));
        }
    }

    /// A message's state, where its first answer said that it waits: it may be stored by now.
    async fn as_it_is_now(&self, outcome: WriteOutcome<Message>) -> WriteOutcome<Message> {
        let WriteOutcome::Buffered(message) = &outcome else {
            return outcome;
        };
        let question = self.ports.store.message(message.sender_id, message.id);
        match ask(self.ports.breaker.as_ref(), question).await {
            Ok(Some(stored)) => WriteOutcome::Committed(stored),
            _ => outcome,
        }
    }

    /// The write path knows another operation, or another message, by one of the names.
    async fn reused(&self, named: &Named) -> Result<Outcome, WriteError> {
        let refused = if named.has_header {
            WriteError::KeyReused
        } else {
            WriteError::NotAllowed(Refusal::MessageIdReused)
        };
        if let Some(outcome) = self.waiting_elsewhere(named).await? {
            return Ok(outcome);
        }
        let found = self.reader.find(named.user, named.id.0, Source::StoreFirst);
        match found.await {
            Ok((Found::Known(message), _)) if named.is(&message) => {
                let operation = named.operation.unwrap_or_else(OperationId::random);
                let outcome = match message.seq {
                    Some(_) => WriteOutcome::Committed(message),
                    None => WriteOutcome::Buffered(message),
                };
                Ok((outcome, true, operation))
            }
            _ => Err(refused),
        }
    }

    /// Nothing was acknowledged, and perhaps it never can be: an earlier send of the message that waits here, a conversation that
    /// is not the user's and a block are certain all the same.
    async fn undecided(&self, named: &Named) -> Result<Outcome, WriteError> {
        if let Some(outcome) = self.waiting_elsewhere(named).await? {
            return Ok(outcome);
        }
        if self.ports.breaker.allows_reads() {
            return Err(WriteError::Unknown);
        }
        let id = named.message.conversation_id;
        self.ports.judge.recipient(named.user, id, false).await?;
        Err(WriteError::Unknown)
    }

    /// The message as it waits under another operation.
    async fn waiting_elsewhere(&self, named: &Named) -> Result<Option<Outcome>, WriteError> {
        let buffer = &self.ports.buffer;
        let pending = buffer
            .pending_on(named.user, EntityKind::Message, named.id.0)
            .await?;
        let others = pending
            .iter()
            .filter(|pending| Some(pending.operation.id) != named.operation);
        let Some((operation, message)) = others
            .filter_map(|pending| Some((pending.operation.id, waiting(pending)?.message)))
            .next()
        else {
            return Ok(None);
        };
        if named.is(&message) {
            return Ok(Some((WriteOutcome::Buffered(message), true, operation)));
        }
        let header = named.operation.filter(|_| named.has_header);
        let is_key_taken = match header {
            Some(operation) => buffer.find(operation).await?.is_some(),
            None => false,
        };
        Err(if is_key_taken {
            WriteError::KeyReused
        } else {
            WriteError::NotAllowed(Refusal::MessageIdReused)
        })
    }
}

impl Named {
    /// Whether `message` is the one to send.
    fn is(&self, message: &Message) -> bool {
        message.conversation_id == self.message.conversation_id && message.content == self.message.content
    }
}

/// Gives the send its names, and the request its key.
fn name(request: &mut WriteRequest, send: NewSend) -> Named {
    let NewSend {
        conversation_id,
        client_message_id,
        content,
    } = send;
    let has_header = request.key.is_some();
    if let (None, Some(id)) = (&request.key, client_message_id) {
        let body = json!({ "content": content.as_str() });
        request.key = Some(IdempotencyKey {
            key: format!("message:{id}"),
            fingerprint: Fingerprint::of("message", &conversation_id.to_string(), Some(&body)),
        });
    }
    let key = request.key.as_ref();
    let operation = key.map(|key| OperationId::for_key(request.user, &key.key));
    let client_message_id = client_message_id
        .or_else(|| operation.map(OperationId::created_entity))
        .unwrap_or_else(Uuid::now_v7);
    Named {
        user: request.user,
        has_header,
        operation,
        id: ChatMessageId::of(request.user, client_message_id),
        message: NewMessage {
            conversation_id,
            client_message_id,
            content,
            recipient: None,
        },
    }
}

fn message_of(outcome: &WriteOutcome<Message>) -> &Message {
    match outcome {
        WriteOutcome::Committed(message) | WriteOutcome::Buffered(message) => message,
    }
}
