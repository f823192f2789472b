-- Named queries: `-- name:` begins one. What is read as one page comes back as one row, its bodies joined by a
-- character that no JSON text contains, because each row costs a turn of the interpreter's lock. group_concat takes its
-- rows in the order of the subquery, whose ORDER BY SQLite keeps for it; to sort again inside would double the time.

-- name: append
INSERT INTO log (position, place, sequence, timestamp, body) VALUES (?, ?, ?, ?, ?)

-- name: find_chat
SELECT chat_key, sequence, ordinal FROM sequence_counter WHERE scope = ?

-- name: add_chat
INSERT INTO sequence_counter (chat_key, scope, sequence, ordinal) VALUES (?, ?, 0, 0)

-- name: last_chat_key
SELECT coalesce(max(chat_key), 0) FROM sequence_counter

-- name: unmoved_chats
SELECT chat_key, scope, sequence, ordinal FROM sequence_counter
WHERE chat_key IN (SELECT DISTINCT place >> 36 FROM log)

-- name: unmoved
SELECT position, place, sequence, timestamp FROM log WHERE position > ? ORDER BY position

-- name: log_bounds
SELECT coalesce(min(position), 0), coalesce(max(position), 0) FROM log

-- name: log_from
SELECT position, body FROM log WHERE position > ? ORDER BY position

-- name: log_rows
SELECT position, body FROM log WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position

-- name: move
INSERT OR IGNORE INTO message_storage (place, sequence, timestamp, body)
SELECT place, sequence, timestamp, body FROM log
WHERE position IN (SELECT value FROM json_each(?)) ORDER BY place

-- name: count_moved
UPDATE sequence_counter
SET sequence = max(sequence_counter.sequence, moved.sequence),
    ordinal = max(sequence_counter.ordinal, moved.ordinal),
    first_at = coalesce(sequence_counter.first_at, moved.first_at)
FROM (
    SELECT place >> 36 AS chat_key, coalesce(max(sequence), 0) AS sequence,
           max(place) & 0xfffffffff AS ordinal, min(timestamp) AS first_at
    FROM log WHERE position IN (SELECT value FROM json_each(?)) GROUP BY 1
) AS moved
WHERE sequence_counter.chat_key = moved.chat_key

-- name: store_undelivered
INSERT OR IGNORE INTO message_storage (place, sequence, timestamp, body)
SELECT place, sequence, timestamp, body FROM undelivered WHERE queue = 'MessageStorageQueue' AND message_id = ?

-- name: trim
DELETE FROM log WHERE position <= ?

-- name: cursors
SELECT queue, position FROM queue_cursor

-- name: set_cursor
INSERT INTO queue_cursor (queue, position) VALUES (?1, ?2)
ON CONFLICT (queue) DO UPDATE SET position = max(position, ?2)

-- name: page_up
SELECT count(*), max(place), CAST(group_concat(body, char(30)) AS BLOB) FROM (
    SELECT place, body FROM message_storage
    WHERE place BETWEEN :low AND :high AND timestamp BETWEEN :first AND :last ORDER BY place LIMIT :limit)

-- name: page_down
SELECT count(*), min(place), CAST(group_concat(body, char(30)) AS BLOB) FROM (
    SELECT place, body FROM message_storage
    WHERE place BETWEEN :low AND :high AND timestamp BETWEEN :first AND :last ORDER BY place DESC LIMIT :limit)

-- name: merged_page_up
SELECT count(*), max(place), CAST(group_concat(body, char(30)) AS BLOB) FROM (
    SELECT place, body FROM (
        SELECT * FROM (SELECT place, timestamp, body FROM message_storage
            WHERE place BETWEEN :low AND :high AND timestamp BETWEEN :first AND :last ORDER BY place LIMIT :limit)
        UNION ALL
        SELECT place, timestamp, body FROM log
            WHERE position IN (SELECT value FROM json_each(:tail))
            AND NOT EXISTS (SELECT 1 FROM message_storage AS moved WHERE moved.place = log.place)
        UNION ALL
        SELECT place, timestamp, body FROM undelivered
            WHERE queue = 'MessageStorageQueue' AND place BETWEEN :low AND :high
            AND place NOT IN (SELECT place FROM log WHERE position IN (SELECT value FROM json_each(:tail)))
            AND NOT EXISTS (SELECT 1 FROM message_storage AS moved WHERE moved.place = undelivered.place))
    WHERE place BETWEEN :low AND :high AND timestamp BETWEEN :first AND :last ORDER BY place LIMIT :limit)

-- name: merged_page_down
SELECT count(*), min(place), CAST(group_concat(body, char(30)) AS BLOB) FROM (
    SELECT place, body FROM (
        SELECT * FROM (SELECT place, timestamp, body FROM message_storage
            WHERE place BETWEEN :low AND :high AND timestamp BETWEEN :first AND :last ORDER BY place DESC LIMIT :limit)
        UNION ALL
        SELECT place, timestamp, body FROM log
            WHERE position IN (SELECT value FROM json_each(:tail))
            AND NOT EXISTS (SELECT 1 FROM message_storage AS moved WHERE moved.place = log.place)
        UNION ALL
        SELECT place, timestamp, body FROM undelivered
            WHERE queue = 'MessageStorageQueue' AND place BETWEEN :low AND :high
            AND place NOT IN (SELECT place FROM log WHERE position IN (SELECT value FROM json_each(:tail)))
            AND NOT EXISTS (SELECT 1 FROM message_storage AS moved WHERE moved.place = undelivered.place))
    WHERE place BETWEEN :low AND :high AND timestamp BETWEEN :first AND :last ORDER BY place DESC LIMIT :limit)

-- name: numbered
SELECT count(*), max(sequence), CAST(group_concat(body, char(30)) AS BLOB) FROM (
    SELECT sequence, body FROM message_storage
    WHERE place >> 36 = :chat_key AND sequence IS NOT NULL AND sequence BETWEEN :from AND :to
    AND timestamp >= :first ORDER BY sequence LIMIT :limit)

-- name: merged_numbered
SELECT count(*), max(sequence), CAST(group_concat(body, char(30)) AS BLOB) FROM (
    SELECT sequence, body FROM (
        SELECT * FROM (SELECT place, sequence, timestamp, body FROM message_storage
            WHERE place >> 36 = :chat_key AND sequence IS NOT NULL AND sequence BETWEEN :from AND :to
            AND timestamp >= :first ORDER BY sequence LIMIT :limit)
        UNION ALL
        SELECT place, sequence, timestamp, body FROM log
            WHERE position IN (SELECT value FROM json_each(:tail))
            AND NOT EXISTS (SELECT 1 FROM message_storage AS moved WHERE moved.place = log.place)
        UNION ALL
        SELECT place, sequence, timestamp, body FROM undelivered
            WHERE queue = 'MessageStorageQueue' AND place >> 36 = :chat_key
            AND place NOT IN (SELECT place FROM log WHERE position IN (SELECT value FROM json_each(:tail)))
            AND NOT EXISTS (SELECT 1 FROM message_storage AS moved WHERE moved.place = undelivered.place))
    WHERE sequence BETWEEN :from AND :to AND timestamp >= :first ORDER BY sequence LIMIT :limit)

-- name: edge_up
SELECT place, timestamp FROM message_storage WHERE place BETWEEN ? AND ? ORDER BY place LIMIT 1

-- name: edge_down
SELECT place, timestamp FROM message_storage WHERE place BETWEEN ? AND ? ORDER BY place DESC LIMIT 1

-- name: number_at
SELECT sequence, timestamp FROM message_storage
WHERE place >> 36 = ? AND sequence IS NOT NULL AND sequence >= ? ORDER BY sequence LIMIT 1

-- name: count_letter
UPDATE sequence_counter SET first_at = min(coalesce(first_at, letter.timestamp), letter.timestamp)
FROM (SELECT place, timestamp FROM undelivered WHERE queue = 'MessageStorageQueue' AND message_id = ?) AS letter
WHERE sequence_counter.chat_key = letter.place >> 36

-- name: oldest_letter
SELECT sequence, timestamp FROM undelivered
WHERE queue = 'MessageStorageQueue' AND place >> 36 = ? AND sequence IS NOT NULL AND timestamp >= ?
ORDER BY sequence LIMIT 1

-- name: last_timestamp
SELECT max(coalesce((SELECT timestamp FROM log ORDER BY position DESC LIMIT 1), 0),
           coalesce((SELECT value FROM meta WHERE name = 'last_timestamp'), 0))

-- name: expired_chats
SELECT chat_key FROM sequence_counter WHERE first_at < ? ORDER BY first_at LIMIT ?

-- name: expire
DELETE FROM message_storage WHERE place IN (
    SELECT place FROM message_storage WHERE place BETWEEN ? AND ? AND timestamp < ? ORDER BY place LIMIT ?)

-- name: set_first_at
UPDATE sequence_counter SET first_at = (
    SELECT timestamp FROM message_storage WHERE place BETWEEN ?2 AND ?3 ORDER BY place LIMIT 1)
WHERE chat_key = ?1

-- name: upsert_undelivered
INSERT INTO undelivered (queue, message_id, place, sequence, timestamp, dead, attempts, reason,
                         first_failed_at, last_failed_at, body)
VALUES (:queue, :message_id, coalesce((SELECT place FROM log WHERE position = :position), 0), :sequence, :timestamp,
        :dead, :attempts, :reason, :now, :now, :body)
ON CONFLICT (queue, message_id) DO UPDATE
SET dead = :dead, attempts = :attempts, reason = :reason, last_failed_at = :now
RETURNING letter_id

-- name: settle_undelivered
DELETE FROM undelivered WHERE queue = ? AND message_id = ?

-- name: retried
SELECT queue, attempts, body FROM undelivered WHERE dead = 0 ORDER BY place

-- name: is_undelivered
SELECT 1 FROM undelivered WHERE queue = ? AND message_id = ?

-- name: dead_letters
SELECT letter_id, queue, message_id, sequence, reason, attempts, first_failed_at, last_failed_at, body
FROM undelivered WHERE dead = 1 AND (:queue IS NULL OR queue = :queue) ORDER BY letter_id LIMIT :limit

-- name: dead_letter
SELECT letter_id, queue, message_id, sequence, reason, attempts, first_failed_at, last_failed_at, body
FROM undelivered WHERE dead = 1 AND (:queue IS NULL OR queue = :queue)
AND letter_id IN (SELECT value FROM json_each(:letter_ids))

-- name: dead_letter_ids
SELECT letter_id FROM undelivered WHERE dead = 1 ORDER BY letter_id

-- name: count_dead_letters
SELECT queue, count(*) FROM undelivered WHERE dead = 1 GROUP BY queue

-- name: storage_letters
SELECT DISTINCT place >> 36 FROM undelivered WHERE queue = 'MessageStorageQueue'

-- name: revive
UPDATE undelivered SET dead = 0, attempts = 0
WHERE dead = 1 AND letter_id IN (SELECT value FROM json_each(?))
RETURNING queue, body

-- name: purge
DELETE FROM undelivered WHERE dead = 1 AND letter_id IN (SELECT value FROM json_each(?))
RETURNING queue, place, sequence, timestamp, body

-- name: store
INSERT OR IGNORE INTO message_storage (place, sequence, timestamp, body) VALUES (?, ?, ?, ?)

-- name: role
SELECT role FROM user_chat_permissions WHERE user_id = ? AND chat_id = ?

-- name: permission
SELECT role, granted_by, granted_at, fence, revoked_at FROM user_chat_permissions WHERE user_id = ? AND chat_id = ?

-- name: count_owners
SELECT count(*) FROM user_chat_permissions WHERE chat_id = ? AND role = 'owner'

-- name: grant
INSERT INTO user_chat_permissions (user_id, chat_id, role, granted_by, granted_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (user_id, chat_id) DO UPDATE
SET role = excluded.role, granted_by = excluded.granted_by, granted_at = excluded.granted_at,
    revoked_at = NULL, fence = NULL

-- name: revoke
UPDATE user_chat_permissions SET role = NULL, revoked_at = ?3, fence = NULL WHERE user_id = ?1 AND chat_id = ?2

-- name: fence
UPDATE user_chat_permissions SET fence = ?3
WHERE user_id = ?1 AND chat_id = ?2 AND role IS NULL AND fence IS NULL

-- name: permissions_of_user
SELECT user_id, chat_id, role, granted_by, granted_at FROM user_chat_permissions
WHERE user_id = ? AND chat_id > ? AND role IS NOT NULL ORDER BY chat_id LIMIT ?

-- name: permissions_of_chat
SELECT user_id, chat_id, role, granted_by, granted_at FROM user_chat_permissions
WHERE chat_id = ? AND user_id > ? AND role IS NOT NULL ORDER BY user_id LIMIT ?

-- name: forget_tombstones
DELETE FROM user_chat_permissions WHERE (user_id, chat_id) IN (
    SELECT user_id, chat_id FROM user_chat_permissions WHERE role IS NULL AND revoked_at < ? LIMIT ?)

-- name: get_meta
SELECT value FROM meta WHERE name = ?

-- name: set_meta
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
