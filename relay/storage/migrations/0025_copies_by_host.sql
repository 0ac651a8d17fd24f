-- A claim of copies goes from one project and host to the next, and a deletion of objects from one bucket to the next. Copies from before
-- buckets had names are given the name of the one that is configured, once.
CREATE INDEX copies_by_host ON copies (project_id, host, due_at) WHERE state = 'pending';
CREATE INDEX copies_urgent_by_host ON copies (project_id, host, urgent_at) WHERE state = 'pending';
CREATE INDEX copies_unnamed ON copies (id) WHERE bucket = '' AND key IS NOT NULL;
DROP INDEX objects_left_due;
CREATE INDEX objects_left_due ON objects_left (bucket, due_at);
