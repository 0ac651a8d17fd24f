"""The answers of relay's API. Made by `clients/generate.py` from `/openapi.json`: do not edit."""

from typing import Any

import msgspec


class AlertAction(msgspec.Struct, frozen=True, kw_only=True):
    """Where an operator can act on an alert."""

    label: str
    path: str
    """A page of the dashboard."""
    url: str | None
    """The same page, whole; null without RELAY_PUBLIC_URL."""


class AlertSubject(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert is about."""

    type: str
    id: str
    """An endpoint's id, `notify`, a provider's name, a setting, or `relay`."""
    name: str


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """An admin key's approval of what a job costs."""

    amount: str | None
    """The price; null if relay does not know it."""
    unit: str
    asked_at: str
    decided_at: str | None
    """Null while the job waits."""
    approved: bool | None
    """Null while the job waits."""
    by: str | None
    """The id of the key that decided."""
    reason: str | None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One verb that changed something, or was refused: who, when, what, on which object, from where."""

    id: str
    object: str
    at: str
    project: str
    key: str | None
    """The API key's id; null for a command on the database."""
    key_name: str | None
    via: str
    """By which program, as it says itself."""
    address: str | None
    """The client's, by the rule of RELAY_CLIENT_IP."""
    request_id: str | None
    verb: str
    """Such as `jobs.cancel`."""
    target: str | None
    """The id of the object."""
    detail: str | None
    """The fields that were sent; values only of those without secrets."""
    status: int | None
    """Of the answer; null if relay stopped before it: it may or may not be done."""
    code: str | None
    """Of the problem, if it was refused."""


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the jobs that were searched for results without a copy."""

    object: str
    examined: int
    """Jobs that have succeeded."""
    ordered: int
    """Results that are to be copied now, or with `dry_run` would be."""
    next_cursor: str | None
    """Where the next part begins; null if this was the last."""


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The deliveries that are due now."""

    due: int
    more: bool
    """Whether there may be more: relay counts the first 20,000 of all projects."""
    oldest_due_at: str | None


class BacklogMost(msgspec.Struct, frozen=True, kw_only=True):
    """The most that was seen; relay looks once a minute."""

    due_most: int
    """Deliveries that were due."""
    oldest_due_ms_most: int
    """How late the oldest one was."""


class CallerKey(msgspec.Struct, frozen=True, kw_only=True):
    """The API key of a request."""

    id: str
    """`RELAY_API_KEY` for the key of that setting."""
    name: str
    scopes: list[str]
    created_at: str | None
    """null for the key of RELAY_API_KEY."""


class Cap(msgspec.Struct, frozen=True, kw_only=True):
    """A cap, and what is authorized under it in the job, the hour or the day (UTC) that it is for."""

    setting: str
    period: str
    max: str
    used: str | None
    """Null for the cap of a job."""
    left: str | None
    """Null for the cap of a job."""
    resets_at: str | None
    """Null for the cap of a job."""


class CopiesNow(msgspec.Struct, frozen=True, kw_only=True):
    """The copies that are pending now, and those that failed."""

    pending: int
    failed: int
    more: bool
    """Whether there may be more: relay counts the first 20,000 of each."""
    oldest_pending_at: str | None
    """Since when the oldest one is pending."""


class CopyCount(msgspec.Struct, frozen=True, kw_only=True):
    """A number of copies, and their bytes together."""

    number: int
    bytes: int


class CopySums(msgspec.Struct, frozen=True, kw_only=True):
    """Copies of results that ended, and copies that were deleted past their retention."""

    archived: int
    failed: int
    deleted: int
    bytes: int
    """Of those that were archived."""
    errors: dict[str, int]
    """Those that failed, by `outputs[].archive.error`."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """A decimal as text, its unit (`USDC`, `USD`, `credits`, `tokens`), and if it is an estimate, reserved or final."""

    amount: str
    unit: str
    kind: str


class CostSum(msgspec.Struct, frozen=True, kw_only=True):
    """What the jobs that ended cost, in one unit."""

    unit: str
    """`USDC`, `USD`, `credits` or `tokens`."""
    kind: str
    """`estimate`, `reserved` or `final`, as it was when the job ended."""
    amount: str
    """A decimal with six places."""


class DeliveryCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries of an event have each status."""

    pending: int
    delivered: int
    exhausted: int
    canceled: int


class DeliveryNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries that ended by an attempt."""

    first_attempt: int
    """Accepted at the first attempt."""
    after_retries: int
    """Accepted at a later one."""
    exhausted: int
    """Not accepted by the last one."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a bulk action was done to."""

    job: str


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """How long the tries took that made a copy."""

    count: int
    p50_ms: int
    """9.1 % off at most, as the others."""
    p95_ms: int
    p99_ms: int


class DurationRange(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, both ends included."""

    min: int
    max: int


class EndedBy(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that ended, by what ended them."""

    callback: int
    status_check: int
    other: int
    """The answer to the submission, an operator, or the deadline."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber's URL and its settings."""

    id: str
    object: str
    url: str
    event_types: list[str]
    """Exact types, `job.*` or `*`."""
    description: str | None
    metadata: dict[str, Any]
    headers: dict[str, str]
    """Sent with every notification; their values are redacted."""
    providers: list[str] | None
    """Only jobs of these; null for all."""
    rate_limit_per_s: float | None
    """Attempts a second at most; null for no limit."""
    in_flight_max: int
    """Concurrent attempts."""
    timeout_s: float
    """For the whole attempt."""
    schedule_s: list[int] | None
    """A delay before each attempt; null for RELAY_RETRY_SCHEDULE_S."""
    format: str
    """`slack`: each body is a message for Slack."""
    status: str
    """`held`: relay waits, because attempts failed."""
    disabled_at: str | None
    disabled_reason: str | None
    failing_since: str | None
    held_until: str | None
    """When relay tries a held endpoint again."""
    last_success_at: str | None
    last_failure_at: str | None
    created_at: str
    updated_at: str
    project: str
    secret_readable: bool
    """False if no key of RELAY_SECRET_KEYS decrypts its secret."""


class EndpointEventData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event about an endpoint, of which it shows the id, or what has happened to it."""

    endpoint: str | dict[str, Any]
    job: None
    sequence: int
    final: bool
    supersedes: None


class EndpointNote(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to an endpoint."""

    id: str
    at: str
    kind: str
    reason: str | None
    """Why; of `changed` the names of the fields."""
    until: str | None
    """When a held endpoint is tried again; until when a former secret signs."""
    by: str | None
    """The id of the API key of the client that did it; null for relay."""


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that ended, by status."""

    succeeded: int
    failed: int
    canceled: int
    expired: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's timeline."""

    at: str
    kind: str
    summary: str
    decision: str | None
    """What relay did upon it."""
    reason: str | None
    ref: str
    """The id of what the line is about."""


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong field of a request."""

    path: str
    """Where it is, such as `input.images[0]`."""
    message: str


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was uploaded to a provider."""

    url: str
    expires_at: str | None
    """Null if the provider publishes no lifetime."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `/healthz` and `/readyz`."""

    status: str


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a search found."""

    kind: str
    id: str
    job_id: str | None
    """The job that it is about, itself if it is one."""
    title: str
    """What it is, in a few words."""
    matched: str
    """What has the text."""
    created_at: str


class JobEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that was made for one job."""

    endpoint_id: str
    url: str
    event_types: list[str]
    secret: str | None = None
    """Only if relay made it, and only here."""


class JobLinks(msgspec.Struct, frozen=True, kw_only=True):
    """Where to read more about a job."""

    self_: str = msgspec.field(name="self")
    events: str
    timeline: str


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its text."""

    id: str
    object: str
    project: str
    name: str
    scopes: list[str]
    created_at: str
    last_used_at: str | None
    """Exact to a minute; null if it was never used."""
    revoked_at: str | None


class LastError(msgspec.Struct, frozen=True, kw_only=True):
    """The error of the job that failed last."""

    at: str
    message: str


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """From the receipt of a callback until the endpoint accepted the event that it brought."""

    count: int
    p50_ms: int
    """9.1 % off at most, as the others."""
    p95_ms: int
    p99_ms: int


class NewEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as `POST /v1/endpoints` answers it."""

    id: str
    object: str
    url: str
    event_types: list[str]
    """Exact types, `job.*` or `*`."""
    description: str | None
    metadata: dict[str, Any]
    headers: dict[str, str]
    """Sent with every notification; their values are redacted."""
    providers: list[str] | None
    """Only jobs of these; null for all."""
    rate_limit_per_s: float | None
    """Attempts a second at most; null for no limit."""
    in_flight_max: int
    """Concurrent attempts."""
    timeout_s: float
    """For the whole attempt."""
    schedule_s: list[int] | None
    """A delay before each attempt; null for RELAY_RETRY_SCHEDULE_S."""
    format: str
    """`slack`: each body is a message for Slack."""
    status: str
    """`held`: relay waits, because attempts failed."""
    disabled_at: str | None
    disabled_reason: str | None
    failing_since: str | None
    held_until: str | None
    """When relay tries a held endpoint again."""
    last_success_at: str | None
    last_failure_at: str | None
    created_at: str
    updated_at: str
    project: str
    secret_readable: bool
    """False if no key of RELAY_SECRET_KEYS decrypts its secret."""
    secret: str


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as `POST /v1/keys` answers it."""

    id: str
    object: str
    project: str
    name: str
    scopes: list[str]
    created_at: str
    last_used_at: str | None
    """Exact to a minute; null if it was never used."""
    revoked_at: str | None
    key: str
    """Its text, which is shown only here."""


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """What relay waits for or does next, and by when."""

    what: str
    at: str


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """The owner of jobs, endpoints and API keys."""

    id: str
    object: str
    name: str
    created_at: str
    keys_live: int
    """API keys that work, without the one of RELAY_API_KEY."""


class ProviderDay(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider's jobs of a project ended in the last 24 hours."""

    jobs_ended: int
    by_callback: float | None
    """Share, 0 to 1, that a callback ended; null without a job."""
    checks_per_job: float | None
    """Status checks for each job that ended."""


class ProviderSpend(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider's jobs cost in one unit, by how sure that is."""

    provider: str
    unit: str
    estimate: str
    reserved: str
    final: str
    jobs: int


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """How far the news of a job's end have come."""

    endpoints: int
    """How many endpoints want the event of its end."""
    delivered: int
    """How many of them have accepted it."""


class Redelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of redeliveries and its progress."""

    id: str
    object: str
    endpoint: str
    which: str
    since: str
    until: str
    count: int
    """How many events it has in all."""
    made: int
    """For how many of them a delivery was made."""
    created_at: str
    status: str
    """`waiting`: its endpoint is held or disabled."""
    finished_at: str | None
    """When it had made every delivery, or was canceled."""
    canceled_at: str | None
    dry_run: bool


class RedeliveryCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many events a batch would have, as a dry run counts them."""

    object: str
    endpoint: str
    count: int
    dry_run: bool


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a bulk action was refused for, with the problem's code and detail."""

    job: str
    code: str
    detail: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it was sent, without secrets; made again from the event, and from the endpoint as it is now."""

    method: str
    url: str
    headers: dict[str, str]
    body_bytes: int


class RotatedSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A new secret; both sign until the former one ends."""

    secret: str
    former_secret_until: str


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's secret."""

    secret: str


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How long the parts of an attempt took; null for what a kept connection did not need, or what did not come."""

    lookup_ms: float | None
    """The look-up of the host's name."""
    connect_ms: float | None
    """Opening the connection."""
    tls_ms: float | None
    """The TLS handshake."""
    wait_ms: float | None
    """From the request until the first byte of the answer."""


class WebhookKey(msgspec.Struct, frozen=True, kw_only=True):
    """A project's ed25519 key (RFC 8037)."""

    kty: str
    crv: str
    alg: str
    use: str
    kid: str
    x: str
    project: str
    whpk: str
    """The key as Standard Webhooks writes it."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that an operator should know of."""

    id: str
    object: str
    kind: str
    state: str
    since: str
    ended_at: str | None
    subject: AlertSubject
    summary: str
    """What is wrong, in a sentence; it is kept up to date while the alert is open."""
    detail: dict[str, Any]
    action: AlertAction
    project: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request for one delivery."""

    id: str
    number: int
    """From 1; the request's header `relay-attempt`."""
    outcome: str
    status_code: int | None
    error: str | None
    """Why it failed."""
    note: str | None
    """What was unusual about an answer that counts as `ok`."""
    started_at: str
    duration_ms: int
    response_excerpt: str | None
    """The first characters of the answer's body."""
    request: Request | None
    """Null if its event or its endpoint was deleted."""
    response_headers: dict[str, str] | None
    """The first 2,048 bytes of them; null if no answer came."""
    timings: Timings | None
    """Null if an older relay sent it."""


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs match, or what was done to them."""

    action: str
    dry_run: bool
    as_of: str
    """Jobs made later are not among them."""
    matched: int | None
    """How many jobs match, in a dry run."""
    matched_more: bool
    """Whether there may be more jobs than were counted."""
    done: list[Done]
    refused: list[Refused]
    next_cursor: str | None
    """Send it as `cursor` with the same body to go on; null when all are done."""


class CallbackHead(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request from a provider, as a list shows it."""

    id: str
    object: str
    job: str | None
    provider: str
    verdict: str
    """What relay did with it."""
    reason: str | None
    received_at: str
    size: int
    """Of its body, in bytes."""
    headers: list[tuple[str, str]]
    """Names and values in their order, secrets redacted."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of a result: where it is, or why it is not there yet."""

    object: str
    number: int
    """The place of its result in `outputs`, counted from 0."""
    kind: str
    state: str
    url: str | None
    """Answers with the result, for a client with an API key."""
    key: str | None
    """Within the bucket; null until it is there."""
    content_type: str | None
    bytes: int | None
    sha256: str | None
    tries: int
    """Those that ended; without those that failed because of the bucket."""
    error: str | None
    """Why the last try failed."""
    error_detail: str | None
    copying: bool
    """Whether a try is under way."""
    next_try_at: str | None
    """null while a try is under way, and once it has ended."""
    expires_at: str | None
    """When the result expires at its provider."""
    created_at: str
    finished_at: str | None


class CopyCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The copies of a project by their state."""

    pending: CopyCount
    archived: CopyCount
    failed: CopyCount
    deleted: CopyCount


class CopyNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The copies of a time."""

    archived: int
    failed: int
    deleted: int
    bytes: int
    """Of those that were archived."""
    errors: dict[str, int]
    """Those that failed, by `outputs[].archive.error`."""
    duration: Duration | None
    """null if none was archived."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one endpoint, as a list shows it."""

    id: str
    object: str
    event: str
    endpoint: str
    job: str | None
    status: str
    attempts_made: int
    next_attempt_at: str | None
    """Null unless it is pending."""
    redelivery: bool
    """Whether an operator requested it."""
    created_at: str
    finished_at: str | None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about a job, or about an endpoint."""

    id: str
    object: str
    type: str
    job: str | None
    """The job's id; null for an event about an endpoint."""
    sequence: int
    final: bool
    timestamp: str
    data: Any
    """The notification's `data`."""
    deliveries: DeliveryCounts


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found, by kind, newest first."""

    data: list[Hit]


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed: relay's class and code, and the provider's own code and message."""

    class_: str = msgspec.field(name="class")
    code: str
    message: str
    retryable: bool
    provider_code: str | None
    provider_message: str | None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model's own limits, where they differ from its provider's; null means as the provider's."""

    duration_s: DurationRange | None
    resolutions: list[str] | None
    aspect_ratios: list[str] | None
    images_min: int | None
    images_max: int | None
    references_max: dict[str, int] | None
    """References of each kind."""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a notification, the same bytes on every attempt."""

    id: str
    """The event's id, as in the header `webhook-id`."""
    type: str
    timestamp: str
    """When it happened."""
    project: str
    """The project whose event it is."""
    data: Any


class OutputArchive(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of one result; `url` answers with a fresh link to it, for a client with an API key."""

    state: str
    url: str | None
    key: str | None
    sha256: str | None
    bytes: int | None
    archived_at: str | None
    error: str | None


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A payment, without the authorization itself, which is money."""

    id: str
    object: str
    project: str
    job: str | None
    """Null for a file that was uploaded."""
    provider: str
    amount: str
    unit: str
    state: str
    created_at: str
    settled_at: str | None
    """When its state became known."""
    valid_before: str
    """When the authorization ends."""
    transaction: str | None
    """On the chain, as the provider says."""
    chain_id: int
    asset: str
    """The token's contract."""
    payer: str
    pay_to: str
    nonce: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error (RFC 9457)."""

    type: str
    """`urn:relay:problem:` and the code."""
    title: str
    status: int
    detail: str
    """What is wrong, and what to do."""
    code: str
    """What a program acts on."""
    errors: list[FieldError] | None = None
    """Every wrong field, if fields are wrong."""


class ProviderNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's numbers."""

    provider: str
    jobs_created: int
    jobs_finished: Ends
    finished_by: EndedBy
    checks: int
    """Status checks."""
    checks_per_job: float | None
    """For each job that ended; null without one."""
    callbacks: dict[str, int]
    """Callbacks by verdict."""
    last_callback_at: str | None
    """Whenever that was."""
    last_error: LastError | None
    """Whenever that was."""
    archive: CopySums
    cost: list[CostSum]


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What a job would cost at one provider."""

    provider: str
    accepted: bool
    amount: str | None
    unit: str | None
    usd: str | None
    """The price in USD, if it is known."""
    basis: str | None
    """Published prices, or the provider's answer to an unpaid request."""
    reason: str | None
    """Why there is no amount."""
    errors: list[FieldError]


class Reprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """The result of applying a quarantined or orphaned callback."""

    id: str
    at: str
    by: str
    """The id of the API key that requested it."""
    verdict: str
    """What relay did with it."""
    reason: str | None


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent, and what was authorized today (UTC)."""

    project: str | None
    """Null for all projects together."""
    wallet: str | None
    """The paying address, with `all=true`."""
    unit: str
    since: str
    today: str
    left_today: str
    reserved: str
    paid: str
    unknown: str
    lost: str
    void: str
    max_per_job: str
    max_per_day: str
    approval_above: str | None
    """In USD; null if no job needs an approval."""
    caps: list[Cap]
    providers: list[ProviderSpend]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A job's history in order, and the next step."""

    data: list[Entry]
    next: Next | None
    """Null if all is done."""


class WebhookKeys(msgspec.Struct, frozen=True, kw_only=True):
    """A JWK set, newest key last."""

    keys: list[WebhookKey]


class Whoami(msgspec.Struct, frozen=True, kw_only=True):
    """The API key of the request, its project, and this relay."""

    object: str
    key: CallerKey
    project: Project
    operator: bool
    """Whether the key may see all projects."""
    environment: str
    """RELAY_ENV."""
    version: str
    docs: str
    """The path of the API's description."""


class AlertEventData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event about an alert."""

    alert: Alert
    """The alert after the event."""
    job: None
    sequence: int
    final: bool
    supersedes: None


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """Where and whether the results of a project are copied."""

    object: str
    project: str
    configured: bool
    """Whether this relay has an archive (RELAY_ARCHIVE_URL)."""
    bucket: str | None
    """Where it is; shown to an admin key."""
    mode: str
    """Of a job that names none."""
    own_mode: str | None
    """The project's own; null if that of the setting counts."""
    copies: CopyCounts


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request from a provider, with its body."""

    id: str
    object: str
    job: str | None
    provider: str
    verdict: str
    """What relay did with it."""
    reason: str | None
    received_at: str
    size: int
    """Of its body, in bytes."""
    headers: list[tuple[str, str]]
    """Names and values in their order, secrets redacted."""
    body: str
    """As received, in base64."""
    body_text: str | None
    """As text; null if it is none."""
    reprocessings: list[Reprocessing]


class DeliveryWithAttempts(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one endpoint, with its attempts, oldest first."""

    id: str
    object: str
    event: str
    endpoint: str
    job: str | None
    status: str
    attempts_made: int
    next_attempt_at: str | None
    """Null unless it is pending."""
    redelivery: bool
    """Whether an operator requested it."""
    created_at: str
    finished_at: str | None
    attempts: list[Attempt]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one interval."""

    jobs_created: int
    jobs_finished: Ends
    finished_by: EndedBy
    deliveries: DeliveryNumbers
    attempts: dict[str, int]
    """Attempts by outcome."""
    latency: Latency | None
    """null without such a delivery."""
    archive: CopyNumbers
    backlog: BacklogMost
    at: str
    """Its beginning."""
    unfinished: bool
    """Whether it is not over yet."""


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a time."""

    jobs_created: int
    jobs_finished: Ends
    finished_by: EndedBy
    deliveries: DeliveryNumbers
    attempts: dict[str, int]
    """Attempts by outcome."""
    latency: Latency | None
    """null without such a delivery."""
    archive: CopyNumbers
    backlog: BacklogMost


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One result; `expires_at` is RFC 3339, from the provider's documented lifetime. `archive` is the copy of it."""

    kind: str
    url: str
    width: int | None
    height: int | None
    duration_s: float | None
    expires_at: str | None
    needs_key: bool | None = None
    archive: OutputArchive | None


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider supports, and whether it is configured."""

    name: str
    title: str
    """The name as the provider writes it."""
    configured: bool
    key_refused_at: str | None
    """Since when it refuses relay's key."""
    last_error: str | None
    """Why it refuses the key, else why a job of the project failed."""
    last_error_at: str | None
    last_callback_at: str | None
    """When a callback about a job of the project came."""
    verifies: str
    """What proves its callbacks besides the token: a secret, its published keys, or nothing."""
    verifier: str
    """How it signs callbacks: by published keys, by a secret if one is set, or not."""
    finished_by: str
    """What ends its jobs."""
    last_day: ProviderDay
    paid: bool
    """Whether relay's wallet pays for each job."""
    cancel: bool
    """Whether a job can be canceled there."""
    models: list[str]
    limits_by_model: dict[str, Model]
    """Of the models whose limits differ from the provider's."""
    other_models: bool
    """Whether `request` may name another model."""
    duration_s: DurationRange
    resolutions: list[str]
    aspect_ratios: list[str]
    images_max: int
    prompt_max: int | None
    """Characters."""
    prompt_required: bool
    honours: list[str]
    """The fields of `input` that it has a place for; `references.video`: references of that kind."""
    result_lifetime_s: int | None
    """How long its result URLs work."""
    further_limits: dict[str, str]
    """Other limits and rules that it publishes."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One request for a video."""

    id: str
    object: str
    provider: str
    provider_job_id: str | None
    """The provider's own id; null until it answered."""
    status: str
    reason: str | None
    """Why it has this status, if the status does not say it."""
    progress: int | None
    """Percent, if the provider reports it."""
    model: str | None
    input: dict[str, Any] | None
    """The unified request, if the job came with one."""
    request: dict[str, Any]
    """The provider's own body, without the callback URL."""
    outputs: list[Output]
    error: JobError | None
    """Why it failed."""
    cost: Cost | None
    archive: str
    """Whether its results are copied to the operator's bucket."""
    metadata: dict[str, Any]
    """As the client sent it."""
    finished_by: str | None
    """Which report ended it."""
    verification: str
    """How far that report is proven."""
    late: bool
    """Whether its result came after it had ended otherwise."""
    created_at: str
    submitted_at: str | None
    updated_at: str
    finished_at: str | None
    deadline_at: str
    """When it expires, if it has no final status by then."""
    links: JobLinks
    approval: Approval | None = None
    """Only if its price was to be approved."""
    checked: str | None = None
    """Only if relay did not know its model, and checked a part of its request."""


class ListedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as a list shows it."""

    id: str
    object: str
    provider: str
    provider_job_id: str | None
    """The provider's own id; null until it answered."""
    status: str
    reason: str | None
    """Why it has this status, if the status does not say it."""
    progress: int | None
    """Percent, if the provider reports it."""
    model: str | None
    input: dict[str, Any] | None
    """The unified request, if the job came with one."""
    request: dict[str, Any]
    """The provider's own body, without the callback URL."""
    outputs: list[Output]
    error: JobError | None
    """Why it failed."""
    cost: Cost | None
    archive: str
    """Whether its results are copied to the operator's bucket."""
    metadata: dict[str, Any]
    """As the client sent it."""
    finished_by: str | None
    """Which report ended it."""
    verification: str
    """How far that report is proven."""
    late: bool
    """Whether its result came after it had ended otherwise."""
    created_at: str
    submitted_at: str | None
    updated_at: str
    finished_at: str | None
    deadline_at: str
    """When it expires, if it has no final status by then."""
    links: JobLinks
    approval: Approval | None = None
    """Only if its price was to be approved."""
    checked: str | None = None
    """Only if relay did not know its model, and checked a part of its request."""
    reached: Reached | None
    """Null if it announced no end yet."""


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as `POST /v1/jobs` answers it."""

    id: str
    object: str
    provider: str
    provider_job_id: str | None
    """The provider's own id; null until it answered."""
    status: str
    reason: str | None
    """Why it has this status, if the status does not say it."""
    progress: int | None
    """Percent, if the provider reports it."""
    model: str | None
    input: dict[str, Any] | None
    """The unified request, if the job came with one."""
    request: dict[str, Any]
    """The provider's own body, without the callback URL."""
    outputs: list[Output]
    error: JobError | None
    """Why it failed."""
    cost: Cost | None
    archive: str
    """Whether its results are copied to the operator's bucket."""
    metadata: dict[str, Any]
    """As the client sent it."""
    finished_by: str | None
    """Which report ended it."""
    verification: str
    """How far that report is proven."""
    late: bool
    """Whether its result came after it had ended otherwise."""
    created_at: str
    submitted_at: str | None
    updated_at: str
    finished_at: str | None
    deadline_at: str
    """When it expires, if it has no final status by then."""
    links: JobLinks
    approval: Approval | None = None
    """Only if its price was to be approved."""
    checked: str | None = None
    """Only if relay did not know its model, and checked a part of its request."""
    notify: list[JobEndpoint]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a project."""

    object: str
    project: str
    from_: str = msgspec.field(name="from")
    """`from`, rounded down to an interval."""
    to: str
    """`to`, rounded up to an interval."""
    bucket: str
    bucket_s: int
    totals: Numbers
    series: list[Interval]
    """Each interval, the oldest first."""
    providers: list[ProviderNumbers]
    cost: list[CostSum]
    backlog: Backlog
    archive: CopiesNow


class JobEventData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event about a job."""

    job: Job
    """The job after the event."""
    sequence: int
    """The event's number among those of its job, from 1."""
    final: bool
    """Whether it announces an end."""
    supersedes: str | None
    """The event whose announced end this one replaces."""
