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
    end_position
FROM redeliveries
WHERE finished_at IS NULL AND id > :after
  AND NOT EXISTS (SELECT 1 FROM endpoints WHERE endpoints.id = redeliveries.endpoint_id AND disabled_at IS NOT NULL AND deleted_at IS NULL)
ORDER BY id LIMIT :limit;

-- name: end_redelivery
-- Where a batch ends: behind every event whose commit began before this.
UPDATE redeliveries SET end_position = COALESCE(
    /* this transaction, */ (SELECT MAX(position) + 1 FROM events WHERE events.project_id = redeliveries.project_id), -4611686018427387904)
WHERE id = :id AND end_position IS NULL
RETURNING end_position;

-- name: committed_before
-- Whether everything before this position is committed, or never will be.
SELECT CASE WHEN :position <= COALESCE(/* the oldest open transaction, */ :position, 0) THEN 1 ELSE 0 END AS committed;

-- name: advance_redelivery
-- How far a batch has come, in the commit that makes its deliveries; no row where another process has taken this step.
UPDATE redeliveries SET after_event = :after_event, made = made + :made, finished_at = :finished_at
WHERE id = :id AND after_event = :was AND finished_at IS NULL
RETURNING id;

-- name: count_events_to_redeliver
-- How many events a batch would send again; `first` and `end` are where in their order these are. The deliveries of an event are few, so
-- they are found by it: no other index may be chosen, and no list of all that the endpoint has.
SELECT COUNT(*) AS number FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND events.position >= :first AND events.position < :end
  AND events.created_at >= :since_at AND (:to_now = 1 OR events.created_at < :until_at) AND events.type <> 'relay.test'
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

-- name: events_to_redeliver
-- The next events after a place in their order, so that a job's events come in theirs: whether a batch sends them again, and whether
-- none can come before them any more. It reads as many as it gives, whatever it looks for.
SELECT events.id, events.job_id, events.created_at, events.position, CASE WHEN (1 = 1 /* and no open transaction is older */) OR events.position < :horizon THEN 1 ELSE 0 END AS settled,
  CASE WHEN events.created_at >= :since_at AND (:to_now = 1 OR events.created_at < :until_at) AND events.type <> 'relay.test'
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

-- name: deliveries_of_events_to_endpoint
-- What became of these events for one endpoint so far.
SELECT id, event_id, state FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:ids)) AND endpoint_id || '' = :endpoint_id;

-- name: make_delivery_due
-- A delivery that waits for its next attempt is due; one that is leased is being sent, and stays as it is.
UPDATE deliveries SET next_attempt_at = :now /* FROM many */ WHERE id = :id AND state || '' = 'pending' AND COALESCE(next_attempt_at, 0) > :leased_until;
