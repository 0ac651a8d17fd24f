-- name: insert_redelivery_batch
-- A batch of redeliveries that goes on until it is through, whatever happens to the process.
INSERT INTO redeliveries (id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at)
VALUES (:id, :project_id, :endpoint_id, :which, :since_at, :until_at, '', :total, 0, :created_at, :finished_at);

-- name: open_redeliveries
-- Batches that are not through, oldest first.
SELECT * FROM redeliveries WHERE finished_at IS NULL ORDER BY id LIMIT :limit;

-- name: advance_redelivery
-- How far a batch has come, in the commit that makes its deliveries.
UPDATE redeliveries SET after_event = :after_event, made = made + :made, finished_at = :finished_at WHERE id = :id AND finished_at IS NULL;

-- name: count_events_to_redeliver
-- How many events a batch would send again.
SELECT COUNT(*) AS number FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND events.created_at >= :since_at AND events.created_at < :until_at AND events.id > :after_event AND events.type <> 'relay.test'
  AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type IN (SELECT value FROM json_each(:types)))
  AND (CAST(:providers AS TEXT) IS NULL OR jobs.provider IN (SELECT value FROM json_each(:providers)))
  AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
  AND (:which = 'all'
    OR (:which = 'missing' AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id = :endpoint_id))
    OR (:which = 'failed'
      AND EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id = :endpoint_id
        AND deliveries.state IN ('exhausted', 'canceled'))
      AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id = :endpoint_id
        AND deliveries.state IN ('delivered', 'pending'))));

-- name: events_to_redeliver
-- The next events of a batch, oldest first, so that a job's events come in their order.
SELECT events.id, events.job_id FROM events LEFT JOIN jobs ON jobs.id = events.job_id
WHERE events.project_id = :project_id AND events.created_at >= :since_at AND events.created_at < :until_at AND events.id > :after_event AND events.type <> 'relay.test'
  AND (:any_type = 1 OR (:any_job_type = 1 AND events.type LIKE 'job.%') OR events.type IN (SELECT value FROM json_each(:types)))
  AND (CAST(:providers AS TEXT) IS NULL OR jobs.provider IN (SELECT value FROM json_each(:providers)))
  AND (CAST(:job_id AS TEXT) IS NULL OR events.job_id = :job_id)
  AND (:which = 'all'
    OR (:which = 'missing' AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id = :endpoint_id))
    OR (:which = 'failed'
      AND EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id = :endpoint_id
        AND deliveries.state IN ('exhausted', 'canceled'))
      AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.endpoint_id = :endpoint_id
        AND deliveries.state IN ('delivered', 'pending'))))
ORDER BY events.id LIMIT :limit;
