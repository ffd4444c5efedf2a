//! Chat in Postgres, to read, and the opening of conversations.
//!
//! Every answer is one statement, hence one snapshot. What is unread is the difference of two counts that are kept with the
//! messages (see the migration), so no statement counts rows of messages. What belongs to a conversation is looked up row by
//! row, by key: `LIMIT 1` keeps the planner from reading a whole table instead.

use super::statement::{place, read_message};
use crate::postgres::values::At;
use crate::postgres::{Pool, QueryError};
use crate::sync::statement::{read_events, read_stamp, read_version};
use async_trait::async_trait;
use gravity_domain::auth::Username;
use gravity_domain::chat::{
    BlockState, BlockStatus, Blocked, ChatStore, Conversation, Inbox, Message, MessagePage, Opened, Person,
    ReadMarker, UnreadTotals,
};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId, block_id};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::sync::Lww;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// The columns of a message, in the order in which [`read_message`] takes them.
macro_rules! message_columns {
    () => {
        "message.id, message.conversation_id, message.seq, message.sender_id, message.client_message_id,
         message.content, message.created_at"
    };
}

/// The conversations of `$1` that meet the condition, without what is looked up for those that are shown.
macro_rules! mine {
    ($condition:literal) => {
        concat!(
            "mine AS MATERIALIZED (
                SELECT me.conversation_id AS id, me.user_id, me.read_seq, me.marked, other.user_id AS other_id,
                    GREATEST(other.sent - me.read_count, 0) AS unread,
                    conversation.last_seq, conversation.created_at, conversation.updated_at
                FROM conversation_participants AS me CROSS JOIN LATERAL (
                    SELECT * FROM conversations WHERE id = me.conversation_id LIMIT 1
                ) AS conversation CROSS JOIN LATERAL (
                    SELECT * FROM conversation_participants
                    WHERE conversation_id = me.conversation_id AND user_id <> me.user_id LIMIT 1
                ) AS other
                WHERE me.user_id = $1::uuid",
            $condition,
            ")"
        )
    };
}

/// What is shown of the conversations in `shown`: the columns that [`read_conversation`] takes, and where they are from.
macro_rules! conversation_columns {
    () => {
        concat!(
            "shown.id, shown.user_id, shown.other_id, other.username, other.name, other.avatar_url, shown.unread,
             shown.last_seq, shown.read_seq, shown.marked, shown.created_at, shown.updated_at,
             COALESCE(by_me.is_blocked, false), COALESCE(by_them.is_blocked, false), ",
            message_columns!()
        )
    };
}

macro_rules! conversation_parts {
    () => {
        "LEFT JOIN LATERAL (
            SELECT username, name, avatar_url FROM users WHERE id = shown.other_id LIMIT 1
        ) AS other ON true LEFT JOIN LATERAL (
            SELECT is_blocked FROM blocks WHERE blocker = shown.user_id AND blocked = shown.other_id LIMIT 1
        ) AS by_me ON true LEFT JOIN LATERAL (
            SELECT is_blocked FROM blocks WHERE blocker = shown.other_id AND blocked = shown.user_id LIMIT 1
        ) AS by_them ON true LEFT JOIN LATERAL (
            SELECT * FROM messages WHERE conversation_id = shown.id AND seq = shown.last_seq LIMIT 1
        ) AS message ON true"
    };
}

const CHAT_INBOX: &str = concat!(
    "WITH ",
    mine!(""),
    ", shown AS MATERIALIZED (
        SELECT * FROM mine ORDER BY updated_at DESC, id DESC LIMIT $2::bigint
    ), total AS MATERIALIZED (
        SELECT COALESCE(sum(unread), 0)::bigint AS messages, count(*) FILTER (WHERE unread > 0) AS conversations FROM mine
    )
    SELECT ",
    conversation_columns!(),
    ", COALESCE((SELECT last_offset FROM user_event_heads WHERE user_id = $1), 0), total.messages, total.conversations
    FROM total LEFT JOIN shown ON true ",
    conversation_parts!(),
    " ORDER BY shown.updated_at DESC, shown.id DESC"
);

const CHAT_CONVERSATIONS: &str = concat!(
    "WITH ",
    mine!(
        " AND (conversation.updated_at, conversation.id) < (
            COALESCE($2::timestamptz, 'infinity'), COALESCE($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))"
    ),
    ", shown AS MATERIALIZED (
        SELECT * FROM mine ORDER BY updated_at DESC, id DESC LIMIT $4::bigint
    )
    SELECT ",
    conversation_columns!(),
    " FROM shown ",
    conversation_parts!(),
    " ORDER BY shown.updated_at DESC, shown.id DESC"
);

const CHAT_CONVERSATION: &str = concat!(
    "WITH ",
    mine!(" AND me.conversation_id = $2::uuid"),
    " SELECT ",
    conversation_columns!(),
    " FROM mine AS shown ",
    conversation_parts!()
);

const CHAT_OPEN: &str = "SELECT events FROM chat_open($1, $2, $3)";

/// One row without a message when there are none, no row when the conversation is not the user's.
macro_rules! history {
    ($condition:literal, $order:literal) => {
        concat!(
            "SELECT ",
            message_columns!(),
            " FROM conversation_participants AS me LEFT JOIN LATERAL (
                SELECT * FROM messages WHERE conversation_id = me.conversation_id AND ",
            $condition,
            " ORDER BY seq ",
            $order,
            " LIMIT $4::bigint
            ) AS message ON true
            WHERE me.user_id = $1::uuid AND me.conversation_id = $2::uuid ORDER BY message.seq ",
            $order
        )
    };
}

const CHAT_MESSAGES: &str = history!("seq < $3::bigint", "DESC");
const CHAT_MESSAGES_AFTER: &str = history!("seq > $3::bigint", "ASC");

const CHAT_MESSAGE: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages AS message JOIN conversation_participants AS me
        ON me.conversation_id = message.conversation_id AND me.user_id = $1
    WHERE message.id = $2"
);

const CHAT_PERSON: &str = "SELECT id, username, name, avatar_url FROM users WHERE username = $1";

const CHAT_BLOCKS: &str =
    "SELECT block.blocked, other.username, other.name, other.avatar_url, block.created_at
    FROM blocks AS block LEFT JOIN LATERAL (
        SELECT username, name, avatar_url FROM users WHERE id = block.blocked LIMIT 1
    ) AS other ON true
    WHERE block.blocker = $1 AND block.is_blocked ORDER BY block.created_at DESC, block.blocked";

const CHAT_BLOCK_STATUS: &str = "SELECT
    EXISTS (SELECT FROM blocks WHERE blocker = $1 AND blocked = $2 AND is_blocked),
    EXISTS (SELECT FROM blocks WHERE blocker = $2 AND blocked = $1 AND is_blocked)";

const CHAT_BLOCKS_SET: &str = "SELECT blocked, is_blocked, stamp FROM blocks WHERE blocker = $1";

/// Reads chat.
#[derive(Debug, Clone)]
pub struct PostgresChat {
    pool: Pool,
}

impl PostgresChat {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<Conversation>, StoreError> {
        let row = self
            .pool
            .query_opt("chat_conversation", CHAT_CONVERSATION, &[&user.0, &id])
            .await?;
        Ok(row.map(|row| read_conversation(&row)).transpose()?)
    }

    pub(super) async fn sent_by(&self, user: UserId, id: Uuid) -> Result<Option<Message>, StoreError> {
        let message = ChatStore::message(self, user, ChatMessageId(id)).await?;
        Ok(message.filter(|message| message.sender_id == user))
    }

    pub(super) async fn marker(&self, user: UserId, id: Uuid) -> Result<Option<ReadMarker>, StoreError> {
        Ok(self
            .find(user, id)
            .await?
            .map(|conversation| conversation.marker()))
    }

    /// The id of a block is derived, so it is found among those of the user.
    pub(super) async fn block(&self, user: UserId, id: Uuid) -> Result<Option<BlockState>, StoreError> {
        let rows = self
            .pool
            .query("chat_blocks_set", CHAT_BLOCKS_SET, &[&user.0])
            .await?;
        for row in rows {
            let state = read_block(user, &row)?;
            if block_id(user, state.blocked) == id {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    async fn page(
        &self,
        name: &'static str,
        sql: &str,
        parameters: (UserId, ConversationId, u64),
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError> {
        let (user, id, seq) = parameters;
        let parameters: [&(dyn ToSql + Sync); 4] = [&user.0, &id.0, &place(seq), &one_more(limit.get())];
        let rows = self.pool.query(name, sql, &parameters).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let messages = rows.iter().filter_map(|row| read_optional(row, 0).transpose());
        let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
        let has_more = messages.len() > limit.get();
        messages.truncate(limit.get());
        Ok(Some(MessagePage { messages, has_more }))
    }
}

fn one_more(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
}

fn read_username(row: &Row, at: usize) -> Result<Option<Username>, QueryError> {
    row.try_get::<_, Option<&str>>(at)?
        .map(Username::parse)
        .transpose()
        .map_err(|_| QueryError::Row("users.username"))
}

/// The message whose first column is at `at`, if it is there.
fn read_optional(row: &Row, at: usize) -> Result<Option<Message>, QueryError> {
    match row.try_get::<_, Option<Uuid>>(at)? {
        Some(_) => read_message(row, at).map(Some),
        None => Ok(None),
    }
}

/// The person whose columns begin at `at`.
fn read_person(row: &Row, at: usize) -> Result<Person, QueryError> {
    Ok(Person {
        id: UserId(row.try_get(at)?),
        username: read_username(row, at + 1)?,
        name: row.try_get(at + 2)?,
        avatar_url: row.try_get(at + 3)?,
    })
}

/// The columns of `conversation_columns`, which are the first.
fn read_conversation(row: &Row) -> Result<Conversation, QueryError> {
    Ok(Conversation {
        id: ConversationId(row.try_get(0)?),
        user_id: UserId(row.try_get(1)?),
        other: read_person(row, 2)?,
        unread: read_version(row, 6)?,
        last_seq: read_version(row, 7)?,
        read_seq: read_version(row, 8)?,
        marked: read_stamp(row, 9)?,
        created_at: row.try_get::<_, At>(10)?.0,
        updated_at: row.try_get::<_, At>(11)?.0,
        blocks: BlockStatus {
            blocked_by_me: row.try_get(12)?,
            blocked_by_them: row.try_get(13)?,
        },
        last_message: read_optional(row, 14)?,
    })
}

const AFTER_CONVERSATION: usize = 21;

fn read_inbox(rows: &[Row]) -> Result<Inbox, QueryError> {
    let first = rows.first().ok_or(QueryError::Row("inbox"))?;
    let mut conversations = Vec::with_capacity(rows.len());
    for row in rows {
        if row.try_get::<_, Option<Uuid>>(0)?.is_some() {
            conversations.push(read_conversation(row)?);
        }
    }
    let has_more = conversations.len() > Inbox::SIZE;
    conversations.truncate(Inbox::SIZE);
    Ok(Inbox {
        version: read_version(first, AFTER_CONVERSATION)?,
        unread: UnreadTotals {
            total: read_version(first, AFTER_CONVERSATION + 1)?,
            conversations: read_version(first, AFTER_CONVERSATION + 2)?,
        },
        conversations,
        has_more,
    })
}

fn read_block(blocker: UserId, row: &Row) -> Result<BlockState, QueryError> {
    Ok(BlockState {
        blocker,
        blocked: UserId(row.try_get(0)?),
        is_blocked: Lww::new(row.try_get(1)?, read_stamp(row, 2)?),
        events: Vec::new(),
    })
}

fn read_blocked(row: &Row) -> Result<Blocked, QueryError> {
    Ok(Blocked {
        user_id: UserId(row.try_get(0)?),
        username: read_username(row, 1)?,
        name: row.try_get(2)?,
        avatar_url: row.try_get(3)?,
        created_at: row.try_get::<_, At>(4)?.0,
    })
}

#[async_trait]
impl ChatStore for PostgresChat {
    async fn person(&self, username: &Username) -> Result<Option<Person>, StoreError> {
        let row = self
            .pool
            .query_opt("chat_person", CHAT_PERSON, &[&username.as_str()])
            .await?;
        Ok(row.map(|row| read_person(&row, 0)).transpose()?)
    }

    async fn find_with(&self, user: UserId, other: UserId) -> Result<Option<Conversation>, StoreError> {
        self.find(user, ConversationId::of(user, other).0).await
    }

    async fn open(&self, user: UserId, other: UserId) -> Result<Opened, StoreError> {
        let id = ConversationId::of(user, other);
        let made = self
            .pool
            .query_opt("chat_open", CHAT_OPEN, &[&id.0, &user.0, &other.0])
            .await?;
        let events = made.as_ref().map(|row| read_events(row, 0)).transpose()?;
        let found = self.find(user, id.0).await?;
        Ok(Opened {
            conversation: found.ok_or(QueryError::Row("conversations"))?,
            is_new: events.is_some(),
            events: events.unwrap_or_default(),
        })
    }

    async fn inbox(&self, user: UserId) -> Result<Inbox, StoreError> {
        let rows = self
            .pool
            .query("chat_inbox", CHAT_INBOX, &[&user.0, &one_more(Inbox::SIZE)])
            .await?;
        Ok(read_inbox(&rows)?)
    }

    async fn conversations(
        &self,
        user: UserId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Page<Conversation>, StoreError> {
        let (at, id) = (after.map(|key| At(key.at)), after.map(|key| key.id));
        let parameters: [&(dyn ToSql + Sync); 4] = [&user.0, &at, &id, &one_more(limit.get())];
        let rows = self
            .pool
            .query("chat_conversations", CHAT_CONVERSATIONS, &parameters)
            .await?;
        let mut items = rows
            .iter()
            .map(read_conversation)
            .collect::<Result<Vec<_>, _>>()?;
        let has_more = items.len() > limit.get();
        items.truncate(limit.get());
        let next = items.last().filter(|_| has_more).map(Conversation::key);
        Ok(Page { items, next })
    }

    async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Option<Conversation>, StoreError> {
        self.find(user, id.0).await
    }

    async fn messages(
        &self,
        user: UserId,
        id: ConversationId,
        before: Option<u64>,
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError> {
        let parameters = (user, id, before.unwrap_or(u64::MAX));
        self.page("chat_messages", CHAT_MESSAGES, parameters, limit).await
    }

    async fn messages_after(
        &self,
        user: UserId,
        id: ConversationId,
        after: u64,
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError> {
        self.page(
            "chat_messages_after",
            CHAT_MESSAGES_AFTER,
            (user, id, after),
            limit,
        )
        .await
    }

    async fn message(&self, user: UserId, id: ChatMessageId) -> Result<Option<Message>, StoreError> {
        let row = self
            .pool
            .query_opt("chat_message", CHAT_MESSAGE, &[&user.0, &id.0])
            .await?;
        Ok(row.map(|row| read_message(&row, 0)).transpose()?)
    }

    async fn blocks(&self, user: UserId) -> Result<Vec<Blocked>, StoreError> {
        let rows = self.pool.query("chat_blocks", CHAT_BLOCKS, &[&user.0]).await?;
        Ok(rows.iter().map(read_blocked).collect::<Result<_, _>>()?)
    }

    async fn block_status(&self, user: UserId, other: UserId) -> Result<BlockStatus, StoreError> {
        let row = self
            .pool
            .query_opt("chat_block_status", CHAT_BLOCK_STATUS, &[&user.0, &other.0])
            .await?;
        let row = row.ok_or(QueryError::Row("blocks"))?;
        Ok(BlockStatus {
            blocked_by_me: row.try_get(0).map_err(QueryError::from)?,
            blocked_by_them: row.try_get(1).map_err(QueryError::from)?,
        })
    }
}
