-- name: prunable_jobs
-- Jobs that ended before then with nothing left to do, the longest gone first, and locked; a job that another process holds is passed over.
-- Each `IS NULL` asks an index about one row: NOT EXISTS may become a join with the whole table, by a plan made when that was small.
SELECT id, project_id, provider, state, finished_at, doc, metadata FROM jobs JOIN job_requests ON job_id = id
WHERE timer = 'finished' AND next_at < :before
  AND (SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
  AND (SELECT 1 FROM payments WHERE payments.job_id = jobs.id AND payments.next_proof_at IS NOT NULL LIMIT 1) IS NULL
ORDER BY next_at LIMIT :limit;

-- name: prunable_jobs.postgres
-- PostgreSQL locks the rows, and passes over those that another process has locked.
SELECT id, project_id, provider, state, finished_at, doc, metadata FROM jobs JOIN job_requests ON job_id = id
WHERE timer = 'finished' AND next_at < :before
  AND (SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
  AND (SELECT 1 FROM payments WHERE payments.job_id = jobs.id AND payments.next_proof_at IS NOT NULL LIMIT 1) IS NULL
ORDER BY next_at LIMIT :limit FOR UPDATE OF jobs SKIP LOCKED;

-- name: events_to_hold
-- The events of these jobs, locked as `hold_events` locks them; one that is being sent again is passed over.
SELECT id, project_id, job_id FROM events WHERE job_id IN (SELECT value FROM json_each(:jobs));

-- name: events_to_hold.postgres
-- PostgreSQL locks the rows, and passes over those that another process has locked.
SELECT id, project_id, job_id FROM events WHERE job_id = ANY (:jobs) FOR UPDATE SKIP LOCKED;

-- name: jobs_to_prune
-- Of these jobs, seen again with the locks held, those that may go, with how much is stored of each.
SELECT id,
    (SELECT COUNT(*) FROM callbacks WHERE callbacks.job_id = jobs.id) AS callbacks,
    (SELECT COALESCE(SUM(size), 0) FROM callbacks WHERE callbacks.job_id = jobs.id) AS bytes,
    (SELECT COUNT(*) FROM calls WHERE calls.job_id = jobs.id) AS calls,
    (SELECT COUNT(*) FROM events WHERE events.job_id = jobs.id) AS events,
    (SELECT COUNT(*) FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id) AS deliveries,
    (SELECT COALESCE(SUM(attempts_made), 0) FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id) AS attempts,
    (SELECT COUNT(*) FROM endpoints WHERE endpoints.job_id = jobs.id) AS endpoints
FROM jobs
WHERE id IN (SELECT value FROM json_each(:jobs))
  AND (SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
  AND (SELECT 1 FROM events WHERE events.job_id = jobs.id AND events.id NOT IN (SELECT value FROM json_each(:events)) LIMIT 1) IS NULL
ORDER BY finished_at;

-- name: jobs_to_prune.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id,
    (SELECT COUNT(*) FROM callbacks WHERE callbacks.job_id = jobs.id) AS callbacks,
    (SELECT COALESCE(SUM(size), 0) FROM callbacks WHERE callbacks.job_id = jobs.id) AS bytes,
    (SELECT COUNT(*) FROM calls WHERE calls.job_id = jobs.id) AS calls,
    (SELECT COUNT(*) FROM events WHERE events.job_id = jobs.id) AS events,
    (SELECT COUNT(*) FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id) AS deliveries,
    (SELECT COALESCE(SUM(attempts_made), 0) FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id) AS attempts,
    (SELECT COUNT(*) FROM endpoints WHERE endpoints.job_id = jobs.id) AS endpoints
FROM jobs
WHERE id = ANY (:jobs)
  AND (SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
  AND (SELECT 1 FROM events WHERE events.job_id = jobs.id AND events.id <> ALL (:events) LIMIT 1) IS NULL
ORDER BY finished_at;

-- name: insert_tombstone
-- What is left of a job, in the commit that removes it.
INSERT INTO tombstones (job_id, project_id, provider, state, finished_at, pruned_at, expires_at)
VALUES (:job_id, :project_id, :provider, :state, :finished_at, :pruned_at, :expires_at);

-- name: insert_tombstone.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO tombstones (job_id, project_id, provider, state, finished_at, pruned_at, expires_at)
SELECT * FROM unnest(
    CAST(:job_id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:provider AS TEXT[]), CAST(:state AS TEXT[]),
    CAST(:finished_at AS BIGINT[]), CAST(:pruned_at AS BIGINT[]), CAST(:expires_at AS BIGINT[])
);

-- name: prune_job_metadata
-- One `key=value` of a job that goes.
DELETE FROM job_metadata WHERE project_id = :project_id AND pair = :pair AND job_id = :job_id;

-- name: prune_callbacks_of_jobs
-- What came in about these jobs.
DELETE FROM callbacks WHERE job_id IN (SELECT value FROM json_each(:jobs));

-- name: prune_callbacks_of_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM callbacks WHERE job_id = ANY (:jobs);

-- name: prune_reprocessings_of_jobs
-- How these jobs' callbacks were run again.
DELETE FROM reprocessings WHERE job_id IN (SELECT value FROM json_each(:jobs));

-- name: prune_reprocessings_of_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM reprocessings WHERE job_id = ANY (:jobs);

-- name: prune_calls_of_jobs
-- What these jobs' providers were asked.
DELETE FROM calls WHERE job_id IN (SELECT value FROM json_each(:jobs));

-- name: prune_calls_of_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM calls WHERE job_id = ANY (:jobs);

-- name: prune_endpoints_of_jobs
-- The endpoints that were made for these jobs alone.
DELETE FROM endpoints WHERE job_id IN (SELECT value FROM json_each(:jobs));

-- name: prune_endpoints_of_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM endpoints WHERE job_id = ANY (:jobs);

-- name: forget_headers_of_payments
-- What these jobs cost stays in the ledger; the authorization that was sent is of no more use.
UPDATE payments SET header = :nothing WHERE job_id IN (SELECT value FROM json_each(:jobs));

-- name: forget_headers_of_payments.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
UPDATE payments SET header = :nothing WHERE job_id = ANY (:jobs);

-- name: prune_requests_of_jobs
-- What these jobs were made of.
DELETE FROM job_requests WHERE job_id IN (SELECT value FROM json_each(:jobs));

-- name: prune_requests_of_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM job_requests WHERE job_id = ANY (:jobs);

-- name: prune_jobs
-- The jobs themselves.
DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(:jobs));

-- name: prune_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM jobs WHERE id = ANY (:jobs);

-- name: prunable_events
-- Events of no job, made before then, without a pending delivery; locked.
SELECT id, project_id FROM events
WHERE job_id IS NULL AND created_at < :before
  AND (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
ORDER BY created_at LIMIT :limit;

-- name: prunable_events.postgres
-- PostgreSQL locks the rows, and passes over those that another process has locked.
SELECT id, project_id FROM events
WHERE job_id IS NULL AND created_at < :before
  AND (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED;

-- name: events_to_prune
-- Of these events, seen again with the locks held, those that may go, with how much is stored of each.
SELECT id, project_id,
    (SELECT COUNT(*) FROM deliveries WHERE deliveries.event_id = events.id) AS deliveries,
    (SELECT COALESCE(SUM(attempts_made), 0) FROM deliveries WHERE deliveries.event_id = events.id) AS attempts
FROM events
WHERE project_id IN (SELECT value FROM json_each(:projects)) AND id IN (SELECT value FROM json_each(:events))
  AND (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
ORDER BY created_at;

-- name: events_to_prune.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id, project_id,
    (SELECT COUNT(*) FROM deliveries WHERE deliveries.event_id = events.id) AS deliveries,
    (SELECT COALESCE(SUM(attempts_made), 0) FROM deliveries WHERE deliveries.event_id = events.id) AS attempts
FROM events
WHERE project_id = ANY (:projects) AND id = ANY (:events)
  AND (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
ORDER BY created_at;

-- name: prune_attempts_of_events
-- The attempts at telling of these events.
DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:events)));

-- name: prune_attempts_of_events.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE event_id = ANY (:events));

-- name: prune_deliveries_of_events
-- The deliveries of these events.
DELETE FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:events));

-- name: prune_deliveries_of_events.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM deliveries WHERE event_id = ANY (:events);

-- name: prune_events
-- The events themselves.
DELETE FROM events WHERE project_id IN (SELECT value FROM json_each(:projects)) AND id IN (SELECT value FROM json_each(:events));

-- name: prune_events.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM events WHERE project_id = ANY (:projects) AND id = ANY (:events);

-- name: prunable_callbacks
-- Callbacks that came before then for jobs that are not here; locked.
SELECT id, project_id, size AS bytes FROM callbacks
WHERE disposition = 'orphaned' AND received_at < :before AND (SELECT 1 FROM jobs WHERE jobs.id = callbacks.job_id) IS NULL
ORDER BY received_at LIMIT :limit;

-- name: prunable_callbacks.postgres
-- PostgreSQL locks the rows, and passes over those that another process has locked.
SELECT id, project_id, size AS bytes FROM callbacks
WHERE disposition = 'orphaned' AND received_at < :before AND (SELECT 1 FROM jobs WHERE jobs.id = callbacks.job_id) IS NULL
ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED;

-- name: prune_callbacks
-- These callbacks.
DELETE FROM callbacks
WHERE project_id IN (SELECT value FROM json_each(:projects)) AND id IN (SELECT value FROM json_each(:callbacks));

-- name: prune_callbacks.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM callbacks
WHERE project_id = ANY (:projects) AND id = ANY (:callbacks);

-- name: prune_redeliveries
-- Batches that were through before then.
DELETE FROM redeliveries WHERE id IN (
    SELECT id FROM redeliveries WHERE finished_at < :before ORDER BY finished_at LIMIT :limit
)
RETURNING id;

-- name: prune_redeliveries.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT id FROM redeliveries WHERE finished_at < :before ORDER BY finished_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM redeliveries WHERE id IN (SELECT id FROM chosen)
RETURNING id;

-- name: prune_endpoints
-- Endpoints that were deleted before then and that no delivery names any more.
DELETE FROM endpoints WHERE id IN (
    SELECT id FROM endpoints
    WHERE deleted_at < :before AND (SELECT 1 FROM deliveries WHERE deliveries.endpoint_id = endpoints.id LIMIT 1) IS NULL
    ORDER BY deleted_at LIMIT :limit
)
RETURNING id;

-- name: prune_endpoints.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT id FROM endpoints
    WHERE deleted_at < :before AND (SELECT 1 FROM deliveries WHERE deliveries.endpoint_id = endpoints.id LIMIT 1) IS NULL
    ORDER BY deleted_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM endpoints WHERE id IN (SELECT id FROM chosen)
RETURNING id;

-- name: prune_tombstones
-- Tombstones of jobs whose callback URL no longer works.
DELETE FROM tombstones WHERE job_id IN (
    SELECT job_id FROM tombstones WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit
)
RETURNING job_id;

-- name: prune_tombstones.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT job_id FROM tombstones WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM tombstones WHERE job_id IN (SELECT job_id FROM chosen)
RETURNING job_id;

-- name: prune_endpoint_history
-- What happened to endpoints before then.
DELETE FROM endpoint_history WHERE id IN (SELECT id FROM endpoint_history WHERE at < :before ORDER BY at LIMIT :limit)
RETURNING id;

-- name: prune_endpoint_history.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT id FROM endpoint_history WHERE at < :before ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM endpoint_history WHERE id IN (SELECT id FROM chosen)
RETURNING id;

-- name: leave_copies_of_jobs
-- Queues what was written of their copies that are still being made.
INSERT INTO objects_left (bucket, key, due_at)
SELECT bucket, key, CAST(:due_at AS BIGINT) FROM copies WHERE job_id IN (SELECT value FROM json_each(:jobs)) AND state = 'pending' AND key IS NOT NULL
ON CONFLICT (bucket, key) DO UPDATE SET due_at = excluded.due_at;

-- name: leave_copies_of_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
INSERT INTO objects_left (bucket, key, due_at)
SELECT bucket, key, CAST(:due_at AS BIGINT) FROM copies WHERE job_id = ANY (:jobs) AND state = 'pending' AND key IS NOT NULL
ON CONFLICT (bucket, key) DO UPDATE SET due_at = excluded.due_at;

-- name: prune_copies_of_jobs
-- Their copies; one whose object a retention will delete stays until that is done.
DELETE FROM copies WHERE job_id IN (SELECT value FROM json_each(:jobs)) AND (state <> 'archived' OR :copies_kept = 1);

-- name: prune_copies_of_jobs.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
DELETE FROM copies WHERE job_id = ANY (:jobs) AND (state <> 'archived' OR CAST(:copies_kept AS INTEGER) = 1);

-- name: count_prunable
-- How much there is to prune, by table; what is stored of a job goes with it and is not counted.
SELECT 'jobs' AS kind, COUNT(*) AS number FROM jobs
WHERE timer = 'finished' AND next_at < :before
  AND (SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id WHERE events.job_id = jobs.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
  AND (SELECT 1 FROM payments WHERE payments.job_id = jobs.id AND payments.next_proof_at IS NOT NULL LIMIT 1) IS NULL
UNION ALL
SELECT 'events', COUNT(*) FROM events
WHERE job_id IS NULL AND created_at < :before
  AND (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.finished_at IS NULL LIMIT 1) IS NULL
UNION ALL
SELECT 'callbacks', COUNT(*) FROM callbacks
WHERE disposition = 'orphaned' AND received_at < :before AND (SELECT 1 FROM jobs WHERE jobs.id = callbacks.job_id) IS NULL
UNION ALL
SELECT 'redeliveries', COUNT(*) FROM redeliveries WHERE finished_at < :before
UNION ALL
SELECT 'endpoints', COUNT(*) FROM endpoints
WHERE deleted_at < :before AND (SELECT 1 FROM deliveries WHERE deliveries.endpoint_id = endpoints.id LIMIT 1) IS NULL
UNION ALL
SELECT 'tombstones', COUNT(*) FROM tombstones WHERE expires_at <= :now
UNION ALL
SELECT 'alerts', COUNT(*) FROM alerts WHERE ended_at < :before
UNION ALL
SELECT 'endpoint_history', COUNT(*) FROM endpoint_history WHERE at < :before;

-- name: tombstones_by_id
-- What is left of these jobs, where they were pruned.
SELECT job_id, project_id, state, pruned_at FROM tombstones WHERE job_id IN (SELECT value FROM json_each(:ids));

-- name: tombstones_by_id.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT job_id, project_id, state, pruned_at FROM tombstones WHERE job_id = ANY (:ids);

-- name: callbacks_kept
-- How many callbacks are kept about these jobs, and how large they are.
SELECT job_id, COUNT(*) AS number, SUM(LENGTH(body) + LENGTH(headers)) AS bytes FROM callbacks WHERE job_id IN (SELECT value FROM json_each(:ids)) GROUP BY job_id;

-- name: callbacks_kept.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT job_id, COUNT(*) AS number, SUM(LENGTH(body) + LENGTH(headers)) AS bytes FROM callbacks WHERE job_id = ANY (:ids) GROUP BY job_id;

-- name: callback_bytes
-- How many bytes of callbacks are kept about these jobs.
SELECT job_id, SUM(LENGTH(body) + LENGTH(headers)) AS bytes FROM callbacks WHERE job_id IN (SELECT value FROM json_each(:ids)) GROUP BY job_id;

-- name: callback_bytes.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT job_id, SUM(LENGTH(body) + LENGTH(headers)) AS bytes FROM callbacks WHERE job_id = ANY (:ids) GROUP BY job_id;
