-- name: server_clock.postgres
-- The server's time in unix milliseconds. SQLite's is that of this machine.
SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now;

-- name: durability.postgres
-- Whether a COMMIT is on the server's disk. SQLite's is: relay sets that for each connection.
SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit;

-- name: count_open_jobs
-- Jobs that have not ended, made in a time, counted up to `most`: their callback URLs were signed by the newest key of then.
SELECT COUNT(*) AS number FROM (
    SELECT 1 FROM jobs
    WHERE timer IN ('submit', 'submitting', 'confirm', 'deadline') AND finished_at IS NULL AND created_at >= :first AND created_at < :last LIMIT :most
) AS open;

-- name: overdue
-- Since when the oldest delivery and the oldest timer of a job are due; what is done immediately is never due for long.
SELECT
    (SELECT MIN(next_attempt_at) FROM deliveries WHERE state = 'pending') AS delivery_at,
    (SELECT MIN(next_at) FROM jobs WHERE timer = 'submit') AS submission_at,
    (SELECT MIN(next_at) FROM jobs WHERE timer = 'deadline') AS deadline_at;

-- name: sealing_keys_seen
-- The fingerprints of the keys that seal values, and when each was first used.
SELECT fingerprint, first_seen_at FROM sealing_keys;
