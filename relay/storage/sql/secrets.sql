-- name: signing_keys_of_project
-- A project's signing keys, newest last.
SELECT project_id, number, public_key, seed FROM signing_keys WHERE project_id = :project_id ORDER BY number;

-- name: signing_keys_public
-- What of all projects' signing keys anybody may know, newest last.
SELECT project_id, public_key FROM signing_keys ORDER BY number, project_id LIMIT :limit;

-- name: signing_keys_public_of_project
-- The same for one project.
SELECT project_id, public_key FROM signing_keys WHERE project_id = :project_id ORDER BY number LIMIT :limit;

-- name: projects_without_signing_key
-- Projects that an older relay made.
SELECT id FROM projects WHERE id NOT IN (SELECT project_id FROM signing_keys);

-- name: insert_signing_key
-- A signing key; of two that are made concurrently the first stays.
INSERT INTO signing_keys (project_id, number, public_key, seed, created_at) VALUES (:project_id, :number, :public_key, :seed, :created_at)
ON CONFLICT DO NOTHING;

-- name: delete_former_signing_keys
-- Keys that a project no longer signs with are published no more.
DELETE FROM signing_keys WHERE project_id = :project_id AND number < :number;

-- name: sealing_keys
-- The keys that something here may be sealed with.
SELECT fingerprint FROM sealing_keys ORDER BY first_seen_at;

-- name: insert_sealing_key
-- A key that seals from now on.
INSERT INTO sealing_keys (fingerprint, first_seen_at) VALUES (:fingerprint, :first_seen_at) ON CONFLICT DO NOTHING;

-- name: delete_sealing_key
-- A key that nothing is sealed with any more.
DELETE FROM sealing_keys WHERE fingerprint = :fingerprint;

-- name: newest_secrets
-- A sample of what is sealed, for a database that knows no keys yet.
SELECT id, secret FROM endpoints WHERE deleted_at IS NULL ORDER BY id DESC LIMIT :limit;

-- name: sealed_endpoints
-- What is sealed of endpoints, from one id to the next.
SELECT id, secret, former_secret, headers FROM endpoints WHERE id > :after AND deleted_at IS NULL ORDER BY id LIMIT :limit;

-- name: reseal_endpoint
-- An endpoint's secrets under another key, if they are still as they were read.
UPDATE endpoints SET secret = :secret, former_secret = :former_secret, headers = :headers
WHERE id = :id AND secret = :secret_before AND headers = :headers_before AND deleted_at IS NULL RETURNING id;

-- name: sealed_payments
-- What is sealed of payments, from one job's id to the next.
SELECT job_id, header, answers FROM payments WHERE job_id > :after ORDER BY job_id LIMIT :limit;

-- name: reseal_payment
-- A payment under another key. What was bought may have been used meanwhile, and is then as it was read no more.
UPDATE payments SET header = :header, answers = :answers
WHERE job_id = :job_id AND header = :header_before AND COALESCE(answers, :nothing) = :answers_before RETURNING job_id;

-- name: sealed_answers
-- Answers that are kept for idempotency keys, from one to the next.
SELECT project_id, key, answer FROM idempotency_keys
WHERE (project_id, key) > (:project_id, :key) AND answer IS NOT NULL ORDER BY project_id, key LIMIT :limit;

-- name: reseal_answer
-- An answer under another key.
UPDATE idempotency_keys SET answer = :answer
WHERE project_id = :project_id AND key = :key AND answer = :answer_before RETURNING key;

-- name: sealed_seeds
-- The seeds of signing keys, from one to the next.
SELECT project_id, number, seed FROM signing_keys
WHERE (project_id, number) > (:project_id, :number) ORDER BY project_id, number LIMIT :limit;

-- name: reseal_seed
-- A seed under another key.
UPDATE signing_keys SET seed = :seed WHERE project_id = :project_id AND number = :number AND seed = :seed_before RETURNING number;

-- name: secret_of_endpoint
-- The secret that a rotation replaces, held until it is done.
SELECT id, secret, headers FROM endpoints WHERE id = :id AND project_id = :project_id AND deleted_at IS NULL;

-- name: secret_of_endpoint.postgres
-- PostgreSQL locks the rows; on SQLite only one transaction writes at a time.
SELECT id, secret, headers FROM endpoints WHERE id = :id AND project_id = :project_id AND deleted_at IS NULL FOR UPDATE;
