-- Copies of results in the operator's bucket: what is to be copied, what was, and whether a job's last event waits for it. The one that
-- expires first is copied first.
CREATE TABLE copies (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    provider TEXT NOT NULL,
    kind TEXT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    needs_key INTEGER NOT NULL,
    expires_at BIGINT,
    urgent_at BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'archived' OR state = 'failed' OR state = 'deleted'),
    due_at BIGINT,
    leased_by INTEGER,
    attempts_made INTEGER NOT NULL,
    gone_seen INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    held_until BIGINT,
    supersedes TEXT,
    key TEXT,
    sha256 TEXT,
    bytes BIGINT,
    content_type TEXT,
    error_code TEXT,
    error TEXT,
    finished_at BIGINT,
    CHECK ((state = 'pending') = (due_at IS NOT NULL)),
    CHECK ((state = 'pending') = (finished_at IS NULL))
);

CREATE UNIQUE INDEX copies_of_job ON copies (job_id, number);
CREATE INDEX copies_pending ON copies (urgent_at, id) WHERE state = 'pending';
CREATE INDEX copies_due ON copies (due_at) WHERE state = 'pending';
CREATE INDEX copies_held ON copies (held_until) WHERE held_until IS NOT NULL;
CREATE INDEX copies_archived ON copies (finished_at) WHERE state = 'archived';
CREATE INDEX copies_of_project ON copies (project_id, state);

ALTER TABLE projects ADD COLUMN archive TEXT;
