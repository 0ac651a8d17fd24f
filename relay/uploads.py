"""An application's image becomes a URL at the provider that shall read it, by that provider's own upload flow."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Protocol, assert_never

import msgspec

from relay.calling import Configured
from relay.clock import Clock
from relay.errors import BodyTooLarge, FieldError, InvalidInput, ProviderNotConfigured, Unreadable
from relay.exchange import ApiAnswer, ApiRequest, FileRequest
from relay.images import START_BYTES, checked_type, plain_name
from relay.outbound.client import NoAnswer, NotSent, ProviderClient
from relay.outbound.uploading import FileClient
from relay.providers.files import FLOWS, File, Flow, Paid, Place, SignedIn, Steps, Uploaded, UploadFailed
from relay.shares import Shares

STEP_TIMEOUT_S: Final = 30.0
FILE_TIMEOUT_S: Final = 300.0

SignIn = Callable[[ApiAnswer, str], dict[str, str]]


class Upload(msgspec.Struct, frozen=True):
    """Whose upload it is, and its id: the same, `file_` and 32 letters, whenever it is tried again.

    `max_cost` bounds what is paid for it, in millionths of a USD.
    """

    project_id: str
    id: str
    max_cost: int | None = None


class Buyer(Protocol):
    """Pays for the first step of an upload, once, and keeps what the steps were answered."""

    def turn(self, upload: Upload) -> asyncio.Lock:
        """What is held during an upload: a second try of it waits for the first."""

    async def buy(self, name: str, upload: Upload, request: ApiRequest) -> list[ApiAnswer]:
        """The answer that is paid for, and those that an earlier try had to the steps after it."""

    async def keep(self, upload: Upload, answers: Sequence[ApiAnswer]) -> None:
        """Keeps all answers so far."""


class Uploads:
    """Takes the steps. `shares` bounds how many are open, of one project and in all; a whole upload is done within it.

    `buyer` pays and `sign_in` answers a 402 that wants the payer's signature, for a URL; without them what is paid for
    is refused.
    """

    def __init__(
        self,
        providers: Mapping[str, Configured],
        client: ProviderClient,
        files: FileClient,
        clock: Clock,
        *,
        size_max: int,
        shares: Shares,
        buyer: Buyer | None = None,
        sign_in: SignIn | None = None,
    ) -> None:
        self._providers = providers
        self._client = client
        self._files = files
        self._clock = clock
        self._size_max = size_max
        self._buyer = buyer
        self._sign_in = sign_in
        self.shares = shares

    def size_max(self, provider: str) -> int:
        """The largest file in bytes; InvalidInput and ProviderNotConfigured say why none can be taken."""
        flow, _ = self._usable(provider)
        return min(self._size_max, flow.size_max or self._size_max)

    async def upload(
        self,
        upload: Upload,
        provider: str,
        filename: str,
        content_type: str | None,
        pieces: AsyncIterator[bytes],
        size: int,
    ) -> Uploaded:
        """The file, at the provider. `pieces` are its bytes, `size` in all; they are read once, and never held whole.

        InvalidInput for what is no image or another one than is declared, BodyTooLarge, ProviderNotConfigured, and
        UploadFailed with the provider's words. Nothing is sent before the file is known to be good.
        """
        flow, configured = self._usable(provider)
        if size > self.size_max(provider):
            raise BodyTooLarge(f"{provider} takes files of at most {self.size_max(provider)} bytes")
        start, pieces = await _peeked(pieces)
        type_ = checked_type(start, content_type)
        file = File(name=plain_name(filename, type_), content_type=type_, size=size)
        published = configured.origin == configured.adapter.base_url
        store = flow.store if published and flow.store else configured.origin
        place = Place(origin=configured.origin, store=store, now_ms=self._clock.now_ms())
        try:
            steps = flow.steps(file, place)
            if flow.paid and self._buyer is not None:
                return await self._bought(upload, self._buyer, steps, configured, pieces)
            return await self._taken(steps, configured, pieces)
        except (UploadFailed, Unreadable) as error:
            raise UploadFailed(f"{provider}: {error}") from None
        except (NotSent, NoAnswer) as error:
            raise UploadFailed(f"{provider} could not be reached or gave no answer: {error}") from None

    def _usable(self, provider: str) -> tuple[Flow, Configured]:
        """The flow of a provider that is configured."""
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
        return flow, configured

    async def _taken(self, steps: Steps, configured: Configured, pieces: AsyncIterator[bytes]) -> Uploaded:
        """Step after step, to the end."""
        try:
            step = next(steps)
            while True:
                assert not isinstance(step, Paid), "the flow says that it is paid"
                step = steps.send(await self._answer(step, configured, pieces))
        except StopIteration as done:
            uploaded: Uploaded = done.value
            return uploaded

    async def _bought(
        self, upload: Upload, buyer: Buyer, steps: Steps, configured: Configured, pieces: AsyncIterator[bytes]
    ) -> Uploaded:
        """The same where the first step is paid; none is taken that an earlier try has behind it."""
        step = next(steps)
        assert isinstance(step, Paid), "the flow says that it is paid"
        async with buyer.turn(upload):
            answers = await buyer.buy(configured.adapter.name, upload, step.request)
            try:
                for answer in answers:
                    step = steps.send(answer)
                while True:
                    assert not isinstance(step, Paid), "only the first step is paid"
                    answers.append(await self._answer(step, configured, pieces))
                    step = steps.send(answers[-1])
                    await buyer.keep(upload, answers)
            except StopIteration as done:
                await buyer.keep(upload, answers)
                uploaded: Uploaded = done.value
                return uploaded

    async def _answer(
        self, step: ApiRequest | FileRequest | SignedIn, configured: Configured, pieces: AsyncIterator[bytes]
    ) -> ApiAnswer:
        """The answer to one step."""
        key, origin = configured.api_key or "", configured.origin
        match step:
            case ApiRequest():
                return await self._client.send(origin, key, step, STEP_TIMEOUT_S)
            case FileRequest():
                return await self._files.send(step, pieces, key, FILE_TIMEOUT_S)
            case SignedIn():
                return await self._signed(origin, step.request)
            case _:
                assert_never(step)

    async def _signed(self, origin: str, request: ApiRequest) -> ApiAnswer:
        """The answer; where the provider wants the wallet that paid to sign in, that of the second request."""
        answer = await self._client.send(origin, "", request, STEP_TIMEOUT_S)
        if answer.status_code != 402 or self._sign_in is None:
            return answer
        headers = await asyncio.to_thread(self._sign_in, answer, origin + request.path)
        if not headers:
            return answer
        signed = msgspec.structs.replace(request, headers={**request.headers, **headers})
        return await self._client.send(origin, "", signed, STEP_TIMEOUT_S)


async def _peeked(pieces: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes, and all of them still to be read."""
    start = b""
    while len(start) < START_BYTES and (piece := await anext(pieces, None)) is not None:
        start += piece

    async def whole() -> AsyncIterator[bytes]:
        yield start
        async for piece in pieces:
            yield piece

    return start[:START_BYTES], whole()
