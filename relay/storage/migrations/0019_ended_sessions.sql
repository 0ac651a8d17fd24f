-- Sessions of the dashboard that were ended: a copy of their cookie opens nothing, until it would have expired anyway.
CREATE TABLE ended_sessions (
    id TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
