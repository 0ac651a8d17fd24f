-- name: insert_project
-- A project; nothing happens when it is there.
INSERT INTO projects (id, name, created_at) VALUES (:id, :name, :created_at) ON CONFLICT DO NOTHING;

-- name: project_by_name
-- A project by its name.
SELECT id, name, created_at FROM projects WHERE name = :name;

-- name: project
-- A project by its id, or else by its name.
SELECT id, name, created_at, (SELECT COUNT(*) FROM api_keys WHERE api_keys.project_id = projects.id AND revoked_at IS NULL) AS keys_live
FROM projects WHERE id = :given OR name = :given ORDER BY CASE WHEN id = :given THEN 0 ELSE 1 END LIMIT 1;

-- name: project_page
-- Projects, newest first, or the one that is given.
SELECT id, name, created_at, (SELECT COUNT(*) FROM api_keys WHERE api_keys.project_id = projects.id AND revoked_at IS NULL) AS keys_live
FROM projects
WHERE (CAST(:project_id AS TEXT) IS NULL OR id = :project_id) AND id < COALESCE(CAST(:before AS TEXT), 'z')
ORDER BY id DESC LIMIT :limit;

-- name: insert_new_project
-- A project whose name no other has; no row where there is one.
INSERT INTO projects (id, name, created_at) VALUES (:id, :name, :created_at) ON CONFLICT DO NOTHING RETURNING id;

-- name: keys_live
-- How many live keys a project has.
SELECT COUNT(*) AS number FROM api_keys WHERE project_id = :project_id AND revoked_at IS NULL;

-- name: key_page
-- A project's keys without their text, newest first; `live` is 1 for those that work, 0 for those that are revoked.
SELECT id, project_id, name, scopes, created_at, last_used_at, revoked_at FROM api_keys
WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z')
  AND (CAST(:live AS INTEGER) IS NULL OR CASE WHEN revoked_at IS NULL THEN 1 ELSE 0 END = :live)
ORDER BY id DESC LIMIT :limit;

-- name: stored_key
-- A key by its id, revoked or not.
SELECT id, project_id, name, scopes, created_at, last_used_at, revoked_at FROM api_keys WHERE id = :id;

-- name: revoke_key
-- The key stops working with the commit; one that was revoked before keeps its time.
UPDATE api_keys SET revoked_at = COALESCE(revoked_at, :now) WHERE id = :id
RETURNING id, project_id, name, scopes, created_at, last_used_at, revoked_at;

-- name: insert_api_key
-- A key; only its digest is kept.
INSERT INTO api_keys (id, project_id, name, scopes, digest, created_at) VALUES (:id, :project_id, :name, :scopes, :digest, :created_at);

-- name: api_key_by_digest
-- The live key with this digest.
SELECT id, project_id, name, scopes, digest, created_at, revoked_at FROM api_keys WHERE digest = :digest AND revoked_at IS NULL;

-- name: api_keys_in_use
-- The live keys that were used last, the latest first; a key that was never used is not among them.
SELECT id, digest FROM api_keys WHERE revoked_at IS NULL AND last_used_at IS NOT NULL ORDER BY last_used_at DESC LIMIT :limit;

-- name: live_api_key
-- A key by its id, unless it is revoked.
SELECT id, project_id, name, scopes, digest, created_at, revoked_at FROM api_keys WHERE id = :id AND revoked_at IS NULL;

-- name: api_keys
-- Every key with its project's name, oldest first.
SELECT api_keys.id, api_keys.name, projects.name AS project, api_keys.scopes, api_keys.created_at, api_keys.revoked_at
FROM api_keys JOIN projects ON projects.id = api_keys.project_id ORDER BY api_keys.id;

-- name: revoke_api_key
-- The key stops working immediately.
UPDATE api_keys SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL RETURNING id;

-- name: reserve_idempotency_key
-- The one caller that gets a row back runs the request; a reservation that was never finished can be acquired by a later request.
INSERT INTO idempotency_keys (project_id, key, fingerprint, reserved_at) VALUES (:project_id, :key, :fingerprint, :now)
ON CONFLICT (project_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, reserved_at = excluded.reserved_at, job_id = NULL, answer = NULL
WHERE idempotency_keys.reserved_at < :forgotten_before
   OR (idempotency_keys.answer IS NULL AND idempotency_keys.job_id IS NULL AND idempotency_keys.reserved_at < :abandoned_before)
RETURNING key;

-- name: idempotency_key
-- What is known of a key.
SELECT fingerprint, reserved_at, job_id, answer FROM idempotency_keys WHERE project_id = :project_id AND key = :key;

-- name: tie_idempotency_key
-- The answer, and its job if it has one, in the transaction that does the work: a crash after it cannot do it again. A reservation that
-- another request has acquired has another time.
UPDATE idempotency_keys SET job_id = :job_id, answer = :answer
WHERE project_id = :project_id AND key = :key AND reserved_at = :reserved_at RETURNING key;

-- name: answer_idempotency_key
-- The sealed answer, to be given again.
UPDATE idempotency_keys SET answer = :answer WHERE project_id = :project_id AND key = :key AND reserved_at = :reserved_at;

-- name: release_idempotency_key
-- The request came to nothing: the key is free again.
DELETE FROM idempotency_keys
WHERE project_id = :project_id AND key = :key AND reserved_at = :reserved_at AND job_id IS NULL AND answer IS NULL;

-- name: forget_idempotency_keys
-- Keys older than their life.
DELETE FROM idempotency_keys WHERE reserved_at < :before;

-- name: end_session
-- A session whose cookie opens nothing any more.
INSERT INTO ended_sessions (id, expires_at) VALUES (:id, :expires_at) ON CONFLICT (id) DO NOTHING;

-- name: ended_session
-- A row for a session that was ended.
SELECT id FROM ended_sessions WHERE id = :id;

-- name: forget_ended_sessions
-- Those whose cookie has expired: no row is needed to refuse it.
DELETE FROM ended_sessions WHERE expires_at < :now;
