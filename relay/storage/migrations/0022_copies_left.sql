-- A copy that failed keeps its key until nothing of it is in the bucket any more.
CREATE INDEX copies_left ON copies (id) WHERE state = 'failed' AND key IS NOT NULL;
