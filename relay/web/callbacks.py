"""The callback route, as a plain ASGI app in front of everything else: providers wait five seconds and try twice.

The token is proven before the body is read or a row is touched; a wrong one costs the same whatever is wrong with it.
"""

import re
from typing import Final

from starlette.types import Receive, Scope, Send

from relay import log
from relay.app import App
from relay.errors import StorageUnavailable
from relay.tokens import Claims
from relay.web import bodies

_PATH: Final = re.compile(r"/+callbacks/+([^/]{1,64})/+([^/]{1,400})/*")
_RECEIVED: Final = b'{"received":true}'
_NOT_FOUND: Final = b'{"received":false}'
_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_logger = log.get("callbacks")


class Callbacks:
    """Answers `/callbacks/{provider}/{token}`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: GET and its like have no effect, POST is a callback, nothing redirects."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await _answer(send, 200, b"" if scope["method"] == "HEAD" else b'{"relay":"callbacks"}')
        if scope["method"] != "POST":
            return await _answer(send, 405, _NOT_FOUND, (b"allow", b"GET, HEAD, POST"))
        path = _PATH.fullmatch(scope["path"])
        provider, token = path.groups() if path else ("", "")
        claims = self._app.receiver.claims(provider, token)
        if claims is None:
            _logger.info("callback.refused", provider=provider[:64] if provider in self._app.providers else "unknown")
            return await _answer(send, 404, _NOT_FOUND)
        try:
            await self._take(provider, claims, scope, receive, send)
        except StorageUnavailable as error:
            _logger.error("callback.not_stored", provider=provider, job=claims.job_id, error=str(error))
            await _answer(send, 503, _NOT_FOUND, (b"retry-after", b"2"))

    async def _take(self, provider: str, claims: Claims, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body and stores it; what could not be read whole is noted too."""
        settings, receiver = self._app.settings, self._app.receiver
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        try:
            body = await bodies.read(receive, settings.callback_body_max_bytes, settings.body_deadline_s)
        except bodies.Capped as error:
            await receiver.note_unread(provider, claims, headers, error.start, "the body is over the limit")
            return await _answer(send, 413, _NOT_FOUND)
        except bodies.BodyTooSlow:
            await receiver.note_unread(provider, claims, headers, b"", "the body was too slow")
            return await _answer(send, 408, _NOT_FOUND, (b"connection", b"close"))
        except bodies.BodyCut:
            return None
        await receiver.receive(provider, claims, headers, body)
        await _answer(send, 200, _RECEIVED)


async def _answer(send: Send, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    """A small JSON answer."""
    headers = [*_HEADERS, (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
