-- A quarantined callback that a person has run again keeps its verdict; what came of it, and who asked, is a row of its own.

CREATE TABLE reprocessings (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    callback_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT
);

CREATE INDEX reprocessings_of_job ON reprocessings (job_id, id);
