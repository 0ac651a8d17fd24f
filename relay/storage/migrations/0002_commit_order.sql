-- What a disabled endpoint misses, and how far a batch of redeliveries goes, are told by the order of commits and not by time stamps:
-- an event is stamped before it is committed, and may be committed on the other side of a switch.

ALTER TABLE endpoints ADD COLUMN disabled_position BIGINT;

CREATE INDEX endpoints_disabled ON endpoints (disabled_position) WHERE disabled_position IS NOT NULL;

CREATE TABLE redeliveries_before AS SELECT * FROM redeliveries;

DROP TABLE redeliveries;

CREATE TABLE redeliveries (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    which TEXT NOT NULL CHECK (which IN ('failed', 'missing', 'undelivered', 'all')),
    since_at BIGINT NOT NULL,
    until_at BIGINT NOT NULL,
    after_event TEXT NOT NULL,
    total BIGINT NOT NULL,
    made BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    to_now INTEGER NOT NULL DEFAULT 0,
    first_position BIGINT,
    end_position BIGINT
);

INSERT INTO redeliveries (id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at)
SELECT id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at
FROM redeliveries_before;

DROP TABLE redeliveries_before;

CREATE INDEX redeliveries_open ON redeliveries (id) WHERE finished_at IS NULL;
CREATE INDEX redeliveries_done ON redeliveries (finished_at) WHERE finished_at IS NOT NULL;
