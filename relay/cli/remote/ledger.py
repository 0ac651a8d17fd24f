"""`relay payments`: the ledger of what relay paid, and its receipts as CSV."""

import sys
from typing import Any, Final

import click

from relay.cli.remote.options import id_of, limited, one_of, since_until
from relay.cli.remote.output import Columns, Session, remote
from relay.model import ids
from relay.model.payment import PaymentState

PAYMENTS: Final[Columns] = {
    "PAYMENT": "id", "STATE": "state", "AMOUNT": "amount", "UNIT": "unit", "PROVIDER": "provider", "JOB": "job",
    "CREATED": "created_at", "SETTLED": "settled_at", "TRANSACTION": "transaction",
}  # fmt: skip


def _filters(function: Any) -> Any:
    """Give a command the filters of the ledger."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="Of all projects; needs an operator's key."),
        click.option("--job", type=id_of(ids.JOB), metavar="JOB"),
        click.option("--provider"),
        click.option("--state", type=one_of(PaymentState)),
    ):
        function = option(function)
    return function


def _query(given: dict[str, Any], since: str | None, until: str | None) -> dict[str, Any]:
    """Return the parameters of the API."""
    everything = given.pop("everything") or None
    return given | {"all": everything, "created_after": since, "created_before": until}


@click.group("payments")
def payments() -> None:
    """List payments, and write their receipts."""


@payments.command("list")
@limited
@_filters
@remote
def payments_list(session: Session, limit: int, since: str | None, until: str | None, **given: Any) -> None:
    """List payments, newest first."""
    session.items(session.remote.pages("/v1/payments", _query(given, since, until), limit), PAYMENTS)


@payments.command("receipts")
@since_until
@_filters
@remote
def payments_receipts(session: Session, since: str | None, until: str | None, **given: Any) -> None:
    """Write all payments as CSV, newest first, for books."""
    query, first = _query(given, since, until), True
    while True:
        answer = session.remote.answer("GET", "/v1/receipts", query=query)
        lines = answer.content if first else answer.content.partition(b"\n")[2]  # one line of titles
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
        cursor, first = answer.headers.get("next-cursor"), False
        if cursor is None:
            return
        query |= {"cursor": cursor}
