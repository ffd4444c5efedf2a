-- Chat: conversations of two, their messages, who has read what, who blocks whom, and the log of each user's events.
--
-- Whoever changes a conversation locks its row first, then the log heads of those concerned, in order of user id: places and
-- offsets are therefore without gaps and in commit order, and nobody waits in a circle.
--
-- Like tasks, rows have no foreign key to users. Ids are derived (UUIDv5): a conversation's from its two users, a message's
-- from (sender, client_message_id).

CREATE TABLE conversations (
    id              uuid        PRIMARY KEY,
    kind            text        NOT NULL DEFAULT 'direct',
    -- '<smaller user id>:<greater user id>'
    direct_key      text        NOT NULL,
    last_seq        bigint      NOT NULL DEFAULT 0,
    last_message_at timestamptz,
    created_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    -- Kept by a trigger: the newest message, or the opening.
    updated_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),

    CONSTRAINT conversations_direct_key UNIQUE (direct_key),
    CONSTRAINT conversations_kind_check CHECK (kind = 'direct')
);

-- sent is how many messages the participant has sent, read_count how many of the other's are at or below read_seq: what is
-- unread is the difference, exact without counting rows.
CREATE TABLE conversation_participants (
    conversation_id uuid    NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    user_id         uuid    NOT NULL,
    read_seq        bigint  NOT NULL DEFAULT 0,
    read_count      bigint  NOT NULL DEFAULT 0,
    sent            bigint  NOT NULL DEFAULT 0,
    -- The stamp of the latest mark.
    marked          bytea   NOT NULL DEFAULT '\x00000000000000000000000000000000',
    -- A message that was read before it was stored: its place is read as soon as it has one.
    read_ahead      uuid,
    muted           boolean NOT NULL DEFAULT false,

    PRIMARY KEY (conversation_id, user_id)
);

CREATE INDEX conversation_participants_user_index ON conversation_participants (user_id);

-- sender_seq is the message's place among its sender's own in the conversation.
CREATE TABLE messages (
    id                uuid        PRIMARY KEY,
    conversation_id   uuid        NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    seq               bigint      NOT NULL,
    sender_id         uuid        NOT NULL,
    sender_seq        bigint      NOT NULL,
    client_message_id uuid        NOT NULL,
    content           text        NOT NULL,
    created_at        timestamptz NOT NULL,

    CONSTRAINT messages_place UNIQUE (conversation_id, seq),
    CONSTRAINT messages_client_id UNIQUE (sender_id, client_message_id),
    CONSTRAINT messages_content_check CHECK (char_length(content) BETWEEN 1 AND 4000)
);

CREATE INDEX messages_sender_index ON messages (conversation_id, sender_id, seq) INCLUDE (sender_seq);

-- A block that was taken back stays as a tombstone, so that a late write does not undo it.
CREATE TABLE blocks (
    blocker    uuid        NOT NULL,
    blocked    uuid        NOT NULL,
    is_blocked boolean     NOT NULL,
    stamp      bytea       NOT NULL,
    created_at timestamptz NOT NULL,

    PRIMARY KEY (blocker, blocked)
);

CREATE INDEX blocks_blocked_index ON blocks (blocked);

-- The log. Offsets of a user count from 1 without gaps; first_offset is the oldest that is kept (older ones are purged).
CREATE TABLE user_event_heads (
    user_id      uuid   PRIMARY KEY,
    last_offset  bigint NOT NULL DEFAULT 0,
    first_offset bigint NOT NULL DEFAULT 1
);

CREATE TABLE user_events (
    user_id    uuid        NOT NULL,
    "offset"   bigint      NOT NULL,
    type       text        NOT NULL,
    payload    jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (user_id, "offset")
);

CREATE INDEX user_events_purge_index ON user_events (created_at);

-- The life of the logs: another one (after a restore from a backup, set by the operator) sends every client back to the start.
CREATE TABLE event_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    bigint  NOT NULL
);

INSERT INTO event_epoch (epoch) VALUES ((extract(epoch FROM clock_timestamp()) * 1000)::bigint);

CREATE TABLE notification_preferences (
    user_id       uuid    PRIMARY KEY,
    chat_messages boolean NOT NULL DEFAULT true,
    web_push      boolean NOT NULL DEFAULT true,
    webhook       boolean NOT NULL DEFAULT true
);

CREATE TABLE push_subscriptions (
    id         uuid        PRIMARY KEY,
    user_id    uuid        NOT NULL,
    endpoint   text        NOT NULL UNIQUE,
    p256dh     bytea       NOT NULL,
    auth       bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now())
);

CREATE INDEX push_subscriptions_user_index ON push_subscriptions (user_id, created_at);

-- Messages whose receiver may have to be told; made in the transaction that stores the message, shared by all nodes.
CREATE TABLE notification_jobs (
    message_id uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    run_at     timestamptz NOT NULL DEFAULT now(),
    attempts   integer     NOT NULL DEFAULT 0,
    -- What has been done already, so that a retry of the rest does not tell twice.
    done       jsonb       NOT NULL DEFAULT '[]',
    last_error text,

    PRIMARY KEY (message_id, user_id)
);

CREATE INDEX notification_jobs_run_index ON notification_jobs (run_at);
