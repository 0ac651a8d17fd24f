-- Objects of the archive that belong to no copy any more: they are queued here in the transaction that gives them up, and deleted from
-- their bucket later. A key is written by one try alone (`writes` numbers them), so what is queued here is never a copy again. `writing`
-- says that a process began to write and did not say that it has ended. An empty `bucket` is the one that is configured.
CREATE TABLE objects_left (
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, key)
);

CREATE INDEX objects_left_due ON objects_left (due_at);

ALTER TABLE copies ADD COLUMN bucket TEXT NOT NULL DEFAULT '';
ALTER TABLE copies ADD COLUMN writes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE copies ADD COLUMN writing INTEGER NOT NULL DEFAULT 0;

UPDATE copies SET writes = 1, writing = 1 WHERE key IS NOT NULL;
INSERT INTO objects_left (bucket, key, due_at) SELECT '', key, 0 FROM copies WHERE state = 'failed' AND key IS NOT NULL;
UPDATE copies SET key = NULL WHERE state <> 'pending' AND state <> 'archived';
DROP INDEX copies_left;
