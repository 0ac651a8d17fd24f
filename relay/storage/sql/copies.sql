-- name: insert_copy
-- A result to copy; a copy that the job had of it before, and that has ended, begins anew.
INSERT INTO copies (id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, urgent_at, state, due_at, attempts_made, gone_seen, created_at, held_until, supersedes)
VALUES (:id, :project_id, :job_id, :number, :provider, :kind, :url, :host, :needs_key, :expires_at, :urgent_at, 'pending', :due_at, 0, 0, :created_at, :held_until, :supersedes)
ON CONFLICT (job_id, number) DO UPDATE SET
    id = excluded.id, kind = excluded.kind, url = excluded.url, host = excluded.host, needs_key = excluded.needs_key, expires_at = excluded.expires_at,
    urgent_at = excluded.urgent_at, state = 'pending', due_at = excluded.due_at, leased_by = NULL, attempts_made = 0, gone_seen = 0,
    created_at = excluded.created_at, held_until = excluded.held_until, supersedes = excluded.supersedes,
    key = NULL, sha256 = NULL, bytes = NULL, content_type = NULL, error_code = NULL, error = NULL, finished_at = NULL;

-- name: insert_copy.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO copies (id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, urgent_at, state, due_at, attempts_made, gone_seen, created_at, held_until, supersedes)
SELECT id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, urgent_at, 'pending', due_at, 0, 0, created_at, held_until, supersedes
FROM unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:job_id AS TEXT[]), CAST(:number AS INTEGER[]), CAST(:provider AS TEXT[]),
    CAST(:kind AS TEXT[]), CAST(:url AS TEXT[]), CAST(:host AS TEXT[]), CAST(:needs_key AS INTEGER[]), CAST(:expires_at AS BIGINT[]), CAST(:urgent_at AS BIGINT[]),
    CAST(:due_at AS BIGINT[]), CAST(:created_at AS BIGINT[]), CAST(:held_until AS BIGINT[]), CAST(:supersedes AS TEXT[])
) AS many (id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, urgent_at, due_at, created_at, held_until, supersedes)
ON CONFLICT (job_id, number) DO UPDATE SET
    id = excluded.id, kind = excluded.kind, url = excluded.url, host = excluded.host, needs_key = excluded.needs_key, expires_at = excluded.expires_at,
    urgent_at = excluded.urgent_at, state = 'pending', due_at = excluded.due_at, leased_by = NULL, attempts_made = 0, gone_seen = 0,
    created_at = excluded.created_at, held_until = excluded.held_until, supersedes = excluded.supersedes,
    key = NULL, sha256 = NULL, bytes = NULL, content_type = NULL, error_code = NULL, error = NULL, finished_at = NULL;

-- name: renew_copy
-- The provider has signed another URL for a result that is to be copied; a copy that is under way goes on with the former one.
UPDATE copies SET url = :url, expires_at = :expires_at, urgent_at = :urgent_at WHERE job_id = :job_id AND number = :number AND state = 'pending';

-- name: renew_copy.postgres_batch
-- PostgreSQL writes a batch by one statement.
UPDATE copies SET url = many.url, expires_at = many.expires_at, urgent_at = many.urgent_at
FROM unnest(
    CAST(:url AS TEXT[]), CAST(:expires_at AS BIGINT[]), CAST(:urgent_at AS BIGINT[]), CAST(:job_id AS TEXT[]), CAST(:number AS INTEGER[])
) AS many (url, expires_at, urgent_at, job_id, number)
WHERE copies.job_id = many.job_id AND copies.number = many.number AND copies.state = 'pending';

-- name: end_copy
-- A copy has ended; one that is not pending has ended before. An event that waited for it waits no longer than the others.
UPDATE copies SET
    state = :state, due_at = NULL, leased_by = NULL, attempts_made = attempts_made + 1, key = :key, sha256 = :digest, bytes = :bytes,
    content_type = :content_type, error_code = :error_code, error = :error, finished_at = :finished_at
WHERE id = :copy_id AND state = 'pending';

-- name: end_copy.postgres_batch
-- PostgreSQL writes a batch by one statement.
UPDATE copies SET
    state = many.state, due_at = NULL, leased_by = NULL, attempts_made = copies.attempts_made + 1, key = many.key, sha256 = many.sha256, bytes = many.bytes,
    content_type = many.content_type, error_code = many.error_code, error = many.error, finished_at = many.finished_at
FROM unnest(
    CAST(:state AS TEXT[]), CAST(:key AS TEXT[]), CAST(:digest AS TEXT[]), CAST(:bytes AS BIGINT[]), CAST(:content_type AS TEXT[]),
    CAST(:error_code AS TEXT[]), CAST(:error AS TEXT[]), CAST(:finished_at AS BIGINT[]), CAST(:copy_id AS TEXT[])
) AS many (state, key, sha256, bytes, content_type, error_code, error, finished_at, copy_id)
WHERE copies.id = many.copy_id AND copies.state = 'pending';

-- name: release_event
-- The event of a job's end was sent, and waits no longer for its copies.
UPDATE copies SET held_until = NULL WHERE job_id = :job_id;

-- name: release_event.postgres_batch
-- PostgreSQL writes a batch by one statement.
UPDATE copies SET held_until = NULL WHERE job_id IN (SELECT * FROM unnest(CAST(:job_id AS TEXT[])));

-- name: delete_copy
-- The object is gone, past its retention.
UPDATE copies SET state = 'deleted', finished_at = :finished_at WHERE id = :copy_id AND state = 'archived';

-- name: delete_copy.postgres_batch
-- PostgreSQL writes a batch by one statement.
UPDATE copies SET state = 'deleted', finished_at = many.finished_at
FROM unnest(CAST(:finished_at AS BIGINT[]), CAST(:copy_id AS TEXT[])) AS many (finished_at, copy_id)
WHERE copies.id = many.copy_id AND copies.state = 'archived';

-- name: claim_copies
-- Takes what is due, the first to expire first, and leases it: after a crash the lease runs out and it is due again.
UPDATE copies SET due_at = :leased_until, leased_by = :boot
WHERE id IN (
    SELECT id FROM copies
    WHERE state = 'pending' AND due_at <= :now AND project_id NOT IN (SELECT value FROM json_each(:full))
      AND host NOT IN (SELECT value FROM json_each(:full_hosts))
    ORDER BY urgent_at, id LIMIT :limit
)
RETURNING id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, key;

-- name: claim_copies.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked. A list is an array.
WITH chosen AS MATERIALIZED (
    SELECT id FROM copies
    WHERE state = 'pending' AND due_at <= :now AND project_id <> ALL (:full) AND host <> ALL (:full_hosts)
    ORDER BY urgent_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE copies SET due_at = :leased_until, leased_by = :boot
WHERE id IN (SELECT id FROM chosen)
RETURNING id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, key;

-- name: retry_copy
-- The next try of a copy, which its process has leased.
UPDATE copies SET due_at = :due_at, leased_by = NULL, attempts_made = :attempts_made, gone_seen = :gone_seen, error_code = :error_code, error = :error
WHERE id = :id AND state = 'pending';

-- name: name_copy
-- The key that a copy is about to be written to: a process that is killed while it writes is followed by one that knows where to look.
UPDATE copies SET key = :key, content_type = :content_type WHERE id = :id AND state = 'pending' RETURNING id;

-- name: copy_by_id
-- A copy that is to be made, as it is now: its URL may have been renewed.
SELECT id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, key
FROM copies WHERE id = :id AND state = 'pending';

-- name: copy_of_output
-- The copy of a project's result.
SELECT id, state, key, content_type, bytes, sha256 FROM copies WHERE job_id = :job_id AND number = :number AND project_id = :project_id;

-- name: copies_out_of_time
-- Copies for which an event has waited long enough: one of each job.
SELECT MIN(id) AS id, job_id, MIN(number) AS number, MIN(held_until) AS held_until, MIN(supersedes) AS supersedes
FROM copies WHERE held_until IS NOT NULL AND held_until <= :now GROUP BY job_id ORDER BY MIN(held_until) LIMIT :limit;

-- name: next_copy
-- When the next copy is due, or an event has waited long enough.
SELECT
    (SELECT MIN(due_at) FROM copies WHERE state = 'pending') AS due_at,
    (SELECT MIN(held_until) FROM copies WHERE held_until IS NOT NULL) AS held_until;

-- name: copies_past_retention
-- Copies that were made before then.
SELECT id, job_id, number, key FROM copies WHERE state = 'archived' AND finished_at < :before ORDER BY finished_at LIMIT :limit;

-- name: forget_copy
-- A copy whose object and job are gone.
DELETE FROM copies WHERE id = :id;

-- name: take_back_copies
-- What these boots had leased is due; what waits for its next try is not leased, and keeps its time.
UPDATE copies SET due_at = :now, leased_by = NULL
WHERE state = 'pending' AND leased_by IN (SELECT value FROM json_each(:boots))
RETURNING id;

-- name: take_back_copies.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
UPDATE copies SET due_at = :now, leased_by = NULL WHERE state = 'pending' AND leased_by = ANY (:boots) RETURNING id;

-- name: copy_counts
-- How many copies of a project have each state, and their bytes.
SELECT state, COUNT(*) AS number, COALESCE(SUM(bytes), 0) AS bytes FROM copies WHERE project_id = :project_id GROUP BY state;

-- name: archive_modes
-- The projects that have a mode of their own.
SELECT id, archive FROM projects WHERE archive IS NOT NULL;

-- name: set_archive_mode
-- A project's own mode; NULL for the setting's.
UPDATE projects SET archive = :mode WHERE id = :id RETURNING id;
