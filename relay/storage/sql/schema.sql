-- name: schema_version
-- The newest migration that ran.
SELECT COALESCE(MAX(version), 0) AS version FROM schema_migrations;

-- name: register_migration
-- A migration ran.
INSERT INTO schema_migrations (version, name, applied_at) VALUES (:version, :name, :now);

-- name: touch
-- Proves that the database can be written to, and changes nothing.
UPDATE schema_migrations SET name = name WHERE version = 1;
