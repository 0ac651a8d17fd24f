-- name: insert_event
-- A fact about a job; its sequence is unique in the job.
INSERT INTO events (id, project_id, job_id, type, sequence, final, created_at, body)
VALUES (:id, :project_id, :job_id, :type, :sequence, :final, :created_at, :body);

-- name: event_of_project
-- One event, if it is the project's own.
SELECT * FROM events WHERE id = :id AND project_id = :project_id;

-- name: event_page
-- Events of a project, newest first; `undelivered` keeps those with a delivery that is not delivered.
SELECT * FROM events
WHERE project_id = :project_id
  AND (CAST(:before AS TEXT) IS NULL OR id < :before)
  AND (CAST(:after AS TEXT) IS NULL OR id > :after)
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (CAST(:job_id AS TEXT) IS NULL OR job_id = :job_id)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY id DESC LIMIT :limit;

-- name: events_following
-- A project's events after one of them, oldest first.
SELECT * FROM events
WHERE project_id = :project_id AND id > :after AND (CAST(:type AS TEXT) IS NULL OR type = :type)
ORDER BY id LIMIT :limit;

-- name: latest_event
-- The id of a project's newest event.
SELECT MAX(id) AS id FROM events WHERE project_id = :project_id;

-- name: events_of_job
-- A job's events in order, without their bodies.
SELECT id, type, sequence, final, created_at FROM events WHERE job_id = :job_id ORDER BY sequence LIMIT :limit;

-- name: delivery_counts
-- How many deliveries of these events are in which state.
SELECT event_id, state, COUNT(*) AS number FROM deliveries
WHERE event_id IN (SELECT value FROM json_each(:ids)) GROUP BY event_id, state;

-- name: hold_events
-- Those of these events that are still here, locked, so that none is pruned while a delivery of it is being made.
SELECT id FROM events WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY id /* for update */;
