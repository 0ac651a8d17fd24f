-- name: insert_redelivery_batch
-- A batch of redeliveries that goes on until it is through, whatever happens to the process.
INSERT INTO redeliveries (id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at)
VALUES (:id, :project_id, :endpoint_id, :which, :since_at, :until_at, '', :total, 0, :created_at, :finished_at);

-- name: open_redeliveries
-- Batches that are not through, oldest first.
SELECT
    id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at
FROM redeliveries WHERE finished_at IS NULL ORDER BY id LIMIT :limit;

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
  AND events.created_at >= :since_at AND events.created_at < :until_at AND events.type <> 'relay.test'
  AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type IN (SELECT value FROM json_each(:types)))
  AND (CAST(:providers AS TEXT) IS NULL OR jobs.provider IN (SELECT value FROM json_each(:providers)))
  AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
  AND (:which = 'all'
    OR (:which = 'missing' AND (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id LIMIT 1) IS NULL)
    OR (:which = 'failed' AND (
      SELECT MAX(CASE WHEN deliveries.state IN ('exhausted', 'canceled') THEN 0 ELSE 1 END) FROM deliveries
      WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id) = 0));

-- name: events_to_redeliver
-- The next events after a place in their order, so that a job's events come in theirs: whether a batch sends them again, and whether
-- none can come before them any more. It reads as many as it gives, whatever it looks for.
SELECT events.id, events.job_id, events.created_at, CASE WHEN 1 = 1 /* and no open transaction is older */ THEN 1 ELSE 0 END AS settled,
  CASE WHEN events.created_at >= :since_at AND events.created_at < :until_at AND events.type <> 'relay.test'
    AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type IN (SELECT value FROM json_each(:types)))
    AND (CAST(:providers AS TEXT) IS NULL OR jobs.provider IN (SELECT value FROM json_each(:providers)))
    AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
    AND (:which = 'all'
      OR (:which = 'missing' AND (
        SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id LIMIT 1) IS NULL)
      OR (:which = 'failed' AND (
        SELECT MAX(CASE WHEN deliveries.state IN ('exhausted', 'canceled') THEN 0 ELSE 1 END) FROM deliveries
        WHERE deliveries.event_id = events.id AND deliveries.endpoint_id || '' = :endpoint_id) = 0))
    THEN 1 ELSE 0 END AS wanted
FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND (events.position, events.id) > (:position, :after)
ORDER BY events.position, events.id LIMIT :limit;
