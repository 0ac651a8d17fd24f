"""The sender of notifications, which is loaded with the first one: its library takes as long to load as half of relay.

So a process answers sooner after its start, when a platform or a provider already waits for it.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from relay.addresses import AddressPolicy

if TYPE_CHECKING:
    from relay.outbound.sender import Answer, Sender


class FirstSender:
    """Sends notifications as `Sender` does; one for the whole process."""

    def __init__(self, policy: AddressPolicy, connections_max: int) -> None:
        self._policy = policy
        self._connections_max = connections_max
        self._open = AsyncExitStack()
        self._sender: Sender | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> "Answer":
        """One attempt; always an Answer, within the deadline."""
        sender = self._sender
        if sender is None:
            from relay.outbound.sender import Sender  # noqa: PLC0415 - see above

            # Nothing is awaited here, so that two first notifications do not make two.
            sender = self._sender = Sender(self._policy, self._connections_max)
            self._open.push_async_exit(sender)
        return await sender.post(url, headers, body, timeout_s)

    async def __aenter__(self) -> "FirstSender":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()
