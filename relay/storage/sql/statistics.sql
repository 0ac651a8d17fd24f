-- name: add_statistic
-- Adds to a sum; several processes add to the same rows.
INSERT INTO statistics (project_id, width_s, starts_at, measure, provider, value)
VALUES (:project_id, :width_s, :starts_at, :measure, :provider, :value)
ON CONFLICT (project_id, width_s, starts_at, measure, provider) DO UPDATE SET value = statistics.value + excluded.value;

-- name: add_statistic.postgres_batch
-- PostgreSQL writes a batch by one statement, whose parameters are arrays: a statement costs more than a row.
INSERT INTO statistics (project_id, width_s, starts_at, measure, provider, value)
SELECT * FROM unnest(
    CAST(:project_id AS TEXT[]), CAST(:width_s AS INTEGER[]), CAST(:starts_at AS BIGINT[]), CAST(:measure AS TEXT[]), CAST(:provider AS TEXT[]),
    CAST(:value AS BIGINT[])
)
ON CONFLICT (project_id, width_s, starts_at, measure, provider) DO UPDATE SET value = statistics.value + excluded.value;

-- name: raise_statistic
-- Raises a sum to what was seen, if that is more; several processes see the same.
INSERT INTO statistics (project_id, width_s, starts_at, measure, provider, value)
VALUES (:project_id, :width_s, :starts_at, :measure, :provider, :value)
ON CONFLICT (project_id, width_s, starts_at, measure, provider)
DO UPDATE SET value = CASE WHEN statistics.value < excluded.value THEN excluded.value ELSE statistics.value END;

-- name: note_provider
-- The last callback and the last error of a provider, each with its time; an earlier one changes nothing.
INSERT INTO provider_marks (project_id, provider, last_callback_at, last_error_at, last_error)
VALUES (:project_id, :provider, :last_callback_at, :last_error_at, :last_error)
ON CONFLICT (project_id, provider) DO UPDATE SET
    last_callback_at = CASE WHEN excluded.last_callback_at > COALESCE(provider_marks.last_callback_at, 0)
        THEN excluded.last_callback_at ELSE provider_marks.last_callback_at END,
    last_error = CASE WHEN excluded.last_error_at > COALESCE(provider_marks.last_error_at, 0)
        THEN excluded.last_error ELSE provider_marks.last_error END,
    last_error_at = CASE WHEN excluded.last_error_at > COALESCE(provider_marks.last_error_at, 0)
        THEN excluded.last_error_at ELSE provider_marks.last_error_at END;

-- name: note_key_used
-- When a key was used last.
UPDATE api_keys SET last_used_at = :at WHERE id = :id AND COALESCE(last_used_at, 0) < :at;

-- name: statistics_of_time
-- A project's sums of a time: a row for each interval with its sums as JSON, those of no provider by measure and the others by measure and
-- provider, since a row for each sum would take several times as long to read.
SELECT
    starts_at, json_group_object(measure, value) FILTER (WHERE provider = '') AS sums,
    json_group_object(measure || ' ' || provider, value) FILTER (WHERE provider <> '') AS sums_of_providers
FROM statistics
WHERE project_id = :project_id AND width_s = :width_s AND starts_at >= :first AND starts_at < :last
GROUP BY starts_at;

-- name: statistics_of_time.postgres
-- PostgreSQL has another name for the function.
SELECT
    starts_at, CAST(json_object_agg(measure, value) FILTER (WHERE provider = '') AS TEXT) AS sums,
    CAST(json_object_agg(measure || ' ' || provider, value) FILTER (WHERE provider <> '') AS TEXT) AS sums_of_providers
FROM statistics
WHERE project_id = :project_id AND width_s = :width_s AND starts_at >= :first AND starts_at < :last
GROUP BY starts_at;

-- name: provider_marks
-- The last callback and the last error of each of a project's providers.
SELECT provider, last_callback_at, last_error_at, last_error FROM provider_marks WHERE project_id = :project_id ORDER BY provider;

-- name: due_of_projects
-- How many deliveries of each project are due, among the first `most` that are, and since when the first one.
SELECT project_id, COUNT(*) AS due, MIN(next_attempt_at) AS oldest_at FROM (
    SELECT project_id, next_attempt_at FROM deliveries WHERE state = 'pending' AND next_attempt_at <= :now ORDER BY next_attempt_at LIMIT :most
) AS first_due
GROUP BY project_id;

-- name: copies_now
-- How many copies of a project are pending, and failed, the first `most` of each, and since when the oldest one is pending.
SELECT
    (SELECT COUNT(*) FROM (SELECT 1 FROM copies WHERE project_id = :project_id AND state = 'pending' LIMIT :most) AS waiting) AS pending,
    (SELECT COUNT(*) FROM (SELECT 1 FROM copies WHERE project_id = :project_id AND state = 'failed' LIMIT :most) AS broken) AS failed,
    (SELECT MIN(created_at) FROM copies WHERE project_id = :project_id AND state = 'pending') AS oldest_at;

-- name: forget_statistics
-- A project's sums of one width that are past their retention.
DELETE FROM statistics WHERE project_id = :project_id AND width_s = :width_s AND starts_at < :before;
