-- The data folder's one database. Version 1.
-- place = chat_key << 36 | ordinal: a chat's messages lie together, in the order in which they were accepted;
-- number, timestamp and messageId ascend with it (one process stamps them all).

CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Both topics: what was accepted, in the order of acceptance; trimmed when every queue has passed.
CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,
    sequence INTEGER,
    timestamp INTEGER NOT NULL,
    body BLOB NOT NULL
);

-- The queues: up to where each is done with the log.
CREATE TABLE queue_cursor (queue TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;

-- What a queue failed at: being tried again, or dead (a dead-letter queue).
CREATE TABLE undelivered (
    letter_id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    message_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    sequence INTEGER,
    timestamp INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    first_failed_at INTEGER NOT NULL,
    last_failed_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (queue, message_id)
);

-- MessageStorageTable
CREATE TABLE message_storage (
    place INTEGER PRIMARY KEY,
    sequence INTEGER,
    timestamp INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX sequence_index ON message_storage (place >> 36, sequence) WHERE sequence IS NOT NULL;

-- SequenceCounterTable; scope is the chatId, first_at the timestamp of the oldest message in message_storage.
CREATE TABLE sequence_counter (
    chat_key INTEGER PRIMARY KEY,
    scope TEXT NOT NULL UNIQUE,
    sequence INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    first_at INTEGER
);
CREATE INDEX first_at_index ON sequence_counter (first_at) WHERE first_at IS NOT NULL;

-- UserChatPermissions; role NULL is a tombstone, which keeps the revocation's fence.
CREATE TABLE user_chat_permissions (
    user_id TEXT NOT NULL,
    chat_id TEXT NOT NULL,
    role TEXT,
    granted_by TEXT NOT NULL,
    granted_at INTEGER NOT NULL,
    revoked_at INTEGER,
    fence INTEGER,
    PRIMARY KEY (user_id, chat_id)
) WITHOUT ROWID;
CREATE INDEX chat_id_index ON user_chat_permissions (chat_id, user_id);
CREATE INDEX owner_index ON user_chat_permissions (chat_id) WHERE role = 'owner';
CREATE INDEX tombstone_index ON user_chat_permissions (revoked_at) WHERE role IS NULL;
