-- What happened to an endpoint, for the people who ask why it received nothing; and a batch of redeliveries can be stopped.
CREATE TABLE endpoint_history (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT,
    until BIGINT,
    key_id TEXT
);

CREATE INDEX endpoint_history_page ON endpoint_history (endpoint_id, id);
CREATE INDEX endpoint_history_age ON endpoint_history (at);

ALTER TABLE redeliveries ADD COLUMN canceled_at BIGINT;
CREATE INDEX redeliveries_page ON redeliveries (endpoint_id, id);
