"""The stand-ins' signature, for a job that asks for it: an ed25519 key, which can change, and where it is published."""

import asyncio
import base64
import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.sandbox.answers import HANG_S
from relay.sandbox.contract import now_s

PATH = "/.well-known/jwks.json"


class Keys:
    """Signs with the newest key; `asked` counts who looked for it, `wrong` is how that is answered: `down`, `hang`."""

    def __init__(self, clock: Callable[[], int] = now_s) -> None:
        self.clock = clock
        self.asked = 0
        self.wrong = ""
        self._made = 0
        self.rotate()

    def rotate(self) -> None:
        """Another key from now on; the former one is published no more."""
        self._made += 1
        self.key = Ed25519PrivateKey.generate()

    @property
    def key_id(self) -> str:
        """The newest key's."""
        return f"key-{self._made}"

    def headers(self, raw: bytes, how: str, number: int) -> dict[str, str]:
        """Return the headers that sign a body: well (`ok`), as another body's (`forged`), or by an `unknown_key`."""
        if not how:
            return {}
        request_id, at = f"req-{number}", str(self.clock())
        signed = raw + b" " if how == "forged" else raw
        content = "\n".join((request_id, at, hashlib.sha256(signed).hexdigest()))
        return {
            "x-sandbox-key-id": f"unknown-{number}" if how == "unknown_key" else self.key_id,
            "x-sandbox-request-id": request_id,
            "x-sandbox-timestamp": at,
            "x-sandbox-signature": self.key.sign(content.encode()).hex(),
        }

    def route(self) -> Route:
        """Where the key is published."""
        return Route(PATH, self._published)

    async def _published(self, _: Request) -> Response:
        """Return the key with its id."""
        return await self.published(named=True)

    async def published(self, *, named: bool) -> Response:
        """Return the key as a JWK set, with or without its id."""
        self.asked += 1
        if self.wrong == "hang":
            await asyncio.sleep(HANG_S)
        if self.wrong:
            return JSONResponse({"error": "unavailable"}, 503)
        public = base64.urlsafe_b64encode(self.key.public_key().public_bytes_raw()).decode().rstrip("=")
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": public} | ({"kid": self.key_id} if named else {})
        return JSONResponse({"keys": [jwk]})
