"""`/v1/quotes`, `/v1/spend`: what a job would cost, anywhere, before anything is bought; and what was spent today."""

from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from relay import views
from relay.clock import rfc3339
from relay.errors import bounded
from relay.money import PaymentState, usdc
from relay.quoting import Quote
from relay.storage.payments import DAY_MS
from relay.web.calls import Call
from relay.web.problems import JSON


class QuoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/quotes`; without `providers` every one is asked."""

    input: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    providers: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)] | None = None


async def create(call: Call) -> Response:
    """`POST /v1/quotes`: what each provider would take, cheapest first; nothing is bought."""
    asked = call.fields(QuoteRequest)
    quotes = await call.app.quoter.quotes(asked.input, asked.request, asked.providers)
    return JSON({"data": [_shown(quote) for quote in quotes], "next_cursor": None})


async def spend(call: Call) -> Response:
    """`GET /v1/spend`: what was authorized today (UTC) by what is known of it, and the caps."""
    call.query()
    app = call.app
    now_ms = app.clock.now_ms()
    began_at = now_ms - now_ms % DAY_MS
    spent = await app.store.payments.spending(began_at)
    counted = sum(amount for state, amount in spent.items() if state is not PaymentState.VOID)
    cap = app.settings.spend_max_per_day
    return JSON(
        {
            "wallet": app.payer.address,
            "unit": "USDC",
            "since": rfc3339(began_at),
            "today": usdc(counted),
            "left_today": usdc(max(0, cap - counted)),
            **{str(state): usdc(spent[state]) for state in PaymentState},
            "max_per_job": usdc(app.settings.spend_max_per_job),
            "max_per_day": usdc(cap),
        }
    )


def _shown(quote: Quote) -> views.Json:
    """What one provider would take."""
    price = quote.price
    return {
        "provider": quote.provider,
        "accepted": quote.accepted,
        "amount": price.amount if price else None,
        "unit": price.unit if price else None,
        "usd": price.usd if price else None,
        "basis": price.basis if price else None,
        "errors": [{"path": error.path, "message": error.message} for error in bounded(quote.errors)],
    }
