-- name: open_alert
-- Opens a condition, unless it is open already, or another process has seen it end after this one last saw it.
INSERT INTO alerts (id, project_id, kind, subject_type, subject_id, subject_name, summary, detail, opened_at)
SELECT :id, :project_id, :kind, :subject_type, :subject_id, :subject_name, :summary, :detail, CAST(:opened_at AS BIGINT)
WHERE NOT EXISTS (
    SELECT 1 FROM alerts WHERE project_id = :project_id AND kind = :kind AND subject_id = :subject_id AND ended_at >= :seen_at
)
ON CONFLICT (project_id, kind, subject_id) WHERE ended_at IS NULL DO NOTHING
RETURNING id;

-- name: refresh_alert
-- What is wrong, as it is by now.
UPDATE alerts SET summary = :summary, detail = :detail WHERE id = :id AND ended_at IS NULL;

-- name: end_alert
-- Ends a condition, unless another process has done it.
UPDATE alerts SET ended_at = :now WHERE id = :id AND ended_at IS NULL RETURNING id;

-- name: open_alerts
-- The conditions of all projects that are open, the oldest first.
SELECT id, project_id, kind, subject_type, subject_id, subject_name, summary, detail, opened_at, ended_at FROM alerts
WHERE ended_at IS NULL ORDER BY project_id, kind, subject_id LIMIT :limit;

-- name: alert_page
-- A project's alerts, newest first.
SELECT id, project_id, kind, subject_type, subject_id, subject_name, summary, detail, opened_at, ended_at FROM alerts
WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND (CAST(:kind AS TEXT) IS NULL OR kind = :kind) AND (CAST(:ended AS INTEGER) IS NULL OR ended_at IS NOT NULL)
ORDER BY id DESC LIMIT :limit;

-- name: alert_page_open
-- Those that are open, which are few and have an index of their own.
SELECT id, project_id, kind, subject_type, subject_id, subject_name, summary, detail, opened_at, ended_at FROM alerts
WHERE ended_at IS NULL AND project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z')
  AND (CAST(:kind AS TEXT) IS NULL OR kind = :kind)
ORDER BY id DESC LIMIT :limit;

-- name: alert_floor
-- The last alert that a page reads, whatever its filter.
SELECT id FROM alerts WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: endpoints_in_trouble
-- Endpoints that have accepted nothing since then, although attempts were made; those that a client disabled or deleted do not count.
SELECT id, project_id, job_id, url, description, failing_since, disabled_at FROM endpoints
WHERE failing_since IS NOT NULL AND failing_since <= :before AND deleted_at IS NULL AND (disabled_at IS NULL OR disabled_reason = :failing)
ORDER BY failing_since LIMIT :limit;

-- name: last_failure_of_endpoint
-- The latest attempt among an endpoint's newest deliveries that failed.
SELECT attempts.delivery_id, attempts.outcome, attempts.status_code, attempts.error, attempts.started_at FROM attempts
WHERE attempts.delivery_id IN (SELECT id FROM deliveries WHERE endpoint_id = :endpoint_id ORDER BY id DESC LIMIT :window) AND attempts.outcome <> 'ok'
ORDER BY attempts.started_at DESC LIMIT 1;

-- name: endpoints_given_up
-- What endpoints did not accept in all their attempts since then, and not later either. Alerts and tests count for nothing here.
SELECT given_up.project_id, endpoints.id, endpoints.job_id, endpoints.url, endpoints.description, COUNT(*) AS number, MAX(given_up.id) AS last_delivery
FROM (
    SELECT id, project_id, event_id, endpoint_id FROM deliveries WHERE state = 'exhausted' AND finished_at >= :since
    ORDER BY finished_at DESC LIMIT :limit
) AS given_up
JOIN endpoints ON endpoints.id = given_up.endpoint_id AND endpoints.deleted_at IS NULL
JOIN events ON events.project_id = given_up.project_id AND events.id = given_up.event_id
WHERE events.type <> 'relay.test' AND events.type NOT LIKE 'ops.%' AND (
    SELECT 1 FROM deliveries AS later
    WHERE later.event_id = given_up.event_id AND later.endpoint_id || '' = given_up.endpoint_id AND later.state || '' = 'delivered' LIMIT 1
) IS NULL
GROUP BY given_up.project_id, endpoints.id, endpoints.job_id, endpoints.url, endpoints.description;

-- name: number_given_up
-- How many deliveries were exhausted since then, counted no further than they are read.
SELECT COUNT(*) AS number FROM (SELECT 1 FROM deliveries WHERE state = 'exhausted' AND finished_at >= :since LIMIT :limit) AS given_up;

-- name: callbacks_in_quarantine
-- Callbacks of each project that were quarantined since then and not released, by provider; so many of all projects at most.
SELECT project_id, provider, COUNT(*) AS number, MAX(id) AS last_callback, MAX(reason) AS reason FROM (
    SELECT doubtful.project_id, doubtful.provider, doubtful.id, doubtful.reason
    FROM projects JOIN callbacks AS doubtful ON doubtful.project_id = projects.id
    WHERE doubtful.disposition = 'quarantined' AND doubtful.id >= :first AND doubtful.received_at >= :since
      AND (doubtful.disposition = 'unreadable' OR doubtful.disposition = 'mismatched' OR doubtful.disposition = 'orphaned' OR doubtful.disposition = 'quarantined')
      AND (SELECT 1 FROM reprocessings WHERE reprocessings.job_id = doubtful.job_id AND reprocessings.callback_id = doubtful.id LIMIT 1) IS NULL
    LIMIT :limit
) AS kept
GROUP BY project_id, provider;

-- name: payments_in_doubt
-- Payments since then of which it is not known whether money moved, or that bought nothing and were found out since `lost_since`.
SELECT project_id, provider, state, COUNT(*) AS number, SUM(amount) AS amount, MAX(job_id) AS last_job FROM payments
WHERE (state = 'unknown' OR state = 'lost') AND created_at >= :since AND (state = 'unknown' OR settled_at >= :lost_since)
GROUP BY project_id, provider, state;

-- name: spending_by_project
-- What each project authorized since then, and its cheapest payment.
SELECT project_id, SUM(amount) AS amount, MIN(amount) AS cheapest FROM payments
WHERE created_at >= :since AND state <> 'void' GROUP BY project_id;

-- name: oldest_due
-- Since when the oldest delivery is due, among the first; those to endpoints that fail wait because of that.
SELECT MIN(first_due.next_attempt_at) AS at, COUNT(*) AS number FROM (
    SELECT endpoint_id, next_attempt_at FROM deliveries
    WHERE state = 'pending' AND next_attempt_at <= :before ORDER BY next_attempt_at LIMIT :limit
) AS first_due
JOIN endpoints ON endpoints.id = first_due.endpoint_id
WHERE endpoints.failing_since IS NULL AND endpoints.disabled_at IS NULL;

-- name: jobs_ended
-- The newest jobs that were made in a time and have ended, of all projects.
SELECT provider, doc FROM (
    SELECT provider, doc, finished_at FROM jobs WHERE id >= :first AND id < :last ORDER BY id DESC LIMIT :limit
) AS newest WHERE finished_at IS NOT NULL;

-- name: prune_alerts
-- Alerts that ended before then.
DELETE FROM alerts WHERE id IN (
    SELECT id FROM alerts WHERE ended_at < :before ORDER BY ended_at LIMIT :limit
)
RETURNING id;

-- name: prune_alerts.postgres
-- PostgreSQL locks the rows, once (MATERIALIZED), and passes over those that another process has locked.
WITH chosen AS MATERIALIZED (
    SELECT id FROM alerts WHERE ended_at < :before ORDER BY ended_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM alerts WHERE id IN (SELECT id FROM chosen)
RETURNING id;
