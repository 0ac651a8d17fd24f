-- name: insert_redelivery_batch
-- A batch of redeliveries that goes on until it is through, whatever happens to the process.
INSERT INTO redeliveries (
    id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at, to_now, first_position
) VALUES (
    :id, :project_id, :endpoint_id, :which, :since_at, :until_at, '', :total, 0, :created_at, :finished_at, :to_now, :first_position
);

-- name: open_redeliveries
-- Batches that are not through, oldest first, from one on; those of disabled endpoints wait, and keep no other from its turn.
SELECT id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at, to_now, first_position,
    end_position, canceled_at
FROM redeliveries
WHERE finished_at IS NULL AND id > :after
  AND NOT EXISTS (SELECT 1 FROM endpoints WHERE endpoints.id = redeliveries.endpoint_id AND disabled_at IS NOT NULL AND deleted_at IS NULL)
ORDER BY id LIMIT :limit;

-- name: redelivery_page
-- The batches of an endpoint, newest first.
SELECT id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at, to_now, first_position,
    end_position, canceled_at
FROM redeliveries
WHERE endpoint_id = :endpoint_id AND project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z')
ORDER BY id DESC LIMIT :limit;

-- name: redelivery_of_endpoint
-- One batch, if it is the endpoint's own.
SELECT id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at, to_now, first_position,
    end_position, canceled_at
FROM redeliveries WHERE id = :id AND endpoint_id = :endpoint_id AND project_id = :project_id;

-- name: cancel_redelivery
-- A batch ends where it is; no row where it had ended.
UPDATE redeliveries SET finished_at = :now, canceled_at = :now
WHERE id = :id AND finished_at IS NULL
RETURNING id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at, to_now, first_position,
    end_position, canceled_at;

-- name: end_redelivery
-- Where a batch ends: behind every event whose commit began before this.
UPDATE redeliveries SET end_position = COALESCE(
    (SELECT MAX(position) + 1 FROM events WHERE events.project_id = redeliveries.project_id), -4611686018427387904)
WHERE id = :id AND end_position IS NULL
RETURNING end_position;

-- name: end_redelivery.postgres
-- A position is a transaction's number in PostgreSQL.
UPDATE redeliveries SET end_position = CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)
WHERE id = :id AND end_position IS NULL
RETURNING end_position;

-- name: committed_before.postgres
-- Whether everything before this position is committed, or never will be; in SQLite it always is.
SELECT CASE WHEN :position <= CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) THEN 1 ELSE 0 END AS committed;

-- name: advance_redelivery
-- How far a batch has come, in the commit that makes its deliveries; no row if another process has made this step.
UPDATE redeliveries SET after_event = :after_event, made = made + :made, finished_at = :finished_at
WHERE id = :id AND after_event = :was AND finished_at IS NULL
RETURNING id;

-- name: count_events_to_redeliver
-- How many events a batch would send again; `first` and `end` are where in their order these are. The deliveries of an event are few, so
-- they are found by it: no other index may be chosen, and no list of all that the endpoint has.
SELECT COUNT(*) AS number FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND events.position >= :first AND events.position < :end
  AND events.created_at >= :since_at AND (:to_now = 1 OR events.created_at < :until_at) AND events.type <> 'relay.test' AND events.type NOT LIKE 'ops.%'
  AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type IN (SELECT value FROM json_each(:types)))
  AND (CAST(:providers AS TEXT) IS NULL OR jobs.provider IN (SELECT value FROM json_each(:providers)))
  AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
  AND (:which = 'all'
    OR (:which = 'missing' AND (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id LIMIT 1) IS NULL)
    OR (:which = 'failed' AND (
      SELECT MAX(CASE WHEN deliveries.state IN ('exhausted', 'canceled') THEN 0 ELSE 1 END) FROM deliveries
      WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id) = 0)
    OR (:which = 'undelivered' AND COALESCE((
      SELECT MAX(CASE WHEN deliveries.state = 'delivered' THEN 1 ELSE 0 END) FROM deliveries
      WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id), 0) = 0));

-- name: count_events_to_redeliver.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT COUNT(*) AS number FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND events.position >= :first AND events.position < :end
  AND events.created_at >= :since_at AND (:to_now = 1 OR events.created_at < :until_at) AND events.type <> 'relay.test' AND events.type NOT LIKE 'ops.%'
  AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type = ANY (:types))
  AND (CAST(:providers AS TEXT[]) IS NULL OR jobs.provider = ANY (:providers))
  AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
  AND (:which = 'all'
    OR (:which = 'missing' AND (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id LIMIT 1) IS NULL)
    OR (:which = 'failed' AND (
      SELECT MAX(CASE WHEN deliveries.state IN ('exhausted', 'canceled') THEN 0 ELSE 1 END) FROM deliveries
      WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id) = 0)
    OR (:which = 'undelivered' AND COALESCE((
      SELECT MAX(CASE WHEN deliveries.state = 'delivered' THEN 1 ELSE 0 END) FROM deliveries
      WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id), 0) = 0));

-- name: events_to_redeliver
-- The next events after a place in their order, so that a job's events come in theirs: whether a batch sends them again, and whether
-- none can come before them any more. It reads as many as it gives, whatever it looks for.
SELECT events.id, events.job_id, events.created_at, events.position, 1 AS settled,
  CASE WHEN events.created_at >= :since_at AND (:to_now = 1 OR events.created_at < :until_at) AND events.type <> 'relay.test' AND events.type NOT LIKE 'ops.%'
    AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type IN (SELECT value FROM json_each(:types)))
    AND (CAST(:providers AS TEXT) IS NULL OR jobs.provider IN (SELECT value FROM json_each(:providers)))
    AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
    AND (:which = 'all'
      OR (:which = 'missing' AND (
        SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id LIMIT 1) IS NULL)
      OR (:which = 'failed' AND (
        SELECT MAX(CASE WHEN deliveries.state IN ('exhausted', 'canceled') THEN 0 ELSE 1 END) FROM deliveries
        WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id) = 0)
      OR (:which = 'undelivered' AND COALESCE((
        SELECT MAX(CASE WHEN deliveries.state = 'delivered' THEN 1 ELSE 0 END) FROM deliveries
        WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id), 0) = 0))
    THEN 1 ELSE 0 END AS wanted
FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND (events.position, events.id) > (:position, :after)
ORDER BY events.position, events.id LIMIT :limit;

-- name: events_to_redeliver.postgres
-- A list is an array in PostgreSQL, and an event may be committed after one of a later position.
SELECT events.id, events.job_id, events.created_at, events.position,
  CASE WHEN events.position < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) OR events.position < :horizon THEN 1 ELSE 0 END
    AS settled,
  CASE WHEN events.created_at >= :since_at AND (:to_now = 1 OR events.created_at < :until_at) AND events.type <> 'relay.test' AND events.type NOT LIKE 'ops.%'
    AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type = ANY (:types))
    AND (CAST(:providers AS TEXT[]) IS NULL OR jobs.provider = ANY (:providers))
    AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
    AND (:which = 'all'
      OR (:which = 'missing' AND (
        SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id LIMIT 1) IS NULL)
      OR (:which = 'failed' AND (
        SELECT MAX(CASE WHEN deliveries.state IN ('exhausted', 'canceled') THEN 0 ELSE 1 END) FROM deliveries
        WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id) = 0)
      OR (:which = 'undelivered' AND COALESCE((
        SELECT MAX(CASE WHEN deliveries.state = 'delivered' THEN 1 ELSE 0 END) FROM deliveries
        WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id), 0) = 0))
    THEN 1 ELSE 0 END AS wanted
FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND (events.position, events.id) > (:position, :after)
ORDER BY events.position, events.id LIMIT :limit;

-- name: deliveries_of_events_to_endpoint
-- What became of these events for one endpoint so far.
SELECT id, event_id, state FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:ids)) AND endpoint_id || '' = :endpoint_id;

-- name: deliveries_of_events_to_endpoint.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id, event_id, state FROM deliveries WHERE event_id = ANY (:ids) AND endpoint_id || '' = :endpoint_id;

-- name: make_delivery_due
-- A delivery that waits for its next attempt is due; one that is leased is being sent, and stays as it is.
UPDATE deliveries SET next_attempt_at = :now
WHERE project_id = :project_id AND id = :id AND state || '' = 'pending' AND COALESCE(next_attempt_at, 0) > :leased_until;

-- name: make_delivery_due.postgres_batch
-- PostgreSQL writes a batch by one statement, and locks its rows in one order, so that no two processes wait for each other.
UPDATE deliveries SET next_attempt_at = many.now
FROM (
    SELECT * FROM unnest(
        CAST(:project_id AS TEXT[]), CAST(:id AS TEXT[]), CAST(:now AS BIGINT[]), CAST(:leased_until AS BIGINT[])
    ) AS batch (project_id, id, now, leased_until)
    ORDER BY id
) AS many
WHERE deliveries.project_id = many.project_id AND deliveries.id = many.id AND deliveries.state || '' = 'pending'
  AND COALESCE(deliveries.next_attempt_at, 0) > many.leased_until;
