-- name: insert_payment
-- An authorization, in the commit that makes its job: what it may move counts as spent from now on.
INSERT INTO payments (
    id, project_id, job_id, provider, nonce, payer, pay_to, asset, chain_id, amount, version, header_name, header, body_digest,
    valid_before, state, created_at, next_proof_at
) VALUES (
    :id, :project_id, :job_id, :provider, :nonce, :payer, :pay_to, :asset, :chain_id, :amount, :version, :header_name, :header,
    :body_digest, :valid_before, :state, :created_at, :next_proof_at
);

-- name: lock_spending
-- Of several processes that would spend concurrently, each waits for the one before it; on SQLite they do so anyway.
SELECT id FROM projects WHERE id = 'prj_default';

-- name: lock_spending.postgres
-- PostgreSQL locks the row; on SQLite only one transaction writes at a time.
SELECT id FROM projects WHERE id = 'prj_default' FOR UPDATE;

-- name: spent_since
-- What was authorized in this day and its last hour, and is not proven void: by all projects, and by one of them.
SELECT
    COALESCE(SUM(amount), 0) AS amount,
    COALESCE(SUM(CASE WHEN project_id = :project_id THEN amount ELSE 0 END), 0) AS of_project,
    COALESCE(SUM(CASE WHEN created_at >= :since_hour THEN amount ELSE 0 END), 0) AS in_hour,
    COALESCE(SUM(CASE WHEN created_at >= :since_hour AND project_id = :project_id THEN amount ELSE 0 END), 0) AS of_project_in_hour
FROM payments WHERE created_at >= :since AND state <> 'void';

-- name: spending_by_state
-- What a project, or all of them, authorized since then, by what is known of it.
SELECT state, COUNT(*) AS number, SUM(amount) AS amount FROM payments
WHERE created_at >= :since AND (CAST(:project_id AS TEXT) IS NULL OR project_id = :project_id) GROUP BY state;

-- name: costs_of_project
-- How many of a project's jobs since then cost what, by provider.
SELECT provider, cost, COUNT(*) AS number FROM jobs
WHERE project_id = :project_id AND id >= :first AND created_at >= :since AND cost IS NOT NULL GROUP BY provider, cost;

-- name: costs_of_all
-- The same for all projects.
SELECT provider, cost, COUNT(*) AS number FROM jobs
WHERE id >= :first AND created_at >= :since AND cost IS NOT NULL GROUP BY provider, cost;

-- name: costs_of_files
-- What was paid since then for files: those payments have a name of their own in the place of a job's id.
SELECT provider, state, SUM(amount) AS amount FROM payments
WHERE created_at >= :since AND (CAST(:project_id AS TEXT) IS NULL OR project_id = :project_id)
  AND job_id >= 'file_' AND job_id < 'file`' AND state <> 'void'
GROUP BY provider, state;

-- name: payment_of_job
-- A job's payment.
SELECT
    id, project_id, job_id, provider, nonce, payer, pay_to, asset, chain_id, amount, version, header_name, header, body_digest,
    valid_before, state, created_at, settled_at, transaction_hash, next_proof_at, answers
FROM payments WHERE job_id = :job_id;

-- name: payment_of_upload
-- The last payment for a file.
SELECT
    id, project_id, job_id, provider, nonce, payer, pay_to, asset, chain_id, amount, version, header_name, header, body_digest,
    valid_before, state, created_at, settled_at, transaction_hash, next_proof_at, answers
FROM payments WHERE job_id >= :first AND job_id <= :last ORDER BY job_id DESC LIMIT 1;

-- name: forget_undecided_payment
-- An authorization that another one with the same nonce takes the place of.
DELETE FROM payments WHERE job_id = :job_id AND state IN ('reserved', 'unknown');

-- name: keep_answers
-- What was bought, and how far it was used.
UPDATE payments SET answers = :answers WHERE job_id = :job_id;

-- name: settle_payment
-- What became known of a payment; one that is paid or lost stays so, and none is void while its time lasts.
UPDATE payments SET
    state = :state, settled_at = :settled_at, transaction_hash = COALESCE(:transaction_hash, transaction_hash), next_proof_at = :next_proof_at
WHERE job_id = :job_id AND state IN ('reserved', 'unknown') AND (:state <> 'void' OR valid_before < :settled_at);

-- name: payments_to_prove
-- Payments of which the chain can say by now whether they were made.
SELECT
    id, project_id, job_id, provider, nonce, payer, pay_to, asset, chain_id, amount, version, header_name, header, body_digest,
    valid_before, state, created_at, settled_at, transaction_hash, next_proof_at, answers
FROM payments WHERE next_proof_at <= :now ORDER BY next_proof_at LIMIT :limit;

-- name: payment_page_of_project
-- A project's payments, newest first; `floor` is the last that is read.
SELECT
    id, project_id, job_id, provider, nonce, payer, pay_to, asset, chain_id, amount, valid_before, state, created_at, settled_at,
    transaction_hash AS "transaction"
FROM payments
WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:state AS TEXT) IS NULL OR state || '' = :state)
  AND (CAST(:provider AS TEXT) IS NULL OR provider = :provider)
  AND (CAST(:job_id AS TEXT) IS NULL OR job_id || '' = :job_id)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at + 0 > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at + 0 < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: payment_page_of_all
-- The same for all projects.
SELECT
    id, project_id, job_id, provider, nonce, payer, pay_to, asset, chain_id, amount, valid_before, state, created_at, settled_at,
    transaction_hash AS "transaction"
FROM payments
WHERE id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:state AS TEXT) IS NULL OR state || '' = :state)
  AND (CAST(:provider AS TEXT) IS NULL OR provider = :provider)
  AND (CAST(:job_id AS TEXT) IS NULL OR job_id || '' = :job_id)
  AND (CAST(:created_after AS BIGINT) IS NULL OR created_at + 0 > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR created_at + 0 < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: payment_floor_of_project
-- The last payment that a filtered page reads.
SELECT id FROM payments WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: payment_floor_of_all
-- The same for all projects.
SELECT id FROM payments WHERE id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;
