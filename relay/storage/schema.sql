-- The schema as all migrations together make it on SQLite; a test holds the two against each other. PostgreSQL's differs where a
-- migration has a text of its own for it: it has no WITHOUT ROWID.

CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at BIGINT NOT NULL
);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    archive TEXT
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    digest BYTEA NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    last_used_at BIGINT
);

CREATE INDEX api_keys_page ON api_keys (project_id, id);
CREATE INDEX api_keys_in_use ON api_keys (last_used_at) WHERE revoked_at IS NULL AND last_used_at IS NOT NULL;

CREATE TABLE idempotency_keys (
    project_id TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    reserved_at BIGINT NOT NULL,
    job_id TEXT,
    answer BYTEA,
    PRIMARY KEY (project_id, key)
);

CREATE INDEX idempotency_keys_age ON idempotency_keys (reserved_at);

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

CREATE INDEX jobs_page ON jobs (project_id, id);
CREATE INDEX jobs_due ON jobs (timer, next_at) WHERE timer IS NOT NULL;
CREATE INDEX jobs_to_check ON jobs (provider, next_check_at) WHERE confirm_by IS NULL AND next_check_at IS NOT NULL;
CREATE INDEX jobs_to_confirm ON jobs (provider, project_id, next_check_at) WHERE confirm_by IS NOT NULL AND next_check_at IS NOT NULL;
CREATE INDEX jobs_of_provider_id ON jobs (provider_job_id) WHERE provider_job_id IS NOT NULL;

CREATE TABLE job_requests (
    job_id TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    input TEXT,
    metadata TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE tombstones (
    job_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('succeeded', 'failed', 'canceled', 'expired')),
    finished_at BIGINT NOT NULL,
    pruned_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX tombstones_expiry ON tombstones (expires_at);

CREATE TABLE job_metadata (
    project_id TEXT NOT NULL,
    pair TEXT NOT NULL,
    job_id TEXT NOT NULL,
    PRIMARY KEY (project_id, pair, job_id)
);

CREATE TABLE calls (
    id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    status_code INTEGER,
    summary TEXT NOT NULL,
    excerpt TEXT,
    decision TEXT
);

CREATE INDEX calls_of_job ON calls (job_id, id);

CREATE TABLE payments (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    job_id TEXT NOT NULL UNIQUE,
    provider TEXT NOT NULL,
    nonce TEXT NOT NULL UNIQUE,
    payer TEXT NOT NULL,
    pay_to TEXT NOT NULL,
    asset TEXT NOT NULL,
    chain_id BIGINT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    version INTEGER NOT NULL,
    header_name TEXT NOT NULL,
    header BYTEA NOT NULL,
    body_digest BYTEA NOT NULL,
    valid_before BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'paid', 'unknown', 'lost', 'void')),
    created_at BIGINT NOT NULL,
    settled_at BIGINT,
    transaction_hash TEXT,
    next_proof_at BIGINT,
    answers BYTEA,
    CHECK (next_proof_at IS NULL OR state IN ('reserved', 'unknown'))
);

CREATE INDEX payments_page ON payments (project_id, id);
CREATE INDEX payments_by_day ON payments (created_at);
CREATE INDEX payments_doubtful ON payments (created_at) WHERE state = 'unknown' OR state = 'lost';
CREATE INDEX payments_to_prove ON payments (next_proof_at) WHERE next_proof_at IS NOT NULL;

CREATE TABLE callbacks (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    job_id TEXT,
    provider TEXT NOT NULL,
    disposition TEXT NOT NULL,
    reason TEXT,
    received_at BIGINT NOT NULL,
    size BIGINT NOT NULL,
    headers TEXT NOT NULL,
    body BYTEA NOT NULL,
    digest BYTEA,
    PRIMARY KEY (project_id, id)
);

CREATE UNIQUE INDEX callbacks_of_job ON callbacks (job_id, (CASE WHEN disposition = 'recorded' THEN digest END));
CREATE INDEX callbacks_doubtful ON callbacks (project_id, disposition, id)
    WHERE disposition = 'unreadable' OR disposition = 'mismatched' OR disposition = 'orphaned' OR disposition = 'quarantined';
CREATE INDEX callbacks_orphaned ON callbacks (received_at) WHERE disposition = 'orphaned';

CREATE TABLE events (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    job_id TEXT,
    type TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    final INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    body BYTEA NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (project_id, id)
);

CREATE INDEX events_of_no_job ON events (created_at) WHERE job_id IS NULL;
CREATE INDEX events_in_order ON events (project_id, position, id);
CREATE UNIQUE INDEX events_of_job ON events (job_id, sequence) WHERE job_id IS NOT NULL;

CREATE TABLE endpoints (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    job_id TEXT,
    url TEXT NOT NULL,
    secret BYTEA NOT NULL,
    former_secret BYTEA,
    former_secret_until BIGINT,
    headers BYTEA NOT NULL,
    event_types TEXT NOT NULL,
    providers TEXT,
    description TEXT,
    metadata TEXT NOT NULL,
    rate_limit_per_s DOUBLE PRECISION,
    in_flight_max INTEGER NOT NULL,
    timeout_s DOUBLE PRECISION NOT NULL,
    schedule_s TEXT,
    disabled_at BIGINT,
    disabled_reason TEXT,
    deleted_at BIGINT,
    failing_since BIGINT,
    held_until BIGINT,
    last_success_at BIGINT,
    last_failure_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    disabled_position BIGINT,
    format TEXT
);

CREATE INDEX endpoints_page ON endpoints (project_id, id) WHERE deleted_at IS NULL AND job_id IS NULL;
CREATE INDEX endpoints_standing ON endpoints (project_id) WHERE deleted_at IS NULL AND disabled_at IS NULL AND job_id IS NULL;
CREATE INDEX endpoints_of_job ON endpoints (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX endpoints_disabled ON endpoints (disabled_position) WHERE disabled_position IS NOT NULL;
CREATE INDEX endpoints_held ON endpoints (held_until) WHERE held_until IS NOT NULL;
CREATE INDEX endpoints_failing ON endpoints (failing_since) WHERE failing_since IS NOT NULL;
CREATE INDEX endpoints_deleted ON endpoints (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE deliveries (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    job_id TEXT,
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'delivered' OR state = 'exhausted' OR state = 'canceled'),
    attempts_made INTEGER NOT NULL,
    next_attempt_at BIGINT,
    redelivery INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    leased_by INTEGER,
    reported_at BIGINT,
    PRIMARY KEY (project_id, id),
    CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL)),
    CHECK ((state = 'pending') = (finished_at IS NULL))
) WITHOUT ROWID;

CREATE INDEX deliveries_due ON deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_waiting ON deliveries (endpoint_id, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX deliveries_of_event ON deliveries (event_id);
CREATE INDEX deliveries_failed ON deliveries (project_id, state, id) WHERE state IN ('exhausted', 'canceled');
CREATE INDEX deliveries_exhausted ON deliveries (finished_at) WHERE state = 'exhausted';
CREATE INDEX deliveries_of_endpoint ON deliveries (endpoint_id, id);

CREATE TABLE attempts (
    id TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    status_code INTEGER,
    error TEXT,
    started_at BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    response_excerpt TEXT,
    exchange TEXT,
    PRIMARY KEY (delivery_id, number)
) WITHOUT ROWID;

CREATE TABLE redeliveries (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    which TEXT NOT NULL CHECK (which IN ('failed', 'missing', 'undelivered', 'all')),
    since_at BIGINT NOT NULL,
    until_at BIGINT NOT NULL,
    after_event TEXT NOT NULL,
    total BIGINT NOT NULL,
    made BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    to_now INTEGER NOT NULL DEFAULT 0,
    first_position BIGINT,
    end_position BIGINT,
    canceled_at BIGINT
);

CREATE INDEX redeliveries_open ON redeliveries (id) WHERE finished_at IS NULL;
CREATE INDEX redeliveries_done ON redeliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX redeliveries_page ON redeliveries (endpoint_id, id);

CREATE TABLE signing_keys (
    project_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    public_key BYTEA NOT NULL,
    seed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, number)
);

CREATE TABLE sealing_keys (
    fingerprint BYTEA PRIMARY KEY,
    first_seen_at BIGINT NOT NULL
);

CREATE TABLE reprocessings (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    callback_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    disposition TEXT NOT NULL,
    reason TEXT
);

CREATE INDEX reprocessings_of_job ON reprocessings (job_id, id);

CREATE TABLE boots (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    lease_ms BIGINT NOT NULL,
    held INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT
);

CREATE TABLE alerts (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    subject_name TEXT NOT NULL,
    summary TEXT NOT NULL,
    detail TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    ended_at BIGINT
);

CREATE UNIQUE INDEX alerts_open ON alerts (project_id, kind, subject_id) WHERE ended_at IS NULL;
CREATE INDEX alerts_page ON alerts (project_id, id);
CREATE INDEX alerts_ended ON alerts (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE audit (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    key_id TEXT,
    key_name TEXT,
    via TEXT NOT NULL,
    address TEXT,
    request_id TEXT,
    verb TEXT NOT NULL,
    target TEXT,
    detail TEXT,
    status INTEGER,
    code TEXT,
    PRIMARY KEY (project_id, id)
);

CREATE INDEX audit_age ON audit (at);

CREATE TABLE endpoint_history (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT,
    until BIGINT,
    key_id TEXT
);

CREATE INDEX endpoint_history_page ON endpoint_history (endpoint_id, id);
CREATE INDEX endpoint_history_age ON endpoint_history (at);

CREATE TABLE statistics (
    project_id TEXT NOT NULL,
    width_s INTEGER NOT NULL,
    starts_at BIGINT NOT NULL,
    measure TEXT NOT NULL,
    provider TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (project_id, width_s, starts_at, measure, provider)
) WITHOUT ROWID;

CREATE TABLE provider_marks (
    project_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    last_callback_at BIGINT,
    last_error_at BIGINT,
    last_error TEXT,
    PRIMARY KEY (project_id, provider)
);

CREATE TABLE ended_sessions (
    id TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

CREATE TABLE copies (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    provider TEXT NOT NULL,
    kind TEXT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    needs_key INTEGER NOT NULL,
    expires_at BIGINT,
    urgent_at BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'archived' OR state = 'failed' OR state = 'deleted'),
    due_at BIGINT,
    leased_by INTEGER,
    attempts_made INTEGER NOT NULL,
    gone_seen INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    held_until BIGINT,
    supersedes TEXT,
    key TEXT,
    sha256 TEXT,
    bytes BIGINT,
    content_type TEXT,
    error_code TEXT,
    error TEXT,
    finished_at BIGINT,
    bucket TEXT NOT NULL DEFAULT '',
    writes INTEGER NOT NULL DEFAULT 0,
    writing INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'pending') = (due_at IS NOT NULL)),
    CHECK ((state = 'pending') = (finished_at IS NULL))
);

CREATE UNIQUE INDEX copies_of_job ON copies (job_id, number);
CREATE INDEX copies_pending ON copies (urgent_at, id) WHERE state = 'pending';
CREATE INDEX copies_due ON copies (due_at) WHERE state = 'pending';
CREATE INDEX copies_held ON copies (held_until) WHERE held_until IS NOT NULL;
CREATE INDEX copies_archived ON copies (finished_at) WHERE state = 'archived';
CREATE INDEX copies_leased ON copies (leased_by) WHERE leased_by IS NOT NULL;
CREATE INDEX copies_of_project ON copies (project_id, state, bytes);
CREATE INDEX copies_waiting ON copies (project_id, created_at) WHERE state = 'pending';
CREATE INDEX copies_by_host ON copies (project_id, host, due_at) WHERE state = 'pending';
CREATE INDEX copies_urgent_by_host ON copies (project_id, host, urgent_at) WHERE state = 'pending';
CREATE INDEX copies_unnamed ON copies (id) WHERE bucket = '' AND key IS NOT NULL;

CREATE TABLE objects_left (
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, key)
);

CREATE INDEX objects_left_due ON objects_left (bucket, due_at);
