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
--
-- A message is one row and two entries: message.new at the offset before the row's, and conversation.updated, with what is unread
-- and read of it then, at the row's. The message itself is not copied: it never changes.
CREATE TABLE user_event_heads (
    user_id      uuid   PRIMARY KEY,
    last_offset  bigint NOT NULL DEFAULT 0,
    first_offset bigint NOT NULL DEFAULT 1
) WITH (fillfactor = 50);

CREATE TABLE user_events (
    user_id    uuid        NOT NULL,
    "offset"   bigint      NOT NULL,
    type       text        NOT NULL,
    payload    json,
    message_id uuid,
    unread     bigint,
    read_seq   bigint,
    created_at timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (user_id, "offset"),
    CONSTRAINT user_events_check CHECK (CASE WHEN message_id IS NULL
        THEN payload IS NOT NULL AND unread IS NULL AND read_seq IS NULL
        ELSE payload IS NULL AND unread IS NOT NULL AND read_seq IS NOT NULL END)
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

-- Messages of different ids, as many as there are: one row for each, in their order, whose word is null where its operation is
-- recorded. One statement does all of it, since what statements and functions cost is far more than the rows do; what the
-- earlier ones change for the later ones of a conversation is counted. It joins with its parameters by indexes only, whatever
-- the planner takes their number for.
--
-- It answers with what the message's rows in the two logs say (their offsets, and the receiver's counts), and with the other
-- entries as UserEvent reads them: a refusal, or the receipt of one that was read before it was stored.
--
-- | part | what it is |
-- |---|---|
-- | fact | each message with its conversation, the two who take part, what is stored under its id, and the word |
-- | ranked | the facts with how many are stored of its conversation so far, and of these by the one with the smaller id |
-- | counted | with how many of them are the sender's, and up to which of them the receiver has read: sending reads |
-- | side | how many entries each message adds to whose log |
-- | placed | where in the logs these begin |
-- | told | all that, with the receiver's counts, and another entry if there is one |
CREATE FUNCTION chat_messages_send(
    p_operations uuid[], p_messages uuid[], p_senders uuid[], p_stamps bytea[], p_ats timestamptz[], p_direct boolean,
    p_attempts integer[], p_fingerprints bytea[], p_answers jsonb[], p_conversations uuid[], p_client_ids uuid[],
    p_contents text[]
) RETURNS TABLE (
    word text, events jsonb, id uuid, conversation_id uuid, seq bigint, sender_id uuid, client_message_id uuid, content text,
    created_at timestamptz, recipient uuid, is_repeat boolean, "offset" bigint, their_offset bigint, unread bigint,
    read_seq bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_users     uuid[];
    v_have_logs boolean;
BEGIN
    PERFORM FROM conversations WHERE id = ANY (p_conversations) ORDER BY id FOR NO KEY UPDATE;
    SELECT array_agg(one.user_id), bool_and(head.user_id IS NOT NULL) INTO v_users, v_have_logs
    FROM conversation_participants AS one LEFT JOIN user_event_heads AS head ON head.user_id = one.user_id
    WHERE one.conversation_id = ANY (p_conversations);
    IF v_have_logs THEN
        PERFORM FROM user_event_heads WHERE user_id = ANY (v_users) ORDER BY user_id FOR NO KEY UPDATE;
    ELSE
        -- A log begins with the opening, unless that was brought from elsewhere.
        PERFORM chat_lock_logs(v_users);
    END IF;
    RETURN QUERY
    WITH fact AS MATERIALIZED (
        SELECT one.operation, one.message, one.sender, one.stamp, one.attempts, one.fingerprint, one.answer, one.conversation,
            one.client, one.body, one.place, pair.*, is_told.*,
            stored.seq AS stored_seq,
            COALESCE(stored.created_at, one.at) AS at,
            chat_time(COALESCE(stored.created_at, one.at)) AS time,
            CASE
                WHEN pair.receiver IS NULL THEN 'missing'
                WHEN (SELECT true FROM applied_operations WHERE id = one.operation) THEN NULL
                WHEN (stored.conversation_id, stored.sender_id, stored.content) = (one.conversation, one.sender, one.body)
                    THEN 'superseded'
                WHEN stored.id IS NOT NULL THEN 'message_id_reused'
                WHEN (SELECT is_blocked FROM blocks WHERE blocker = one.sender AND blocked = pair.receiver)
                    OR (SELECT is_blocked FROM blocks WHERE blocker = pair.receiver AND blocked = one.sender) THEN 'blocked'
                ELSE 'applied'
            END AS word
        FROM unnest(p_operations, p_messages, p_senders, p_stamps, p_ats, p_attempts, p_fingerprints, p_answers,
                p_conversations, p_client_ids, p_contents) WITH ORDINALITY
            AS one (operation, message, sender, stamp, at, attempts, fingerprint, answer, conversation, client, body, place)
        LEFT JOIN LATERAL (
            SELECT theirs.user_id AS receiver, mine.user_id < theirs.user_id AS is_first, conversations.last_seq,
                mine.sent AS old_sent, theirs.sent AS their_old_sent, theirs.read_count, theirs.read_seq, theirs.muted,
                COALESCE(theirs.read_ahead = one.message, false) AS is_read,
                my_head.last_offset AS my_last, their_head.last_offset AS their_last
            FROM conversation_participants AS mine
                JOIN conversation_participants AS theirs
                    ON theirs.conversation_id = mine.conversation_id AND theirs.user_id <> mine.user_id
                JOIN conversations ON conversations.id = mine.conversation_id
                JOIN user_event_heads AS my_head ON my_head.user_id = mine.user_id
                JOIN user_event_heads AS their_head ON their_head.user_id = theirs.user_id
            WHERE mine.conversation_id = one.conversation AND mine.user_id = one.sender
            OFFSET 0
        ) AS pair ON true
        LEFT JOIN LATERAL (SELECT * FROM messages WHERE id = one.message OFFSET 0) AS stored ON true
        LEFT JOIN LATERAL (
            SELECT COALESCE((SELECT chat_messages FROM notification_preferences WHERE user_id = pair.receiver), true) AS wants
            OFFSET 0
        ) AS is_told ON true
    ), ranked AS (
        SELECT *, count(*) FILTER (WHERE word = 'applied') OVER so_far AS nth,
            count(*) FILTER (WHERE word = 'applied' AND is_first) OVER so_far AS firsts
        FROM fact WINDOW so_far AS (PARTITION BY conversation ORDER BY place)
    ), counted AS (
        SELECT *, CASE WHEN is_first THEN firsts ELSE nth - firsts END AS own, CASE
            WHEN is_first THEN max(nth) FILTER (WHERE word = 'applied' AND (NOT is_first OR is_read)) OVER so_far
            ELSE max(nth) FILTER (WHERE word = 'applied' AND (is_first OR is_read)) OVER so_far END AS read_nth
        FROM ranked WINDOW so_far AS (PARTITION BY conversation ORDER BY place)
    ), side AS MATERIALIZED (
        SELECT place, true AS is_mine, sender AS user_id, my_last AS last, CASE
            WHEN word = 'applied' AND is_read THEN 3 WHEN word = 'applied' THEN 2 WHEN word = 'blocked' AND NOT p_direct THEN 1
            END AS many
        FROM fact WHERE word IN ('applied', 'blocked')
        UNION ALL
        SELECT place, false, receiver, their_last, 2 FROM fact WHERE word = 'applied'
    ), placed AS (
        SELECT place, max(before) FILTER (WHERE is_mine) AS mine, max(before) FILTER (WHERE NOT is_mine) AS theirs
        FROM (SELECT place, is_mine, last + sum(many) OVER (PARTITION BY user_id ORDER BY place) - many AS before FROM side) AS one
        GROUP BY place
    ), told AS MATERIALIZED (
        SELECT one.*, placed.mine, placed.theirs,
            CASE WHEN read_nth IS NULL THEN one.sent - one.read_count ELSE nth - read_nth END AS unread,
            COALESCE(last_seq + read_nth, read_seq) AS now_read,
            CASE
                WHEN word = 'applied' AND is_read THEN jsonb_build_object('user_id', sender, 'offset', placed.mine + 3,
                    'kind', 'message.read', 'payload', jsonb_build_object('userId', receiver, 'readSeq', seq,
                        'conversationId', conversation)::text)
                WHEN word = 'blocked' AND NOT p_direct THEN jsonb_build_object('user_id', sender,
                    'offset', placed.mine + 1, 'kind', 'message.ack', 'payload', jsonb_build_object('status', 'rejected',
                        'clientMessageId', client, 'messageId', message, 'conversationId', conversation, 'seq', NULL,
                        'createdAt', time, 'error', jsonb_build_object('code', 'blocked',
                            'message', 'One of you blocks the other.'))::text)
            END AS other
        FROM (
            SELECT *, COALESCE(stored_seq, last_seq + nth) AS seq, old_sent + own AS sent, their_old_sent + nth - own AS their_sent
            FROM counted
        ) AS one
            LEFT JOIN placed ON placed.place = one.place
    ), raised AS (
        UPDATE user_event_heads AS head SET last_offset = head.last_offset + added.many
        FROM (SELECT user_id, sum(many) AS many FROM side WHERE many > 0 GROUP BY user_id) AS added
        WHERE head.user_id = added.user_id
    ), conversation AS (
        UPDATE conversations SET last_seq = newest.seq, last_message_at = newest.at
        FROM (
            SELECT conversation, max(seq) AS seq, max(at) AS at FROM told WHERE word = 'applied' GROUP BY conversation
        ) AS newest
        WHERE conversations.id = newest.conversation
    ), participant AS (
        UPDATE conversation_participants AS one SET sent = GREATEST(one.sent, newest.sent),
            read_seq = GREATEST(one.read_seq, newest.seq), read_count = GREATEST(one.read_count, newest.read_count),
            read_ahead = CASE WHEN newest.was_ahead THEN NULL ELSE one.read_ahead END
        FROM (
            SELECT conversation, user_id, max(sent) AS sent, max(seq) AS seq, max(read_count) AS read_count,
                bool_or(was_ahead) AS was_ahead
            FROM (
                SELECT conversation, sender AS user_id, sent, seq, their_sent AS read_count, false AS was_ahead
                FROM told WHERE word = 'applied'
                UNION ALL
                SELECT conversation, receiver, 0, seq, sent, true FROM told WHERE word = 'applied' AND is_read
            ) AS changed
            GROUP BY conversation, user_id
        ) AS newest
        WHERE one.conversation_id = newest.conversation AND one.user_id = newest.user_id
    ), stored AS (
        INSERT INTO messages (id, conversation_id, seq, sender_id, sender_seq, client_message_id, content, created_at)
        SELECT message, conversation, seq, sender, sent, client, body, at FROM told WHERE word = 'applied'
    ), job AS (
        INSERT INTO notification_jobs (message_id, user_id, run_at)
        SELECT message, receiver, now() + interval '1 second' FROM told
        WHERE word = 'applied' AND wants AND NOT is_read AND NOT muted
    ), log AS (
        INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded, fingerprint,
            buffered, answer)
        SELECT operation, sender, 'message', message, 'create', stamp, attempts, word = 'superseded', fingerprint,
            NOT p_direct, CASE WHEN fingerprint IS NOT NULL THEN COALESCE(answer, jsonb_build_object(
                'kind', 'message', 'id', message, 'conversation_id', conversation, 'seq', seq, 'sender_id', sender,
                'client_message_id', client, 'content', body, 'created_at', time, 'recipient', receiver)) END
        FROM told WHERE word IN ('applied', 'superseded')
    ), entry AS (
        INSERT INTO user_events (user_id, "offset", type, message_id, unread, read_seq)
        SELECT entry.* FROM told CROSS JOIN LATERAL (VALUES
            (sender, mine + 2, 'message.new', message, 0, seq),
            (receiver, theirs + 2, 'message.new', message, unread, now_read)
        ) AS entry (user_id, "offset", type, message_id, unread, read_seq)
        WHERE word = 'applied'
    ), other AS (
        INSERT INTO user_events (user_id, "offset", type, payload)
        SELECT sender, (other ->> 'offset')::bigint, other ->> 'kind', (other ->> 'payload')::json
        FROM told WHERE other IS NOT NULL
    )
    SELECT word, CASE WHEN other IS NOT NULL THEN jsonb_build_array(other) END, message, conversation, seq, sender, client, body,
        at, receiver, word = 'superseded', mine + 2, theirs + 2, unread, now_read
    FROM told ORDER BY place;
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
