-- Sums of what happened, by project and time: charts read these few rows, and never walk through jobs or deliveries. A delivery keeps
-- when the callback that brought its event was received.

CREATE TABLE statistics (
    project_id TEXT NOT NULL,
    width_s INTEGER NOT NULL,
    starts_at BIGINT NOT NULL,
    measure TEXT NOT NULL,
    provider TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (project_id, width_s, starts_at, measure, provider)
) WITHOUT ROWID;

CREATE TABLE provider_marks (
    project_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    last_callback_at BIGINT,
    last_error_at BIGINT,
    last_error TEXT,
    PRIMARY KEY (project_id, provider)
);

ALTER TABLE deliveries ADD COLUMN reported_at BIGINT;
