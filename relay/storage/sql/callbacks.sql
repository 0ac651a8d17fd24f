-- name: insert_callback
-- A callback as it came; the unique index on recorded digests holds even where two processes disagree.
INSERT INTO callbacks (id, project_id, job_id, provider, disposition, reason, received_at, size, headers, body, digest)
VALUES (:id, :project_id, :job_id, :provider, :disposition, :reason, :received_at, :size, :headers, :body, :digest);

-- name: insert_callback.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO callbacks (id, project_id, job_id, provider, disposition, reason, received_at, size, headers, body, digest)
SELECT * FROM unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:job_id AS TEXT[]), CAST(:provider AS TEXT[]), CAST(:disposition AS TEXT[]),
    CAST(:reason AS TEXT[]), CAST(:received_at AS BIGINT[]), CAST(:size AS BIGINT[]), CAST(:headers AS TEXT[]), CAST(:body AS BYTEA[]),
    CAST(:digest AS BYTEA[])
);

-- name: insert_reprocessing
-- A quarantined callback was run again, and keeps its own disposition.
INSERT INTO reprocessings (id, project_id, callback_id, job_id, at, key_id, disposition, reason)
VALUES (:id, :project_id, :callback_id, :job_id, :at, :key_id, :disposition, :reason);

-- name: insert_reprocessing.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO reprocessings (id, project_id, callback_id, job_id, at, key_id, disposition, reason)
SELECT * FROM unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:callback_id AS TEXT[]), CAST(:job_id AS TEXT[]), CAST(:at AS BIGINT[]),
    CAST(:key_id AS TEXT[]), CAST(:disposition AS TEXT[]), CAST(:reason AS TEXT[])
);

-- name: reprocessings_of_job
-- How a job's callbacks were run again, in order.
SELECT id, callback_id, at, key_id, disposition, reason FROM reprocessings WHERE job_id = :job_id ORDER BY id LIMIT :limit;

-- name: recorded_digests
-- The digests of the callbacks about these jobs that are stored.
SELECT job_id, CASE WHEN disposition = 'recorded' THEN digest END AS digest FROM callbacks
WHERE job_id IN (SELECT value FROM json_each(:ids)) AND CASE WHEN disposition = 'recorded' THEN digest END IS NOT NULL;

-- name: recorded_digests.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT job_id, CASE WHEN disposition = 'recorded' THEN digest END AS digest FROM callbacks
WHERE job_id = ANY (:ids) AND CASE WHEN disposition = 'recorded' THEN digest END IS NOT NULL;

-- name: callback_of_project
-- One callback, if it is the project's own.
SELECT
    id, project_id, job_id, provider, disposition, reason, received_at, size, headers, body
FROM callbacks WHERE id = :id AND project_id = :project_id;

-- name: callback_page
-- Callbacks of a project without their bodies, newest first; `floor` is the last that is read.
SELECT id, project_id, job_id, provider, disposition, reason, received_at, size, headers FROM callbacks
WHERE project_id = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:disposition AS TEXT) IS NULL OR disposition = :disposition)
  AND (CAST(:created_after AS BIGINT) IS NULL OR received_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR received_at < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: callback_page_doubtful
-- The same with one of the dispositions that few have, which have an index of their own; in SQLite a list of four would cost every callback.
SELECT id, project_id, job_id, provider, disposition, reason, received_at, size, headers FROM callbacks
WHERE project_id = :project_id AND disposition = :disposition
  AND (disposition = 'unreadable' OR disposition = 'mismatched' OR disposition = 'orphaned' OR disposition = 'quarantined')
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:created_after AS BIGINT) IS NULL OR received_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR received_at < :created_before)
ORDER BY id DESC LIMIT :limit;

-- name: callback_page_of_job
-- Callbacks about one job without their bodies, newest first.
SELECT id, project_id, job_id, provider, disposition, reason, received_at, size, headers FROM callbacks
WHERE project_id = :project_id AND id IN (
    SELECT id FROM callbacks
    WHERE job_id = :job_id AND id || '' < COALESCE(CAST(:before AS TEXT), 'z') AND (CAST(:disposition AS TEXT) IS NULL OR disposition = :disposition)
      AND (CAST(:created_after AS BIGINT) IS NULL OR received_at > :created_after)
      AND (CAST(:created_before AS BIGINT) IS NULL OR received_at < :created_before)
    ORDER BY id DESC LIMIT :limit
)
ORDER BY id DESC;

-- name: callback_floor
-- The last callback that a page reads, whatever its filter.
SELECT id FROM callbacks WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: callbacks_of_job
-- A job's callbacks without their bodies, in order.
SELECT id, disposition, reason, received_at, size FROM callbacks WHERE job_id = :job_id ORDER BY id LIMIT :limit;
