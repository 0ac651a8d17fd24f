-- Conditions that operators should know of are rows, so that each is announced once, by whichever process finds it, and once ended.

CREATE TABLE alerts (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    subject_name TEXT NOT NULL,
    summary TEXT NOT NULL,
    detail TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    ended_at BIGINT
);

CREATE UNIQUE INDEX alerts_open ON alerts (project_id, kind, subject_id) WHERE ended_at IS NULL;
CREATE INDEX alerts_page ON alerts (project_id, id);
CREATE INDEX alerts_ended ON alerts (ended_at) WHERE ended_at IS NOT NULL;

ALTER TABLE endpoints ADD COLUMN format TEXT;

CREATE INDEX endpoints_failing ON endpoints (failing_since) WHERE failing_since IS NOT NULL;
CREATE INDEX deliveries_exhausted ON deliveries (finished_at) WHERE state = 'exhausted';
CREATE INDEX payments_doubtful ON payments (created_at) WHERE state = 'unknown' OR state = 'lost';
