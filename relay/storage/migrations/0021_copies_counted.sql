-- Counts of copies are read from indexes alone: `bytes` for the sums of a project, the time for the oldest one that is pending.
DROP INDEX copies_of_project;
CREATE INDEX copies_of_project ON copies (project_id, state, bytes);
CREATE INDEX copies_waiting ON copies (project_id, created_at) WHERE state = 'pending';
