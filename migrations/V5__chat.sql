-- Chat: conversations of two, their messages, who has read what, who blocks whom, and the log of each user's events.
--
-- Whoever changes a conversation locks its row first, then the log heads of those concerned, in order of user id: places and
-- offsets are therefore without gaps and in commit order, and nobody waits in a circle.
--
-- A message is the hottest write there is. What it costs is rows and entries of indexes, so it changes each row once, and no
-- column that changes with a message is in an index (its updates stay in the page).
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
) WITH (fillfactor = 80);

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
) WITH (fillfactor = 80);

CREATE INDEX conversation_participants_user_index ON conversation_participants (user_id);

-- sender_seq is the message's place among its sender's own in the conversation: seq - sender_seq are then the other's before it.
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
) WITH (fillfactor = 50);

CREATE TABLE user_events (
    user_id    uuid        NOT NULL,
    "offset"   bigint      NOT NULL,
    type       text        NOT NULL,
    payload    json        NOT NULL,
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

-- A time as everywhere in the API.
CREATE FUNCTION chat_time(moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- A conversation is as new as its newest message; an older one that arrives late does not make it older.
CREATE FUNCTION conversation_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.last_message_at := GREATEST(OLD.last_message_at, NEW.last_message_at);
    NEW.updated_at := GREATEST(OLD.updated_at, NEW.last_message_at);
    RETURN NEW;
END $$;

CREATE TRIGGER conversations_touch BEFORE UPDATE OF last_message_at ON conversations
    FOR EACH ROW EXECUTE FUNCTION conversation_touch();

-- Locks the logs of these users, which begin with it if need be. Whether a row is there or has to be made, one is got after
-- the other in order.
CREATE FUNCTION chat_lock_logs(users uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_user uuid;
BEGIN
    IF (SELECT count(DISTINCT one) FROM unnest(users) AS one)
        = (SELECT count(*) FROM user_event_heads WHERE user_id = ANY (users))
    THEN
        PERFORM FROM user_event_heads WHERE user_id = ANY (users) ORDER BY user_id FOR NO KEY UPDATE;
        RETURN;
    END IF;
    FOR v_user IN SELECT DISTINCT one FROM unnest(users) AS one ORDER BY one LOOP
        PERFORM chat_raise(v_user, 0);
    END LOOP;
END $$;

-- Locks the log of this user, which begins with it if need be, and gives it room for so many more entries. Answers the offset
-- of the last of them.
CREATE FUNCTION chat_raise(p_user uuid, p_many bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_offset bigint;
BEGIN
    UPDATE user_event_heads SET last_offset = last_offset + p_many WHERE user_id = p_user RETURNING last_offset INTO v_offset;
    IF NOT FOUND THEN
        INSERT INTO user_event_heads AS head (user_id, last_offset) VALUES (p_user, p_many)
        ON CONFLICT (user_id) DO UPDATE SET last_offset = head.last_offset + p_many
        RETURNING last_offset INTO v_offset;
    END IF;
    RETURN v_offset;
END $$;

-- Everything that a batch of operations is going to lock: these conversations with the logs of those who take part, and the
-- logs of these users.
CREATE FUNCTION chat_lock(wanted uuid[], users uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM conversations WHERE id = ANY (wanted) ORDER BY id FOR NO KEY UPDATE;
    PERFORM chat_lock_logs(users || ARRAY(
        SELECT user_id FROM conversation_participants WHERE conversation_id = ANY (wanted)
    ));
END $$;

-- Appends to logs that are locked, in this order. Gives the entries as UserEvent reads them.
CREATE FUNCTION chat_append(users uuid[], kinds text[], payloads jsonb[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_events jsonb;
BEGIN
    WITH entry AS MATERIALIZED (
        SELECT one.user_id, one.kind, one.payload, one.place,
            row_number() OVER (PARTITION BY one.user_id ORDER BY one.place) AS nth
        FROM unnest(users, kinds, payloads) WITH ORDINALITY AS one (user_id, kind, payload, place)
    ), raised AS (
        UPDATE user_event_heads AS head SET last_offset = head.last_offset + added.many
        FROM (SELECT user_id, count(*) AS many FROM entry GROUP BY user_id) AS added
        WHERE head.user_id = added.user_id
        RETURNING head.user_id, head.last_offset - added.many AS before
    ), kept AS (
        INSERT INTO user_events (user_id, "offset", type, payload)
        SELECT entry.user_id, raised.before + entry.nth, entry.kind, entry.payload
        FROM entry JOIN raised ON raised.user_id = entry.user_id
    )
    SELECT jsonb_agg(jsonb_build_object(
        'user_id', entry.user_id, 'offset', raised.before + entry.nth, 'kind', entry.kind, 'payload', entry.payload::text
    ) ORDER BY entry.place) INTO v_events
    FROM entry JOIN raised ON raised.user_id = entry.user_id;
    RETURN v_events;
END $$;

-- The payload of conversation.updated.
CREATE FUNCTION chat_counts(conversation uuid, unread bigint, last_seq bigint, read_seq bigint) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('conversationId', conversation, 'unread', unread, 'lastSeq', last_seq, 'readSeq', read_seq,
        'asOfSeq', last_seq)
$$;

-- Opens the conversation of two, unless there is one: then no row.
CREATE FUNCTION chat_open(p_conversation uuid, p_user uuid, p_other uuid) RETURNS TABLE (events jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO conversations (id, direct_key)
    VALUES (p_conversation, LEAST(p_user, p_other)::text || ':' || GREATEST(p_user, p_other)::text)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO conversation_participants (conversation_id, user_id)
    VALUES (p_conversation, p_user), (p_conversation, p_other);
    PERFORM chat_lock_logs(ARRAY[p_user, p_other]);
    events := chat_append(ARRAY[p_user, p_other], ARRAY['conversation.updated', 'conversation.updated'],
        ARRAY[chat_counts(p_conversation, 0, 0, 0), chat_counts(p_conversation, 0, 0, 0)]);
    RETURN NEXT;
END $$;

-- Whether one of the two blocks the other.
CREATE FUNCTION chat_is_blocked(one uuid, other uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM blocks WHERE blocker = one AND blocked = other AND is_blocked)
        OR EXISTS (SELECT FROM blocks WHERE blocker = other AND blocked = one AND is_blocked)
$$;

-- The three operations. Each is applied once: no row in answer means that its id is recorded. Every statement within sees what
-- was committed before the locks were got. Parameters as in all statements that apply operations: the first nine are the same
-- everywhere; 'direct' is false for a replayed one.

-- The logs are given room before it is known that the message may be sent, which takes their locks with the same write; a
-- message that may not gives it back.
CREATE FUNCTION chat_message_send(
    p_operation uuid, p_message uuid, p_sender uuid, p_stamp bytea, p_at timestamptz, p_direct boolean, p_attempts integer,
    p_fingerprint bytea, p_answer jsonb, p_conversation uuid, p_client_id uuid, p_content text
) RETURNS TABLE (
    word text, events json, id uuid, conversation_id uuid, seq bigint, sender_id uuid, client_message_id uuid, content text,
    created_at timestamptz, recipient uuid, is_repeat boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_receiver   uuid;
    v_stored     messages%ROWTYPE;
    v_known      record;
    v_verdict    record;
    v_many       bigint := 2;
    v_mine_at    bigint;
    v_their_at   bigint;
    v_is_read    boolean;
    v_read       bigint;
    v_unread     bigint;
    v_new        json;
    v_my_counts  json;
    v_counts     json;
    v_receipt    json;
    v_answer     jsonb;
    v_time       text := chat_time(p_at);
BEGIN
    SELECT last_seq + 1 INTO v_stored.seq FROM conversations WHERE id = p_conversation FOR NO KEY UPDATE;
    SELECT mine.sent + 1 AS sent, theirs.user_id AS receiver, theirs.sent AS theirs, theirs.read_seq, theirs.read_count,
        COALESCE(theirs.read_ahead = p_message, false) AS is_read, theirs.muted,
        EXISTS (SELECT FROM applied_operations WHERE id = p_operation) AS is_applied
    INTO v_known
    FROM conversation_participants AS mine JOIN conversation_participants AS theirs
        ON theirs.conversation_id = mine.conversation_id AND theirs.user_id <> mine.user_id
    WHERE mine.conversation_id = p_conversation AND mine.user_id = p_sender;
    IF NOT FOUND THEN
        word := 'missing';
        RETURN NEXT;
        RETURN;
    ELSIF v_known.is_applied THEN
        RETURN;
    END IF;
    v_receiver := v_known.receiver;
    v_is_read := v_known.is_read;
    IF v_is_read THEN
        v_many := 3;
    END IF;
    IF p_sender < v_receiver THEN
        UPDATE user_event_heads SET last_offset = last_offset + v_many WHERE user_id = p_sender
        RETURNING last_offset - v_many INTO v_mine_at;
        IF NOT FOUND THEN
            v_mine_at := chat_raise(p_sender, v_many) - v_many;
        END IF;
    END IF;
    UPDATE user_event_heads SET last_offset = last_offset + 2 WHERE user_id = v_receiver
    RETURNING last_offset - 2 INTO v_their_at;
    IF NOT FOUND THEN
        v_their_at := chat_raise(v_receiver, 2) - 2;
    END IF;
    IF v_mine_at IS NULL THEN
        UPDATE user_event_heads SET last_offset = last_offset + v_many WHERE user_id = p_sender
        RETURNING last_offset - v_many INTO v_mine_at;
        IF NOT FOUND THEN
            v_mine_at := chat_raise(p_sender, v_many) - v_many;
        END IF;
    END IF;

    SELECT EXISTS (SELECT FROM messages WHERE id = p_message) AS is_there,
        EXISTS (SELECT FROM blocks WHERE blocker = p_sender AND blocked = v_receiver AND is_blocked)
            OR EXISTS (SELECT FROM blocks WHERE blocker = v_receiver AND blocked = p_sender AND is_blocked) AS is_blocked,
        NOT v_is_read AND NOT v_known.muted
            AND COALESCE((SELECT chat_messages FROM notification_preferences WHERE user_id = v_receiver), true) AS is_told
    INTO v_verdict;
    IF v_verdict.is_there OR v_verdict.is_blocked THEN
        PERFORM chat_raise(p_sender, -v_many), chat_raise(v_receiver, -2);
    END IF;
    IF v_verdict.is_there THEN
        SELECT * INTO v_stored FROM messages WHERE id = p_message;
        IF (v_stored.conversation_id, v_stored.sender_id, v_stored.content) <> (p_conversation, p_sender, p_content) THEN
            word := 'message_id_reused';
            RETURN NEXT;
            RETURN;
        END IF;
        word := 'superseded';
        is_repeat := true;
        events := '[]';
        INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded, fingerprint,
            buffered, answer)
        VALUES (p_operation, p_sender, 'message', p_message, 'create', p_stamp, p_attempts, is_repeat, p_fingerprint,
            NOT p_direct, CASE WHEN p_fingerprint IS NOT NULL THEN COALESCE(p_answer, jsonb_build_object(
                'kind', 'message', 'id', v_stored.id, 'conversation_id', v_stored.conversation_id, 'seq', v_stored.seq,
                'sender_id', v_stored.sender_id, 'client_message_id', v_stored.client_message_id, 'content', v_stored.content,
                'created_at', chat_time(v_stored.created_at), 'recipient', v_receiver)) END);
    ELSIF v_verdict.is_blocked THEN
        word := 'blocked';
        IF NOT p_direct THEN
            events := chat_append(ARRAY[p_sender], ARRAY['message.ack'], ARRAY[jsonb_build_object(
                'status', 'rejected', 'clientMessageId', p_client_id, 'messageId', p_message,
                'conversationId', p_conversation, 'seq', NULL, 'createdAt', chat_time(p_at),
                'error', jsonb_build_object('code', 'blocked', 'message', 'One of you blocks the other.'))]);
        END IF;
        RETURN NEXT;
        RETURN;
    ELSE
        word := 'applied';
        is_repeat := false;
        v_stored.id := p_message;
        v_stored.conversation_id := p_conversation;
        v_stored.sender_id := p_sender;
        v_stored.sender_seq := v_known.sent;
        v_stored.client_message_id := p_client_id;
        v_stored.content := p_content;
        v_stored.created_at := p_at;
        v_read := CASE WHEN v_is_read THEN v_stored.seq ELSE v_known.read_seq END;
        v_unread := CASE WHEN v_is_read THEN 0 ELSE v_known.sent - v_known.read_count END;
        v_new := '{"message": {"id": "' || p_message || '", "seq": ' || v_stored.seq || ', "content": ' || to_json(p_content)
            || ', "senderId": "' || p_sender || '", "createdAt": "' || v_time
            || '", "durability": "stored", "conversationId": "' || p_conversation || '", "clientMessageId": "' || p_client_id
            || '"}, "durability": "stored"}';
        v_my_counts := '{"unread": 0, "asOfSeq": ' || v_stored.seq || ', "lastSeq": ' || v_stored.seq || ', "readSeq": '
            || v_stored.seq || ', "conversationId": "' || p_conversation || '"}';
        v_counts := '{"unread": ' || v_unread || ', "asOfSeq": ' || v_stored.seq || ', "lastSeq": ' || v_stored.seq
            || ', "readSeq": ' || v_read || ', "conversationId": "' || p_conversation || '"}';
        IF v_is_read THEN
            v_receipt := '{"userId": "' || v_receiver || '", "readSeq": ' || v_read || ', "conversationId": "' || p_conversation
            || '"}';
        END IF;
        v_answer := CASE WHEN p_fingerprint IS NULL THEN NULL WHEN p_answer IS NOT NULL THEN p_answer ELSE
            ('{"kind":"message","id":"' || p_message || '","conversation_id":"' || p_conversation || '","seq":' || v_stored.seq
            || ',"sender_id":"' || p_sender || '","client_message_id":"' || p_client_id || '","content":' || to_json(p_content)
            || ',"created_at":"' || v_time || '","recipient":"' || v_receiver || '"}')::jsonb END;

        WITH conversation AS (
            UPDATE conversations SET last_seq = v_stored.seq, last_message_at = p_at WHERE id = p_conversation
        ), mine AS (
            UPDATE conversation_participants SET sent = v_known.sent, read_seq = v_stored.seq, read_count = v_known.theirs
            WHERE conversation_id = p_conversation AND user_id = p_sender
        ), message AS (
            INSERT INTO messages (id, conversation_id, seq, sender_id, sender_seq, client_message_id, content, created_at)
            VALUES (p_message, p_conversation, v_stored.seq, p_sender, v_known.sent, p_client_id, p_content, p_at)
        ), job AS (
            INSERT INTO notification_jobs (message_id, user_id, run_at)
            SELECT p_message, v_receiver, now() + interval '1 second' WHERE v_verdict.is_told
        ), operation AS (
            INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded,
                fingerprint, buffered, answer)
            VALUES (p_operation, p_sender, 'message', p_message, 'create', p_stamp, p_attempts, false, p_fingerprint,
                NOT p_direct, v_answer)
        )
        INSERT INTO user_events (user_id, "offset", type, payload) VALUES
            (p_sender, v_mine_at + 1, 'message.new', v_new),
            (p_sender, v_mine_at + 2, 'conversation.updated', v_my_counts),
            (v_receiver, v_their_at + 1, 'message.new', v_new),
            (v_receiver, v_their_at + 2, 'conversation.updated', v_counts);
        IF v_is_read THEN
            UPDATE conversation_participants SET read_seq = v_read, read_count = v_known.sent, read_ahead = NULL
            WHERE conversation_id = p_conversation AND user_id = v_receiver;
            INSERT INTO user_events (user_id, "offset", type, payload)
            VALUES (p_sender, v_mine_at + 3, 'message.read', v_receipt);
        END IF;
        events := '[{"user_id":"' || p_sender || '","offset":' || v_mine_at + 1 || ',"kind":"message.new","payload":'
            || to_json(v_new::text) || '},{"user_id":"' || p_sender || '","offset":' || v_mine_at + 2
            || ',"kind":"conversation.updated","payload":' || to_json(v_my_counts::text)
            || '},{"user_id":"' || v_receiver || '","offset":' || v_their_at + 1 || ',"kind":"message.new","payload":'
            || to_json(v_new::text) || '},{"user_id":"' || v_receiver || '","offset":' || v_their_at + 2
            || ',"kind":"conversation.updated","payload":' || to_json(v_counts::text)
            || CASE WHEN v_is_read THEN '},{"user_id":"' || p_sender || '","offset":' || v_mine_at + 3
                || ',"kind":"message.read","payload":' || to_json(v_receipt::text) ELSE '' END || '}]';
    END IF;

    id := v_stored.id;
    conversation_id := v_stored.conversation_id;
    seq := v_stored.seq;
    sender_id := v_stored.sender_id;
    client_message_id := v_stored.client_message_id;
    content := v_stored.content;
    created_at := v_stored.created_at;
    recipient := v_receiver;
    RETURN NEXT;
END $$;

CREATE FUNCTION chat_read(
    p_operation uuid, p_conversation uuid, p_reader uuid, p_stamp bytea, p_at timestamptz, p_direct boolean,
    p_attempts integer, p_fingerprint bytea, p_answer jsonb, p_message uuid, p_up_to bigint
) RETURNS TABLE (
    word text, events jsonb, conversation_id uuid, user_id uuid, read_seq bigint, unread bigint, last_seq bigint, marked bytea
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_last     bigint;
    v_mine     conversation_participants%ROWTYPE;
    v_theirs   conversation_participants%ROWTYPE;
    v_up_to    bigint;
    v_ahead    uuid;
    v_users    uuid[];
    v_kinds    text[];
    v_payloads jsonb[];
BEGIN
    SELECT last_seq INTO v_last FROM conversations WHERE id = p_conversation FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM applied_operations WHERE id = p_operation) THEN
        RETURN;
    END IF;
    SELECT * INTO v_mine FROM conversation_participants WHERE conversation_id = p_conversation AND user_id = p_reader;
    IF NOT FOUND THEN
        word := 'missing';
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT * INTO v_theirs FROM conversation_participants WHERE conversation_id = p_conversation AND user_id <> p_reader;

    IF p_message IS NOT NULL THEN
        SELECT seq INTO v_up_to FROM messages WHERE id = p_message AND conversation_id = p_conversation;
        IF NOT FOUND THEN
            IF p_direct THEN
                word := 'missing';
                RETURN NEXT;
                RETURN;
            END IF;
            v_ahead := p_message;
        END IF;
    ELSIF p_direct THEN
        v_up_to := v_last;
    END IF;
    IF NOT p_direct THEN
        v_up_to := GREATEST(v_up_to, LEAST(p_up_to, v_last));
    END IF;

    word := 'superseded';
    events := '[]';
    IF v_ahead IS NOT NULL AND p_stamp > v_mine.marked THEN
        UPDATE conversation_participants SET read_ahead = v_ahead, marked = p_stamp
        WHERE conversation_id = p_conversation AND user_id = p_reader
        RETURNING * INTO v_mine;
        word := 'applied';
    END IF;
    IF v_up_to > v_mine.read_seq THEN
        UPDATE conversation_participants SET
            read_seq = v_up_to,
            read_count = COALESCE((
                SELECT CASE WHEN sender_id = p_reader THEN seq - sender_seq ELSE sender_seq END
                FROM messages WHERE conversation_id = p_conversation AND seq = v_up_to
            ), 0),
            marked = GREATEST(marked, p_stamp)
        WHERE conversation_id = p_conversation AND user_id = p_reader
        RETURNING * INTO v_mine;
        word := 'applied';
        v_users := ARRAY[p_reader];
        v_kinds := ARRAY['conversation.updated'];
        v_payloads := ARRAY[chat_counts(p_conversation, v_theirs.sent - v_mine.read_count, v_last, v_mine.read_seq)];
        PERFORM chat_lock_logs(ARRAY[p_reader, v_theirs.user_id]);
        IF NOT chat_is_blocked(p_reader, v_theirs.user_id) THEN
            v_users := v_users || v_theirs.user_id;
            v_kinds := v_kinds || 'message.read'::text;
            v_payloads := v_payloads
                || jsonb_build_object('conversationId', p_conversation, 'userId', p_reader, 'readSeq', v_mine.read_seq);
        END IF;
        events := chat_append(v_users, v_kinds, v_payloads);
    END IF;

    conversation_id := p_conversation;
    user_id := p_reader;
    read_seq := v_mine.read_seq;
    unread := v_theirs.sent - v_mine.read_count;
    last_seq := v_last;
    marked := v_mine.marked;
    INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded, fingerprint,
        buffered, answer)
    VALUES (p_operation, p_reader, 'read_marker', p_conversation, 'update', p_stamp, p_attempts, word = 'superseded',
        p_fingerprint, NOT p_direct, CASE WHEN p_fingerprint IS NOT NULL THEN COALESCE(p_answer, jsonb_build_object(
            'kind', 'read_marker', 'conversation_id', p_conversation, 'user_id', p_reader, 'read_seq', v_mine.read_seq,
            'unread', v_theirs.sent - v_mine.read_count, 'last_seq', v_last, 'marked', encode(v_mine.marked, 'hex'))) END);
    RETURN NEXT;
END $$;

CREATE FUNCTION chat_block(
    p_operation uuid, p_block uuid, p_blocker uuid, p_stamp bytea, p_at timestamptz, p_direct boolean, p_attempts integer,
    p_fingerprint bytea, p_answer jsonb, p_blocked uuid, p_is_blocked boolean
) RETURNS TABLE (word text, events jsonb, blocker uuid, blocked uuid, is_blocked boolean, stamp bytea) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_block        blocks%ROWTYPE;
    v_changes      boolean;
    v_is_reverse   boolean;
    v_conversation uuid;
BEGIN
    PERFORM chat_lock_logs(ARRAY[p_blocker, p_blocked]);
    IF EXISTS (SELECT FROM applied_operations WHERE id = p_operation) THEN
        RETURN;
    END IF;
    SELECT * INTO v_block FROM blocks WHERE blocker = p_blocker AND blocked = p_blocked;
    word := CASE WHEN v_block.stamp IS NULL OR v_block.stamp < p_stamp THEN 'applied'
        WHEN p_direct THEN 'late' ELSE 'superseded' END;
    events := '[]';
    IF word = 'applied' THEN
        v_changes := COALESCE(v_block.is_blocked, false) <> p_is_blocked;
        INSERT INTO blocks AS block (blocker, blocked, is_blocked, stamp, created_at)
        VALUES (p_blocker, p_blocked, p_is_blocked, p_stamp, p_at)
        ON CONFLICT (blocker, blocked) DO UPDATE SET is_blocked = p_is_blocked, stamp = p_stamp,
            created_at = CASE WHEN v_changes THEN p_at ELSE block.created_at END
        RETURNING * INTO v_block;
        IF v_changes THEN
            v_is_reverse := EXISTS (
                SELECT FROM blocks WHERE blocker = p_blocked AND blocked = p_blocker AND is_blocked
            );
            SELECT id INTO v_conversation FROM conversations
            WHERE direct_key = LEAST(p_blocker, p_blocked)::text || ':' || GREATEST(p_blocker, p_blocked)::text;
            events := chat_append(ARRAY[p_blocker, p_blocked], ARRAY['block.updated', 'block.updated'], ARRAY[
                jsonb_build_object('userId', p_blocked, 'conversationId', v_conversation,
                    'username', (SELECT username FROM users WHERE id = p_blocked),
                    'blockedByMe', p_is_blocked, 'blockedByThem', v_is_reverse),
                jsonb_build_object('userId', p_blocker, 'conversationId', v_conversation,
                    'username', (SELECT username FROM users WHERE id = p_blocker),
                    'blockedByMe', v_is_reverse, 'blockedByThem', p_is_blocked)]);
        END IF;
    END IF;

    blocker := p_blocker;
    blocked := p_blocked;
    is_blocked := v_block.is_blocked;
    stamp := v_block.stamp;
    IF word <> 'late' THEN
        INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded, fingerprint,
            buffered, answer)
        VALUES (p_operation, p_blocker, 'block', p_block, 'update', p_stamp, p_attempts, word = 'superseded', p_fingerprint,
            NOT p_direct, CASE WHEN p_fingerprint IS NOT NULL THEN COALESCE(p_answer, jsonb_build_object(
                'kind', 'block', 'blocker', p_blocker, 'blocked', p_blocked, 'is_blocked', jsonb_build_object(
                    'value', v_block.is_blocked, 'stamp', encode(v_block.stamp, 'hex')))) END);
    END IF;
    RETURN NEXT;
END $$;
