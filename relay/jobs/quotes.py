"""Quotes what a job would cost at each provider, before anything is bought.

The prices come from tables, or from the provider itself by an unpaid request.
"""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.context import ConfiguredProvider, FlowContext
from relay.errors import FieldError, InvalidInput, PaymentRefused, SpendCapReached
from relay.jobs.approvals import table_price
from relay.jobs.payment import Payer
from relay.model.job import Job
from relay.model.provider_http import ProviderResponse
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.providers.base import Provider, Refused
from relay.providers.native import check_given, native_body, unknown_model
from relay.providers.prices import Price, price_order, quoted

CHEAPEST: Final = "cheapest"
QUOTE_JOB_ID: Final = "job_quote"
"""The id in a request that only asks for the price, because no job exists yet."""


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's quote: whether it accepts the request, the price there, and the errors if it does not.

    `reason` says why there is no price.
    """

    provider: str
    accepted: bool
    price: Price | None = None
    errors: tuple[FieldError, ...] = ()
    reason: str | None = None


class Quoter:
    """Quotes prices."""

    def __init__(self, context: FlowContext, payer: Payer) -> None:
        self._context = context
        self._payer = payer

    async def quotes(
        self, given: dict[str, Any] | None, request: dict[str, Any] | None, names: Sequence[str] | None
    ) -> list[Quote]:
        """Return a quote of each named provider (None: of all), cheapest first; those without a price last."""
        fields = {"input": given, "request": request}
        if wrong := check_given(fields):
            raise InvalidInput(wrong)
        known = self._context.providers
        if unknown := [name for name in names or () if name not in known]:
            message = f"there is no {unknown[0][:64]!r}; there are {', '.join(sorted(known))}"
            raise InvalidInput([FieldError("providers", message)])
        found = await asyncio.gather(*(self._quote(name, fields) for name in dict.fromkeys(names or known)))
        ordered = sorted(found, key=lambda quote: price_order(quote.provider, quote.price))
        return [quote for quote in ordered if quote.accepted] + [quote for quote in ordered if not quote.accepted]

    async def cheapest(self, given: dict[str, Any] | None, max_cost: int | None) -> str:
        """Return the configured provider with the lowest price in USD; InvalidInput or SpendCapReached if none fits."""
        quotes = await self.quotes(given, None, self._context.usable)
        priced = [quote for quote in quotes if quote.accepted and quote.price and quote.price.usd is not None]
        if not priced:
            errors = [
                FieldError(error.path, f"at {quote.provider}: {error.message}")
                for quote in quotes
                for error in quote.errors
            ]
            none = FieldError("provider", "no configured provider has a price in USD for this")
            raise InvalidInput(errors[:20] or [none])
        price = priced[0].price
        assert price is not None
        if max_cost is not None and _micros(price) > max_cost:
            raise SpendCapReached(f"the cheapest, {priced[0].provider}, would cost {price.usd} USD, more than max_cost")
        return priced[0].provider

    async def require(self, job: Job) -> None:
        """Raise SpendCapReached where the provider is known to cost more than the job's `max_cost`.

        A provider that is paid for each job and gives no price now is asked again before anything is signed.
        """
        provider = self._context.providers.get(job.provider)
        if job.max_cost is None or provider is None:
            return
        try:
            price = await self._price(job.provider, provider, job.request)
        except (NotSent, NoAnswer):
            return
        if price is not None and price.usd is not None and _micros(price) > job.max_cost:
            raise SpendCapReached(f"the job would cost {price.usd} USD, more than max_cost")

    async def _quote(self, name: str, fields: Mapping[str, object]) -> Quote:
        """Return one provider's quote; it holds the errors of the request there."""
        provider = self._context.providers[name]
        try:
            native = native_body(provider.adapter, fields)
            if native.errors:
                return _refused(name, native.errors)
            price = await self._price(name, provider, native.body)
            reason = None if price else _unpriced(provider.adapter, native.body)
            return Quote(provider=name, accepted=True, price=price, reason=reason)
        except InvalidInput as error:
            return _refused(name, error.errors)
        except (PaymentRefused, SpendCapReached) as error:
            return _refused(name, [FieldError("", str(error))])
        except (NotSent, NoAnswer) as error:
            return _refused(name, [FieldError("", f"it gave no price: {error}")])

    async def _price(self, name: str, provider: ConfiguredProvider, request: dict[str, object]) -> Price | None:
        """Return the price from the table, or from a provider that is paid for each job; None if it is unknown."""
        if not provider.adapter.limits.paid:
            return table_price(provider, request)
        priced = await self._payer.quote(name, provider.adapter.submission(request, None, QUOTE_JOB_ID))
        if not isinstance(priced, ProviderResponse):
            return quoted(priced.offer.amount)
        read = provider.adapter.read_submission(priced)
        if isinstance(read, Refused):
            raise InvalidInput([FieldError("", read.error.message)])
        return None


def _refused(name: str, errors: Sequence[FieldError]) -> Quote:
    """Return the quote of a provider that does not accept the request."""
    unplaced = next((error.message for error in errors if not error.path), None)
    return Quote(
        provider=name,
        accepted=False,
        errors=tuple(errors),
        reason=unplaced or "the provider does not accept the request: see errors",
    )


def _unpriced(adapter: Provider, request: dict[str, object]) -> str:
    """Return why an accepted request has no price."""
    if adapter.limits.paid:
        return "the provider named no price"
    if model := unknown_model(adapter, request):
        return f"relay does not know the model {model}"
    return f"{adapter.title} publishes no price for this request"


def _micros(price: Price) -> Decimal:
    """Return a price in millionths of a USD."""
    return Decimal(price.usd or "0") * 1_000_000
