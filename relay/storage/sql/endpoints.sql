-- name: insert_endpoint
-- A subscriber's URL; secret and headers are sealed.
INSERT INTO endpoints (
    id, project_id, job_id, url, secret, headers, event_types, providers, description, metadata, rate_limit_per_s, in_flight_max,
    timeout_s, schedule_s, format, created_at, updated_at
) VALUES (
    :id, :project_id, :job_id, :url, :secret, :headers, :event_types, :providers, :description, :metadata, :rate_limit_per_s,
    :in_flight_max, :timeout_s, :schedule_s, :format, :created_at, :updated_at
);

-- name: insert_endpoint.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO endpoints (
    id, project_id, job_id, url, secret, headers, event_types, providers, description, metadata, rate_limit_per_s, in_flight_max,
    timeout_s, schedule_s, format, created_at, updated_at
)
SELECT * FROM unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:job_id AS TEXT[]), CAST(:url AS TEXT[]), CAST(:secret AS BYTEA[]),
    CAST(:headers AS BYTEA[]), CAST(:event_types AS TEXT[]), CAST(:providers AS TEXT[]), CAST(:description AS TEXT[]),
    CAST(:metadata AS TEXT[]), CAST(:rate_limit_per_s AS DOUBLE PRECISION[]), CAST(:in_flight_max AS INTEGER[]),
    CAST(:timeout_s AS DOUBLE PRECISION[]), CAST(:schedule_s AS TEXT[]), CAST(:format AS TEXT[]), CAST(:created_at AS BIGINT[]), CAST(:updated_at AS BIGINT[])
);

-- name: hold_project
-- A project, locked: of two that count its endpoints at the same time the second sees what the first has made.
SELECT id FROM projects WHERE id = :id;

-- name: hold_project.postgres
-- PostgreSQL locks the rows; on SQLite only one transaction writes at a time.
SELECT id FROM projects WHERE id = :id FOR UPDATE;

-- name: count_endpoints
-- How many standing endpoints a project has, counted no further than they matter.
SELECT COUNT(*) AS number FROM (
    SELECT 1 FROM endpoints WHERE project_id = :project_id AND deleted_at IS NULL AND job_id IS NULL LIMIT :limit
) AS standing;

-- name: update_endpoint
-- What a subscriber may change.
UPDATE endpoints SET
    url = :url, headers = :headers, event_types = :event_types, providers = :providers, description = :description,
    metadata = :metadata, rate_limit_per_s = :rate_limit_per_s, in_flight_max = :in_flight_max, timeout_s = :timeout_s,
    schedule_s = :schedule_s, format = :format, updated_at = :updated_at
WHERE id = :id AND project_id = :project_id AND deleted_at IS NULL;

-- name: delete_endpoint
-- The row stays for the deliveries that name it; the secret goes.
UPDATE endpoints SET deleted_at = :now, updated_at = :now, secret = :nothing, former_secret = NULL, headers = :nothing
WHERE id = :id AND project_id = :project_id AND deleted_at IS NULL
RETURNING id;

-- name: rotate_secret
-- A new secret; the former one signs too until its grace is over.
UPDATE endpoints SET former_secret = :former_secret, former_secret_until = :until, secret = :secret, headers = :headers, updated_at = :now
WHERE id = :id AND project_id = :project_id AND deleted_at IS NULL
RETURNING id;

-- name: disable_endpoint
-- The endpoint is sent nothing more: no event from `disabled_position` on has a delivery for it, though one that is stamped before may
-- be committed after.
UPDATE endpoints SET disabled_at = :now, disabled_reason = :reason, updated_at = :now, disabled_position = COALESCE(
    (SELECT MAX(position) + 1 FROM events WHERE events.project_id = endpoints.project_id), -4611686018427387904)
WHERE id = :id AND disabled_at IS NULL AND deleted_at IS NULL
RETURNING
    id, project_id, job_id, url, secret, former_secret, former_secret_until, headers, event_types, providers, description, metadata,
    rate_limit_per_s, in_flight_max, timeout_s, schedule_s, format, disabled_at, disabled_reason, failing_since, held_until, last_success_at,
    last_failure_at, created_at, updated_at;

-- name: disable_endpoint.postgres
-- A position is a transaction's number in PostgreSQL: every event from the oldest open transaction on may be committed after this.
UPDATE endpoints SET disabled_at = :now, disabled_reason = :reason, updated_at = :now, disabled_position =
    CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)
WHERE id = :id AND disabled_at IS NULL AND deleted_at IS NULL
RETURNING
    id, project_id, job_id, url, secret, former_secret, former_secret_until, headers, event_types, providers, description, metadata,
    rate_limit_per_s, in_flight_max, timeout_s, schedule_s, format, disabled_at, disabled_reason, failing_since, held_until, last_success_at,
    last_failure_at, created_at, updated_at;

-- name: enable_endpoint
-- The endpoint is sent notifications again.
UPDATE endpoints SET disabled_at = NULL, disabled_reason = NULL, disabled_position = NULL, failing_since = NULL, held_until = NULL, updated_at = :now
WHERE id = :id AND disabled_at IS NOT NULL AND deleted_at IS NULL
RETURNING
    id, project_id, job_id, url, secret, former_secret, former_secret_until, headers, event_types, providers, description, metadata,
    rate_limit_per_s, in_flight_max, timeout_s, schedule_s, format, disabled_at, disabled_reason, failing_since, held_until, last_success_at,
    last_failure_at, created_at, updated_at;

-- name: endpoint_urls
-- Where each of these endpoints of a project is, without those that were deleted.
SELECT id, url FROM endpoints WHERE id IN (SELECT value FROM json_each(:ids)) AND project_id = :project_id AND deleted_at IS NULL;

-- name: endpoint_urls.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id, url FROM endpoints WHERE id = ANY (:ids) AND project_id = :project_id AND deleted_at IS NULL;

-- name: endpoint_by_id
-- An endpoint as it is.
SELECT
    id, project_id, job_id, url, secret, former_secret, former_secret_until, headers, event_types, providers, description, metadata,
    rate_limit_per_s, in_flight_max, timeout_s, schedule_s, format, disabled_at, disabled_reason, failing_since, held_until, last_success_at,
    last_failure_at, created_at, updated_at
FROM endpoints WHERE id = :id;

-- name: hold_endpoint
-- An endpoint as it is, locked: what is decided by it stays true until the transaction has ended.
SELECT id, project_id, failing_since, disabled_at, disabled_reason, disabled_position, created_at, deleted_at FROM endpoints WHERE id = :id;

-- name: hold_endpoint.postgres
-- PostgreSQL locks the rows; on SQLite only one transaction writes at a time.
SELECT id, project_id, failing_since, disabled_at, disabled_reason, disabled_position, created_at, deleted_at FROM endpoints WHERE id = :id FOR UPDATE;

-- name: endpoint_project
-- Whose an endpoint is, or was.
SELECT project_id FROM endpoints WHERE id = :id;

-- name: endpoints_not_held
-- Which of these endpoints no breaker holds.
SELECT id FROM endpoints WHERE id IN (SELECT value FROM json_each(:ids)) AND held_until IS NULL;

-- name: endpoints_not_held.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id FROM endpoints WHERE id = ANY (:ids) AND held_until IS NULL;

-- name: endpoint_failing_since
-- The endpoint, if it is active and has failed since then without a success.
SELECT id FROM endpoints WHERE id = :id AND disabled_at IS NULL AND deleted_at IS NULL AND failing_since <= :failing_before;

-- name: cancel_deliveries_of_endpoint
-- What waits for an endpoint that is gone is called off, visibly.
UPDATE deliveries SET state = 'canceled', next_attempt_at = NULL, finished_at = :now
WHERE endpoint_id = :id AND next_attempt_at IS NOT NULL;

-- name: endpoint_of_project
-- One endpoint, if it is the project's own.
SELECT
    id, project_id, job_id, url, secret, former_secret, former_secret_until, headers, event_types, providers, description, metadata,
    rate_limit_per_s, in_flight_max, timeout_s, schedule_s, format, disabled_at, disabled_reason, failing_since, held_until, last_success_at,
    last_failure_at, created_at, updated_at
FROM endpoints WHERE id = :id AND project_id = :project_id AND deleted_at IS NULL;

-- name: endpoint_page
-- The standing endpoints of a project, newest first; one that a job's `notify` made is found by its id.
SELECT
    id, project_id, job_id, url, secret, former_secret, former_secret_until, headers, event_types, providers, description, metadata,
    rate_limit_per_s, in_flight_max, timeout_s, schedule_s, format, disabled_at, disabled_reason, failing_since, held_until, last_success_at,
    last_failure_at, created_at, updated_at
FROM endpoints
WHERE project_id = :project_id AND deleted_at IS NULL AND job_id IS NULL AND id < COALESCE(CAST(:before AS TEXT), 'z')
ORDER BY id DESC LIMIT :limit;

-- name: endpoints_listening
-- Who may want an event that is about no job: the standing endpoints of the project.
SELECT id, event_types FROM endpoints
WHERE project_id = :project_id AND job_id IS NULL AND deleted_at IS NULL AND disabled_at IS NULL;

-- name: note_endpoint_outcome
-- What the last attempt of each endpoint says of its health: a success ends whatever failed before, and the first failure since is kept.
-- Both are one statement, so that the rows of a batch are locked in one order: two statements would lock them in two.
UPDATE endpoints SET
    last_success_at = CASE WHEN :good = 1 THEN :at ELSE last_success_at END,
    last_failure_at = CASE WHEN :good = 1 THEN last_failure_at ELSE :at END,
    failing_since = CASE WHEN :good = 1 THEN NULL ELSE COALESCE(failing_since, :at) END,
    held_until = CASE WHEN :good = 1 THEN NULL ELSE :held_until END
WHERE id = :id;

-- name: note_endpoint_outcome.postgres_batch
-- PostgreSQL writes a batch by one statement, and locks its rows in one order, so that no two processes wait for each other.
UPDATE endpoints SET
    last_success_at = CASE WHEN many.good = 1 THEN many.at ELSE endpoints.last_success_at END,
    last_failure_at = CASE WHEN many.good = 1 THEN endpoints.last_failure_at ELSE many.at END,
    failing_since = CASE WHEN many.good = 1 THEN NULL ELSE COALESCE(endpoints.failing_since, many.at) END,
    held_until = CASE WHEN many.good = 1 THEN NULL ELSE many.held_until END
FROM (
    SELECT * FROM unnest(
        CAST(:id AS TEXT[]), CAST(:at AS BIGINT[]), CAST(:good AS INTEGER[]), CAST(:held_until AS BIGINT[])
    ) AS batch (id, at, good, held_until)
    ORDER BY id
) AS many
WHERE endpoints.id = many.id;
