"""The nouns of relay and their closed lists of states; no behaviour, no I/O."""

from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from relay.model.archive import ArchiveMode, OutputArchive


class JobState(StrEnum):
    """The status of a job; its rank only rises: pending, submitted, running, then one of the four final states."""

    # What follows from a member is asked many times for each callback, and kept in it.

    PENDING = "pending"
    SUBMITTED = "submitted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @cached_property
    def rank(self) -> int:
        """0 to 2 while the job is open, 3 when it is final."""
        return _OPEN_RANKS.get(self, 3)

    @cached_property
    def final(self) -> bool:
        """Whether only an explicit correction can change the status."""
        return self not in _OPEN_RANKS


_OPEN_RANKS: Final = {JobState.PENDING: 0, JobState.SUBMITTED: 1, JobState.RUNNING: 2}


class Reason(StrEnum):
    """Why a job has its status, if the status alone does not say it."""

    SUBMIT_UNKNOWN = "submit_unknown"
    DEADLINE = "deadline"
    NO_OUTPUT = "no_output"
    LOST = "lost"
    PAID_RESULT_LOST = "paid_result_lost"
    DETACHED = "detached"
    AWAITING_APPROVAL = "awaiting_approval"


class FinishedBy(StrEnum):
    """Who brought the report that ended a job."""

    CALLBACK = "callback"
    STATUS_CHECK = "status_check"
    SUBMIT_ANSWER = "submit_answer"
    OPERATOR = "operator"
    DEADLINE = "deadline"


class Verification(StrEnum):
    """How far the report that ended a job is proven."""

    FETCH = "fetch"
    TOKEN = "token"
    SIGNATURE = "signature"
    NONE = "none"


class Unconfirmed(StrEnum):
    """Why no status check confirmed a final status that only its callback's token proves.

    With the first three none was made in time; with the others the provider's answer was the reason.
    """

    PACED_OUT = "paced_out"
    PAUSED = "paused"
    NO_ID = "no_id"
    NO_ANSWER = "no_answer"
    NO_STATUS = "no_status"
    NOT_FOUND = "not_found"
    KEY_REFUSED = "key_refused"
    RATE_LIMITED = "rate_limited"


class ErrorClass(StrEnum):
    """The closed list of classes that every provider's errors are mapped to."""

    INVALID_INPUT = "invalid_input"
    AUTH = "auth"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    RATE_LIMITED = "rate_limited"
    CONTENT_REJECTED = "content_rejected"
    PROVIDER_ERROR = "provider_error"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


class EventType(StrEnum):
    """The event types that an endpoint can ask for."""

    JOB_SUBMITTED = "job.submitted"
    JOB_RUNNING = "job.running"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELED = "job.canceled"
    JOB_EXPIRED = "job.expired"
    JOB_CORRECTED = "job.corrected"
    JOB_OUTPUT_EXPIRING = "job.output_expiring"
    JOB_ARCHIVED = "job.archived"
    JOB_ARCHIVE_FAILED = "job.archive_failed"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_ENABLED = "endpoint.enabled"
    RELAY_TEST = "relay.test"
    OPS_DELIVERY_EXHAUSTED = "ops.delivery.exhausted"
    OPS_ENDPOINT_FAILING = "ops.endpoint.failing"
    OPS_CALLBACK_QUARANTINED = "ops.callback.quarantined"
    OPS_PROVIDER_KEY_REFUSED = "ops.provider.key_refused"
    OPS_PROVIDER_SILENT = "ops.provider.silent"
    OPS_SPEND_CAP_NEAR = "ops.spend.cap_near"
    OPS_SPEND_CAP_REACHED = "ops.spend.cap_reached"
    OPS_PAYMENT_UNKNOWN = "ops.payment.unknown"
    OPS_PAYMENT_LOST = "ops.payment.lost"
    OPS_BACKLOG_OLD = "ops.backlog.old"

    @property
    def of_operators(self) -> bool:
        """Whether the event is about an alert: it goes only to endpoints that ask for such events by name."""
        return self.startswith("ops.")

    @cached_property
    def final(self) -> bool:
        """Whether the event announces a job's end, for the first time or in place of a former one."""
        return self in _ENDS


_ENDS: Final = frozenset(
    {
        EventType.JOB_SUCCEEDED,
        EventType.JOB_FAILED,
        EventType.JOB_CANCELED,
        EventType.JOB_EXPIRED,
        EventType.JOB_CORRECTED,
    }
)


class Disposition(StrEnum):
    """What relay did with a callback or another report; `verdict` in the API."""

    RECORDED = "recorded"
    REPEATED = "repeated"
    STALE = "stale"
    UNREADABLE = "unreadable"
    MISMATCHED = "mismatched"
    ORPHANED = "orphaned"
    QUARANTINED = "quarantined"


class OutputKind(StrEnum):
    """What a provider's result URL holds."""

    VIDEO = "video"
    THUMBNAIL = "thumbnail"
    LAST_FRAME = "last_frame"


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One result; `expires_at` is RFC 3339, from the provider's documented lifetime. `archive` is the copy of it."""

    kind: OutputKind
    url: str
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    expires_at: str | None = None
    needs_key: bool | msgspec.UnsetType = msgspec.UNSET
    """True if a download needs the provider's API key; left out of JSON otherwise."""
    archive: OutputArchive | None = None


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed: relay's class and code, and the provider's own code and message."""

    class_: ErrorClass = msgspec.field(name="class")
    code: str
    message: str
    retryable: bool
    provider_code: str | None = None
    provider_message: str | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """A decimal as text, its unit (`USDC`, `USD`, `credits`, `tokens`), and if it is an estimate, reserved or final."""

    amount: str
    unit: str
    kind: str


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a video is to resemble or to contain, and no frame of it."""

    url: str
    kind: Literal["image", "video", "audio"] = "image"


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The unified request; each provider translates it, None means the provider's default."""

    images: list[str] = []
    """The first frame and the last; none for text-to-video."""
    last_frame: str | None = None
    """Another place for the last frame, beside one image."""
    references: list[str | Reference] = []
    """Media that are no frames; an image may be its URL alone."""
    prompt: str | None = None
    negative_prompt: str | None = None
    duration_s: int | None = None
    resolution: str | None = None
    aspect_ratio: str | None = None
    audio: bool | None = None
    model: str | None = None
    seed: int | None = None
    mode: str | None = None
    provider_options: dict[str, Any] = {}
    """Fields of the provider's own body, merged into what the other fields become."""

    @property
    def frames(self) -> list[str]:
        """The images with the last frame behind them, if it has a field of its own."""
        return [*self.images, *([] if self.last_frame is None else [self.last_frame])]

    def referred(self, kind: str) -> list[str]:
        """Return the URLs of the references of a kind: `image`, `video` or `audio`."""
        listed = (one if isinstance(one, Reference) else Reference(url=one) for one in self.references)
        return [one.url for one in listed if one.kind == kind]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says about a job, normalized: from a submission's answer, a callback or a status check.

    `state` is None for a status that relay does not know; `provider_status` is the status as the provider names it,
    stored as `word` since the first schema. `upstream_id` is True if the id in the body may be another provider's, so
    that only the callback token binds the report to the job (RelayDance). `status_path` is the path of the job's status
    route, if the provider names one; it always lies behind the configured origin, as does `result_path`, from which a
    second request gets the result that this report has not. `note` is a detail that helps to find the job at the
    provider; the timeline shows it. `unusable` holds texts that stood in the place of a result URL and are none.
    """

    state: JobState | None
    provider_status: str = msgspec.field(name="word")
    provider_job_id: str | None = None
    upstream_id: bool = False
    progress: int | None = None
    outputs: tuple[Output, ...] = ()
    unusable: tuple[str, ...] = ()
    error: JobError | None = None
    cost: Cost | None = None
    estimate_s: int | None = None
    status_path: str | None = None
    result_path: str | None = None
    note: str | None = None


class UnconfirmedResult(msgspec.Struct, frozen=True, kw_only=True):
    """A final status that only an unsigned callback has reported so far: the report, its callback and its time.

    `tries` counts the status checks that did not confirm it.
    """

    report: Report
    callback_id: str | None
    at: int
    tries: int = 0


class Approval(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator's leave to spend on one job; times in unix milliseconds.

    `amount` is the price that was asked for, in millionths of a USD; None where relay does not know it. `approved` is
    None until a key has decided. An approval holds for this amount or less, and until the job is submitted again.
    """

    amount: int | None
    asked_at: int
    decided_at: int | None = None
    approved: bool | None = None
    key_id: str | None = None
    reason: str | None = None

    def covers(self, amount: int | None) -> bool:
        """Return whether a price, None for one that is not known, is approved."""
        if not self.approved:
            return False
        return self.amount is None or (amount is not None and amount <= self.amount)


class Job(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request for a video. Times are unix milliseconds; `request` is the native body without the callback URL."""

    id: str
    project_id: str
    provider: str
    state: JobState
    created_at: int
    updated_at: int
    deadline_at: int
    request: dict[str, object] = {}
    input: dict[str, object] | None = None
    metadata: dict[str, object] = {}
    model: str | None = None
    provider_job_id: str | None = None
    reason: Reason | None = None
    progress: int | None = None
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None
    cost: Cost | None = None
    finished_by: FinishedBy | None = None
    verification: Verification = Verification.NONE
    late: bool = False
    sequence: int = 0
    last_final_event: str | None = None
    callbacks_seen: int = 0
    submitted_at: int | None = None
    finished_at: int | None = None
    next_submit_at: int | None = None
    submission_started_at: int | None = None
    submissions_made: int = 0
    next_check_at: int | None = None
    checks_made: int = 0
    last_report_at: int | None = None
    not_found_seen: int = 0
    unconfirmed: UnconfirmedResult | None = None
    confirm_by: int | None = None
    status_path: str | None = None
    expiring_at: int | None = None
    max_cost: int | None = None
    """In millionths of a USD, as USDC counts: no quote above it is accepted, and nothing above it is signed."""
    traceparent: str | None = None
    """The client's trace, if jobs are traced; an earlier relay that updates the job drops it, and the trace splits."""
    approval: Approval | None = None
    checked: Literal["partly"] | None = None
    """`partly` if relay did not know its model; an earlier relay that updates the job drops it."""
    archive: ArchiveMode = ArchiveMode.OFF
    held: bool = False
    """Whether the event of its end waits for the copies of its results."""


class CallbackHead(msgspec.Struct, kw_only=True, frozen=True):
    """One HTTP request from a provider without its body, as a list shows it."""

    id: str
    project_id: str
    job_id: str | None
    provider: str
    disposition: Disposition
    reason: str | None
    received_at: int
    size: int
    headers: list[tuple[str, str]]


class Callback(CallbackHead, kw_only=True, frozen=True):
    """One HTTP request from a provider, with its body as received."""

    body: bytes


class Reprocessing(msgspec.Struct, kw_only=True, frozen=True):
    """A quarantined callback that an operator had reprocessed: by which key, when, and with which disposition."""

    id: str
    callback_id: str
    at: int
    key_id: str
    disposition: Disposition
    reason: str | None


class Event(msgspec.Struct, kw_only=True, frozen=True):
    """A fact about a job; `body` is the notification, byte for byte what every attempt sends."""

    id: str
    project_id: str
    job_id: str | None
    type: EventType
    sequence: int
    final: bool
    created_at: int
    body: bytes


class ProviderCall(msgspec.Struct, kw_only=True, frozen=True):
    """One request of relay to a provider, or an operator's action, and what relay decided upon it."""

    id: str
    job_id: str
    kind: str
    started_at: int
    duration_ms: int
    outcome: str
    status_code: int | None
    summary: str
    excerpt: str | None
    decision: str | None = None
