-- As on SQLite, but for WITHOUT ROWID, which PostgreSQL does not have.

CREATE TABLE statistics (
    project_id TEXT NOT NULL,
    width_s INTEGER NOT NULL,
    starts_at BIGINT NOT NULL,
    measure TEXT NOT NULL,
    provider TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (project_id, width_s, starts_at, measure, provider)
);

CREATE TABLE provider_marks (
    project_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    last_callback_at BIGINT,
    last_error_at BIGINT,
    last_error TEXT,
    PRIMARY KEY (project_id, provider)
);

ALTER TABLE deliveries ADD COLUMN reported_at BIGINT;
