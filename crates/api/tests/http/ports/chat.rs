//! The ports of chat in memory: the rows, which are also all that is known while Postgres is away.

use super::{ALICE, BOB, Memory, ROOT, on};
use async_trait::async_trait;
use gravity_domain::auth::Username;
use gravity_domain::chat::{
    BlockChange, BlockState, BlockStatus, Blocked, ChatCache, ChatStore, ConnectionId, Conversation,
    EndpointRefused, Inbox, Known, Live, Message, MessagePage, NotificationPreferences, NotificationStore,
    Opened, Person, Presence, PresenceBoard, PresenceStatus, PushEndpoints, PushSubscription, ReadMarker,
    Signal, Ticket, TicketHolder, Tickets, UnreadTotals, UserEvent,
};
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::sync::ports::{EntityCache, EntityStore};
use gravity_domain::sync::{
    Applied, Change, Effect, Entity, Found, Freshness, Operation, Refusal, Refused, Verdict,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// When every conversation was opened.
const OPENED: Timestamp = Timestamp::EPOCH;

struct Talk {
    users: [UserId; 2],
    messages: Vec<Message>,
    read: HashMap<UserId, u64>,
}

#[derive(Default)]
pub(crate) struct Chats {
    talks: BTreeMap<ConversationId, Talk>,
    blocks: BTreeMap<(UserId, UserId), BlockState>,
    preferences: HashMap<UserId, NotificationPreferences>,
    subscriptions: HashMap<String, UserId>,
    tickets: HashMap<String, TicketHolder>,
    pub(crate) signals: Vec<(UserId, Signal)>,
}

fn person(id: UserId) -> Option<Person> {
    let names = [(ALICE, "alice"), (BOB, "bob"), (ROOT, "root")];
    let (_, name) = names.into_iter().find(|(known, _)| *known == id)?;
    Some(Person {
        id,
        username: Some(Username::parse(name).unwrap()),
        name: None,
        avatar_url: None,
    })
}

impl Chats {
    fn status(&self, user: UserId, other: UserId) -> BlockStatus {
        let blocks = |blocker, blocked| {
            let state = self.blocks.get(&(blocker, blocked));
            state.is_some_and(|state| state.is_blocked.value)
        };
        BlockStatus {
            blocked_by_me: blocks(user, other),
            blocked_by_them: blocks(other, user),
        }
    }

    fn view(&self, user: UserId, id: ConversationId) -> Option<Conversation> {
        let talk = self.talks.get(&id).filter(|talk| talk.users.contains(&user))?;
        let other = talk.users.into_iter().find(|one| *one != user)?;
        let read_seq = talk.read.get(&user).copied().unwrap_or(0);
        let is_unread = |m: &&Message| m.sender_id == other && m.seq.unwrap_or(0) > read_seq;
        let last = talk.messages.last();
        Some(Conversation {
            id,
            user_id: user,
            other: person(other)?,
            last_message: last.cloned(),
            unread: talk.messages.iter().filter(is_unread).count() as u64,
            last_seq: talk.messages.len() as u64,
            read_seq,
            marked: Hlc::ZERO,
            blocks: self.status(user, other),
            created_at: OPENED,
            updated_at: last.map_or(OPENED, |message| message.created_at),
        })
    }

    fn all(&self, user: UserId) -> Vec<Conversation> {
        let mut all: Vec<_> = self.talks.keys().filter_map(|id| self.view(user, *id)).collect();
        all.sort_by_key(|conversation| std::cmp::Reverse(conversation.key()));
        all
    }

    fn page(
        &self,
        user: UserId,
        id: ConversationId,
        before: Option<u64>,
        limit: usize,
    ) -> Option<MessagePage> {
        let talk = self.talks.get(&id).filter(|talk| talk.users.contains(&user))?;
        let older = |m: &&Message| before.is_none_or(|before| m.seq.unwrap_or(0) < before);
        let mut messages: Vec<_> = talk.messages.iter().rev().filter(older).cloned().collect();
        let has_more = messages.len() > limit;
        messages.truncate(limit);
        Some(MessagePage { messages, has_more })
    }

    fn blocked_by(&self, user: UserId) -> Vec<Blocked> {
        let own = self.blocks.values();
        let own = own.filter(|state| state.blocker == user && state.is_blocked.value);
        own.map(|state| Blocked {
            user_id: state.blocked,
            username: person(state.blocked).and_then(|person| person.username),
            name: None,
            avatar_url: None,
            created_at: state.is_blocked.stamp.timestamp(),
        })
        .collect()
    }

    /// What the statements do, without logs.
    pub(super) fn apply(&mut self, operation: &Operation) -> Verdict {
        match &operation.change {
            Change::Message { .. } => self.send(operation),
            Change::ReadMark(mark) => {
                let user = operation.user_id;
                let Some(conversation) = self.view(user, mark.conversation_id) else {
                    return Verdict::Missing;
                };
                let talk = self.talks.get_mut(&mark.conversation_id).expect("seen");
                let place = match mark.message_id {
                    None => Some(conversation.last_seq),
                    Some(id) => {
                        let found = talk.messages.iter().find(|message| message.id == id);
                        found.and_then(|message| message.seq)
                    }
                };
                let Some(place) = place else {
                    return Verdict::Missing;
                };
                talk.read.insert(user, place.max(conversation.read_seq));
                let marker = self.view(user, mark.conversation_id).expect("seen").marker();
                applied(place <= conversation.read_seq, marker)
            }
            Change::Block(change) => self.block(operation, change),
            _ => Verdict::Missing,
        }
    }

    fn send(&mut self, operation: &Operation) -> Verdict {
        let mut new = None;
        if Message::apply(&mut new, operation) != Effect::Applied {
            return Verdict::Missing;
        }
        let mut message = new.expect("applied");
        let mut all = self.talks.values().flat_map(|talk| &talk.messages);
        if let Some(mut there) = all.find(|there| there.id == message.id).cloned() {
            let is_same =
                there.content == message.content && there.conversation_id == message.conversation_id;
            if !is_same {
                return refused(Refusal::MessageIdReused);
            }
            there.is_repeat = true;
            return applied(true, there);
        }
        let Some(conversation) = self.view(message.sender_id, message.conversation_id) else {
            return Verdict::Missing;
        };
        if conversation.blocks.is_blocked() {
            return refused(Refusal::Blocked);
        }
        message.seq = Some(conversation.last_seq + 1);
        message.recipient = Some(conversation.other.id);
        let talk = self.talks.get_mut(&message.conversation_id).expect("seen");
        talk.read.insert(message.sender_id, conversation.last_seq + 1);
        talk.messages.push(message.clone());
        applied(false, message)
    }

    fn block(&mut self, operation: &Operation, change: &BlockChange) -> Verdict {
        let key = (operation.user_id, change.blocked);
        let mut current = self.blocks.get(&key).cloned();
        let effect = BlockState::apply(&mut current, operation);
        let state = current.expect("applied");
        if effect == Effect::Superseded {
            return Verdict::Late {
                newest: state.newest_stamp(),
            };
        }
        self.blocks.insert(key, state.clone());
        applied(false, state)
    }
}

fn applied(superseded: bool, entity: impl Entity) -> Verdict {
    Verdict::Applied(Applied {
        superseded,
        state: entity.into_state(),
    })
}

fn refused(refusal: Refusal) -> Verdict {
    Verdict::Refused(Refused {
        refusal,
        events: Vec::new(),
    })
}

#[async_trait]
impl ChatStore for Memory {
    async fn person(&self, username: &Username) -> Result<Option<Person>, StoreError> {
        self.postgres()?;
        let all = [ALICE, BOB, ROOT].into_iter().filter_map(person);
        let mut found = all.filter(|person| person.username.as_ref() == Some(username));
        Ok(found.next())
    }

    async fn find_with(&self, user: UserId, other: UserId) -> Result<Option<Conversation>, StoreError> {
        self.postgres()?;
        let chats = self.chats.lock().unwrap();
        Ok(chats.view(user, ConversationId::of(user, other)))
    }

    async fn open(&self, user: UserId, other: UserId) -> Result<Opened, StoreError> {
        self.postgres()?;
        let mut chats = self.chats.lock().unwrap();
        let id = ConversationId::of(user, other);
        let is_new = !chats.talks.contains_key(&id);
        chats.talks.entry(id).or_insert_with(|| Talk {
            users: [user, other],
            messages: Vec::new(),
            read: HashMap::new(),
        });
        let conversation = chats.view(user, id).expect("made");
        Ok(Opened {
            conversation,
            is_new,
            events: Vec::new(),
        })
    }

    async fn inbox(&self, user: UserId) -> Result<Inbox, StoreError> {
        self.postgres()?;
        let conversations = self.chats.lock().unwrap().all(user);
        let unread = UnreadTotals {
            total: conversations.iter().map(|one| one.unread).sum(),
            conversations: conversations.iter().filter(|one| one.unread > 0).count() as u64,
        };
        Ok(Inbox {
            version: 0,
            unread,
            conversations,
            has_more: false,
        })
    }

    async fn conversations(
        &self,
        user: UserId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Page<Conversation>, StoreError> {
        self.postgres()?;
        let mut items = self.chats.lock().unwrap().all(user);
        items.retain(|one| after.is_none_or(|after| one.key() < after));
        let has_more = items.len() > limit.get();
        items.truncate(limit.get());
        Ok(Page {
            next: items.last().filter(|_| has_more).map(Conversation::key),
            items,
        })
    }

    async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Option<Conversation>, StoreError> {
        self.postgres()?;
        Ok(self.chats.lock().unwrap().view(user, id))
    }

    async fn messages(
        &self,
        user: UserId,
        id: ConversationId,
        before: Option<u64>,
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError> {
        self.postgres()?;
        Ok(self.chats.lock().unwrap().page(user, id, before, limit.get()))
    }

    async fn messages_after(
        &self,
        user: UserId,
        id: ConversationId,
        after: u64,
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError> {
        self.postgres()?;
        let all = self.chats.lock().unwrap().page(user, id, None, usize::MAX);
        Ok(all.map(|mut page| {
            page.messages.reverse();
            page.messages.retain(|message| message.seq.unwrap_or(0) > after);
            page.has_more = page.messages.len() > limit.get();
            page.messages.truncate(limit.get());
            page
        }))
    }

    async fn message(&self, user: UserId, id: ChatMessageId) -> Result<Option<Message>, StoreError> {
        self.postgres()?;
        let chats = self.chats.lock().unwrap();
        let own = chats.talks.values().filter(|talk| talk.users.contains(&user));
        let mut messages = own.flat_map(|talk| &talk.messages);
        Ok(messages.find(|message| message.id == id).cloned())
    }

    async fn blocks(&self, user: UserId) -> Result<Vec<Blocked>, StoreError> {
        self.postgres()?;
        Ok(self.chats.lock().unwrap().blocked_by(user))
    }

    async fn block_status(&self, user: UserId, other: UserId) -> Result<BlockStatus, StoreError> {
        self.postgres()?;
        Ok(self.chats.lock().unwrap().status(user, other))
    }
}

impl Memory {
    /// What is there is known, unless `purged` says that nothing is.
    fn chat_known(&self) -> Result<Freshness, StoreError> {
        match self.postgres() {
            Ok(()) => Ok(Freshness::Current),
            Err(_) if !on(&self.purged) => Ok(Freshness::Stale),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl ChatCache for Memory {
    async fn inbox(&self, user: UserId) -> Result<Known<Arc<Inbox>>, StoreError> {
        let freshness = self.chat_known()?;
        let conversations = self.chats.lock().unwrap().all(user);
        let unread = UnreadTotals {
            total: conversations.iter().map(|one| one.unread).sum(),
            conversations: conversations.iter().filter(|one| one.unread > 0).count() as u64,
        };
        let value = Arc::new(Inbox {
            version: 0,
            unread,
            conversations,
            has_more: false,
        });
        Ok(Known { value, freshness })
    }

    async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Known<Option<Arc<Conversation>>>, StoreError> {
        let freshness = self.chat_known()?;
        let value = self.chats.lock().unwrap().view(user, id).map(Arc::new);
        Ok(Known { value, freshness })
    }

    async fn newest_messages(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Known<Option<Arc<MessagePage>>>, StoreError> {
        let freshness = self.chat_known()?;
        let page = self.chats.lock().unwrap().page(user, id, None, PageLimit::MAX);
        Ok(Known {
            value: page.map(Arc::new),
            freshness,
        })
    }

    async fn blocks(&self, user: UserId) -> Result<Known<Arc<Vec<Blocked>>>, StoreError> {
        let freshness = self.chat_known()?;
        let value = Arc::new(self.chats.lock().unwrap().blocked_by(user));
        Ok(Known { value, freshness })
    }

    async fn person(&self, username: &Username) -> Result<Option<Person>, StoreError> {
        self.chat_known()?;
        let all = [ALICE, BOB, ROOT].into_iter().filter_map(person);
        let mut found = all.filter(|person| person.username.as_ref() == Some(username));
        Ok(found.next())
    }

    fn known_conversation(&self, user: UserId, id: ConversationId) -> Option<Option<Arc<Conversation>>> {
        let known = self.chats.lock().unwrap().view(user, id).map(Arc::new);
        (!on(&self.purged)).then_some(known)
    }

    async fn warm(&self, _: UserId) {}
    fn raised(&self, _: &[UserEvent]) {}
    fn doubted(&self, _: UserId) {}
}

#[async_trait]
impl EntityStore<Message> for Memory {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<Message>, StoreError> {
        let found = self.message(user, ChatMessageId(id)).await?;
        Ok(found.filter(|message| message.sender_id == user))
    }
}

#[async_trait]
impl EntityStore<ReadMarker> for Memory {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<ReadMarker>, StoreError> {
        let found = ChatStore::conversation(self, user, ConversationId(id)).await?;
        Ok(found.map(|conversation| conversation.marker()))
    }
}

#[async_trait]
impl EntityStore<BlockState> for Memory {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<BlockState>, StoreError> {
        self.postgres()?;
        let chats = self.chats.lock().unwrap();
        let mut own = chats.blocks.values().filter(|state| state.blocker == user);
        Ok(own.find(|state| Entity::id(*state) == id).cloned())
    }
}

macro_rules! forgets {
    ($entity:ty, $found:expr) => {
        impl EntityCache<$entity> for Memory {
            fn find(&self, user: UserId, id: Uuid) -> Found<$entity> {
                let found: fn(&Memory, UserId, Uuid) -> Found<$entity> = $found;
                found(self, user, id)
            }

            fn learn(&self, _: $entity) {}

            fn mark(&self, _: UserId) -> u64 {
                0
            }

            fn learn_read(&self, _: $entity, _: u64) {}
        }
    };
}

forgets!(Message, |_, _, _| Found::Unknown);
forgets!(BlockState, |_, _, _| Found::Absent);
forgets!(ReadMarker, |memory, user, id| {
    match memory.known_conversation(user, ConversationId(id)) {
        Some(Some(conversation)) => Found::Known(conversation.marker()),
        Some(None) => Found::Absent,
        None => Found::Unknown,
    }
});

impl Live for Memory {
    fn committed(&self, _: &[UserEvent]) {}

    fn signal(&self, user: UserId, signal: Signal) {
        self.chats.lock().unwrap().signals.push((user, signal));
    }

    fn missed(&self, _: UserId) {}
}

/// Bob is there.
#[async_trait]
impl PresenceBoard for Memory {
    async fn arrived(&self, _: UserId, _: ConnectionId) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn left(&self, _: UserId, _: ConnectionId) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn renew(&self, _: &[(UserId, ConnectionId)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn look_up(&self, users: &[UserId]) -> Result<Vec<Presence>, StoreError> {
        self.sessions()?;
        let found = users.iter().map(|user| Presence {
            user_id: *user,
            status: if *user == BOB {
                PresenceStatus::Online
            } else {
                PresenceStatus::Offline
            },
            last_seen: (*user != BOB).then_some(OPENED),
        });
        Ok(found.collect())
    }
}

#[async_trait]
impl Tickets for Memory {
    async fn issue(&self, holder: TicketHolder) -> Result<Ticket, StoreError> {
        self.sessions()?;
        let text = Uuid::now_v7().to_string();
        let mut chats = self.chats.lock().unwrap();
        chats.tickets.insert(text.clone(), holder);
        Ok(Ticket::new(text))
    }

    async fn redeem(&self, ticket: &Ticket) -> Result<Option<TicketHolder>, StoreError> {
        self.sessions()?;
        Ok(self.chats.lock().unwrap().tickets.remove(ticket.expose()))
    }
}

#[async_trait]
impl NotificationStore for Memory {
    async fn preferences(&self, user: UserId) -> Result<NotificationPreferences, StoreError> {
        self.postgres()?;
        let chats = self.chats.lock().unwrap();
        Ok(chats.preferences.get(&user).copied().unwrap_or_default())
    }

    async fn set_preferences(
        &self,
        user: UserId,
        preferences: NotificationPreferences,
    ) -> Result<(), StoreError> {
        self.postgres()?;
        self.chats.lock().unwrap().preferences.insert(user, preferences);
        Ok(())
    }

    async fn subscribe(&self, subscription: &PushSubscription) -> Result<bool, StoreError> {
        self.postgres()?;
        let mut chats = self.chats.lock().unwrap();
        let (endpoint, user) = (subscription.endpoint.clone(), subscription.user_id);
        Ok(chats.subscriptions.insert(endpoint, user).is_none())
    }

    async fn unsubscribe(&self, user: UserId, endpoint: &str) -> Result<bool, StoreError> {
        self.postgres()?;
        let mut chats = self.chats.lock().unwrap();
        if chats.subscriptions.get(endpoint) != Some(&user) {
            return Ok(false);
        }
        Ok(chats.subscriptions.remove(endpoint).is_some())
    }
}

/// What the real one makes of addresses is tested with it.
#[async_trait]
impl PushEndpoints for Memory {
    async fn check(&self, endpoint: &str) -> Result<(), EndpointRefused> {
        if endpoint.starts_with("https://push.example.com/") {
            Ok(())
        } else {
            Err(EndpointRefused("must be https, and public"))
        }
    }
}
