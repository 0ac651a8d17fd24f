-- A delivery is found by its project and its id, an attempt by its delivery and its number, and SQLite keeps both tables in that order:
-- a new delivery is written to five trees, not seven, and an attempt to one, not three.

ALTER TABLE deliveries RENAME TO deliveries_before;

CREATE TABLE deliveries (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    job_id TEXT,
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'delivered' OR state = 'exhausted' OR state = 'canceled'),
    attempts_made INTEGER NOT NULL,
    next_attempt_at BIGINT,
    redelivery INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    leased_by INTEGER,
    PRIMARY KEY (project_id, id),
    CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL)),
    CHECK ((state = 'pending') = (finished_at IS NULL))
) WITHOUT ROWID;

INSERT INTO deliveries (
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at,
    leased_by
)
SELECT id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, finished_at,
    leased_by
FROM deliveries_before ORDER BY project_id, id;

DROP TABLE deliveries_before;

CREATE INDEX deliveries_due ON deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_waiting ON deliveries (endpoint_id, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX deliveries_of_event ON deliveries (event_id);
CREATE INDEX deliveries_failed ON deliveries (project_id, state, id) WHERE state IN ('exhausted', 'canceled');
CREATE INDEX deliveries_of_endpoint ON deliveries (endpoint_id, id);

ALTER TABLE attempts RENAME TO attempts_before;

CREATE TABLE attempts (
    id TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    status_code INTEGER,
    error TEXT,
    started_at BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    response_excerpt TEXT,
    PRIMARY KEY (delivery_id, number)
) WITHOUT ROWID;

INSERT INTO attempts (id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt)
SELECT id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt
FROM attempts_before ORDER BY delivery_id, number;

DROP TABLE attempts_before;
