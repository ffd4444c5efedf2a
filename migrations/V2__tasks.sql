-- Tasks. A delete leaves a tombstone (deleted_stamp), purged after the retention time by deleted_at, the time at which
-- this database saw the delete.
--
-- user_id has no foreign key on purpose: a buffered write must never die because its user's row is provisioned later,
-- and machine accounts have no row at all.
--
-- Only what a client sent is checked: Postgres reads each check's expression anew for every statement that writes, which
-- is a good part of what the drain costs.

CREATE TABLE tasks (
    id                uuid        PRIMARY KEY,
    user_id           uuid        NOT NULL,
    title             text        NOT NULL,
    description       text,
    status            text        NOT NULL,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    version           bigint      NOT NULL,
    created_stamp     bytea       NOT NULL,
    title_stamp       bytea       NOT NULL,
    description_stamp bytea       NOT NULL,
    status_stamp      bytea       NOT NULL,
    deleted_stamp     bytea,
    deleted_at        timestamptz,

    CONSTRAINT tasks_title_check       CHECK (char_length(title) BETWEEN 1 AND 255),
    CONSTRAINT tasks_description_check CHECK (char_length(description) <= 10000),
    CONSTRAINT tasks_status_check      CHECK (status IN ('pending', 'in_progress', 'completed', 'cancelled'))
);

CREATE INDEX tasks_list_index ON tasks (user_id, created_at DESC, id DESC) WHERE deleted_stamp IS NULL;
CREATE INDEX tasks_list_by_status_index ON tasks (user_id, status, created_at DESC, id DESC) WHERE deleted_stamp IS NULL;
CREATE INDEX tasks_purge_index ON tasks (deleted_at) WHERE deleted_at IS NOT NULL;
