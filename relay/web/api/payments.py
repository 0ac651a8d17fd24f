"""`/v1/payments`, `/v1/receipts`: the ledger of what was paid, as JSON and as a table for people who keep books."""

import csv
import io
from collections.abc import Iterable
from typing import Final

import msgspec
from starlette.responses import Response

from relay.errors import Forbidden
from relay.model import ids
from relay.model.payment import PaymentHead, PaymentState
from relay.model.resources import payments as resources
from relay.model.resources.envelopes import PageResource
from relay.model.resources.payments import PaymentResource
from relay.storage.pages import Listing
from relay.storage.payments import PaymentFilter
from relay.web.api.api_request import ApiRequest, ApiRoute, CsvResponse, Parameter
from relay.web.api.lists import choice, cursor_and_limit, flag, id_param, listing, page, paging, span, span_parameters

ALL: Final = Parameter("all", "Of all projects; needs an admin key of the project `default`.", bool)
RECEIPTS_MAX: Final = 10_000
PAGE: Final = 500
FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula."""
COLUMNS: Final = tuple(name for name in PaymentResource.__struct_fields__ if name != "object")


async def index(request: ApiRequest) -> Response:
    """`GET /v1/payments`: newest first."""
    given = request.query()
    wanted_page = listing(request, given, ids.PAYMENT)
    return page(await request.app.store.payments.page(wanted_page, _wanted(request, given)), resources.payment)


async def receipts(request: ApiRequest) -> Response:
    """`GET /v1/receipts`: the same as a table in CSV, newest first, 10,000 lines at most.

    Where there are more, the header `next-cursor` has the `cursor` of the rest.
    """
    given = request.query()
    before, _ = cursor_and_limit(given, ids.PAYMENT)
    wanted, lines = _wanted(request, given), list[PaymentHead]()
    while True:
        limit = min(PAGE, RECEIPTS_MAX - len(lines))
        found = await request.app.store.payments.page(Listing(before=before, limit=limit), wanted)
        lines += found.items
        before = found.next_cursor
        if before is None or len(lines) >= RECEIPTS_MAX:
            break
    headers = {"content-disposition": 'attachment; filename="receipts.csv"'}
    if before is not None:
        headers["next-cursor"] = before
    return CsvResponse(_table(resources.payment(one) for one in lines), headers=headers)


def every_project(request: ApiRequest, given: dict[str, str]) -> bool:
    """Return whether `all=true` is given; raise Forbidden if the key may not see all projects."""
    if (wanted := flag(given, "all")) and not request.operator:
        raise Forbidden("all=true needs an admin key of the project default")
    return wanted


def _wanted(request: ApiRequest, given: dict[str, str]) -> PaymentFilter:
    """Return what the list is narrowed to."""
    return PaymentFilter(
        project_id=None if every_project(request, given) else request.project_id,
        state=choice(given, "state", PaymentState),
        provider=choice(given, "provider", request.app.providers),
        job_id=id_param(given, "job", ids.JOB),
        made=span(given, request.app.clock.now_ms()),
    )


def _table(lines: Iterable[PaymentResource]) -> str:
    """Return payments as CSV (RFC 4180); a text that a spreadsheet would compute begins with an apostrophe."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for line in lines:
        shown = msgspec.to_builtins(line)
        writer.writerow([_cell(shown[name]) for name in COLUMNS])
    return table.getvalue()


def _cell(value: object) -> str:
    """Return one field of the table."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULAS) else text


_FILTERS: Final = (
    Parameter("state", "Only those in this state.", PaymentState),
    Parameter("provider", "Only those to this provider."),
    Parameter("job", "Only the one for this job."),
    *span_parameters("authorized"),
    ALL,
)
ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/payments",
        handler=index,
        scope="read",
        summary="List payments",
        query=(*paging(ids.PAYMENT), *_FILTERS),
        answers={200: PageResource[PaymentResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/receipts",
        handler=receipts,
        scope="read",
        summary="Show payments as a table in CSV",
        query=(paging(ids.PAYMENT)[1], *_FILTERS),
        answers={200: CsvResponse},
    ),
)
