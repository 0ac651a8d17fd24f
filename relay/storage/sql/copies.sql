-- name: insert_copy
-- A result to copy; a copy that the job had of it before begins anew. `writes` goes on: no key is used again.
INSERT INTO copies (id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, urgent_at, state, due_at, attempts_made, gone_seen, created_at, held_until, supersedes)
VALUES (:id, :project_id, :job_id, :number, :provider, :kind, :url, :host, :needs_key, :expires_at, :urgent_at, 'pending', :due_at, 0, 0, :created_at, :held_until, :supersedes)
ON CONFLICT (job_id, number) DO UPDATE SET
    id = excluded.id, kind = excluded.kind, url = excluded.url, host = excluded.host, needs_key = excluded.needs_key, expires_at = excluded.expires_at,
    urgent_at = excluded.urgent_at, state = 'pending', due_at = excluded.due_at, leased_by = NULL, attempts_made = 0, gone_seen = 0,
    created_at = excluded.created_at, held_until = excluded.held_until, supersedes = excluded.supersedes,
    bucket = '', key = NULL, writing = 0, sha256 = NULL, bytes = NULL, content_type = NULL, error_code = NULL, error = NULL, finished_at = NULL;

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
    bucket = '', key = NULL, writing = 0, sha256 = NULL, bytes = NULL, content_type = NULL, error_code = NULL, error = NULL, finished_at = NULL;

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
-- One that failed has no key any more: `leave_copy` has queued what there may be under it.
UPDATE copies SET
    state = :state, due_at = NULL, leased_by = NULL, attempts_made = attempts_made + 1, key = :key, writing = 0, sha256 = :digest, bytes = :bytes,
    content_type = :content_type, error_code = :error_code, error = :error, finished_at = :finished_at
WHERE id = :copy_id AND state || '' = 'pending';

-- name: end_copy.postgres_batch
-- PostgreSQL writes a batch by one statement.
UPDATE copies SET
    state = many.state, due_at = NULL, leased_by = NULL, attempts_made = copies.attempts_made + 1, key = many.key, writing = 0, sha256 = many.sha256, bytes = many.bytes,
    content_type = many.content_type, error_code = many.error_code, error = many.error, finished_at = many.finished_at
FROM unnest(
    CAST(:state AS TEXT[]), CAST(:key AS TEXT[]), CAST(:digest AS TEXT[]), CAST(:bytes AS BIGINT[]), CAST(:content_type AS TEXT[]),
    CAST(:error_code AS TEXT[]), CAST(:error AS TEXT[]), CAST(:finished_at AS BIGINT[]), CAST(:copy_id AS TEXT[])
) AS many (state, key, sha256, bytes, content_type, error_code, error, finished_at, copy_id)
WHERE copies.id = many.copy_id AND copies.state || '' = 'pending';

-- name: release_event
-- The event of a job's end was sent, and waits no longer for its copies.
UPDATE copies SET held_until = NULL WHERE job_id = :job_id;

-- name: release_event.postgres_batch
-- PostgreSQL writes a batch by one statement.
UPDATE copies SET held_until = NULL WHERE job_id IN (SELECT * FROM unnest(CAST(:job_id AS TEXT[])));

-- name: delete_copy
-- A copy is past its retention; `leave_copy` has queued its object.
UPDATE copies SET state = 'deleted', bucket = '', key = NULL, finished_at = :finished_at WHERE id = :copy_id AND state || '' = 'archived';

-- name: delete_copy.postgres_batch
-- PostgreSQL writes a batch by one statement.
UPDATE copies SET state = 'deleted', bucket = '', key = NULL, finished_at = many.finished_at
FROM unnest(CAST(:finished_at AS BIGINT[]), CAST(:copy_id AS TEXT[])) AS many (finished_at, copy_id)
WHERE copies.id = many.copy_id AND copies.state || '' = 'archived';

-- name: claim_copies
-- Takes what is due, the first to expire first or, `in_turn`, the first that became due, and leases it: after a crash the lease runs out and
-- it is due again. It reads those that expire first and those that are due first, `window` of each, however many wait.
UPDATE copies SET due_at = :leased_until, leased_by = :boot
WHERE id IN (
    SELECT id FROM (
        SELECT id, urgent_at, due_at FROM (
            SELECT id, urgent_at, due_at FROM copies WHERE state = 'pending' ORDER BY urgent_at, id LIMIT :window
        ) AS first_urgent
        WHERE due_at <= :now
        UNION
        SELECT id, urgent_at, due_at FROM (
            SELECT id, urgent_at, due_at FROM copies WHERE state = 'pending' AND due_at <= :now ORDER BY due_at LIMIT :window
        ) AS first_due
    ) AS candidates
    ORDER BY CASE WHEN :in_turn = 1 THEN due_at ELSE urgent_at END, id LIMIT :limit
)
RETURNING id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, bucket, key, writes, writing, due_at AS leased_until;

-- name: claim_copies.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT id FROM copies
    WHERE id IN (
        SELECT id FROM (
            SELECT id, due_at FROM copies WHERE state = 'pending' ORDER BY urgent_at, id LIMIT :window
        ) AS first_urgent
        WHERE due_at <= :now
        UNION
        SELECT id FROM (
            SELECT id FROM copies WHERE state = 'pending' AND due_at <= :now ORDER BY due_at LIMIT :window
        ) AS first_due
    ) AND state || '' = 'pending' AND due_at + 0 <= :now
    ORDER BY CASE WHEN :in_turn = 1 THEN due_at ELSE urgent_at END, id LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE copies SET due_at = :leased_until, leased_by = :boot
WHERE id IN (SELECT id FROM chosen)
RETURNING id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, bucket, key, writes, writing, due_at AS leased_until;

-- name: claim_copies_beside
-- The same beside projects and hosts that are full, however much waits for these: of each other project and host some of what became due
-- first, and of what expires first, if that is due. From one project and host to the next, past all hosts of a full project.
WITH RECURSIVE waiting (id) AS (
    SELECT (SELECT id FROM copies WHERE state = 'pending' ORDER BY project_id, host, due_at LIMIT 1)
    UNION ALL
    SELECT COALESCE(
        CASE WHEN last.project_id IN (SELECT value FROM json_each(:full)) THEN NULL ELSE (
            SELECT later.id FROM copies AS later
            WHERE later.state = 'pending' AND later.project_id = last.project_id AND later.host > last.host
            ORDER BY later.host, later.due_at LIMIT 1
        ) END,
        (
            SELECT later.id FROM copies AS later WHERE later.state = 'pending' AND later.project_id > last.project_id
            ORDER BY later.project_id, later.host, later.due_at LIMIT 1
        )
    )
    FROM waiting JOIN copies AS last ON last.id = waiting.id
)
UPDATE copies SET due_at = :leased_until, leased_by = :boot
WHERE id IN (
    SELECT due.id
    FROM (
        SELECT
            (SELECT project_id FROM copies WHERE copies.id = waiting.id) AS project_id, (SELECT host FROM copies WHERE copies.id = waiting.id) AS host
        FROM waiting
    ) AS pair JOIN copies AS due ON due.id IN (
        SELECT id FROM (
            SELECT id FROM copies WHERE state = 'pending' AND project_id = pair.project_id AND host = pair.host ORDER BY due_at LIMIT :few
        ) AS first_due
        UNION
        SELECT id FROM (
            SELECT id FROM copies WHERE state = 'pending' AND project_id = pair.project_id AND host = pair.host ORDER BY urgent_at LIMIT :few
        ) AS first_urgent
    )
    WHERE pair.project_id NOT IN (SELECT value FROM json_each(:full)) AND pair.host NOT IN (SELECT value FROM json_each(:full_hosts))
      AND due.due_at + 0 <= :now
    ORDER BY CASE WHEN :in_turn = 1 THEN due.due_at ELSE due.urgent_at END, due.id LIMIT :limit
)
RETURNING id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, bucket, key, writes, writing, due_at AS leased_until;

-- name: claim_copies_beside.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked. A list is an array.
WITH RECURSIVE waiting (id) AS (
    SELECT (SELECT id FROM copies WHERE state = 'pending' ORDER BY project_id, host, due_at LIMIT 1)
    UNION ALL
    SELECT COALESCE(
        CASE WHEN last.project_id = ANY (:full) THEN NULL ELSE (
            SELECT later.id FROM copies AS later
            WHERE later.state = 'pending' AND later.project_id = last.project_id AND later.host > last.host
            ORDER BY later.host, later.due_at LIMIT 1
        ) END,
        (
            SELECT later.id FROM copies AS later WHERE later.state = 'pending' AND later.project_id > last.project_id
            ORDER BY later.project_id, later.host, later.due_at LIMIT 1
        )
    )
    FROM waiting JOIN copies AS last ON last.id = waiting.id
), chosen AS MATERIALIZED (
    SELECT id FROM copies
    WHERE id IN (
        SELECT due.id
        FROM waiting JOIN copies AS pair ON pair.id = waiting.id CROSS JOIN LATERAL (
            (SELECT id FROM copies WHERE state = 'pending' AND project_id = pair.project_id AND host = pair.host ORDER BY due_at LIMIT :few)
            UNION
            (SELECT id FROM copies WHERE state = 'pending' AND project_id = pair.project_id AND host = pair.host ORDER BY urgent_at LIMIT :few)
        ) AS due
        WHERE NOT pair.project_id = ANY (:full) AND NOT pair.host = ANY (:full_hosts)
    ) AND state || '' = 'pending' AND due_at + 0 <= :now
    ORDER BY CASE WHEN :in_turn = 1 THEN due_at ELSE urgent_at END, id LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE copies SET due_at = :leased_until, leased_by = :boot
WHERE id IN (SELECT id FROM chosen)
RETURNING id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, bucket, key, writes, writing, due_at AS leased_until;

-- name: retry_copy
-- The next try of a copy; nothing happens unless its process still has the lease of the last one. `writing` is 1 where that may still write.
UPDATE copies SET due_at = :due_at, leased_by = NULL, writing = :writing, attempts_made = :attempts_made, gone_seen = :gone_seen, error_code = :error_code, error = :error
WHERE id = :id AND state || '' = 'pending' AND due_at + 0 = :leased_until;

-- name: hold_copies
-- Copies that are pending or in the archive, locked: whose lease they are under, and what was written of them.
SELECT id, job_id, number, state, due_at, bucket, key FROM copies
WHERE id IN (SELECT value FROM json_each(:ids)) AND (state = 'pending' OR state = 'archived') ORDER BY id;

-- name: hold_copies.postgres
-- PostgreSQL locks the rows, in one order; on SQLite only one transaction writes at a time. A list is an array.
SELECT id, job_id, number, state, due_at, bucket, key FROM copies
WHERE id = ANY (:ids) AND (state = 'pending' OR state = 'archived') ORDER BY id FOR UPDATE;

-- name: name_copy
-- The key that a copy is about to be written to: a process that is killed while it writes is followed by one that knows where to look.
UPDATE copies SET bucket = :bucket, key = :key, content_type = :content_type, writes = :writes, writing = 1 WHERE id = :id;

-- name: leave_copy
-- Queues the object of a copy, if there may be one, to be deleted: the copy has failed, is past its retention, or begins anew.
INSERT INTO objects_left (bucket, key, due_at)
SELECT bucket, key, :due_at FROM copies WHERE job_id = :job_id AND number = :number AND key IS NOT NULL
ON CONFLICT (bucket, key) DO UPDATE SET due_at = excluded.due_at;

-- name: leave_copy.postgres_batch
-- PostgreSQL writes a batch by one statement.
INSERT INTO objects_left (bucket, key, due_at)
SELECT copies.bucket, copies.key, many.due_at
FROM unnest(CAST(:due_at AS BIGINT[]), CAST(:job_id AS TEXT[]), CAST(:number AS INTEGER[])) AS many (due_at, job_id, number)
JOIN copies ON copies.job_id = many.job_id AND copies.number = many.number
WHERE copies.key IS NOT NULL
ON CONFLICT (bucket, key) DO UPDATE SET due_at = excluded.due_at;

-- name: leave_object
-- Queues what a try has written whose lease is another's by now, unless it is that copy's object nevertheless.
INSERT INTO objects_left (bucket, key, due_at)
SELECT :bucket, :key, :due_at
WHERE NOT EXISTS (SELECT 1 FROM copies WHERE job_id = :job_id AND number = :number AND (bucket = :bucket OR bucket = '') AND key = :key)
ON CONFLICT (bucket, key) DO UPDATE SET due_at = excluded.due_at;

-- name: leave_object.postgres_batch
-- PostgreSQL writes a batch by one statement.
INSERT INTO objects_left (bucket, key, due_at)
SELECT many.bucket, many.key, many.due_at
FROM unnest(
    CAST(:bucket AS TEXT[]), CAST(:key AS TEXT[]), CAST(:due_at AS BIGINT[]), CAST(:job_id AS TEXT[]), CAST(:number AS INTEGER[])
) AS many (bucket, key, due_at, job_id, number)
WHERE NOT EXISTS (
    SELECT 1 FROM copies
    WHERE copies.job_id = many.job_id AND copies.number = many.number AND (copies.bucket = many.bucket OR copies.bucket = '') AND copies.key = many.key
)
ON CONFLICT (bucket, key) DO UPDATE SET due_at = excluded.due_at;

-- name: buckets_left
-- The buckets in which objects are to be deleted now; from one to the next, since there are few of them and many objects.
WITH RECURSIVE named (bucket) AS (
    SELECT MIN(bucket) FROM objects_left
    UNION ALL
    SELECT (SELECT MIN(bucket) FROM objects_left WHERE bucket > named.bucket) FROM named WHERE named.bucket IS NOT NULL
)
SELECT bucket FROM named
WHERE bucket IS NOT NULL AND (SELECT MIN(due_at) FROM objects_left WHERE objects_left.bucket = named.bucket) <= :now ORDER BY bucket;

-- name: name_copies
-- Copies from before buckets had names are in the one that is configured now; some at a time.
UPDATE copies SET bucket = :bucket WHERE id IN (SELECT id FROM copies WHERE bucket = '' AND key IS NOT NULL LIMIT :limit) RETURNING id;

-- name: name_objects_left
-- So are the objects that are to be deleted; `forget_unnamed` follows.
INSERT INTO objects_left (bucket, key, due_at) SELECT :bucket, key, due_at FROM objects_left WHERE bucket = '' ORDER BY key LIMIT :limit
ON CONFLICT (bucket, key) DO UPDATE SET due_at = excluded.due_at;

-- name: forget_unnamed
-- They have their names.
DELETE FROM objects_left WHERE bucket = '' AND key IN (SELECT key FROM objects_left WHERE bucket = :bucket) RETURNING key;

-- name: claim_object_left
-- Takes the object of a bucket that is to be deleted first, and leases it.
UPDATE objects_left SET due_at = :leased_until
WHERE rowid IN (SELECT rowid FROM objects_left WHERE bucket = :bucket AND due_at <= :now ORDER BY due_at LIMIT 1)
RETURNING bucket, key, due_at AS leased_until;

-- name: claim_object_left.postgres
-- PostgreSQL locks the row, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT bucket, key FROM objects_left WHERE bucket = :bucket AND due_at <= :now ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE objects_left SET due_at = :leased_until
WHERE (bucket, key) IN (SELECT bucket, key FROM chosen)
RETURNING bucket, key, due_at AS leased_until;

-- name: forget_object_left
-- It is gone, unless it was queued again meanwhile.
DELETE FROM objects_left WHERE bucket = :bucket AND key = :key AND due_at = :leased_until;

-- name: postpone_object_left
-- Its bucket did not delete it.
UPDATE objects_left SET due_at = :due_at WHERE bucket = :bucket AND key = :key AND due_at = :leased_until;

-- name: copy_leased
-- A copy that is to be made, as it is now: its URL may have been renewed. None whose lease is another's.
SELECT id, project_id, job_id, number, provider, kind, url, host, needs_key, expires_at, attempts_made, gone_seen, created_at, held_until, supersedes, bucket, key, writes, writing, due_at AS leased_until
FROM copies WHERE id = :id AND state || '' = 'pending' AND due_at + 0 = :leased_until;

-- name: copy_of_output
-- The copy of a project's result.
SELECT id, state, bucket, key, content_type, bytes, sha256 FROM copies WHERE job_id = :job_id AND number = :number AND project_id = :project_id;

-- name: copies_of_job
-- The copies of the results of a project's job, in their order.
SELECT
    id, number, kind, state, bucket, key, content_type, bytes, sha256, attempts_made, error_code, error, due_at, leased_by, expires_at, created_at, finished_at
FROM copies WHERE job_id = :job_id AND project_id = :project_id ORDER BY number;

-- name: hasten_copies
-- The copies of a job that wait for their next try are due now; one that is being copied goes on.
UPDATE copies SET due_at = :now WHERE job_id = :job_id AND state = 'pending' AND leased_by IS NULL RETURNING id;

-- name: copies_out_of_time
-- Copies for which an event has waited long enough: one of each job, of the first that have.
SELECT MIN(id) AS id, job_id, MIN(number) AS number, MIN(held_until) AS held_until, MIN(supersedes) AS supersedes
FROM (
    SELECT id, job_id, number, held_until, supersedes FROM copies
    WHERE held_until IS NOT NULL AND held_until <= :now ORDER BY held_until LIMIT :limit
) AS first_held
GROUP BY job_id ORDER BY MIN(held_until);

-- name: next_copy
-- When the next copy becomes due, or an event has waited long enough.
SELECT
    (SELECT MIN(due_at) FROM copies WHERE state = 'pending' AND due_at > :now) AS due_at,
    (SELECT MIN(held_until) FROM copies WHERE held_until IS NOT NULL) AS held_until;

-- name: copies_past_retention
-- Copies that were made before then.
SELECT id, job_id, number FROM copies WHERE state = 'archived' AND finished_at < :before ORDER BY finished_at LIMIT :limit;

-- name: forget_copy
-- A copy whose job is gone; `leave_copy` has queued its object.
DELETE FROM copies WHERE id = :id;

-- name: take_back_copies
-- What these boots had leased is due; what waits for its next try is not leased, and keeps its time. They write no more: the lock of the
-- file proves that they have ended.
UPDATE copies SET due_at = :now, leased_by = NULL, writing = 0
WHERE leased_by IN (SELECT value FROM json_each(:boots))
RETURNING id;

-- name: take_back_copies.postgres
-- A process whose connection was cut may still write: so the next try of what it wrote has another key. A list is an array in PostgreSQL.
UPDATE copies SET due_at = :now, leased_by = NULL WHERE leased_by = ANY (:boots) RETURNING id;

-- name: give_back_copies
-- The same for a process that is about to end: a thread of it may still write.
UPDATE copies SET due_at = :now, leased_by = NULL WHERE leased_by IN (SELECT value FROM json_each(:boots)) RETURNING id;

-- name: give_back_copies.postgres
-- A list is an array in PostgreSQL.
UPDATE copies SET due_at = :now, leased_by = NULL WHERE leased_by = ANY (:boots) RETURNING id;

-- name: copy_counts
-- How many copies of a project have each state, and their bytes.
SELECT state, COUNT(*) AS number, COALESCE(SUM(bytes), 0) AS bytes FROM copies WHERE project_id = :project_id GROUP BY state;

-- name: archive_modes
-- The projects that have a mode of their own.
SELECT id, archive FROM projects WHERE archive IS NOT NULL;

-- name: set_archive_mode
-- A project's own mode; NULL for the setting's.
UPDATE projects SET archive = :mode WHERE id = :id RETURNING id;
