-- name: insert_job
-- A new job, before anything is sent. One that is adopted by two requests together is there already. An open job's document is blank at its
-- end, as long as one with a result usually is: a row that grows is moved with its neighbours, and each of their pages is written.
INSERT INTO jobs (
    id, project_id, provider, state, reason, provider_job_id, cost, created_at, finished_at, confirm_by, next_check_at, checks_made,
    timer, next_at, doc
) VALUES (
    :id, :project_id, :provider, :state, :reason, :provider_job_id, :cost, :created_at, :finished_at, :confirm_by, :next_check_at, :checks_made,
    :timer, :next_at, printf('%-1180s', :doc)
) ON CONFLICT (id) DO NOTHING;

-- name: insert_job.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO jobs (
    id, project_id, provider, state, reason, provider_job_id, cost, created_at, finished_at, confirm_by, next_check_at, checks_made,
    timer, next_at, doc
)
SELECT * FROM unnest(
    CAST(:id AS TEXT[]), CAST(:project_id AS TEXT[]), CAST(:provider AS TEXT[]), CAST(:state AS TEXT[]), CAST(:reason AS TEXT[]),
    CAST(:provider_job_id AS TEXT[]), CAST(:cost AS TEXT[]), CAST(:created_at AS BIGINT[]), CAST(:finished_at AS BIGINT[]),
    CAST(:confirm_by AS BIGINT[]), CAST(:next_check_at AS BIGINT[]), CAST(:checks_made AS INTEGER[]), CAST(:timer AS TEXT[]),
    CAST(:next_at AS BIGINT[]), CAST(:doc AS TEXT[])
) ON CONFLICT (id) DO NOTHING;

-- name: insert_job_request
-- What a job was made of; it never changes.
INSERT INTO job_requests (job_id, request, input, metadata) VALUES (:job_id, :request, :input, :metadata)
ON CONFLICT (job_id) DO NOTHING;

-- name: insert_job_request.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO job_requests (job_id, request, input, metadata)
SELECT * FROM unnest(CAST(:job_id AS TEXT[]), CAST(:request AS TEXT[]), CAST(:input AS TEXT[]), CAST(:metadata AS TEXT[]))
ON CONFLICT (job_id) DO NOTHING;

-- name: insert_job_metadata
-- One `key=value` of a job, so that jobs can be found by it.
INSERT INTO job_metadata (project_id, pair, job_id) VALUES (:project_id, :pair, :job_id) ON CONFLICT DO NOTHING;

-- name: insert_job_metadata.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO job_metadata (project_id, pair, job_id)
SELECT * FROM unnest(
    CAST(:project_id AS TEXT[]), CAST(:pair AS TEXT[]), CAST(:job_id AS TEXT[])
) ON CONFLICT DO NOTHING;

-- name: update_job
-- A job after a transition; what never changes is not named, nor is its provider's id. A check
-- is under way as long as the time that it was leased until stands.
UPDATE jobs SET
    state = :state, reason = :reason, cost = :cost, finished_at = :finished_at, confirm_by = :confirm_by,
    checked_by = CASE WHEN next_check_at = :next_check_at THEN checked_by END, next_check_at = :next_check_at, timer = :timer, next_at = :next_at,
    doc = CASE WHEN :finished_at IS NULL THEN printf('%-1180s', :doc) ELSE :doc END
WHERE id = :id;

-- name: update_job.postgres_batch
-- PostgreSQL writes a batch by one statement; the rows have been locked as they were read, or have a version that must not have changed.
UPDATE jobs SET
    state = many.state, reason = many.reason, cost = many.cost, finished_at = many.finished_at,
    confirm_by = many.confirm_by, checked_by = CASE WHEN jobs.next_check_at = many.next_check_at THEN jobs.checked_by END,
    next_check_at = many.next_check_at, timer = many.timer, next_at = many.next_at, doc = many.doc
FROM unnest(
    CAST(:id AS TEXT[]), CAST(:state AS TEXT[]), CAST(:reason AS TEXT[]), CAST(:cost AS TEXT[]),
    CAST(:finished_at AS BIGINT[]), CAST(:confirm_by AS BIGINT[]), CAST(:next_check_at AS BIGINT[]), CAST(:timer AS TEXT[]),
    CAST(:next_at AS BIGINT[]), CAST(:doc AS TEXT[]), CAST(:version AS TEXT[])
) AS many (id, state, reason, cost, finished_at, confirm_by, next_check_at, timer, next_at, doc, version)
WHERE jobs.id = many.id AND (many.version IS NULL OR CAST(jobs.xmin AS TEXT) = many.version) RETURNING jobs.id;

-- name: update_job_and_provider_id
-- The same with the id that its provider gave it, which few updates change: SQLite writes an index anew for each column that is named,
-- though it stays as it is. A check is under way as long as the time that it was leased until stands.
UPDATE jobs SET
    state = :state, reason = :reason, provider_job_id = :provider_job_id, cost = :cost, finished_at = :finished_at, confirm_by = :confirm_by,
    checked_by = CASE WHEN next_check_at = :next_check_at THEN checked_by END, next_check_at = :next_check_at, timer = :timer, next_at = :next_at,
    doc = CASE WHEN :finished_at IS NULL THEN printf('%-1180s', :doc) ELSE :doc END
WHERE id = :id;

-- name: update_job_and_provider_id.postgres_batch
-- PostgreSQL writes a batch by one statement; the rows have been locked as they were read, or have a version that must not have changed.
UPDATE jobs SET
    state = many.state, reason = many.reason, provider_job_id = many.provider_job_id, cost = many.cost, finished_at = many.finished_at,
    confirm_by = many.confirm_by, checked_by = CASE WHEN jobs.next_check_at = many.next_check_at THEN jobs.checked_by END,
    next_check_at = many.next_check_at, timer = many.timer, next_at = many.next_at, doc = many.doc
FROM unnest(
    CAST(:id AS TEXT[]), CAST(:state AS TEXT[]), CAST(:reason AS TEXT[]), CAST(:provider_job_id AS TEXT[]), CAST(:cost AS TEXT[]),
    CAST(:finished_at AS BIGINT[]), CAST(:confirm_by AS BIGINT[]), CAST(:next_check_at AS BIGINT[]), CAST(:timer AS TEXT[]),
    CAST(:next_at AS BIGINT[]), CAST(:doc AS TEXT[]), CAST(:version AS TEXT[])
) AS many (id, state, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, timer, next_at, doc, version)
WHERE jobs.id = many.id AND (many.version IS NULL OR CAST(jobs.xmin AS TEXT) = many.version) RETURNING jobs.id;

-- name: jobs_to_submit
-- The jobs that are about to be submitted, by the transaction that marks them. They are found by their ids, and by no index of what waits.
SELECT id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
FROM jobs JOIN job_requests ON job_id = id WHERE id IN (SELECT value FROM json_each(:ids));

-- name: jobs_to_submit.postgres
-- PostgreSQL locks the rows, so that of several processes one finds each not yet begun: in one order, for all of them look for the same jobs.
SELECT id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
FROM jobs JOIN job_requests ON job_id = id WHERE id = ANY (:ids) ORDER BY id FOR UPDATE OF jobs;

-- name: start_submission
-- The job is being submitted from now on, by this boot.
UPDATE jobs SET timer = :timer, next_at = :next_at, doc = printf('%-1180s', :doc), submitted_by = :boot WHERE id = :id;

-- name: start_submission.postgres
-- PostgreSQL writes a whole row at each update, so nothing is reserved.
UPDATE jobs SET timer = :timer, next_at = :next_at, doc = :doc, submitted_by = :boot WHERE id = :id;

-- name: jobs_and_listeners
-- The jobs of a batch, and with the first of them who may want their events: the standing endpoints of their projects, and those made
-- for one job.
WITH found AS (
    SELECT
        id, project_id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
    FROM jobs JOIN job_requests ON job_id = id WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY id
)
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata,
    CASE WHEN id = (SELECT MIN(id) FROM found) THEN (
    SELECT json_group_array(json_array(id, project_id, job_id, event_types, providers, schedule_s)) FROM (
        SELECT id, project_id, job_id, event_types, providers, schedule_s FROM endpoints
        WHERE project_id IN (SELECT project_id FROM found) AND job_id IS NULL AND deleted_at IS NULL AND disabled_at IS NULL
        UNION ALL
        SELECT id, project_id, job_id, event_types, providers, schedule_s FROM endpoints
        WHERE job_id IN (SELECT id FROM found) AND deleted_at IS NULL AND disabled_at IS NULL
    ) AS listening
) END AS listening
FROM found;

-- name: jobs_and_listeners.postgres
-- PostgreSQL locks the jobs, in one order: what is written is decided by what is read here. Its lists are arrays.
WITH found AS (
    SELECT
        id, project_id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
    FROM jobs JOIN job_requests ON job_id = id WHERE id = ANY (:ids) ORDER BY id FOR UPDATE OF jobs
)
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata,
    CASE WHEN id = (SELECT MIN(id) FROM found) THEN (
    SELECT json_agg(json_build_array(id, project_id, job_id, event_types, providers, schedule_s)) FROM (
        SELECT id, project_id, job_id, event_types, providers, schedule_s FROM endpoints
        WHERE project_id IN (SELECT project_id FROM found) AND job_id IS NULL AND deleted_at IS NULL AND disabled_at IS NULL
        UNION ALL
        SELECT id, project_id, job_id, event_types, providers, schedule_s FROM endpoints
        WHERE job_id IN (SELECT id FROM found) AND deleted_at IS NULL AND disabled_at IS NULL
    ) AS listening
) END AS listening
FROM found;

-- name: jobs_and_listeners_unlocked.postgres
-- The same without a lock, with each row's version and the time: for a transaction that writes in one exchange, soon and only if none
-- has changed.
WITH found AS (
    SELECT
        id, project_id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata,
        CAST(jobs.xmin AS TEXT) AS version
    FROM jobs JOIN job_requests ON job_id = id WHERE id = ANY (:ids) ORDER BY id
)
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata, version,
    CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT) AS read_at,
    CASE WHEN id = (SELECT MIN(id) FROM found) THEN (
    SELECT json_agg(json_build_array(id, project_id, job_id, event_types, providers, schedule_s)) FROM (
        SELECT id, project_id, job_id, event_types, providers, schedule_s FROM endpoints
        WHERE project_id IN (SELECT project_id FROM found) AND job_id IS NULL AND deleted_at IS NULL AND disabled_at IS NULL
        UNION ALL
        SELECT id, project_id, job_id, event_types, providers, schedule_s FROM endpoints
        WHERE job_id IN (SELECT id FROM found) AND deleted_at IS NULL AND disabled_at IS NULL
    ) AS listening
) END AS listening
FROM found;

-- name: job_of_project
-- One job, if it is the project's own.
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
FROM jobs JOIN job_requests ON job_id = id WHERE id = :id AND project_id = :project_id;

-- name: job_page
-- Jobs of a project, newest first; `floor` is the last that is read. `undelivered` keeps those with an event that an endpoint should
-- have and has not accepted by any delivery, `result_undelivered` those whose last final event no endpoint has, though there are endpoints.
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
FROM jobs JOIN job_requests ON job_id = id
WHERE project_id = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:status AS TEXT) IS NULL OR state = :status OR (:status = 'open' AND finished_at IS NULL))
  AND (CAST(:reason AS TEXT) IS NULL OR reason = :reason)
  AND (CAST(:provider_job_id AS TEXT) IS NULL OR provider_job_id = :provider_job_id)
  AND (CAST(:provider AS TEXT) IS NULL OR provider = :provider)
  AND (CAST(:created_after AS BIGINT) IS NULL OR jobs.created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR jobs.created_at < :created_before)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id
      WHERE events.job_id = jobs.id AND deliveries.state || '' <> 'delivered' AND NOT EXISTS (
          SELECT 1 FROM deliveries AS arrived
          WHERE arrived.event_id = events.id AND arrived.endpoint_id || '' = deliveries.endpoint_id AND arrived.state || '' = 'delivered'
      )
  ))
  AND (CAST(:copies AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM copies WHERE copies.job_id = jobs.id AND copies.state || '' = :copies))
  AND (:result_undelivered = 0 OR (
      state = 'succeeded' AND NOT EXISTS (
          SELECT 1 FROM deliveries
          WHERE event_id = (SELECT id FROM events WHERE job_id = jobs.id AND final = 1 ORDER BY sequence DESC LIMIT 1)
            AND deliveries.state || '' = 'delivered'
      ) AND EXISTS (
          SELECT 1 FROM endpoints
          WHERE project_id = :project_id AND deleted_at IS NULL AND job_id IS NULL
          UNION ALL
          SELECT 1 FROM endpoints WHERE job_id = jobs.id AND deleted_at IS NULL
      )
  ))
ORDER BY id DESC LIMIT :limit;

-- name: job_page_by_provider_id
-- Jobs of a project with this id at their provider, newest first: they are few.
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
FROM jobs JOIN job_requests ON job_id = id
WHERE provider_job_id = :provider_job_id AND project_id || '' = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:status AS TEXT) IS NULL OR state = :status OR (:status = 'open' AND finished_at IS NULL))
  AND (CAST(:reason AS TEXT) IS NULL OR reason = :reason)
  AND (CAST(:provider AS TEXT) IS NULL OR provider = :provider)
  AND (CAST(:created_after AS BIGINT) IS NULL OR jobs.created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR jobs.created_at < :created_before)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id
      WHERE events.job_id = jobs.id AND deliveries.state || '' <> 'delivered' AND NOT EXISTS (
          SELECT 1 FROM deliveries AS arrived
          WHERE arrived.event_id = events.id AND arrived.endpoint_id || '' = deliveries.endpoint_id AND arrived.state || '' = 'delivered'
      )
  ))
  AND (CAST(:copies AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM copies WHERE copies.job_id = jobs.id AND copies.state || '' = :copies))
  AND (:result_undelivered = 0 OR (
      state = 'succeeded' AND NOT EXISTS (
          SELECT 1 FROM deliveries
          WHERE event_id = (SELECT id FROM events WHERE job_id = jobs.id AND final = 1 ORDER BY sequence DESC LIMIT 1)
            AND deliveries.state || '' = 'delivered'
      ) AND EXISTS (
          SELECT 1 FROM endpoints
          WHERE project_id = :project_id AND deleted_at IS NULL AND job_id IS NULL
          UNION ALL
          SELECT 1 FROM endpoints WHERE job_id = jobs.id AND deleted_at IS NULL
      )
  ))
ORDER BY id DESC LIMIT :limit;

-- name: job_page_by_metadata
-- Jobs of a project that have each of these pairs, found by one of them, newest first; `floor` is the last that is read.
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
FROM jobs JOIN job_requests ON job_id = id
WHERE id IN (
      SELECT job_id FROM job_metadata AS one
      WHERE project_id = :project_id AND pair = :pair
        AND job_id < COALESCE(CAST(:before AS TEXT), 'z') AND job_id >= COALESCE(CAST(:floor AS TEXT), '')
        AND (:pair_count = 1 OR (
            SELECT COUNT(*) FROM job_metadata AS each_of
            WHERE each_of.project_id = :project_id AND each_of.pair IN (SELECT value FROM json_each(:pairs)) AND each_of.job_id = one.job_id
        ) = :pair_count)
  )
  AND project_id || '' = :project_id
  AND (CAST(:status AS TEXT) IS NULL OR state = :status OR (:status = 'open' AND finished_at IS NULL))
  AND (CAST(:reason AS TEXT) IS NULL OR reason = :reason)
  AND (CAST(:provider_job_id AS TEXT) IS NULL OR provider_job_id = :provider_job_id)
  AND (CAST(:provider AS TEXT) IS NULL OR provider = :provider)
  AND (CAST(:created_after AS BIGINT) IS NULL OR jobs.created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR jobs.created_at < :created_before)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id
      WHERE events.job_id = jobs.id AND deliveries.state || '' <> 'delivered' AND NOT EXISTS (
          SELECT 1 FROM deliveries AS arrived
          WHERE arrived.event_id = events.id AND arrived.endpoint_id || '' = deliveries.endpoint_id AND arrived.state || '' = 'delivered'
      )
  ))
  AND (CAST(:copies AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM copies WHERE copies.job_id = jobs.id AND copies.state || '' = :copies))
  AND (:result_undelivered = 0 OR (
      state = 'succeeded' AND NOT EXISTS (
          SELECT 1 FROM deliveries
          WHERE event_id = (SELECT id FROM events WHERE job_id = jobs.id AND final = 1 ORDER BY sequence DESC LIMIT 1)
            AND deliveries.state || '' = 'delivered'
      ) AND EXISTS (
          SELECT 1 FROM endpoints
          WHERE project_id = :project_id AND deleted_at IS NULL AND job_id IS NULL
          UNION ALL
          SELECT 1 FROM endpoints WHERE job_id = jobs.id AND deleted_at IS NULL
      )
  ))
ORDER BY id DESC LIMIT :limit;

-- name: job_page_by_metadata.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc, input, request, metadata
FROM jobs JOIN job_requests ON job_id = id
WHERE id IN (
      SELECT job_id FROM job_metadata AS one
      WHERE project_id = :project_id AND pair = :pair
        AND job_id < COALESCE(CAST(:before AS TEXT), 'z') AND job_id >= COALESCE(CAST(:floor AS TEXT), '')
        AND (:pair_count = 1 OR (
            SELECT COUNT(*) FROM job_metadata AS each_of
            WHERE each_of.project_id = :project_id AND each_of.pair = ANY (:pairs) AND each_of.job_id = one.job_id
        ) = :pair_count)
  )
  AND project_id || '' = :project_id
  AND (CAST(:status AS TEXT) IS NULL OR state = :status OR (:status = 'open' AND finished_at IS NULL))
  AND (CAST(:reason AS TEXT) IS NULL OR reason = :reason)
  AND (CAST(:provider_job_id AS TEXT) IS NULL OR provider_job_id = :provider_job_id)
  AND (CAST(:provider AS TEXT) IS NULL OR provider = :provider)
  AND (CAST(:created_after AS BIGINT) IS NULL OR jobs.created_at > :created_after)
  AND (CAST(:created_before AS BIGINT) IS NULL OR jobs.created_at < :created_before)
  AND (:undelivered = 0 OR EXISTS (
      SELECT 1 FROM events JOIN deliveries ON deliveries.event_id = events.id
      WHERE events.job_id = jobs.id AND deliveries.state || '' <> 'delivered' AND NOT EXISTS (
          SELECT 1 FROM deliveries AS arrived
          WHERE arrived.event_id = events.id AND arrived.endpoint_id || '' = deliveries.endpoint_id AND arrived.state || '' = 'delivered'
      )
  ))
  AND (CAST(:copies AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM copies WHERE copies.job_id = jobs.id AND copies.state || '' = :copies))
  AND (:result_undelivered = 0 OR (
      state = 'succeeded' AND NOT EXISTS (
          SELECT 1 FROM deliveries
          WHERE event_id = (SELECT id FROM events WHERE job_id = jobs.id AND final = 1 ORDER BY sequence DESC LIMIT 1)
            AND deliveries.state || '' = 'delivered'
      ) AND EXISTS (
          SELECT 1 FROM endpoints
          WHERE project_id = :project_id AND deleted_at IS NULL AND job_id IS NULL
          UNION ALL
          SELECT 1 FROM endpoints WHERE job_id = jobs.id AND deleted_at IS NULL
      )
  ))
ORDER BY id DESC LIMIT :limit;

-- name: job_floor
-- The last job that a page reads, whatever its filter.
SELECT id FROM jobs WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: job_floor_by_pair
-- The last job with this pair that a page reads.
SELECT job_id AS id FROM job_metadata
WHERE project_id = :project_id AND pair = :pair AND job_id < COALESCE(CAST(:before AS TEXT), 'z')
ORDER BY job_id DESC LIMIT 1 OFFSET :window;

-- name: due_jobs
-- Jobs whose timer of one kind has run out.
SELECT id, provider, doc FROM jobs WHERE timer = :timer AND next_at <= :now ORDER BY next_at LIMIT :limit;

-- name: jobs_left_in_submission
-- Jobs whose submission never got an answer: it began long ago, or the process that began it has ended.
SELECT id, provider, next_at AS started_at,
    CASE WHEN submitted_by IN (SELECT id FROM boots WHERE ended_at IS NOT NULL) THEN 1 ELSE 0 END AS abandoned
FROM jobs
WHERE timer = 'submitting' AND (next_at < :before OR submitted_by IN (SELECT id FROM boots WHERE ended_at IS NOT NULL))
ORDER BY next_at LIMIT :limit;

-- name: claim_checks
-- Takes a provider's jobs whose status is to be asked for, but for those that wait to be confirmed, and leases them: after a crash they are due again.
UPDATE jobs SET next_check_at = :leased_until, checked_by = :boot, checks_made = checks_made + 1
WHERE id IN (
    SELECT id FROM jobs
    WHERE provider = :provider AND confirm_by IS NULL AND next_check_at <= :now
    ORDER BY next_check_at LIMIT :limit
)
RETURNING
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc,
    (SELECT input FROM job_requests WHERE job_id = jobs.id) AS input, (SELECT request FROM job_requests WHERE job_id = jobs.id) AS request,
    (SELECT metadata FROM job_requests WHERE job_id = jobs.id) AS metadata;

-- name: claim_checks.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT id FROM jobs
    WHERE provider = :provider AND confirm_by IS NULL AND next_check_at <= :now
    ORDER BY next_check_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET next_check_at = :leased_until, checked_by = :boot, checks_made = checks_made + 1
WHERE id IN (SELECT id FROM chosen)
RETURNING
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc,
    (SELECT input FROM job_requests WHERE job_id = jobs.id) AS input, (SELECT request FROM job_requests WHERE job_id = jobs.id) AS request,
    (SELECT metadata FROM job_requests WHERE job_id = jobs.id) AS metadata;

-- name: claim_confirmations
-- Takes one project's jobs that wait for a status check at a provider, and leases them.
UPDATE jobs SET next_check_at = :leased_until, checked_by = :boot, checks_made = checks_made + 1
WHERE id IN (
    SELECT id FROM jobs
    WHERE provider = :provider AND project_id = :project_id AND confirm_by IS NOT NULL AND next_check_at <= :now
    ORDER BY next_check_at LIMIT :limit
)
RETURNING
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc,
    (SELECT input FROM job_requests WHERE job_id = jobs.id) AS input, (SELECT request FROM job_requests WHERE job_id = jobs.id) AS request,
    (SELECT metadata FROM job_requests WHERE job_id = jobs.id) AS metadata;

-- name: claim_confirmations.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT id FROM jobs
    WHERE provider = :provider AND project_id = :project_id AND confirm_by IS NOT NULL AND next_check_at <= :now
    ORDER BY next_check_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET next_check_at = :leased_until, checked_by = :boot, checks_made = checks_made + 1
WHERE id IN (SELECT id FROM chosen)
RETURNING
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc,
    (SELECT input FROM job_requests WHERE job_id = jobs.id) AS input, (SELECT request FROM job_requests WHERE job_id = jobs.id) AS request,
    (SELECT metadata FROM job_requests WHERE job_id = jobs.id) AS metadata;

-- name: claim_check
-- Takes one job to be asked about now, whenever it was due.
UPDATE jobs SET
    next_check_at = CASE WHEN next_check_at IS NULL THEN NULL ELSE CAST(:leased_until AS BIGINT) END, checked_by = :boot,
    checks_made = checks_made + 1
WHERE id = :id
RETURNING
    id, reason, provider_job_id, cost, finished_at, confirm_by, next_check_at, checks_made, doc,
    (SELECT input FROM job_requests WHERE job_id = jobs.id) AS input, (SELECT request FROM job_requests WHERE job_id = jobs.id) AS request,
    (SELECT metadata FROM job_requests WHERE job_id = jobs.id) AS metadata;

-- name: next_checks
-- When each provider's next status check is due, but for confirmations; from one provider to the next, since there are few of them and many jobs.
WITH RECURSIVE waiting (name) AS (
    SELECT MIN(provider) FROM jobs WHERE confirm_by IS NULL AND next_check_at IS NOT NULL
    UNION ALL
    SELECT (SELECT MIN(provider) FROM jobs WHERE confirm_by IS NULL AND next_check_at IS NOT NULL AND provider > waiting.name)
    FROM waiting WHERE waiting.name IS NOT NULL
)
SELECT name AS provider, (
    SELECT MIN(next_check_at) FROM jobs WHERE provider = waiting.name AND confirm_by IS NULL AND next_check_at IS NOT NULL
) AS at
FROM waiting WHERE name IS NOT NULL;

-- name: next_confirmations
-- When each project's next status check of what waits for one is due at each provider; from one pair of them to the next.
WITH RECURSIVE waiting (id) AS (
    SELECT (
        SELECT id FROM jobs WHERE confirm_by IS NOT NULL AND next_check_at IS NOT NULL
        ORDER BY provider, project_id, next_check_at LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT later.id FROM jobs AS later
        WHERE later.confirm_by IS NOT NULL AND later.next_check_at IS NOT NULL
            AND (later.provider, later.project_id) > (last.provider, last.project_id)
        ORDER BY later.provider, later.project_id, later.next_check_at LIMIT 1
    )
    FROM waiting JOIN jobs AS last ON last.id = waiting.id
)
SELECT jobs.provider, jobs.project_id, jobs.next_check_at AS at
FROM (SELECT id FROM waiting WHERE id IS NOT NULL LIMIT :limit) AS first_due
JOIN jobs ON jobs.id = first_due.id;

-- name: next_job_clock
-- When the sweep has something to do next.
SELECT MIN(at) AS at FROM (
    SELECT MIN(next_at) AS at FROM jobs WHERE timer = 'submit'
    UNION ALL
    SELECT MIN(next_at) AS at FROM jobs WHERE timer = 'deadline'
    UNION ALL
    SELECT MIN(next_at) AS at FROM jobs WHERE timer = 'confirm'
    UNION ALL
    SELECT MIN(next_at) AS at FROM jobs WHERE timer = 'expiring'
    UNION ALL
    SELECT MIN(next_proof_at) AS at FROM payments WHERE next_proof_at IS NOT NULL
) AS clocks;

-- name: insert_call
-- One request of relay to a provider, with what came of it.
INSERT INTO calls (id, job_id, kind, started_at, duration_ms, outcome, status_code, summary, excerpt, decision)
VALUES (:id, :job_id, :kind, :started_at, :duration_ms, :outcome, :status_code, :summary, :excerpt, :decision);

-- name: insert_call.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO calls (id, job_id, kind, started_at, duration_ms, outcome, status_code, summary, excerpt, decision)
SELECT * FROM unnest(
    CAST(:id AS TEXT[]), CAST(:job_id AS TEXT[]), CAST(:kind AS TEXT[]), CAST(:started_at AS BIGINT[]), CAST(:duration_ms AS BIGINT[]),
    CAST(:outcome AS TEXT[]), CAST(:status_code AS INTEGER[]), CAST(:summary AS TEXT[]), CAST(:excerpt AS TEXT[]),
    CAST(:decision AS TEXT[])
);

-- name: calls_written
-- Which of these requests are stored, for those that write them again.
SELECT id FROM calls WHERE id IN (SELECT value FROM json_each(:ids));

-- name: calls_written.postgres
-- A list is an array in PostgreSQL, and JSON in SQLite.
SELECT id FROM calls WHERE id = ANY (:ids);

-- name: calls_of_job
-- A job's requests to its provider, in order.
SELECT
    id, job_id, kind, started_at, duration_ms, outcome, status_code, summary, excerpt, decision
FROM calls WHERE job_id = :job_id ORDER BY id LIMIT :limit;

-- name: backlog
-- What is not done yet, by indexes of it alone; each number ends at `most`.
SELECT
    (SELECT COUNT(*) FROM (
        SELECT 1 AS one FROM jobs WHERE timer IN ('submit', 'submitting', 'deadline') UNION ALL
        SELECT 1 AS one FROM jobs WHERE timer = 'confirm' AND finished_at IS NULL LIMIT :most
    ) AS open) AS open_jobs,
    (SELECT COUNT(*) FROM (SELECT 1 AS one FROM deliveries WHERE state = 'pending' LIMIT :most) AS pending) AS pending_deliveries,
    (SELECT COUNT(*) FROM (SELECT 1 AS one FROM endpoints WHERE held_until IS NOT NULL LIMIT :most) AS held) AS held_endpoints,
    (SELECT MIN(next_attempt_at) FROM deliveries WHERE state = 'pending') AS oldest_due_at;

-- name: job_document
-- What an update of the job does not need in a column.
SELECT doc FROM jobs WHERE id = :id;
