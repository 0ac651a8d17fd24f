-- name: insert_delivery
-- One event for one endpoint.
INSERT INTO deliveries (id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, leased_by, redelivery, created_at, reported_at)
VALUES (:id, :project_id, :event_id, :endpoint_id, :job_id, 'pending', 0, :next_attempt_at, :leased_by, :redelivery, :created_at, :reported_at);

-- name: insert_delivery.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO deliveries (id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, leased_by, redelivery, created_at, reported_at)
SELECT id, project_id, event_id, endpoint_id, job_id, 'pending', 0, next_attempt_at, leased_by, redelivery, created_at, reported_at
FROM unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:event_id AS TEXT[]), CAST(:endpoint_id AS TEXT[]), CAST(:job_id AS TEXT[]),
    CAST(:next_attempt_at AS BIGINT[]), CAST(:leased_by AS INTEGER[]), CAST(:redelivery AS INTEGER[]), CAST(:created_at AS BIGINT[]),
    CAST(:reported_at AS BIGINT[])
) AS many (id, project_id, event_id, endpoint_id, job_id, next_attempt_at, leased_by, redelivery, created_at, reported_at);

-- name: pending_of_endpoint
-- How many deliveries of an endpoint are pending and due by then. Exactly the pending ones have a next attempt: the condition names that
-- and not the state, so that only the index by endpoint serves it, and a planner that expects few rows cannot choose the index by time.
SELECT COUNT(*) AS number FROM deliveries WHERE endpoint_id = :endpoint_id AND next_attempt_at IS NOT NULL AND next_attempt_at <= :by;

-- name: claim_deliveries
-- Claims due deliveries of endpoints that have room, under a lease: after a crash the lease ends and they are due again. It reads no more
-- than the first that are due, however many belong to busy endpoints.
UPDATE deliveries SET next_attempt_at = :leased_until, leased_by = :boot
WHERE (project_id, id) IN (
    SELECT project_id, id FROM (
        SELECT id, endpoint_id, project_id FROM deliveries
        WHERE state = 'pending' AND next_attempt_at <= :now ORDER BY next_attempt_at LIMIT :window
    ) AS first_due
    WHERE endpoint_id NOT IN (SELECT value FROM json_each(:busy)) AND (:full = '[]' OR project_id NOT IN (SELECT value FROM json_each(:full)))
    LIMIT :limit
)
RETURNING project_id, id, endpoint_id;

-- name: claim_deliveries.postgres
-- In PostgreSQL the claim and the read of what it took (`due_deliveries`) are one exchange. It passes over rows that another process has
-- locked, of so many `candidates` that several processes that look concurrently find some each. What it locks is materialized: a subquery
-- with a LIMIT that skips locked rows may be run again for each outer row, and then yields more rows than its limit. Its commit need not
-- outlast a crash of the server: what is claimed twice is sent twice, as after any crash.
WITH chosen AS MATERIALIZED (
    SELECT project_id, id FROM deliveries
    WHERE (project_id, id) IN (
        SELECT project_id, id FROM (
            SELECT id, endpoint_id, project_id FROM deliveries
            WHERE state = 'pending' AND next_attempt_at <= :now ORDER BY next_attempt_at LIMIT :window
        ) AS first_due
        WHERE endpoint_id <> ALL (:busy) AND project_id <> ALL (:full)
        LIMIT :candidates
    ) AND state || '' = 'pending' AND next_attempt_at + 0 <= :now
    ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE deliveries SET next_attempt_at = :leased_until, leased_by = :boot
    WHERE (project_id, id) IN (SELECT project_id, id FROM chosen) AND (SELECT set_config('synchronous_commit', 'off', TRUE)) IS NOT NULL
    RETURNING project_id, id
)
SELECT deliveries.id, deliveries.endpoint_id, deliveries.project_id, deliveries.attempts_made, deliveries.redelivery, deliveries.event_id,
    deliveries.reported_at, endpoints.url, endpoints.secret, endpoints.former_secret, endpoints.former_secret_until, endpoints.headers,
    endpoints.timeout_s, endpoints.in_flight_max, endpoints.rate_limit_per_s, endpoints.schedule_s, endpoints.format, endpoints.disabled_at
FROM deliveries
JOIN endpoints ON endpoints.id = deliveries.endpoint_id
WHERE (deliveries.project_id, deliveries.id) IN (SELECT project_id, id FROM claimed) AND deliveries.state || '' = 'pending' AND endpoints.deleted_at IS NULL;

-- name: endpoints_waiting
-- The next endpoints that something waits for, and when the first of it is due; from one endpoint to the next.
WITH RECURSIVE waiting (endpoint_id, number) AS (
    SELECT MIN(endpoint_id), 1 FROM deliveries WHERE next_attempt_at IS NOT NULL AND endpoint_id > :after
    UNION ALL
    SELECT (SELECT MIN(endpoint_id) FROM deliveries WHERE next_attempt_at IS NOT NULL AND endpoint_id > waiting.endpoint_id), number + 1
    FROM waiting WHERE waiting.endpoint_id IS NOT NULL AND number < :limit
)
SELECT endpoint_id, (SELECT project_id FROM endpoints WHERE endpoints.id = waiting.endpoint_id) AS project_id,
    (SELECT MIN(next_attempt_at) FROM deliveries WHERE next_attempt_at IS NOT NULL AND endpoint_id = waiting.endpoint_id) AS at
FROM waiting WHERE endpoint_id IS NOT NULL;

-- name: claim_deliveries_of_endpoint
-- The same for one endpoint, however much is due for others before.
UPDATE deliveries SET next_attempt_at = :leased_until, leased_by = :boot
WHERE (project_id, id) IN (
    SELECT project_id, id FROM deliveries
    WHERE endpoint_id = :endpoint_id AND next_attempt_at <= :now
    ORDER BY next_attempt_at LIMIT :limit
)
RETURNING id, endpoint_id, project_id;

-- name: claim_deliveries_of_endpoint.postgres_batch
-- In PostgreSQL several endpoints are claimed for in one exchange; past what another process has locked, materialized, by a commit that
-- need not outlast a crash, as `claim_deliveries` does. A batch begins with the table that it writes.
UPDATE deliveries SET next_attempt_at = claimed.leased_until, leased_by = claimed.boot
FROM (
    WITH locked AS MATERIALIZED (
        SELECT first_due.project_id, first_due.id, many.leased_until, many.boot
        FROM unnest(
            CAST(:endpoint_id AS TEXT[]), CAST(:limit AS BIGINT[]), CAST(:now AS BIGINT[]), CAST(:leased_until AS BIGINT[]), CAST(:boot AS INTEGER[])
        ) AS many (endpoint_id, most, now, leased_until, boot)
        CROSS JOIN LATERAL (
            SELECT project_id, id FROM deliveries
            WHERE endpoint_id = many.endpoint_id AND next_attempt_at <= many.now
            ORDER BY next_attempt_at LIMIT many.most FOR UPDATE SKIP LOCKED
        ) AS first_due
    )
    SELECT project_id, id, leased_until, boot FROM locked
) AS claimed
WHERE deliveries.project_id = claimed.project_id AND deliveries.id = claimed.id AND (SELECT set_config('synchronous_commit', 'off', TRUE)) IS NOT NULL
RETURNING deliveries.id, deliveries.endpoint_id, deliveries.project_id;

-- name: release_deliveries
-- Gives back what was claimed and not begun. What is named by its id is found by it: the index of what is pending looks smaller to a
-- planner, and is full of what no longer is. So that is compared as an expression, here and below.
UPDATE deliveries SET next_attempt_at = :now, leased_by = NULL WHERE project_id = :project_id AND id = :id AND state || '' = 'pending';

-- name: release_deliveries.postgres_batch
-- PostgreSQL writes a batch by one statement, and locks its rows in one order, so that no two processes wait for each other.
UPDATE deliveries SET next_attempt_at = many.now, leased_by = NULL
FROM (
    SELECT * FROM unnest(CAST(:project_id AS TEXT[]), CAST(:id AS TEXT[]), CAST(:now AS BIGINT[])) AS batch (project_id, id, now) ORDER BY id
) AS many
WHERE deliveries.project_id = many.project_id AND deliveries.id = many.id AND deliveries.state || '' = 'pending';

-- name: next_due_delivery
-- When the next delivery is due, and how many are due by now, counted no further than a claim looks.
SELECT
    (SELECT MIN(next_attempt_at) FROM deliveries WHERE state = 'pending') AS at,
    (SELECT COUNT(*) FROM (SELECT 1 FROM deliveries WHERE state = 'pending' AND next_attempt_at <= :now LIMIT :window) AS first_due) AS due;

-- name: due_deliveries
-- All that an attempt needs but the body, as it is now: a rotated secret or a mended URL counts from the next attempt on.
SELECT deliveries.id, deliveries.endpoint_id, deliveries.project_id, deliveries.attempts_made, deliveries.redelivery, deliveries.event_id,
    deliveries.reported_at, endpoints.url, endpoints.secret, endpoints.former_secret, endpoints.former_secret_until, endpoints.headers, endpoints.timeout_s, endpoints.in_flight_max,
    endpoints.rate_limit_per_s, endpoints.schedule_s, endpoints.format, endpoints.disabled_at
FROM deliveries
JOIN endpoints ON endpoints.id = deliveries.endpoint_id
WHERE (deliveries.project_id, deliveries.id) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys))
  AND deliveries.state || '' = 'pending' AND endpoints.deleted_at IS NULL;

-- name: due_deliveries.postgres
-- PostgreSQL's plan is made while the tables may be empty: so each row is looked up by its own key, whatever the tables hold by then.
SELECT due.id, due.endpoint_id, due.project_id, due.attempts_made, due.redelivery, due.event_id, due.reported_at,
    endpoint.url, endpoint.secret, endpoint.former_secret, endpoint.former_secret_until, endpoint.headers, endpoint.timeout_s,
    endpoint.in_flight_max, endpoint.rate_limit_per_s, endpoint.schedule_s, endpoint.format, endpoint.disabled_at
FROM (SELECT CAST(:keys AS TEXT[]) AS keys) AS given
CROSS JOIN LATERAL generate_subscripts(given.keys, 1) AS number
CROSS JOIN LATERAL (
    SELECT id, endpoint_id, project_id, attempts_made, redelivery, event_id, reported_at FROM deliveries
    WHERE project_id = given.keys[number][1] AND id = given.keys[number][2] AND state || '' = 'pending' LIMIT 1
) AS due
CROSS JOIN LATERAL (
    SELECT url, secret, former_secret, former_secret_until, headers, timeout_s, in_flight_max, rate_limit_per_s, schedule_s, format, disabled_at
    FROM endpoints WHERE id = due.endpoint_id AND deleted_at IS NULL LIMIT 1
) AS endpoint;

-- name: endpoints_sent_to
-- What of that is the endpoint's own: the rest is known where a delivery is new.
SELECT id AS endpoint_id, url, secret, former_secret, former_secret_until, headers, timeout_s, in_flight_max, rate_limit_per_s, schedule_s, format, disabled_at
FROM endpoints WHERE id IN (SELECT value FROM json_each(:ids)) AND deleted_at IS NULL;

-- name: endpoints_sent_to.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id AS endpoint_id, url, secret, former_secret, former_secret_until, headers, timeout_s, in_flight_max, rate_limit_per_s, schedule_s, format, disabled_at
FROM endpoints WHERE id = ANY (:ids) AND deleted_at IS NULL;

-- name: insert_attempt
-- What came of one request; numbered in the order of their commits.
INSERT INTO attempts (id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt, exchange)
SELECT :id, :delivery_id, attempts_made + 1, :outcome, :status_code, :error, :started_at, :duration_ms, :response_excerpt, :exchange
FROM deliveries WHERE project_id = :project_id AND id = :delivery_id;

-- name: insert_attempt.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO attempts (id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt, exchange)
SELECT many.id, many.delivery_id, deliveries.attempts_made + 1, many.outcome, many.status_code, many.error, many.started_at,
    many.duration_ms, many.response_excerpt, many.exchange
FROM deliveries, unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:delivery_id AS TEXT[]), CAST(:outcome AS TEXT[]), CAST(:status_code AS INTEGER[]),
    CAST(:error AS TEXT[]), CAST(:started_at AS BIGINT[]), CAST(:duration_ms AS BIGINT[]), CAST(:response_excerpt AS TEXT[]),
    CAST(:exchange AS TEXT[])
) AS many (id, project_id, delivery_id, outcome, status_code, error, started_at, duration_ms, response_excerpt, exchange)
WHERE deliveries.project_id = many.project_id AND deliveries.id = many.delivery_id;

-- name: attempts_written
-- The attempts of these deliveries that are stored, for those that write them again.
SELECT id FROM attempts WHERE delivery_id IN (SELECT value FROM json_each(:ids));

-- name: attempts_written.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id FROM attempts WHERE delivery_id = ANY (:ids);

-- name: settle_delivery
-- The delivery after an attempt; one that was called off meanwhile stays so, but counts the attempt.
UPDATE deliveries SET
    attempts_made = attempts_made + 1,
    leased_by = NULL,
    finished_at = CASE WHEN state = 'pending' THEN :finished_at ELSE finished_at END,
    next_attempt_at = CASE WHEN state = 'pending' THEN :next_attempt_at ELSE next_attempt_at END,
    state = CASE WHEN state = 'pending' THEN :state ELSE state END
WHERE project_id = :project_id AND id = :id;

-- name: settle_delivery.postgres_batch
-- PostgreSQL writes a batch by one statement, and locks its rows in one order, so that no two processes wait for each other.
UPDATE deliveries SET
    attempts_made = deliveries.attempts_made + 1,
    leased_by = NULL,
    finished_at = CASE WHEN deliveries.state = 'pending' THEN many.finished_at ELSE deliveries.finished_at END,
    next_attempt_at = CASE WHEN deliveries.state = 'pending' THEN many.next_attempt_at ELSE deliveries.next_attempt_at END,
    state = CASE WHEN deliveries.state = 'pending' THEN many.state ELSE deliveries.state END
FROM (
    SELECT * FROM unnest(
        CAST(:project_id AS TEXT[]), CAST(:id AS TEXT[]), CAST(:state AS TEXT[]), CAST(:next_attempt_at AS BIGINT[]),
        CAST(:finished_at AS BIGINT[])
    ) AS batch (project_id, id, state, next_attempt_at, finished_at)
    ORDER BY id
) AS many
WHERE deliveries.project_id = many.project_id AND deliveries.id = many.id;

-- name: delivery_of_project
-- One delivery, if it is the project's own.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries WHERE id = :id AND project_id = :project_id;

-- name: delivery_page
-- Deliveries of a project, newest first; `floor` is the last that is read.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries
WHERE project_id = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:status AS TEXT) IS NULL OR state = :status)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: delivery_page_failed
-- The same in one of the states that few end in, which have an index of their own: between two ids the key would seem as good.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries
WHERE (project_id, id) IN (
    SELECT project_id, id FROM deliveries INDEXED BY deliveries_failed
    WHERE project_id = :project_id AND state IN ('exhausted', 'canceled') AND state = :status AND id < COALESCE(CAST(:before AS TEXT), 'z')
      AND id >= COALESCE(CAST(:floor AS TEXT), '')
      AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
      AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
    ORDER BY id DESC LIMIT :limit
)
ORDER BY id DESC;

-- name: delivery_page_failed.postgres
-- PostgreSQL has no INDEXED BY, and knows by its statistics that few end so.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries
WHERE (project_id, id) IN (
    SELECT project_id, id FROM deliveries
    WHERE project_id = :project_id AND state IN ('exhausted', 'canceled') AND state = :status AND id < COALESCE(CAST(:before AS TEXT), 'z')
      AND id >= COALESCE(CAST(:floor AS TEXT), '')
      AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
      AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
    ORDER BY id DESC LIMIT :limit
)
ORDER BY id DESC;

-- name: delivery_page_of_endpoint
-- Deliveries to one endpoint, newest first. A filter that may be absent uses no index, so each of these is a statement of its own;
-- and none may fall back on the index of the project, which is why that is compared as an expression.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries
WHERE endpoint_id = :endpoint_id AND project_id || '' = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:status AS TEXT) IS NULL OR state = :status)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: delivery_floor
-- The last delivery that a page reads, whatever its filter.
SELECT id FROM deliveries WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: delivery_floor_of_endpoint
-- The last delivery to one endpoint that a page reads.
SELECT id FROM deliveries WHERE endpoint_id = :endpoint_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: delivery_page_of_event
-- Deliveries of one event, newest first.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries
WHERE event_id = :event_id AND project_id || '' = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z')
  AND (CAST(:endpoint_id AS TEXT) IS NULL OR endpoint_id = :endpoint_id)
  AND (CAST(:status AS TEXT) IS NULL OR state = :status)
  AND (CAST(:job_id AS TEXT) IS NULL OR job_id = :job_id)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: delivery_page_of_job
-- Deliveries about one job, newest first; they are found by its events.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries
WHERE event_id IN (SELECT id FROM events WHERE job_id = :job_id) AND project_id || '' = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z')
  AND (CAST(:endpoint_id AS TEXT) IS NULL OR endpoint_id = :endpoint_id)
  AND (CAST(:status AS TEXT) IS NULL OR state = :status)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: deliveries_of_job
-- A job's deliveries, in order.
SELECT
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at
FROM deliveries WHERE event_id IN (SELECT id FROM events WHERE job_id = :job_id) ORDER BY id LIMIT :limit;

-- name: attempts_of_deliveries
-- The attempts of these deliveries, in order.
SELECT
    id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt, exchange
FROM attempts WHERE delivery_id IN (SELECT value FROM json_each(:ids)) ORDER BY delivery_id, number LIMIT :limit;

-- name: attempts_of_deliveries.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT
    id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt, exchange
FROM attempts WHERE delivery_id = ANY (:ids) ORDER BY delivery_id, number LIMIT :limit;
