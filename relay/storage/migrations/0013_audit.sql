-- Who changed what: a row for each verb of the API, of the dashboard and of the command line that changes something.

CREATE TABLE audit (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    key_id TEXT,
    key_name TEXT,
    via TEXT NOT NULL,
    address TEXT,
    request_id TEXT,
    verb TEXT NOT NULL,
    target TEXT,
    detail TEXT,
    status INTEGER,
    code TEXT,
    PRIMARY KEY (project_id, id)
);

CREATE INDEX audit_age ON audit (at);

ALTER TABLE api_keys ADD COLUMN last_used_at BIGINT;

CREATE INDEX api_keys_page ON api_keys (project_id, id);
