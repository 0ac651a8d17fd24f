"""What one seed does: the processes, the jobs with their providers' faults, and the faults of everything around relay.

A plan is made of its seed and its database alone, so a seed that failed is played again by its number.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

LOAD_S: Final = 4.0
"""How long jobs are submitted; faults begin within this time."""
JOBS: Final = (16, 28)
CLOCK_STEPS_S: Final = (-2, 3, 20, 600, 3600)
ENDPOINTS: Final = 3
"""Standing endpoints of a run."""
SERVE, WEB, WORK = ("serve",), ("serve", "--no-dispatch"), ("work",)
LAYOUTS: Final[dict[str, tuple[tuple[tuple[str, ...], ...], ...]]] = {
    "sqlite": ((SERVE,),),
    "postgres": ((SERVE,), (SERVE, SERVE), (WEB, WORK), (WEB, WORK, WORK)),
}
PROVIDERS: Final = ("evolink", "evolink", "relaydance", "kinovi")
PAID: Final = ("stablestudio", "x402org")

LINK_MODES: Final = {
    "ingress": ("cut", "hang", "half_open", "lose_answers", "slow"),
    "provider": ("refuse", "cut", "hang", "half_open", "lose_answers", "slow"),
    "subscriber_a": ("refuse", "cut", "hang", "half_open", "lose_answers", "slow", "garble"),
    "subscriber_b": ("refuse", "cut", "hang", "half_open", "lose_answers", "slow", "garble"),
    "database": ("cut", "hang", "half_open", "lose_answers", "slow"),
    "results": ("refuse", "cut", "hang", "half_open", "lose_answers", "slow", "garble"),
    "store": ("refuse", "cut", "hang", "half_open", "lose_answers", "slow", "garble", "forbid", "forbid"),
}
"""What may go wrong on each connection, and how; `database` is PostgreSQL's alone, `store` that of a bucket in S3."""
LINKS: Final = ("ingress", "provider", "subscriber_a", "subscriber_b", "database")
"""Those that the faults of every seed are drawn from; each seed has some of the archive besides."""

EVERYWHERE: Final = (
    *("kill", "kill", "kill", "kill_all", "pause", "terminate", "overlap"),
    *("log_closed", "log_full", "clock_step", "clock_skew", "names_fail", "names_hang"),
    *("link",) * 8,
)
ONLY: Final = {
    "sqlite": ("sqlite_busy", "file_limit", "disk_full", "sync_fails"),
    "postgres": ("database_restart", "database_crash", "sessions_cut", "table_locked"),
}
KINDS: Final = {name: tuple(dict.fromkeys((*EVERYWHERE, *only))) for name, only in ONLY.items()}
"""The kinds of faults that a seed draws from, for each database."""

ARCHIVE_KINDS: Final = ("link", "link", "kill_copying")
"""The kinds of faults that meet copies: on the links `results` and `store`, and a kill while there is one."""

STARTS: Final = ("kill", "kill_all", "terminate", "overlap", "database_restart", "database_crash")
STARTS_MAX: Final = 2
"""Faults that start something again follow each other, and each takes a second or two."""

_JOB_FAULTS: Final[Sequence[str]] = (
    *("submit=hang", "submit=reset", "submit=reset_after", "submit=empty", "submit=id_missing", "submit=wrong_id"),
    *("status_code=500", "status_code=503", "status_code=429", "html=true", "slow_s=0.5", "early=true"),
    *("outcome=failed", "outcome=canceled", "outcome=no_output", "flips=failed", "outcome=failed; flips=succeeded"),
    *("lost=true", "late_s=1", "duplicate=2", "changed=true", "reordered=true", "unknown_word=pondering"),
    *("forged=true", "wrong_id=true", "upset_url=slash", "upset_url=query", "upset_url=truncated"),
    *("malformed=not_json", "malformed=twice", "malformed=nul", "malformed=deep", "encoding=gzip", "encoding=bom"),
    *("chunked=true", "drip_s=0.3", "cut=true", "lost=true; check=not_found; check_times=1"),
    *("check=html; check_times=1", "check=reset; check_times=1", "check=empty; check_times=1"),
    *("check=lies; lie=failed; check_times=1", "check=lies; lie=running; check_times=1"),
    *("check_status=429; check_times=1; check_retry_after_s=1", "check_status=500; check_times=1"),
)
_PAYMENT_FAULTS: Final = (
    *("pay=facilitator_down; pay_times=1", "pay=settle_then_fail; pay_times=1", "pay=drop_after_settle; pay_times=1"),
    *("pay=again_402; pay_times=1", "pay=refused", "pay=wrong_amount", "pay=wrong_payee", "pay=wrong_chain"),
)


RESULT_FAULTS: Final = (
    *("cut", "cut", "slow", "hang", "longer", "busy", "limited", "forbidden", "gone", "page", "too_large"),
)
SLOW: Final = ("slow", "hang")
FOR_GOOD: Final = 99


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the server of results does for one job: the first `times` requests meet the fault.

    `size` is `small` or `large`; `chunked` says whether its length is told only at its end.
    """

    fault: str = ""
    times: int = 0
    size: str = "small"
    chunked: bool = False


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One job: when it is submitted, in seconds; its provider and what goes wrong there; what an operator does then."""

    number: int
    at_s: float
    provider: str
    faults: str
    deadline_s: int
    has_own_endpoint: bool
    verb: str
    archive: str = "off"
    result: Result = Result()

    @property
    def marker(self) -> str:
        """Return the text by which the job is known at its provider."""
        return f"chaos-{self.number}-"

    @property
    def prompt(self) -> str:
        """Return the prompt, which says what the stand-in does wrong."""
        return f"{self.marker} slow push in" + (f" [sandbox: {self.faults}]" if self.faults else "")


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator does to a standing endpoint: `disable` (and enable after `for_s`), `rotate`, or `redeliver`."""

    kind: str
    at_s: float
    for_s: float
    endpoint: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: from when and how long, in seconds. `target` is a process's number, or names a link.

    `how` is a link's mode; `amount` the seconds of a clock's step, or a number that the fault draws from.
    """

    kind: str
    at_s: float
    for_s: float
    target: str
    how: str = ""
    amount: float = 0.0
    tls: bool = False

    @property
    def name(self) -> str:
        """Return the kind as the figures show it: of a link with its name and mode."""
        if self.kind != "link":
            return self.kind
        if self.tls and self.how in ("garble", "hang", "half_open"):
            return f"handshake_{self.how}"
        return f"{self.target.removesuffix('_a').removesuffix('_b')}_{self.how}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one seed does. `failing` is the share of a subscriber's answers that are wrong; `tls` whether it has TLS."""

    seed: int
    database: str
    layout: tuple[tuple[str, ...], ...]
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...]
    operations: tuple[Operation, ...]
    failing: float
    paid: bool
    tls: bool
    bucket: str = "folder"


def plan(seed: int, database: str) -> Plan:
    """Return the plan of a seed on `sqlite` or `postgres`, always the same."""
    luck = random.Random(f"{database} {seed}")
    layout, paid, tls = luck.choice(LAYOUTS[database]), luck.random() < 0.3, luck.random() < 0.4
    faults = _faults(luck, seed, database, len(layout))
    jobs = tuple(_job(luck, number, paid) for number in range(luck.randint(*JOBS)))
    kept = random.Random(f"{database} {seed} archive")  # of its own, so that a seed keeps its other faults
    bucket = kept.choice(("folder", "s3", "s3"))
    faults = tuple(sorted((*faults, *_archive_faults(kept, bucket, len(layout))), key=lambda fault: fault.at_s))
    return Plan(
        seed=seed,
        database=database,
        layout=layout,
        jobs=tuple(_with_archive(kept, job) for job in jobs),
        faults=tuple(msgspec.structs.replace(one, tls=tls and one.target == "subscriber_b") for one in faults),
        operations=tuple(_operation(luck) for _ in range(luck.choice((0, 1, 2)))),
        failing=luck.choice((0.0, 0.1, 0.3)),
        paid=paid,
        tls=tls,
        bucket=bucket,
    )


def _with_archive(luck: random.Random, job: JobPlan) -> JobPlan:
    """Return the job with what becomes of its result: whether it is copied, and what goes wrong where it is."""
    fault = luck.choice(RESULT_FAULTS) if luck.random() < 0.4 else ""
    result = Result(
        fault=fault,
        times=luck.choice((1, 1, 2) if fault in SLOW else (1, 1, 2, FOR_GOOD)) if fault else 0,
        size="large" if luck.random() < 0.15 else "small",
        chunked=luck.random() < 0.2,
    )
    return msgspec.structs.replace(
        job, archive=luck.choice(("after", "after", "before_notify", "before_notify", "off")), result=result
    )


def _archive_faults(luck: random.Random, bucket: str, processes: int) -> list[Fault]:
    """Return one to three faults that meet copies; results begin to be copied a while after the first job."""
    found = []
    for kind in luck.sample(ARCHIVE_KINDS, k=luck.randint(1, len(ARCHIVE_KINDS))):
        at_s, for_s = round(luck.uniform(0.8, LOAD_S), 3), round(luck.uniform(0.2, 2.0), 3)
        name = luck.choice(("results", "store", "store")) if bucket == "s3" else "results"
        how = luck.choice(LINK_MODES[name])
        target = name if kind == "link" else str(luck.randrange(processes))
        found.append(Fault(kind=kind, at_s=at_s, for_s=for_s, target=target, how=how if kind == "link" else ""))
    return found


def _job(luck: random.Random, number: int, paid: bool) -> JobPlan:
    """Return one job; every third one of a seed that pays is paid for."""
    of_paid = paid and number % 3 == 0
    known = _PAYMENT_FAULTS if of_paid else _JOB_FAULTS
    return JobPlan(
        number=number,
        at_s=round(luck.uniform(0, LOAD_S), 3),
        provider=luck.choice(PAID if of_paid else PROVIDERS),
        faults=luck.choice(known) if luck.random() < 0.5 else "",
        deadline_s=luck.choice((3, 4, 6)),
        has_own_endpoint=luck.random() < 0.25,
        verb=luck.choice(("cancellations", "status-checks", "failures")) if luck.random() < 0.2 else "",
    )


def _operation(luck: random.Random) -> Operation:
    """Return what an operator does."""
    return Operation(
        kind=luck.choice(("disable", "disable", "rotate", "redeliver")),
        at_s=round(luck.uniform(0.5, LOAD_S), 3),
        for_s=round(luck.uniform(0.1, 2.0), 3),
        endpoint=luck.randrange(ENDPOINTS),
    )


def _faults(luck: random.Random, seed: int, database: str, processes: int) -> tuple[Fault, ...]:
    """Return the faults in the order of their beginning; one kind goes round by the seed, so that each has its turn."""
    kinds = KINDS[database]
    drawn = [kinds[seed % len(kinds)], *luck.choices((*EVERYWHERE, *ONLY[database]), k=luck.randint(3, 6))]
    starts = [kind for kind in drawn if kind in STARTS]
    drawn = [*(kind for kind in drawn if kind not in STARTS), *starts[:STARTS_MAX]]
    drawn += ["link"] * (len(starts) - STARTS_MAX)
    found = [_fault(luck, kind, database, processes) for kind in drawn]
    return tuple(sorted(found, key=lambda fault: fault.at_s))


def _fault(luck: random.Random, kind: str, database: str, processes: int) -> Fault:
    """Return one fault of a kind."""
    at_s, for_s = round(luck.uniform(0.2, LOAD_S), 3), round(luck.uniform(0.2, 2.0), 3)
    amounts: dict[str, Callable[[], float]] = {
        "clock_step": lambda: luck.choice(CLOCK_STEPS_S),
        "clock_skew": lambda: luck.choice((-2, 2)),
        "pause": lambda: luck.choice((0.1, 1.0, 3.0)),
    }
    amount = float(amounts[kind]()) if kind in amounts else 0.0
    if kind != "link":
        return Fault(kind=kind, at_s=at_s, for_s=for_s, target=str(luck.randrange(processes)), amount=amount)
    links = [name for name in LINKS if name != "database" or database == "postgres"]
    name = luck.choice(links)
    return Fault(kind=kind, at_s=at_s, for_s=for_s, target=name, how=luck.choice(LINK_MODES[name]))
