-- name: insert_boot
-- The next number of a boot: each start of a process has one, and its leases name it.
INSERT INTO boots (id, name, lease_ms, held, started_at)
SELECT COALESCE(MAX(id), 0) + 1, CAST(:name AS TEXT), CAST(:lease_ms AS BIGINT), CAST(:held AS INTEGER), CAST(:now AS BIGINT) FROM boots
RETURNING id;

-- name: hold_boot
-- From now on another process can prove whether this boot lives; one that is not held is never counted as dead.
UPDATE boots SET held = 1 WHERE id = :id;

-- name: lock_boot.postgres
-- The session holds the lock of its boot's number until it ends, however its process ends. On SQLite a lock beside the file does that.
SELECT pg_try_advisory_lock(1919705465, CAST(:id AS INTEGER)) AS locked;

-- name: dead_boots
-- Boots that have ended without giving back what they leased. On SQLite one process holds the file: all others that held it are dead.
SELECT id, lease_ms FROM boots WHERE held = 1 AND ended_at IS NULL AND id <> :id;

-- name: dead_boots.postgres
-- Those of this process alone whose lock is free: a process that lost its connection takes its lock again within a moment, and after
-- a start of the server all have to, which is waited for. Where a server shows not even the own lock, nothing is known.
SELECT id, lease_ms FROM boots
WHERE held = 1 AND ended_at IS NULL AND id <> :id AND name = :name
  AND pg_postmaster_start_time() < clock_timestamp() - INTERVAL '10 seconds'
  AND EXISTS (
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND classid = 1919705465 AND objid = CAST(CAST(:id AS INTEGER) AS OID) AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND NOT EXISTS (
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND classid = 1919705465 AND objid = CAST(boots.id AS OID) AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()));

-- name: take_back_deliveries
-- What these boots had leased is due; what waits for its next attempt is not leased, and keeps its time.
UPDATE deliveries SET next_attempt_at = :now, leased_by = NULL
WHERE state = 'pending' AND next_attempt_at > :now AND next_attempt_at <= :until AND leased_by IN (SELECT value FROM json_each(:boots))
RETURNING id;

-- name: take_back_deliveries.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
UPDATE deliveries SET next_attempt_at = :now, leased_by = NULL
WHERE state = 'pending' AND next_attempt_at > :now AND next_attempt_at <= :until AND leased_by = ANY (:boots)
RETURNING id;

-- name: take_back_checks
-- The same for the status checks of a provider that were under way.
UPDATE jobs SET next_check_at = :now, checked_by = NULL
WHERE provider = :provider AND confirm_by IS NULL AND next_check_at > :now AND next_check_at <= :until
  AND checked_by IN (SELECT value FROM json_each(:boots))
RETURNING id;

-- name: take_back_checks.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
UPDATE jobs SET next_check_at = :now, checked_by = NULL
WHERE provider = :provider AND confirm_by IS NULL AND next_check_at > :now AND next_check_at <= :until AND checked_by = ANY (:boots)
RETURNING id;

-- name: take_back_confirmations
-- The same for the checks of what waits to be confirmed, which have an index of their own.
UPDATE jobs SET next_check_at = :now, checked_by = NULL
WHERE provider = :provider AND project_id = :project_id AND confirm_by IS NOT NULL AND next_check_at > :now AND next_check_at <= :until
  AND checked_by IN (SELECT value FROM json_each(:boots))
RETURNING id;

-- name: take_back_confirmations.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
UPDATE jobs SET next_check_at = :now, checked_by = NULL
WHERE provider = :provider AND project_id = :project_id AND confirm_by IS NOT NULL AND next_check_at > :now AND next_check_at <= :until
  AND checked_by = ANY (:boots)
RETURNING id;

-- name: end_boots
-- These have ended: the submissions that they began and did not finish belong to no process any more.
UPDATE boots SET ended_at = :now WHERE id IN (SELECT value FROM json_each(:boots)) AND ended_at IS NULL;

-- name: end_boots.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
UPDATE boots SET ended_at = :now WHERE id = ANY (:boots) AND ended_at IS NULL;

-- name: forget_boots
-- Boots of long ago; the own one stays, so that no number is given twice.
DELETE FROM boots WHERE COALESCE(ended_at, started_at) < :before AND id <> :id;
