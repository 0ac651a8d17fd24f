-- The project `default` is as old as its database, whose first migration made it: until now it was shown as of 1970.
UPDATE projects SET created_at = (SELECT applied_at FROM schema_migrations WHERE version = 1)
WHERE id = 'prj_default' AND created_at = 0;
