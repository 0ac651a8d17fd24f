-- A lease names the boot that holds it: a start of a process, which a later one knows to be dead.

CREATE TABLE boots (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    lease_ms BIGINT NOT NULL,
    held INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT
);

ALTER TABLE deliveries ADD COLUMN leased_by INTEGER;

ALTER TABLE jobs ADD COLUMN checked_by INTEGER;

ALTER TABLE jobs ADD COLUMN submitted_by INTEGER;
