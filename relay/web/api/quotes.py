"""`/v1/quotes`, `/v1/spend`: what a job would cost at each provider, and what was spent. Nothing is bought here."""

from typing import Annotated, Any, Final

import msgspec
from starlette.responses import Response

from relay.clock import rfc3339
from relay.errors import Bound, bounded
from relay.jobs.quotes import Quote
from relay.model.payment import PaymentState, usdc
from relay.model.resources.envelopes import FieldErrorResource, PageResource
from relay.model.resources.payments import CapResource, ProviderSpendResource, SpendResource
from relay.model.resources.providers import QuoteResource
from relay.storage.payments import DAY_MS, UsedCap
from relay.web.api.adapters import load_adapters
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import TIME, time_param
from relay.web.api.payments import ALL, every_project
from relay.web.problems import JSON


class QuoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/quotes`; without `providers` all of them are quoted."""

    input: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    providers: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)] | None = None


async def create(request: ApiRequest) -> Response:
    """`POST /v1/quotes`: what the job would cost at each provider, cheapest first."""
    fields = request.fields(QuoteRequest)
    await load_adapters(request.app, request.app.providers if fields.providers is None else fields.providers)
    quotes = await request.app.quoter.quotes(fields.input, fields.request, fields.providers)
    return JSON(PageResource(data=[_quote(quote) for quote in quotes], next_cursor=None))


async def spend(request: ApiRequest) -> Response:
    """`GET /v1/spend`: what the project spent, by provider and unit, and what it authorized today (UTC).

    With `all=true`, which needs an admin key of the project `default`: what all projects spent, and the wallet.
    """
    given = request.query()
    app, all_projects = request.app, every_project(request, given)
    now_ms = app.clock.now_ms()
    began_at = now_ms - now_ms % DAY_MS
    since_ms = time_param("since", given["since"], now_ms) if "since" in given else began_at
    project_id = None if all_projects else request.project_id
    caps = await app.store.payments.used(app.payer.caps, request.project_id, now_ms)
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
            approval_above=None if app.settings.approval_above is None else usdc(app.settings.approval_above),
            caps=[
                _cap_per_job(app.settings.spend_max_per_job),
                *(_cap(one) for one in caps if one.of_project is not all_projects),
            ],
            providers=[ProviderSpendResource(**msgspec.structs.asdict(one)) for one in by_provider],
        )
    )


def _cap_per_job(most: int) -> CapResource:
    """Return the cap of each job."""
    setting = f"RELAY_{Bound.SPEND_MAX_PER_JOB.name}"
    return CapResource(setting=setting, period="job", max=usdc(most), used=None, left=None, resets_at=None)


def _cap(cap: UsedCap) -> CapResource:
    """Return a cap of an hour or a day."""
    return CapResource(
        setting=f"RELAY_{cap.bound.name}",
        period=cap.period,
        max=usdc(cap.most),
        used=usdc(cap.used),
        left=usdc(cap.left),
        resets_at=rfc3339(cap.ends_at),
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
        reason=quote.reason,
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
            ALL,
            Parameter("since", "From this time on; from midnight UTC if not given.", TIME),
        ),
        answers={200: SpendResource},
    ),
)
