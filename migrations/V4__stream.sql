-- Streams: items that services ingest and users act on.
--
-- stream_versions is the user's version: raised in the transaction that changes any of the user's items, by whoever locks
-- the row first. It is always locked before the items. changed_at grows with it, so that an item that is not visible yet
-- has arrived later than every version that is.
--
-- Ids are derived (UUIDv5): an item's from (user, source, external id), a person's from (user, source, external id or name),
-- a message's from (item, external id).

CREATE TABLE stream_versions (
    user_id        uuid        PRIMARY KEY,
    version        bigint      NOT NULL,
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Tombstones of versions up to this one have been purged.
    purged_version bigint      NOT NULL DEFAULT 0
);

CREATE TABLE people (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    avatar_url text,

    CONSTRAINT people_name_check CHECK (char_length(name) BETWEEN 1 AND 255)
);

-- A removal leaves a tombstone (removed_at) without participants and messages. Like tasks, items have no foreign key to
-- users. `view` is what lists ask for, so that each of their indexes serves every filter.
CREATE TABLE priority_items (
    id             uuid        PRIMARY KEY,
    user_id        uuid        NOT NULL,
    external_id    text        NOT NULL,
    title          text        NOT NULL,
    source         text        NOT NULL,
    priority       text        NOT NULL,
    is_unread      boolean     NOT NULL,
    is_archived    boolean     NOT NULL,
    snippet        text,
    item_timestamp timestamptz NOT NULL,
    arrived_at     timestamptz NOT NULL,
    version        bigint      NOT NULL,
    unread_stamp   bytea       NOT NULL,
    archived_stamp bytea       NOT NULL,
    removed_at     timestamptz,
    -- 0 unread, 1 read, 2 archived, 3 removed.
    view           smallint    NOT NULL GENERATED ALWAYS AS (
        CASE WHEN removed_at IS NOT NULL THEN 3 WHEN is_archived THEN 2 WHEN is_unread THEN 0 ELSE 1 END
    ) STORED,

    CONSTRAINT priority_items_title_check    CHECK (char_length(title) BETWEEN 1 AND 255),
    CONSTRAINT priority_items_source_check   CHECK (char_length(source) BETWEEN 1 AND 50),
    CONSTRAINT priority_items_priority_check CHECK (priority IN ('high', 'medium', 'low'))
);

CREATE INDEX priority_items_list_index ON priority_items (user_id, view, item_timestamp DESC, id DESC);
CREATE INDEX priority_items_priority_index ON priority_items (user_id, priority, view, item_timestamp DESC, id DESC);
CREATE INDEX priority_items_source_index ON priority_items (user_id, source, priority, view, item_timestamp DESC, id DESC);
CREATE INDEX priority_items_version_index ON priority_items (user_id, version);
CREATE INDEX priority_items_purge_index ON priority_items (removed_at) WHERE removed_at IS NOT NULL;

CREATE TABLE priority_item_participants (
    item_id   uuid     NOT NULL REFERENCES priority_items (id) ON DELETE CASCADE,
    person_id uuid     NOT NULL REFERENCES people (id),
    position  smallint NOT NULL,

    PRIMARY KEY (item_id, person_id)
);

CREATE INDEX priority_item_participants_person_index ON priority_item_participants (person_id);

CREATE TABLE priority_item_messages (
    id                uuid        PRIMARY KEY,
    item_id           uuid        NOT NULL REFERENCES priority_items (id) ON DELETE CASCADE,
    sender_id         uuid,
    sender_name       text,
    sender_type       text        NOT NULL,
    content_type      text        NOT NULL,
    content           text,
    full_content_html text,
    message_timestamp timestamptz NOT NULL,
    event_details     jsonb,
    social_details    jsonb,
    attachments       jsonb,
    ai_insights       jsonb,

    CONSTRAINT priority_item_messages_sender_type_check  CHECK (sender_type IN ('user', 'other', 'system')),
    CONSTRAINT priority_item_messages_content_type_check CHECK (content_type IN ('text', 'event', 'social'))
);

CREATE INDEX priority_item_messages_list_index ON priority_item_messages (item_id, message_timestamp DESC, id DESC);
