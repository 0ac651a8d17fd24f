-- name: insert_project
-- A project; nothing happens when it is there.
INSERT INTO projects (id, name, created_at) VALUES (:id, :name, :created_at) ON CONFLICT DO NOTHING;

-- name: project_by_name
-- A project by its name.
SELECT id, name, created_at FROM projects WHERE name = :name;

-- name: insert_api_key
-- A key; only its digest is kept.
INSERT INTO api_keys (id, project_id, name, scopes, digest, created_at) VALUES (:id, :project_id, :name, :scopes, :digest, :created_at);

-- name: api_key_by_digest
-- The live key with this digest.
SELECT id, project_id, name, scopes, digest, created_at, revoked_at FROM api_keys WHERE digest = :digest AND revoked_at IS NULL;

-- name: api_keys
-- Every key with its project's name, oldest first.
SELECT api_keys.id, api_keys.name, projects.name AS project, api_keys.scopes, api_keys.created_at, api_keys.revoked_at
FROM api_keys JOIN projects ON projects.id = api_keys.project_id ORDER BY api_keys.id;

-- name: revoke_api_key
-- The key stops working at once.
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
