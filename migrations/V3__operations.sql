-- What was committed: one row per operation, written by the statement that has the operation's effect. It makes a retry
-- or a replay of the operation a no-op. Purged after the retention time, which is longer than an operation can wait in
-- a write buffer or a client goes on retrying.

CREATE TABLE applied_operations (
    id          uuid        PRIMARY KEY,
    user_id     uuid        NOT NULL,
    entity      text        NOT NULL,
    entity_id   uuid        NOT NULL,
    kind        text        NOT NULL,
    accepted_at bytea       NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    attempts    integer     NOT NULL,
    superseded  boolean     NOT NULL,
    -- Of a request with an Idempotency-Key.
    fingerprint bytea,
    -- True when the first answer was 202.
    buffered    boolean     NOT NULL,
    -- What the first answer to a request with an Idempotency-Key showed.
    answer      jsonb
);

CREATE INDEX applied_operations_purge_index ON applied_operations (applied_at);
