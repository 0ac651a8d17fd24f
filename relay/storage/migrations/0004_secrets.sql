-- Each project signs with keys of its own, made from random seeds that are sealed here; and the database knows by their fingerprints
-- which of RELAY_SECRET_KEYS its secrets are sealed with.

CREATE TABLE signing_keys (
    project_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    public_key BYTEA NOT NULL,
    seed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, number)
);

CREATE TABLE sealing_keys (
    fingerprint BYTEA PRIMARY KEY,
    first_seen_at BIGINT NOT NULL
);
