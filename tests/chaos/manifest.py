"""What the harness has seen of one run: what relay acknowledged, what arrived, and what is stored at the end."""

import msgspec


class Notification(msgspec.Struct, frozen=True):
    """One request that a subscriber received, and whether it was answered 2xx; `headers` are in lower case."""

    endpoint: str
    headers: dict[str, str]
    body: bytes
    accepted: bool

    @property
    def event(self) -> str:
        """Return the event's id, as the header says it."""
        return self.headers.get("webhook-id", "")


class Answer(msgspec.Struct, frozen=True):
    """One answer of relay to a client: whatever was asked, its status and its Retry-After."""

    asked: str
    status: int
    retry_after: str


class Call(msgspec.Struct, frozen=True):
    """One callback that relay answered 200: the provider that sent it, and its bytes."""

    provider: str
    body: bytes


class StoredJob(msgspec.Struct, frozen=True):
    """A row of `jobs`."""

    id: str
    provider: str
    state: str
    finished: bool
    archive: str = "off"
    outputs: int = 0
    marker: str = ""


class StoredCopy(msgspec.Struct, frozen=True):
    """A row of `copies`."""

    job: str
    number: int
    state: str
    key: str | None
    sha256: str | None
    bytes: int | None
    error: str | None
    held_until: int | None = None
    due_at: int | None = None
    leased_by: int | None = None

    @property
    def waits(self) -> bool:
        """Return whether something is still to be done: a copy to be made, or what is left of a failed one deleted."""
        return self.state == "pending" or (self.state == "failed" and self.key is not None)


class StoredObject(msgspec.Struct, frozen=True):
    """An object in the bucket."""

    sha256: str
    bytes: int


class StoredEvent(msgspec.Struct, frozen=True):
    """A row of `events`, of a job; `position` is its place in the order of commits."""

    id: str
    job: str
    type: str
    sequence: int
    final: bool
    position: int


class StoredDelivery(msgspec.Struct, frozen=True):
    """A row of `deliveries`."""

    id: str
    event: str
    endpoint: str
    state: str


class StoredPayment(msgspec.Struct, frozen=True):
    """A row of `payments`; `amount` in millionths of a USDC, `made_at` in unix ms by the clock of the process."""

    job: str
    nonce: str
    amount: int
    state: str
    made_at: int


class StoredEndpoint(msgspec.Struct, frozen=True):
    """A row of `endpoints`; `job` is the one that it is for alone, None for a standing one."""

    id: str
    url: str
    job: str | None


class Stored(msgspec.Struct, kw_only=True):
    """What the database holds at the end, read past relay; `faults` is what the database says is wrong with itself.

    `left` are the keys of objects that are queued to be deleted.
    """

    jobs: list[StoredJob] = []
    callbacks: list[Call] = []
    events: list[StoredEvent] = []
    deliveries: list[StoredDelivery] = []
    payments: list[StoredPayment] = []
    endpoints: list[StoredEndpoint] = []
    copies: list[StoredCopy] = []
    left: set[str] = set()
    faults: list[str] = []


class Manifest(msgspec.Struct, kw_only=True):
    """One run. Jobs are known by the marker in their prompt, before relay has given them an id.

    `accepted` has the ids that relay answered for each marker, `created` how often each was created at its provider,
    `endpoints` the secrets of each endpoint and, for one that is of a job alone, that job's id (else None).
    `ledger` is what was paid, in millionths of a USDC, by nonce. `streamed` are the ids that a client of the event
    stream read, in order. `memory_mb` is the most that each process held, `descriptors` how many files each had open.
    `results` is what the results of each job are, `result_faults` what their server did wrong.
    `objects` is what the bucket holds by its keys, `unfinished_objects` what is left there of writes that did not end.
    `clocks_agree` says that no clock was stepped in the run.
    `cut_short` counts stops that relay's own watchdog ended. `unfinished` is what still waited when patience was over.
    """

    accepted: dict[str, set[str]] = {}
    answers: list[Answer] = []
    created: dict[str, int] = {}
    callbacks: list[Call] = []
    notifications: list[Notification] = []
    endpoints: dict[str, tuple[tuple[str, ...], str | None]] = {}
    ledger: dict[str, int] = {}
    cap_per_job: int = 0
    cap_in_a_day: int = 0
    streamed: list[str] = []
    results: dict[str, StoredObject] = {}
    result_faults: dict[str, str] = {}
    objects: dict[str, StoredObject] = {}
    unfinished_objects: list[str] = []
    archive_wait_s: float = 0.0
    clocks_agree: bool = True
    stored: Stored = msgspec.field(default_factory=Stored)
    memory_mb: dict[str, float] = {}
    descriptors: dict[str, int] = {}
    exits: list[str] = []
    cut_short: int = 0
    log_errors: list[str] = []
    unfinished: list[str] = []
    began_s: float = 0.0
    ended_s: float = 0.0
