-- name: insert_event
-- A fact about a job; its sequence is unique in the job. Its position is its transaction's number, or where one writes, the next.
INSERT INTO events (id, project_id, job_id, type, sequence, final, created_at, body, position)
VALUES (:id, :project_id, :job_id, :type, :sequence, :final, :created_at, :body,
  COALESCE(/* this transaction, */ (SELECT MAX(position) + 1 FROM events WHERE project_id = :project_id), -4611686018427387904));

-- name: event_of_project
-- One event, if it is the project's own.
SELECT id, project_id, job_id, type, sequence, final, created_at, body FROM events WHERE id = :id AND project_id = :project_id;

-- name: event_page
-- Events of a project, newest first; `undelivered` keeps those with a delivery that is not delivered; `floor` is the last that is looked at.
SELECT id, project_id, job_id, type, sequence, final, created_at, body FROM events
WHERE project_id = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY id DESC LIMIT :limit;

-- name: event_floor
-- The last event that a page looks at, whatever it looks for.
SELECT id FROM events WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: event_page_of_job
-- The same of one job, found by it; `follows` keeps those after a place that nothing can come before any more.
SELECT id, project_id, job_id, type, sequence, final, created_at, body FROM events
WHERE job_id = :job_id AND project_id || '' = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z')
  AND (:follows = 0
    OR ((position, id) > (:position, :after)
      AND ((1 = 1 /* and no open transaction is older */) OR position < :horizon OR created_at < :patience)))
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY id DESC LIMIT :limit;

-- name: event_page_after
-- Events of a project after one place in their order and before another, the last first; none that something may still come before.
SELECT id, project_id, job_id, type, sequence, final, created_at, body, position FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :after) AND (position, id) < (:end, :before)
  AND ((1 = 1 /* and no open transaction is older */) OR position < :horizon OR created_at < :patience)
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY position DESC, id DESC LIMIT :limit;

-- name: event_floor_after
-- Between two places, the last event that a page looks at, from the end backwards.
SELECT position, id FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :after) AND (position, id) < (:end, :before)
ORDER BY position DESC, id DESC LIMIT 1 OFFSET :window;

-- name: events_following
-- A project's next events after a place in their order, of whatever type, so that whoever waits for one type moves on too; the others
-- come without their bodies. `settled` is whether none can come before it any more.
SELECT id, project_id, job_id, type, sequence, final, created_at, position,
    CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN body END AS body,
    CASE WHEN (1 = 1 /* and no open transaction is older */) OR position < :horizon THEN 1 ELSE 0 END AS settled
FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :id)
ORDER BY position, id LIMIT :limit;

-- name: event_place
-- Where an event of the project stands.
SELECT position, id FROM events WHERE id = :id AND project_id = :project_id;

-- name: first_event_after
-- Where the events begin whose ids are newer than one that is not there. Ids and order agree but for a few, so few are looked at.
SELECT MIN(position) AS position FROM (
    SELECT position FROM events WHERE project_id = :project_id AND id > :id ORDER BY id LIMIT :window
) AS newer;

-- name: position_in_time
-- Before which position a project's events were made before a time; found by halving, since their order goes with their times.
WITH RECURSIVE search (low, high) AS (
    SELECT
        (SELECT MIN(position) FROM events WHERE project_id = :project_id),
        (SELECT MAX(position) FROM events WHERE project_id = :project_id) + 1
    UNION ALL
    SELECT
        CASE WHEN (
            SELECT created_at FROM events WHERE project_id = :project_id AND position >= search.low + (search.high - search.low) / 2
            ORDER BY position, id LIMIT 1
        ) < :at THEN search.low + (search.high - search.low) / 2 + 1 ELSE search.low END,
        CASE WHEN (
            SELECT created_at FROM events WHERE project_id = :project_id AND position >= search.low + (search.high - search.low) / 2
            ORDER BY position, id LIMIT 1
        ) < :at THEN search.high ELSE search.low + (search.high - search.low) / 2 END
    FROM search WHERE search.low < search.high
)
SELECT low AS position FROM search WHERE low = high;

-- name: horizon
-- In PostgreSQL the first transaction of this database that may still be open: what other databases of the server do does not count.
-- The snapshot is taken before the sessions are looked at, and what is read with this is read after it: whatever has a lower number was
-- begun before the one and has ended before the other. Transactions count in 64 bits, sessions show the lower 32.
SELECT /* the first open transaction here */ 0 AS position;

-- name: latest_event
-- A project's last event that no other can come before; one that was made before `patience` counts as such.
SELECT position, id FROM events
WHERE project_id = :project_id AND ((1 = 1 /* and no open transaction is older */) OR position < :horizon OR created_at < :patience)
ORDER BY position DESC, id DESC LIMIT 1;

-- name: count_positions_anew
-- In PostgreSQL, after a restore to a server that counts its transactions from a lower number: below what comes, in their order.
-- Usually there is none, and then the place to begin at is NULL, so that no event is looked at.
WITH behind (first) AS (SELECT -9223372036854775807 FROM projects WHERE EXISTS (
  SELECT 1 FROM events AS ahead WHERE ahead.project_id = projects.id AND (1 = 0 /* or no transaction here had its number */)) LIMIT 1)
UPDATE events SET position = position - (SELECT MAX(position) + 1 FROM events)
WHERE project_id IN (SELECT id FROM projects) AND position >= (SELECT first FROM behind);

-- name: forget_positions_of_endpoints
-- Where the positions of events are about to be counted anew, those that were noted of disabled endpoints say nothing any more.
WITH behind (first) AS (SELECT -9223372036854775807 FROM projects WHERE EXISTS (
  SELECT 1 FROM events AS ahead WHERE ahead.project_id = projects.id AND (1 = 0 /* or no transaction here had its number */)) LIMIT 1)
UPDATE endpoints SET disabled_position = NULL WHERE disabled_position >= (SELECT first FROM behind);

-- name: forget_positions_of_redeliveries
-- The same of the batches that are not through: they go by their times.
WITH behind (first) AS (SELECT -9223372036854775807 FROM projects WHERE EXISTS (
  SELECT 1 FROM events AS ahead WHERE ahead.project_id = projects.id AND (1 = 0 /* or no transaction here had its number */)) LIMIT 1)
UPDATE redeliveries SET first_position = NULL, end_position = NULL WHERE finished_at IS NULL AND (SELECT first FROM behind) IS NOT NULL;

-- name: events_of_job
-- A job's events in order, without their bodies.
SELECT id, type, sequence, final, created_at FROM events WHERE job_id = :job_id ORDER BY sequence LIMIT :limit;

-- name: delivery_counts
-- How many deliveries of these events are in which state.
SELECT event_id, state, COUNT(*) AS number FROM deliveries
WHERE event_id IN (SELECT value FROM json_each(:ids)) GROUP BY event_id, state;

-- name: hold_events
-- Those of these events that are still here, locked, so that none is pruned while a delivery of it is being made.
SELECT id FROM events
WHERE project_id IN (SELECT value FROM json_each(:projects)) AND id IN (SELECT value FROM json_each(:ids))
ORDER BY id /* for update */;
