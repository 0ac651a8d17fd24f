-- A job is two rows: what an update rewrites, with one document for all that no statement asks for, and what it was made of, which never
-- changes. One timer says what the sweeper has to do next, instead of a column and an index for each thing.

CREATE TABLE job_requests (
    job_id TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    input TEXT,
    metadata TEXT NOT NULL
);

INSERT INTO job_requests (job_id, request, input, metadata) SELECT id, request, input, metadata FROM jobs ORDER BY id;

DROP INDEX jobs_page;
DROP INDEX jobs_to_submit;
DROP INDEX jobs_being_submitted;
DROP INDEX jobs_to_check;
DROP INDEX jobs_to_confirm;
DROP INDEX jobs_to_settle;
DROP INDEX jobs_expiring;
DROP INDEX jobs_open;
DROP INDEX jobs_finished;

ALTER TABLE jobs RENAME TO jobs_before;

ALTER INDEX jobs_pkey RENAME TO jobs_before_pkey;

CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state = 'pending' OR state = 'submitted' OR state = 'running' OR state = 'succeeded' OR state = 'failed' OR state = 'canceled' OR state = 'expired'
    ),
    reason TEXT,
    provider_job_id TEXT,
    cost TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    confirm_by BIGINT,
    next_check_at BIGINT,
    checks_made INTEGER NOT NULL,
    timer TEXT,
    next_at BIGINT,
    doc TEXT NOT NULL,
    checked_by INTEGER,
    submitted_by INTEGER,
    CHECK ((finished_at IS NULL) = (state = 'pending' OR state = 'submitted' OR state = 'running')),
    CHECK ((timer IS NULL) = (next_at IS NULL)),
    CHECK (finished_at IS NOT NULL OR timer = 'deadline' OR timer = 'confirm' OR (state = 'pending' AND (timer = 'submit' OR timer = 'submitting'))),
    CHECK (finished_at IS NULL OR timer IS NULL OR timer = 'finished' OR timer = 'confirm' OR (state = 'succeeded' AND timer = 'expiring')),
    CHECK (next_check_at IS NULL OR finished_at IS NULL OR confirm_by IS NOT NULL)
);

INSERT INTO jobs (
    id, project_id, provider, state, reason, provider_job_id, cost, created_at, finished_at, confirm_by, next_check_at, checks_made,
    timer, next_at, doc, checked_by, submitted_by
)
SELECT
    id, project_id, provider, state, reason, provider_job_id, cost, created_at, finished_at, confirm_by, next_check_at, checks_made, timer,
    CASE timer
        WHEN 'confirm' THEN confirm_by WHEN 'submit' THEN next_submit_at WHEN 'submitting' THEN submission_started_at
        WHEN 'deadline' THEN deadline_at WHEN 'expiring' THEN expiring_at WHEN 'finished' THEN finished_at
    END,
    CAST(json_build_object(
        'id', id, 'project_id', project_id, 'provider', provider, 'state', state, 'created_at', created_at, 'updated_at', updated_at,
        'deadline_at', deadline_at, 'model', model, 'progress', progress, 'outputs', CAST(outputs AS JSON), 'error', CAST(error AS JSON),
        'finished_by', finished_by, 'verification', verification, 'late', late = 1,
        'sequence', sequence, 'last_final_event', last_final_event, 'callbacks_seen', callbacks_seen, 'submitted_at', submitted_at,
        'next_submit_at', next_submit_at, 'submission_started_at', submission_started_at, 'submissions_made', submissions_made,
        'last_report_at', last_report_at, 'not_found_seen', not_found_seen, 'unconfirmed', CAST(unconfirmed AS JSON), 'status_path', status_path,
        'expiring_at', expiring_at, 'max_cost', max_cost
    ) AS TEXT),
    checked_by, submitted_by
FROM (
    SELECT
        jobs_before.*,
        CASE
            WHEN finished_at IS NULL AND confirm_by IS NOT NULL THEN 'confirm'
            WHEN finished_at IS NULL AND next_submit_at <= deadline_at THEN 'submit'
            WHEN state = 'pending' AND submission_started_at IS NOT NULL AND next_submit_at IS NULL AND reason IS NULL AND unconfirmed IS NULL
                THEN 'submitting'
            WHEN finished_at IS NULL THEN 'deadline'
            WHEN expiring_at IS NOT NULL AND (confirm_by IS NULL OR expiring_at < confirm_by) THEN 'expiring'
            WHEN confirm_by IS NOT NULL THEN 'confirm'
            WHEN unconfirmed IS NULL AND next_check_at IS NULL THEN 'finished'
        END AS timer
    FROM jobs_before
) AS timed
ORDER BY id;

DROP TABLE jobs_before;

CREATE INDEX jobs_page ON jobs (project_id, id);
CREATE INDEX jobs_due ON jobs (timer, next_at) WHERE timer IS NOT NULL;
CREATE INDEX jobs_to_check ON jobs (provider, next_check_at) WHERE confirm_by IS NULL AND next_check_at IS NOT NULL;
CREATE INDEX jobs_to_confirm ON jobs (provider, project_id, next_check_at) WHERE confirm_by IS NOT NULL AND next_check_at IS NOT NULL;
