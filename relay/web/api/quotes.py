"""`/v1/quotes`, `/v1/spend`: what a job would cost at each provider, and what was spent. Nothing is bought here."""

from typing import Annotated, Any, Final

import msgspec
from starlette.responses import Response

from relay.clock import rfc3339
from relay.errors import FieldError, Forbidden, InvalidInput, bounded
from relay.jobs.quotes import Quote
from relay.model.payment import PaymentState, usdc
from relay.model.resources.envelopes import FieldErrorResource, PageResource
from relay.model.resources.providers import ProviderSpendResource, QuoteResource, SpendResource
from relay.storage.payments import DAY_MS
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import TIME, time_param
from relay.web.problems import JSON


class QuoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/quotes`; without `providers` all of them are quoted."""

    input: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    providers: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)] | None = None


async def create(request: ApiRequest) -> Response:
    """`POST /v1/quotes`: what the job would cost at each provider, cheapest first."""
    fields = request.fields(QuoteRequest)
    quotes = await request.app.quoter.quotes(fields.input, fields.request, fields.providers)
    return JSON(PageResource(data=[_quote(quote) for quote in quotes], next_cursor=None))


async def spend(request: ApiRequest) -> Response:
    """`GET /v1/spend`: what the project spent, by provider and unit, and what it authorized today (UTC).

    With `all=true`, which needs an admin key of the project `default`: what all projects spent, and the wallet.
    """
    given = request.query()
    app, all_projects = request.app, given.get("all", "false") == "true"
    if given.get("all") not in (None, "true", "false"):
        raise InvalidInput([FieldError("all", "must be true or false")])
    if all_projects and not request.operator:
        raise Forbidden("all=true needs an admin key of the project default")
    now_ms = app.clock.now_ms()
    began_at = now_ms - now_ms % DAY_MS
    since_ms = time_param("since", given["since"], now_ms) if "since" in given else began_at
    project_id = None if all_projects else request.project_id
    spent = await app.store.payments.spending(began_at, project_id)
    by_provider = await app.store.payments.by_provider(since_ms, project_id)
    counted = sum(amount for state, amount in spent.items() if state is not PaymentState.VOID)
    cap = app.payer.caps.day if all_projects else app.payer.caps.project_day
    return JSON(
        SpendResource(
            project=project_id,
            wallet=app.payer.address if all_projects else None,
            since=rfc3339(since_ms),
            today=usdc(counted),
            left_today=usdc(max(0, cap - counted)),
            reserved=usdc(spent[PaymentState.RESERVED]),
            paid=usdc(spent[PaymentState.PAID]),
            unknown=usdc(spent[PaymentState.UNKNOWN]),
            lost=usdc(spent[PaymentState.LOST]),
            void=usdc(spent[PaymentState.VOID]),
            max_per_job=usdc(app.settings.spend_max_per_job),
            max_per_day=usdc(cap),
            providers=[ProviderSpendResource(**msgspec.structs.asdict(one)) for one in by_provider],
        )
    )


def _quote(quote: Quote) -> QuoteResource:
    """Return one provider's quote."""
    price = quote.price
    return QuoteResource(
        provider=quote.provider,
        accepted=quote.accepted,
        amount=price.amount if price else None,
        unit=price.unit if price else None,
        usd=price.usd if price else None,
        basis=price.basis if price else None,
        errors=[FieldErrorResource(path=error.path, message=error.message) for error in bounded(quote.errors)],
    )


ROUTES: Final = (
    ApiRoute(
        method="POST",
        path="/v1/quotes",
        handler=create,
        scope="submit",
        audited=False,
        summary="Quote what a job would cost at each provider",
        fields=QuoteRequest,
        example={"input": {"images": ["https://example.com/a.png"], "prompt": "slow push in", "duration_s": 5}},
        answers={200: PageResource[QuoteResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/spend",
        handler=spend,
        scope="read",
        summary="Show what was spent",
        query=(
            Parameter("all", "Of all projects; needs an admin key of the project `default`.", bool),
            Parameter("since", "From this time on; from midnight UTC if not given.", TIME),
        ),
        answers={200: SpendResource},
    ),
)
