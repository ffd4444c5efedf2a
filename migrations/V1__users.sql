-- Users as they appear (profiles), and what they log in with.
--
-- Each field that an operation can set has a stamp beside it: the sixteen bytes of a hybrid logical clock stamp, which
-- compare as the stamps do. Zero is earlier than every stamp.

CREATE TABLE users (
    id               uuid        PRIMARY KEY,
    username         text        NOT NULL,
    name             text,
    avatar_url       text,
    role             text        NOT NULL DEFAULT 'user',
    status           text        NOT NULL DEFAULT 'active',
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    version          bigint      NOT NULL DEFAULT 1,
    name_stamp       bytea       NOT NULL DEFAULT '\x00000000000000000000000000000000',
    avatar_url_stamp bytea       NOT NULL DEFAULT '\x00000000000000000000000000000000',

    CONSTRAINT users_username_key           UNIQUE (username),
    CONSTRAINT users_username_check         CHECK (username ~ '^[a-z0-9_.]{3,32}$'),
    CONSTRAINT users_name_check             CHECK (char_length(name) BETWEEN 1 AND 255),
    CONSTRAINT users_avatar_url_check       CHECK (char_length(avatar_url) BETWEEN 1 AND 2048),
    CONSTRAINT users_role_check             CHECK (role IN ('user', 'admin', 'service')),
    CONSTRAINT users_status_check           CHECK (status IN ('active', 'suspended')),
    CONSTRAINT users_version_check          CHECK (version >= 1),
    CONSTRAINT users_name_stamp_check       CHECK (octet_length(name_stamp) = 16),
    CONSTRAINT users_avatar_url_stamp_check CHECK (octet_length(avatar_url_stamp) = 16)
);

CREATE TABLE credentials (
    user_id       uuid        PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    password_hash text        NOT NULL,
    email         text,
    updated_at    timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT credentials_email_check CHECK (char_length(email) BETWEEN 3 AND 320)
);
