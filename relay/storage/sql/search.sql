-- name: search_jobs_by_id
-- A project's jobs whose ids are between two, newest first.
SELECT id, id AS job_id, provider, state, created_at FROM jobs
WHERE project_id = :project_id AND id >= :first AND id <= :last ORDER BY id DESC LIMIT :limit;

-- name: search_jobs_by_provider_job_id
-- A project's jobs that have this id at their provider.
SELECT id, id AS job_id, provider, state, created_at FROM jobs
WHERE provider_job_id = :text AND project_id || '' = :project_id ORDER BY id DESC LIMIT :limit;

-- name: search_jobs_by_metadata
-- A project's jobs that have one of these pairs in their metadata, newest first; of each pair no more than `limit` are read.
SELECT jobs.id, jobs.id AS job_id, jobs.provider, jobs.state, jobs.created_at
FROM json_each(:pairs) AS wanted JOIN jobs ON jobs.id IN (
    SELECT job_id FROM job_metadata WHERE project_id = :project_id AND pair = wanted.value ORDER BY job_id DESC LIMIT :limit
)
WHERE jobs.project_id || '' = :project_id
GROUP BY jobs.id, jobs.provider, jobs.state, jobs.created_at ORDER BY jobs.id DESC LIMIT :limit;

-- name: search_jobs_by_metadata.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT jobs.id, jobs.id AS job_id, jobs.provider, jobs.state, jobs.created_at
FROM unnest(CAST(:pairs AS TEXT[])) AS wanted (pair)
CROSS JOIN LATERAL (
    SELECT job_id FROM job_metadata WHERE project_id = :project_id AND job_metadata.pair = wanted.pair ORDER BY job_id DESC LIMIT :limit
) AS found
JOIN jobs ON jobs.id = found.job_id
WHERE jobs.project_id || '' = :project_id
GROUP BY jobs.id, jobs.provider, jobs.state, jobs.created_at ORDER BY jobs.id DESC LIMIT :limit;

-- name: latest_metadata
-- The metadata of a project's newest jobs, the newest first, for the names that it has.
SELECT metadata FROM job_requests
WHERE job_id IN (SELECT id FROM jobs WHERE project_id = :project_id ORDER BY id DESC LIMIT :limit)
ORDER BY job_id DESC;

-- name: search_events
-- A project's events whose ids are between two, newest first, without their bodies.
SELECT id, job_id, type, created_at FROM events
WHERE project_id = :project_id AND id >= :first AND id <= :last ORDER BY id DESC LIMIT :limit;

-- name: search_deliveries
-- A project's deliveries whose ids are between two, newest first, with their endpoints' URLs.
SELECT id, job_id, state, created_at, (SELECT url FROM endpoints WHERE endpoints.id = deliveries.endpoint_id) AS url FROM deliveries
WHERE project_id = :project_id AND id >= :first AND id <= :last ORDER BY id DESC LIMIT :limit;

-- name: search_callbacks
-- A project's callbacks whose ids are between two, newest first, without their bodies.
SELECT id, job_id, provider, disposition, received_at AS created_at FROM callbacks
WHERE project_id = :project_id AND id >= :first AND id <= :last ORDER BY id DESC LIMIT :limit;

-- name: search_endpoints_by_id
-- A project's endpoints whose ids are between two, newest first, those of one job too.
SELECT id, job_id, url, created_at FROM endpoints
WHERE id >= :first AND id <= :last AND project_id || '' = :project_id AND deleted_at IS NULL ORDER BY id DESC LIMIT :limit;

-- name: search_endpoints_by_text
-- A project's standing endpoints with a text in their URL or description, in small or large letters, newest first. There are so many at most.
SELECT id, job_id, url, created_at, CASE WHEN LOWER(url) LIKE :pattern ESCAPE '!' THEN 'url' ELSE 'description' END AS matched FROM endpoints
WHERE project_id = :project_id AND deleted_at IS NULL AND job_id IS NULL
  AND (LOWER(url) LIKE :pattern ESCAPE '!' OR LOWER(COALESCE(description, '')) LIKE :pattern ESCAPE '!')
ORDER BY id DESC LIMIT :limit;

-- name: search_redeliveries
-- A project's batches of redeliveries whose ids are between two, newest first.
SELECT id, which, made, total, created_at FROM redeliveries
WHERE id >= :first AND id <= :last AND project_id || '' = :project_id ORDER BY id DESC LIMIT :limit;
