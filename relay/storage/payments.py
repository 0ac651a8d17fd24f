"""Payments in the database: reserved in the commit that makes their job, settled in the one that moves it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from relay.errors import PaidOnce, SpendCapReached
from relay.model import Cost
from relay.money import Payment, PaymentState, usdc
from relay.seal import Seal
from relay.storage.database import Database, Row, Transaction
from relay.storage.writer import Writer

DAY_MS = 86_400_000
NUMBER_MAX = 999_999


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What became known of a job's payment, and by that of what the job costs (None: nothing new).

    `next_proof_at` is set while it can still be proven either way.
    """

    state: PaymentState
    cost: Cost | None = None
    transaction: str | None = None
    next_proof_at: int | None = None


class Payments:
    """The payments."""

    def __init__(self, database: Database, writer: Writer, seal: Seal) -> None:
        self._database = database
        self._writer = writer
        self._seal = seal

    async def add(self, payment: Payment, cap: int) -> None:
        """Commits an authorization for a job that is there already, or SpendCapReached."""
        await self._writer.write(self._reserve, (payment, cap))

    async def renew(self, payment: Payment, cap: int) -> None:
        """The same, in the place of one of the same nonce that ran out and is undecided: one of the two can be made."""
        await self._writer.write(self._renew, (payment, cap))

    async def settle(self, job_id: str, at: int, settlement: Settlement, answers: Sequence[str] = ()) -> None:
        """What became known of a payment for no job, in one commit with what was bought by it."""
        await self._writer.write(self._settle, (job_id, at, settlement, answers))

    async def keep_answers(self, job_id: str, answers: Sequence[str]) -> None:
        """Keeps what was bought, sealed, since it opens a provider's store."""
        await self._writer.write(self._keep, (job_id, answers))

    async def of_upload(self, upload_id: str) -> Payment | None:
        """The last payment for a file, opened; those for one are numbered behind its id."""
        wanted = {"first": numbered(upload_id, 0), "last": numbered(upload_id, NUMBER_MAX)}
        found = await self._database.rows("payment_of_upload", wanted)
        return self._payment(found[0]) if found else None

    async def of_job(self, job_id: str) -> Payment | None:
        """The job's payment, opened."""
        found = await self._database.rows("payment_of_job", {"job_id": job_id})
        return self._payment(found[0]) if found else None

    async def to_prove(self, now_ms: int, limit: int) -> list[Payment]:
        """Payments that the chain can decide by now."""
        found = await self._database.rows("payments_to_prove", {"now": now_ms, "limit": limit})
        return [self._payment(row) for row in found]

    async def spending(self, since_ms: int) -> dict[PaymentState, int]:
        """Atomic units authorized since then, by what is known of them."""
        found = await self._database.rows("spending_by_state", {"since": since_ms})
        known = {PaymentState(row["state"]): int(row["amount"]) for row in found}
        return {state: known.get(state, 0) for state in PaymentState}

    async def _reserve(self, transaction: Transaction, wanted: Sequence[tuple[Payment, int]]) -> list[None]:
        """Reserves for each caller in turn."""
        for payment, cap in wanted:
            await reserve(transaction, payment, cap, self._seal)
        return [None] * len(wanted)

    async def _renew(self, transaction: Transaction, wanted: Sequence[tuple[Payment, int]]) -> list[None]:
        """Makes room, and reserves."""
        await transaction.run_many("forget_undecided_payment", [{"job_id": payment.job_id} for payment, _ in wanted])
        return await self._reserve(transaction, wanted)

    async def _settle(
        self, transaction: Transaction, wanted: Sequence[tuple[str, int, Settlement, Sequence[str]]]
    ) -> list[None]:
        """Settles for each caller, and keeps what came with it."""
        await settle(transaction, [(job_id, at, settlement) for job_id, at, settlement, _ in wanted])
        await self._keep(transaction, [(job_id, answers) for job_id, _, _, answers in wanted if answers])
        return [None] * len(wanted)

    async def _keep(self, transaction: Transaction, wanted: Sequence[tuple[str, Sequence[str]]]) -> list[None]:
        """Keeps for each caller."""
        params = [
            {"job_id": job_id, "answers": self._seal.seal(msgspec.json.encode(answers).decode())}
            for job_id, answers in wanted
        ]
        await transaction.run_many("keep_answers", params)
        return [None] * len(wanted)

    def _payment(self, row: Row) -> Payment:
        """The payment of a row."""
        names = (name for name in Payment.__struct_fields__ if name != "transaction")
        values = {name: row[name] for name in names} | {"transaction": row["transaction_hash"]}
        values["state"] = PaymentState(values["state"])
        values["header"] = self._seal.open(values["header"])
        values["body_digest"] = bytes(values["body_digest"])
        answers = values["answers"] and self._seal.open(values["answers"])
        values["answers"] = tuple(msgspec.json.decode(answers)) if answers else ()
        return Payment(**values)


async def reserve(transaction: Transaction, payment: Payment, cap: int, seal: Seal) -> None:
    """Writes the authorization if the day's cap holds it; SpendCapReached if not, and then nothing is written.

    PaidOnce where there is one already, which another process was quicker to make. All of it happens in the one write
    transaction, so that no two requests can overspend the cap between them.
    """
    await transaction.rows("lock_spending", {})
    if await transaction.rows("payment_of_job", {"job_id": payment.job_id}):
        raise PaidOnce("it is being paid for already: try again")
    day_began = payment.created_at - payment.created_at % DAY_MS
    spent = int((await transaction.rows("spent_since", {"since": day_began}))[0]["amount"])
    if spent + payment.amount > cap:
        raise SpendCapReached(
            f"the job would cost {usdc(payment.amount)} USDC, and {usdc(max(0, cap - spent))} of "
            f"{usdc(cap)} USDC are left today (RELAY_SPEND_MAX_PER_DAY)"
        )
    params: dict[str, Any] = {name: getattr(payment, name) for name in payment.__struct_fields__}
    await transaction.run_many("insert_payment", [params | {"header": seal.seal(payment.header)}])


async def settle(transaction: Transaction, settled: Sequence[tuple[str, int, Settlement]]) -> None:
    """Writes what became known: for each, the job, the time, and the settlement."""
    await transaction.run_many(
        "settle_payment",
        [
            {
                "job_id": job_id,
                "state": settlement.state,
                "settled_at": at,
                "transaction_hash": settlement.transaction,
                "next_proof_at": settlement.next_proof_at,
            }
            for job_id, at, settlement in settled
        ],
    )


def numbered(upload_id: str, number: int) -> str:
    """What stands for a job where a file is paid for; the names of one file sort by their number."""
    return f"{upload_id}_{number:06}"
