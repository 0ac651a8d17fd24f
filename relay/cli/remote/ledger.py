"""`relay payments`: the ledger of what relay paid, and its receipts as CSV."""

import sys
from typing import Any, Final

import click

from relay.cli.remote.output import Columns, Session, limited, remote

PAYMENTS: Final[Columns] = {
    "PAYMENT": "id", "STATE": "state", "AMOUNT": "amount", "UNIT": "unit", "PROVIDER": "provider", "JOB": "job",
    "CREATED": "created_at", "SETTLED": "settled_at", "TRANSACTION": "transaction",
}  # fmt: skip
_STATES: Final = ("reserved", "paid", "unknown", "lost", "void")


def _filters(function: Any) -> Any:
    """Give a command the filters of the ledger."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="Of all projects; needs an operator's key."),
        click.option("--job"),
        click.option("--provider"),
        click.option("--state", type=click.Choice(_STATES)),
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
@click.option("--since", metavar="TIME", help="Not before: 2026-11-26, an RFC 3339 time, or -24h.")
@click.option("--until", metavar="TIME", help="Not after: as --since.")
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
