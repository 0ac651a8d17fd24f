"""Payments in the database: reserved in the commit that makes their job, settled in the one that changes it."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from relay import log
from relay.errors import Bound, PaidOnce, SpendCapReached
from relay.model import ids
from relay.model.job import Cost
from relay.model.payment import Payment, PaymentHead, PaymentState, usdc
from relay.security.encryption import DecryptionFailed, Encryption, place
from relay.storage import pages
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.pages import EVER, Listing, Page, Span

_logger = log.get("storage")
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
NUMBER_MAX = 999_999
SKEW_MS: Final = 60_000
"""By so much an id may have been made before the time that its row has."""
KINDS: Final = ("estimate", "reserved", "final")


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """The most that may be authorized in a day (UTC) or an hour of it, in atomic units; None: no cap for that time.

    By all projects together, and by one.
    """

    day: int
    project_day: int
    hour: int | None = None
    project_hour: int | None = None


class UsedCap(msgspec.Struct, frozen=True, kw_only=True):
    """A cap, the setting that it comes from, and what is authorized under it by now, in atomic units.

    `ends_at` (unix ms) is when its hour or day ends and nothing is used of it any more.
    """

    bound: Bound
    period: Literal["hour", "day"]
    most: int
    used: int
    ends_at: int
    of_project: bool

    @property
    def left(self) -> int:
        """Return what may still be authorized."""
        return max(0, self.most - self.used)


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider was paid, or takes, for jobs in one unit, by how sure that is; decimals as text."""

    provider: str
    unit: str
    estimate: str
    reserved: str
    final: str
    jobs: int


class PaymentFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of payments may be narrowed by; `project_id` None: those of all projects."""

    project_id: str | None
    state: str | None = None
    provider: str | None = None
    job_id: str | None = None
    made: Span = EVER


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What became known of a job's payment, and by that of what the job costs (None: nothing new).

    `next_proof_at` is set while it can still be proven either way.
    """

    state: PaymentState
    cost: Cost | None = None
    transaction: str | None = None
    next_proof_at: int | None = None


class JobSettlement(msgspec.Struct, frozen=True):
    """What became known of a job's payment, and when (unix ms)."""

    job_id: str
    at: int
    settlement: Settlement


class _Authorization(msgspec.Struct, frozen=True):
    """A payment to reserve within the caps."""

    payment: Payment
    caps: Caps


class _Bought(msgspec.Struct, frozen=True):
    """What became known of a payment, with what was bought by it."""

    settled: JobSettlement
    answers: Sequence[str]


class _Answers(msgspec.Struct, frozen=True):
    """What was bought by a job's payment."""

    job_id: str
    answers: Sequence[str]


class Payments:
    """The payments."""

    def __init__(self, database: Database, writer: Writer, encryption: Encryption) -> None:
        self._database = database
        self._writer = writer
        self._encryption = encryption

    async def add(self, payment: Payment, caps: Caps) -> None:
        """Commit an authorization for a job that is there already, or SpendCapReached."""
        await self._writer.write(self._reserve, _Authorization(payment, caps))

    async def renew(self, payment: Payment, caps: Caps) -> None:
        """Replace an expired, undecided authorization by a new one of the same nonce: only one of them can be made."""
        await self._writer.write(self._renew, _Authorization(payment, caps))

    async def settle(self, job_id: str, at: int, settlement: Settlement, answers: Sequence[str] = ()) -> None:
        """Store the outcome of a payment for no job, in one commit with what it bought."""
        await self._writer.write(self._settle, _Bought(JobSettlement(job_id, at, settlement), answers))

    async def keep_answers(self, job_id: str, answers: Sequence[str]) -> None:
        """Keep what was bought, sealed, since it opens a provider's store."""
        await self._writer.write(self._keep, _Answers(job_id, answers))

    async def of_upload(self, upload_id: str) -> Payment | None:
        """Return the last payment for a file, opened; those for one are numbered behind its id."""
        wanted = {"first": numbered(upload_id, 0), "last": numbered(upload_id, NUMBER_MAX)}
        found = await self._database.rows("payment_of_upload", wanted)
        return self._payment(found[0]) if found else None

    async def of_job(self, job_id: str) -> Payment | None:
        """Return the job's payment, opened."""
        found = await self._database.rows("payment_of_job", {"job_id": job_id})
        return self._payment(found[0]) if found else None

    async def page(self, listing: Listing, wanted: PaymentFilter) -> Page[PaymentHead]:
        """Payments newest first."""
        listing, lowest = wanted.made.narrow(listing, ids.PAYMENT)
        params = {
            "project_id": wanted.project_id,
            "state": wanted.state,
            "provider": wanted.provider,
            "job_id": wanted.job_id,
            **wanted.made.params(),
        }
        which = "all" if wanted.project_id is None else "project"
        narrows = any(one is not None for one in (wanted.state, wanted.provider, wanted.job_id))
        floor_name = f"payment_floor_of_{which}" if narrows else None
        params, ends_at = await pages.bounds(self._database, floor_name, params | {"before": listing.before}, lowest)

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            given = params | {"before": before, "limit": limit}
            return await self._database.rows(f"payment_page_of_{which}", given, Purpose.LIST)

        return await pages.collect(listing, read, _head, ends_at)

    async def to_prove(self, now_ms: int, limit: int) -> list[Payment]:
        """Payments that the chain can decide by now."""
        found = await self._database.rows("payments_to_prove", {"now": now_ms, "limit": limit})
        return [self._to_prove(row) for row in found]

    async def spending(self, since_ms: int, project_id: str | None = None) -> dict[PaymentState, int]:
        """Atomic units that a project (None: all) authorized since then, by what is known of them."""
        found = await self._database.rows("spending_by_state", {"since": since_ms, "project_id": project_id})
        known = {PaymentState(row["state"]): int(row["amount"]) for row in found}
        return {state: known.get(state, 0) for state in PaymentState}

    async def used(self, caps: Caps, project_id: str, now_ms: int) -> list[UsedCap]:
        """Return each cap with what is authorized under it: those of the project first."""
        return _used(caps, (await self._database.rows("spent_since", _spent(project_id, now_ms)))[0], now_ms)

    async def by_provider(self, since_ms: int, project_id: str | None) -> list[Spent]:
        """Return what a project's jobs (None: all projects') since then cost, by provider and unit, and its paid files.

        A job's cost is text that few others differ from, so the database groups it and only what differs is read.
        """
        params = {"since": since_ms, "first": ids.first_at(ids.JOB, since_ms - SKEW_MS), "project_id": project_id}
        name = "costs_of_all" if project_id is None else "costs_of_project"
        sums: dict[tuple[str, str], dict[str, Decimal]] = {}
        jobs: Counter[tuple[str, str]] = Counter()
        for row in await self._database.rows(name, params, Purpose.LIST):
            cost = msgspec.json.decode(row["cost"], type=Cost)
            kinds = sums.setdefault((row["provider"], cost.unit), dict.fromkeys(KINDS, Decimal(0)))
            kinds[cost.kind] += Decimal(cost.amount) * row["number"]
            jobs[row["provider"], cost.unit] += row["number"]
        for row in await self._database.rows("costs_of_files", params, Purpose.LIST):
            kinds = sums.setdefault((row["provider"], "USDC"), dict.fromkeys(KINDS, Decimal(0)))
            kind = "final" if row["state"] in (PaymentState.PAID, PaymentState.LOST) else "reserved"
            kinds[kind] += Decimal(int(row["amount"])) / 1_000_000
        return [
            Spent(
                provider=provider,
                unit=unit,
                jobs=jobs[provider, unit],
                **{kind: f"{amount:.6f}" for kind, amount in kinds.items()},
            )
            for (provider, unit), kinds in sorted(sums.items())
        ]

    async def _reserve(self, transaction: Transaction, wanted: Sequence[_Authorization]) -> list[None]:
        """Reserve for each caller in turn."""
        for one in wanted:
            await reserve(transaction, one.payment, one.caps, self._encryption)
        return [None] * len(wanted)

    async def _renew(self, transaction: Transaction, wanted: Sequence[_Authorization]) -> list[None]:
        """Delete the undecided payments, and reserve."""
        await transaction.run_many("forget_undecided_payment", [{"job_id": one.payment.job_id} for one in wanted])
        return await self._reserve(transaction, wanted)

    async def _settle(self, transaction: Transaction, wanted: Sequence[_Bought]) -> list[None]:
        """Settle for each caller, and keep what was bought."""
        await settle(transaction, [one.settled for one in wanted])
        await self._keep(transaction, [_Answers(one.settled.job_id, one.answers) for one in wanted if one.answers])
        return [None] * len(wanted)

    async def _keep(self, transaction: Transaction, wanted: Sequence[_Answers]) -> list[None]:
        """Keep what was bought, for each caller."""
        params = [{"job_id": one.job_id, "answers": self._sealed(one.job_id, one.answers)} for one in wanted]
        await transaction.run_many("keep_answers", params)
        return [None] * len(wanted)

    def _sealed(self, job_id: str, answers: Sequence[str]) -> bytes:
        """Return what was bought, as its column keeps it."""
        return self._encryption.encrypt(msgspec.json.encode(answers).decode(), place("payments", "answers", job_id))

    def _to_prove(self, row: Row) -> Payment:
        """Return the payment of a row to be proven, without its header, which that does not need."""
        try:
            return self._payment(row)
        except DecryptionFailed as error:
            _logger.error("payment.header_unreadable", job=row["job_id"], error=str(error))
            sealed = {
                "header": self._encryption.encrypt("", place("payments", "header", row["job_id"])),
                "answers": None,
            }
            return self._payment(dict(row) | sealed)

    def _payment(self, row: Row) -> Payment:
        """Return the payment of a row."""
        names = (name for name in Payment.__struct_fields__ if name != "transaction")
        values = {name: row[name] for name in names} | {"transaction": row["transaction_hash"]}
        values["state"] = PaymentState(values["state"])
        values["header"] = self._encryption.decrypt(values["header"], place("payments", "header", values["job_id"]))
        values["body_digest"] = bytes(values["body_digest"])
        answers = values["answers"] and self._encryption.decrypt(
            values["answers"], place("payments", "answers", values["job_id"])
        )
        values["answers"] = tuple(msgspec.json.decode(answers)) if answers else ()
        return Payment(**values)


def _head(row: Row) -> PaymentHead:
    """Return the payment of a list's row."""
    return msgspec.convert(dict(row), PaymentHead)


async def reserve(transaction: Transaction, payment: Payment, caps: Caps, encryption: Encryption) -> None:
    """Write the authorization if the day's caps hold it; SpendCapReached if not, and then nothing is written.

    PaidOnce where there is one already, which another process was quicker to make. All of it happens in the one write
    transaction, so that no two requests can overspend the cap between them.
    """
    await transaction.rows("lock_spending", {})
    if await transaction.rows("payment_of_job", {"job_id": payment.job_id}):
        raise PaidOnce("it is being paid for already: try again")
    spent = (await transaction.rows("spent_since", _spent(payment.project_id, payment.created_at)))[0]
    require_room(payment.amount, _used(caps, spent, payment.created_at))
    params: dict[str, Any] = {name: getattr(payment, name) for name in payment.__struct_fields__}
    await transaction.run_many(
        "insert_payment",
        [params | {"header": encryption.encrypt(payment.header, place("payments", "header", payment.job_id))}],
    )


def require_room(amount: int, caps: Sequence[UsedCap]) -> None:
    """Raise SpendCapReached for the first cap that does not hold the amount; that of all projects tells no sums."""
    for cap in caps:
        if amount <= cap.left:
            continue
        when = "today" if cap.period == "day" else "this hour"
        setting = f"RELAY_{cap.bound.name}"
        left = f"so much is not left {when} for all projects"
        if cap.of_project:
            left = f"{usdc(cap.left)} of this project's {usdc(cap.most)} USDC are left {when}"
        raise SpendCapReached(f"it would cost {usdc(amount)} USDC, and {left} ({setting})", bound=cap.bound)


def _spent(project_id: str, now_ms: int) -> dict[str, Any]:
    """Return the parameters of `spent_since`: the day and the hour of a time, and the project."""
    return {"since": now_ms - now_ms % DAY_MS, "since_hour": now_ms - now_ms % HOUR_MS, "project_id": project_id}


def _used(caps: Caps, spent: Row, now_ms: int) -> list[UsedCap]:
    """Return the caps that are set, with what was authorized under each; those of the project first."""
    day, hour = now_ms - now_ms % DAY_MS + DAY_MS, now_ms - now_ms % HOUR_MS + HOUR_MS
    each: list[tuple[Bound, Literal["hour", "day"], int | None, str]] = [
        (Bound.PROJECT_SPEND_MAX_PER_HOUR, "hour", caps.project_hour, "of_project_in_hour"),
        (Bound.PROJECT_SPEND_MAX_PER_DAY, "day", caps.project_day, "of_project"),
        (Bound.SPEND_MAX_PER_HOUR, "hour", caps.hour, "in_hour"),
        (Bound.SPEND_MAX_PER_DAY, "day", caps.day, "amount"),
    ]
    return [
        UsedCap(
            bound=bound,
            period=period,
            most=most,
            used=int(spent[column]),
            ends_at=hour if period == "hour" else day,
            of_project=column.startswith("of_project"),
        )
        for bound, period, most, column in each
        if most is not None
    ]


async def settle(transaction: Transaction, settled: Sequence[JobSettlement]) -> None:
    """Write what became known of each payment."""
    await transaction.run_many(
        "settle_payment",
        [
            {
                "job_id": one.job_id,
                "state": one.settlement.state,
                "settled_at": one.at,
                "transaction_hash": one.settlement.transaction,
                "next_proof_at": one.settlement.next_proof_at,
            }
            for one in settled
        ],
    )


def numbered(upload_id: str, number: int) -> str:
    """Return what stands for a job where a file is paid for; the names of one file sort by their number."""
    return f"{upload_id}_{number:06}"
