-- name: insert_event
-- A fact about a job; its sequence is unique in the job. Its position is the next of its project.
INSERT INTO events (id, project_id, job_id, type, sequence, final, created_at, body, position)
VALUES (:id, :project_id, :job_id, :type, :sequence, :final, :created_at, :body,
  COALESCE((SELECT MAX(position) + 1 FROM events WHERE project_id = :project_id), -4611686018427387904));

-- name: insert_event.postgres_batch
-- PostgreSQL writes a batch by one statement. Its transactions are numbered as they begin to write, never twice: that is the position.
INSERT INTO events (id, project_id, job_id, type, sequence, final, created_at, body, position)
SELECT id, project_id, job_id, type, sequence, final, created_at, body, CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)
FROM unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:job_id AS TEXT[]), CAST(:type AS TEXT[]), CAST(:sequence AS INTEGER[]),
    CAST(:final AS INTEGER[]), CAST(:created_at AS BIGINT[]), CAST(:body AS BYTEA[])
) AS many (id, project_id, job_id, type, sequence, final, created_at, body);

-- name: event_of_project
-- One event, if it is the project's own.
SELECT id, project_id, job_id, type, sequence, final, created_at, body,
    (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input, (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
FROM events WHERE id = :id AND project_id = :project_id;

-- name: event_page
-- Events of a project, newest first; `undelivered` keeps those with a delivery that is not delivered; `floor` is the last that is read.
SELECT id, project_id, job_id, type, sequence, final, created_at, body,
    (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input, (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
FROM events
WHERE project_id = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY id DESC LIMIT :limit;

-- name: event_floor
-- The last event that a page reads, whatever its filter.
SELECT id FROM events WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: event_page_of_job
-- The same of one job, found by it; `follows` keeps those after a place that nothing can come before any more.
SELECT id, project_id, job_id, type, sequence, final, created_at, body,
    (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input, (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
FROM events
WHERE job_id = :job_id AND project_id || '' = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z')
  AND (:follows = 0
    OR (position, id) > (:position, :after))
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY id DESC LIMIT :limit;

-- name: event_page_of_job.postgres
-- In PostgreSQL an event may be committed after one of a later position: nothing is read past a transaction that is open.
SELECT id, project_id, job_id, type, sequence, final, created_at, body,
    (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input, (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
FROM events
WHERE job_id = :job_id AND project_id || '' = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z')
  AND (:follows = 0
    OR ((position, id) > (:position, :after)
      AND (position < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) OR position < :horizon OR created_at < :patience)))
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY id DESC LIMIT :limit;

-- name: event_page_after
-- Events of a project after one place in their order and before another, the last first; none that something may still come before.
SELECT id, project_id, job_id, type, sequence, final, created_at, body, position,
    (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input, (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :after) AND (position, id) < (:end, :before)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY position DESC, id DESC LIMIT :limit;

-- name: event_page_after.postgres
-- In PostgreSQL an event may be committed after one of a later position: nothing is read past a transaction that is open.
SELECT id, project_id, job_id, type, sequence, final, created_at, body, position,
    (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input, (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :after) AND (position, id) < (:end, :before)
  AND (position < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) OR position < :horizon OR created_at < :patience)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
  AND (CAST(:type AS TEXT) IS NULL OR type = :type)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.state <> 'delivered'
  ))
ORDER BY position DESC, id DESC LIMIT :limit;

-- name: event_floor_after
-- Between two places, the last event that a page reads, from the end backwards.
SELECT position, id FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :after) AND (position, id) < (:end, :before)
ORDER BY position DESC, id DESC LIMIT 1 OFFSET :window;

-- name: events_following
-- A project's next events after a place in their order, of whatever type, so that a reader of one type moves on too; the others
-- come without their bodies. `settled` is whether none can come before it any more.
SELECT id, project_id, job_id, type, sequence, final, created_at, position,
    CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN body END AS body,
    (SELECT input FROM job_requests WHERE job_requests.job_id = CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN events.job_id END) AS job_input,
    (SELECT request FROM job_requests WHERE job_requests.job_id = CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN events.job_id END) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN events.job_id END) AS job_metadata,
    1 AS settled
FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :id)
ORDER BY position, id LIMIT :limit;

-- name: events_following.postgres
-- In PostgreSQL an event may be committed after one of a later position: nothing is read past a transaction that is open.
SELECT id, project_id, job_id, type, sequence, final, created_at, position,
    CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN body END AS body,
    (SELECT input FROM job_requests WHERE job_requests.job_id = CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN events.job_id END) AS job_input,
    (SELECT request FROM job_requests WHERE job_requests.job_id = CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN events.job_id END) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = CASE WHEN CAST(:type AS TEXT) IS NULL OR type = :type THEN events.job_id END) AS job_metadata,
    CASE WHEN position < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) OR position < :horizon THEN 1 ELSE 0 END AS settled
FROM events
WHERE project_id = :project_id AND (position, id) > (:position, :id)
ORDER BY position, id LIMIT :limit;

-- name: event_place
-- Where an event of the project stands.
SELECT position, id FROM events WHERE id = :id AND project_id = :project_id;

-- name: first_event_after
-- Where the events begin whose ids are newer than one that is not there. Ids and order agree but for a few, so few are read.
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

-- name: horizon.postgres
-- The first transaction of this database that may still be open: what other databases of the server do does not count. SQLite has none.
-- The snapshot is made before the sessions are read, and what is read with this is read after it: a transaction with a lower number
-- began before the snapshot and ended before the read. Transactions count in 64 bits, sessions show the lower 32.
SELECT LEAST(
    CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT),
    (
        SELECT MIN(newest - CASE WHEN behind < 2147483648 THEN behind ELSE behind - 4294967296 END) FROM (
            SELECT newest, (newest - CAST(CAST(backend_xid AS TEXT) AS BIGINT)) & 4294967295 AS behind
            FROM pg_stat_activity,
                (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT) AS newest) AS now
            WHERE datname = current_database() AND backend_xid IS NOT NULL
        ) AS sessions
    )
) AS position;

-- name: latest_event
-- A project's last event that no other can come before; one that was made before `patience` counts as such.
SELECT position, id FROM events
WHERE project_id = :project_id
ORDER BY position DESC, id DESC LIMIT 1;

-- name: latest_event.postgres
-- In PostgreSQL an event may be committed after one of a later position: nothing is read past a transaction that is open.
SELECT position, id FROM events
WHERE project_id = :project_id AND (position < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) OR position < :horizon OR created_at < :patience)
ORDER BY position DESC, id DESC LIMIT 1;

-- name: count_positions_anew.postgres
-- After a restore to a server that counts its transactions from a lower number: positions are moved below what comes, in their order.
-- Usually there is none, and then the place to begin at is NULL, so that no event is read. SQLite's positions count by themselves.
WITH behind (first) AS (
    SELECT -9223372036854775807 FROM projects WHERE EXISTS (
        SELECT 1 FROM events
        WHERE events.project_id = projects.id AND events.position >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)
    ) LIMIT 1
)
UPDATE events SET position = position - (SELECT MAX(position) + 1 FROM events)
WHERE project_id IN (SELECT id FROM projects) AND position >= (SELECT first FROM behind);

-- name: forget_positions_of_endpoints.postgres
-- Where the positions of events are about to be counted anew, those that were noted of disabled endpoints say nothing any more.
WITH behind (first) AS (
    SELECT -9223372036854775807 FROM projects WHERE EXISTS (
        SELECT 1 FROM events
        WHERE events.project_id = projects.id AND events.position >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)
    ) LIMIT 1
)
UPDATE endpoints SET disabled_position = NULL WHERE disabled_position >= (SELECT first FROM behind);

-- name: forget_positions_of_redeliveries.postgres
-- The positions of redeliveries that are not through, likewise: they go by their times.
WITH behind (first) AS (
    SELECT -9223372036854775807 FROM projects WHERE EXISTS (
        SELECT 1 FROM events
        WHERE events.project_id = projects.id AND events.position >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)
    ) LIMIT 1
)
UPDATE redeliveries SET first_position = NULL, end_position = NULL WHERE finished_at IS NULL AND (SELECT first FROM behind) IS NOT NULL;

-- name: events_of_job
-- A job's events in order, without their bodies.
SELECT id, type, sequence, final, created_at FROM events WHERE job_id = :job_id ORDER BY sequence LIMIT :limit;

-- name: delivery_counts
-- How many deliveries of these events are in which state.
SELECT event_id, state, COUNT(*) AS number FROM deliveries
WHERE event_id IN (SELECT value FROM json_each(:ids)) GROUP BY event_id, state;

-- name: delivery_counts.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT event_id, state, COUNT(*) AS number FROM deliveries
WHERE event_id = ANY (:ids) GROUP BY event_id, state;

-- name: endpoints_reached
-- How many endpoints want each of these events, and how many of them have accepted it, by whichever delivery.
SELECT event_id, COUNT(DISTINCT endpoint_id) AS endpoints,
  COUNT(DISTINCT CASE WHEN state = 'delivered' THEN endpoint_id END) AS delivered
FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:ids)) GROUP BY event_id;

-- name: endpoints_reached.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT event_id, COUNT(DISTINCT endpoint_id) AS endpoints,
  COUNT(DISTINCT CASE WHEN state = 'delivered' THEN endpoint_id END) AS delivered
FROM deliveries WHERE event_id = ANY (:ids) GROUP BY event_id;

-- name: hold_events
-- Those of these events that are still here, locked, so that none is pruned while a delivery of it is being made.
SELECT id FROM events
WHERE project_id IN (SELECT value FROM json_each(:projects)) AND id IN (SELECT value FROM json_each(:ids))
ORDER BY id;

-- name: hold_events.postgres
-- PostgreSQL locks the rows; on SQLite only one transaction writes at a time.
SELECT id FROM events
WHERE project_id = ANY (:projects) AND id = ANY (:ids)
ORDER BY id FOR UPDATE;

-- name: event_bodies
-- The bodies of these events, each with what its job's row has of it.
SELECT id, job_id, body,
    (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input, (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
    (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
FROM events
WHERE (project_id, id) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys));

-- name: event_bodies.postgres
-- PostgreSQL's plan is made while the tables may be empty: so each row is looked up by its own key, whatever the tables hold by then.
SELECT event.id, event.job_id, event.body, event.job_input, event.job_request, event.job_metadata
FROM (SELECT CAST(:keys AS TEXT[]) AS keys) AS given
CROSS JOIN LATERAL generate_subscripts(given.keys, 1) AS number
CROSS JOIN LATERAL (
    SELECT id, job_id, body,
        (SELECT input FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_input,
        (SELECT request FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_request,
        (SELECT metadata FROM job_requests WHERE job_requests.job_id = events.job_id) AS job_metadata
    FROM events WHERE project_id = given.keys[number][1] AND id = given.keys[number][2] LIMIT 1
) AS event;
