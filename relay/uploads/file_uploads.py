"""Uploads an application's image to the provider that shall read it, by that provider's own upload flow.

It performs the steps of `providers/uploads.py`. `uploads/upload_payment.py` says what a paid flow costs, and pays once.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Protocol, assert_never

import msgspec

from relay.clock import Clock
from relay.context import ConfiguredProvider, SignIn, send_signed_in
from relay.errors import BodyTooLarge, Bound, FieldError, InvalidInput, ProviderNotConfigured, Unreadable
from relay.model.provider_http import FileRequest, ProviderRequest, ProviderResponse
from relay.outbound.file_upload import FileClient
from relay.outbound.provider_client import NoAnswer, NotSent, ProviderClient
from relay.providers.uploads import (
    FLOWS,
    File,
    Flow,
    PaidStep,
    SignedInStep,
    Steps,
    Uploaded,
    UploadFailed,
    UploadTarget,
)
from relay.security.shares import Shares
from relay.uploads.file_types import START_BYTES, checked_type, plain_name

STEP_TIMEOUT_S: Final = 30.0
FILE_TIMEOUT_S: Final = 300.0


class Upload(msgspec.Struct, frozen=True):
    """The identity of an upload: its project and its id, `file_` and 32 letters, the same on every try.

    `max_cost` limits what is paid for it, in millionths of a USD.
    """

    project_id: str
    id: str
    max_cost: int | None = None


class GivenFile(msgspec.Struct, frozen=True):
    """A file as a client sends it. `pieces` yields its `size` bytes; they are read once, and never held whole."""

    name: str
    content_type: str | None
    pieces: AsyncIterator[bytes]
    size: int


class Buyer(Protocol):
    """Pays for the first step of an upload, once, and stores the answers to all steps."""

    def turn(self, upload: Upload) -> asyncio.Lock:
        """Return the lock that is held during an upload: a second try of it waits for the first."""

    async def buy(self, name: str, upload: Upload, request: ProviderRequest) -> list[ProviderResponse]:
        """Return the answer to the paid step, and the answers that an earlier try had to the steps after it."""

    async def keep(self, upload: Upload, answers: Sequence[ProviderResponse]) -> None:
        """Store the answers to all steps so far."""


class StepSender(msgspec.Struct, frozen=True):
    """Sends one step of a flow; `sign_in` proves who paid, None without a wallet."""

    client: ProviderClient
    files: FileClient
    sign_in: SignIn | None = None

    async def send(
        self,
        step: ProviderRequest | FileRequest | SignedInStep,
        provider: ConfiguredProvider,
        pieces: AsyncIterator[bytes],
    ) -> ProviderResponse:
        """Return the answer to a step; NotSent or NoAnswer where there is none."""
        match step:
            case ProviderRequest():
                return await self.client.send(provider.origin, provider.authorization, step, STEP_TIMEOUT_S)
            case FileRequest():
                return await self.files.send(step, pieces, provider.authorization, FILE_TIMEOUT_S)
            case SignedInStep():
                return await send_signed_in(self.client, provider, step.request, self.sign_in, STEP_TIMEOUT_S)
            case _:
                assert_never(step)


class UploadLimits(msgspec.Struct, frozen=True):
    """The largest file in bytes, and how many uploads are open: of one project and in all."""

    size_max: int
    shares: Shares


class Uploads:
    """Runs upload flows; without a `buyer` a flow that is paid for is refused."""

    def __init__(
        self,
        providers: Mapping[str, ConfiguredProvider],
        sender: StepSender,
        clock: Clock,
        limits: UploadLimits,
        buyer: Buyer | None = None,
    ) -> None:
        self._providers = providers
        self._sender = sender
        self._clock = clock
        self._size_max = limits.size_max
        self._buyer = buyer
        self.shares = limits.shares

    def size_max(self, provider: str) -> int:
        """Return the largest file in bytes; InvalidInput and ProviderNotConfigured say why none can be sent."""
        flow = self._flow(provider)
        return min(self._size_max, flow.size_max or self._size_max)

    async def upload(self, upload: Upload, provider: str, given: GivenFile) -> Uploaded:
        """Send the file to the provider and return where it is; nothing is sent before the file is checked.

        InvalidInput for a file that is no image or another type than declared, BodyTooLarge, ProviderNotConfigured, and
        UploadFailed with the provider's message.
        """
        flow, configured = self._flow(provider), self._providers[provider]
        if given.size > self.size_max(provider):
            too_large = f"{provider} accepts files of at most {self.size_max(provider)} bytes"
            raise BodyTooLarge(too_large, bound=Bound.UPLOAD_MAX_BYTES)
        start, pieces = await _peeked(given.pieces)
        type_ = checked_type(start, given.content_type)
        file = File(name=plain_name(given.name, type_), content_type=type_, size=given.size)
        published = configured.origin == configured.adapter.base_url
        store = flow.store if published and flow.store else configured.origin
        target = UploadTarget(origin=configured.origin, store=store, now_ms=self._clock.now_ms())
        try:
            steps = flow.steps(file, target)
            if flow.paid and self._buyer is not None:
                return await self._run_paid(upload, self._buyer, steps, configured, pieces)
            return await self._run(steps, configured, pieces)
        except (UploadFailed, Unreadable) as error:
            raise UploadFailed(f"{provider}: {error}") from None
        except (NotSent, NoAnswer) as error:
            raise UploadFailed(f"{provider} could not be reached or gave no answer: {error}") from None

    def _flow(self, provider: str) -> Flow:
        """Return the upload flow of a configured provider; the errors of `size_max` where there is none."""
        flow, configured = FLOWS.get(provider), self._providers.get(provider)
        if configured is None:
            there = ", ".join(sorted(self._providers))
            raise ProviderNotConfigured(f"there is no provider {provider[:64]!r} here; there are {there}")
        if flow is None:
            message = f"{provider} has no place for files: give a public URL to the job"
            raise InvalidInput([FieldError("provider", message)])
        if flow.paid and self._buyer is None:
            raise ProviderNotConfigured(f"{provider} is paid for each file: that needs a wallet (RELAY_WALLET_KEY)")
        if not flow.paid and not configured.api_key:
            raise ProviderNotConfigured(f"{provider} is not configured: RELAY_{provider.upper()}_API_KEY is not set")
        return flow

    async def _run(self, steps: Steps, configured: ConfiguredProvider, pieces: AsyncIterator[bytes]) -> Uploaded:
        """Send step after step until the flow returns."""
        try:
            step = next(steps)
            while True:
                assert not isinstance(step, PaidStep), "the flow says that it is paid"
                step = steps.send(await self._sender.send(step, configured, pieces))
        except StopIteration as done:
            uploaded: Uploaded = done.value
            return uploaded

    async def _run_paid(
        self, upload: Upload, buyer: Buyer, steps: Steps, configured: ConfiguredProvider, pieces: AsyncIterator[bytes]
    ) -> Uploaded:
        """Send a flow whose first step is paid; steps that an earlier try has behind it are not sent again."""
        step = next(steps)
        assert isinstance(step, PaidStep), "the flow says that it is paid"
        async with buyer.turn(upload):
            answers = await buyer.buy(configured.adapter.name, upload, step.request)
            try:
                for answer in answers:
                    step = steps.send(answer)
                while True:
                    assert not isinstance(step, PaidStep), "only the first step is paid"
                    answers.append(await self._sender.send(step, configured, pieces))
                    step = steps.send(answers[-1])
                    await buyer.keep(upload, answers)
            except StopIteration as done:
                await buyer.keep(upload, answers)
                uploaded: Uploaded = done.value
                return uploaded


async def _peeked(pieces: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """Return the first bytes, and an iterator that still yields all of them."""
    start = b""
    while len(start) < START_BYTES and (piece := await anext(pieces, None)) is not None:
        start += piece

    async def whole() -> AsyncIterator[bytes]:
        yield start
        async for piece in pieces:
            yield piece

    return start[:START_BYTES], whole()
