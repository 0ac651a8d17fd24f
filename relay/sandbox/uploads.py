"""The stand-ins' file stores: what each provider publishes of how an image becomes a URL.

Sources: https://docs.evolink.ai (File API), https://relaydance.com/docs, https://kinovi.ai/docs and its kinovi-models
repository, https://stablestudio.dev, https://vercel.com/docs/vercel-blob. Of a file only the size, the digest and the
beginning are kept.
"""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.sandbox.contract import now_s
from relay.sandbox.faults import WORDS, Faults
from relay.sandbox.payment import Till
from relay.sandbox.serving import hang_up

PIECE_BYTES: Final = 1 << 16
START_BYTES: Final = 32
EVOLINK_MAX_BYTES: Final = 100_000_000
STARTS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")
TYPES: Final = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}
SIGNATURE: Final = "X-Amz-Signature=a%2Fb%2Bc"
"""A query that a client must not write in another way."""
PRICE: Final = 10_000
"""Of StableStudio's token, in millionths of a USDC."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A file that came whole: at which provider, under which name and type, and what it was."""

    provider: str
    name: str
    content_type: str
    size: int
    digest: str
    start: bytes
    headers: dict[str, str]
    fields: tuple[str, ...] = ()


class FileStores:
    """The routes, and what came in.

    `faults` are taken one after the other: `refuse` a file, `refuse put` at its store, `refuse confirm` behind it,
    `reset` within it; for a file that is paid for `hang` after the token was paid, and what `Till` knows by `pay`.
    `till` has what was paid. `upload_url`, `file_url` and `confirm_url` take the place of what an answer would name.
    """

    def __init__(self, api_key: str) -> None:
        self.kept: list[Kept] = []
        self.faults: list[str] = []
        self.steps: list[str] = []
        self.upload_url: str | None = None
        self.file_url: str | None = None
        self.confirm_url: str | None = None
        self.till = Till(2, now_s)
        self.hanging = asyncio.Event()
        self._api_key = api_key
        self._places: dict[str, str] = {}
        self._nonces: set[str] = set()

    def routes(self) -> list[Route]:
        """Return what the four providers answer on; no path collides with another."""
        return [
            Route("/api/v1/files/upload/stream", self._evolink, methods=["POST"]),
            Route("/v1/files", self._relaydance, methods=["POST"]),
            Route("/api/v1/uploads", self._kinovi, methods=["POST"]),
            Route("/api/v1/uploads", self._kinovi_confirm, methods=["GET"]),
            Route("/sandbox/objects/{path:path}", self._kinovi_put, methods=["PUT"]),
            Route("/api/upload", self._studio, methods=["POST"]),
            Route("/api/blob/", self._studio_put, methods=["PUT"]),
            Route("/api/upload/confirm", self._studio_confirm, methods=["POST"]),
        ]

    async def _evolink(self, request: Request) -> Response:
        """Return a form; refusals of the file are HTTP 200."""
        self.steps.append("evolink")
        if not self._known(request):
            return JSONResponse(
                {"error": {"code": "unauthorized", "message": "Invalid token", "type": "authentication_error"}}, 401
            )
        if await self._reset(request):
            return Response(status_code=204)
        kept = await _form("evolink", request)
        if kept.size > EVOLINK_MAX_BYTES:
            return JSONResponse({"success": False, "code": 40001, "msg": "File too large"})
        if self._refused() or not kept.start.startswith(STARTS):
            return JSONResponse({"success": False, "code": 40002, "msg": "Unsupported file type"})
        self.kept.append(kept)
        now = datetime.now(UTC)
        url = self.file_url or f"https://files.evolink.ai/{len(self.kept):08d}/{kept.name}"
        data = {
            "file_id": f"file_{len(self.kept):08d}",
            "file_name": kept.name,
            "original_name": kept.name,
            "file_size": kept.size,
            "mime_type": kept.content_type,
            "upload_path": "uploads",
            "file_url": url,
            "download_url": url,
            "upload_time": now.isoformat(),
            "expires_at": (now + timedelta(hours=72)).isoformat(),
        }
        return JSONResponse({"success": True, "code": 200, "msg": "success", "data": data})

    async def _relaydance(self, request: Request) -> Response:
        """Return a form."""
        self.steps.append("relaydance")
        if not self._known(request):
            error = {
                "message": "The API key provided is invalid or has been revoked.",
                "type": "authentication_error",
            }
            return JSONResponse({"error": error}, 401)
        if await self._reset(request):
            return Response(status_code=204)
        kept = await _form("relaydance", request)
        if self._refused():
            return JSONResponse({"error": {"message": "invalid file", "type": "invalid_request_error"}}, 400)
        self.kept.append(kept)
        number = f"file_{len(self.kept):06d}"
        url = self.file_url or f"https://files.relaydance.com/{number}/{kept.name}"
        return JSONResponse({"id": number, "url": url})

    async def _kinovi(self, request: Request) -> Response:
        """Names a place; the type is that of the file name's ending."""
        self.steps.append("kinovi")
        if not self._known(request):
            return JSONResponse({"message": "Invalid API Key"}, 401)
        body = msgspec.json.decode(await request.body())
        name = body.get("fileName") if isinstance(body, dict) else None
        if not isinstance(name, str) or not name or self._refused():
            return JSONResponse({"message": "fileName is required"}, 400)
        path = f"uploads/{secrets.token_hex(8)}/{name}"
        type_ = TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")
        self._places[path] = type_
        origin = str(request.base_url).rstrip("/")
        answer = {
            "uploadUrl": self.upload_url or f"{origin}/sandbox/objects/{path}?{SIGNATURE}",
            "url": self.file_url or f"https://static.kinovi.ai/{path}",
            "path": path,
            "method": "PUT",
            "contentType": type_,
            "expiresIn": 900,
            "confirmUrl": self.confirm_url or f"/api/v1/uploads?path={quote(path, safe='')}",
            "assetTtlSeconds": 86400,
        }
        return JSONResponse(answer)

    async def _kinovi_put(self, request: Request) -> Response:
        """Take the bytes for a place that was named, with the type and the signature of then, and no key."""
        self.steps.append("kinovi put")
        path, type_ = request.path_params["path"], request.headers.get("content-type", "")
        signed = request.scope["query_string"] == SIGNATURE.encode()
        if not signed or self._places.get(path) != type_ or "authorization" in request.headers:
            return Response("<Error><Code>SignatureDoesNotMatch</Code></Error>", 403, media_type="application/xml")
        if await self._reset(request):
            return Response(status_code=204)
        kept = await _read("kinovi", path.rpartition("/")[2], type_, request.stream(), request)
        if self._refused("refuse put"):
            return Response("<Error><Code>SlowDown</Code></Error>", 503, media_type="application/xml")
        self.kept.append(kept)
        del self._places[path]
        return Response(status_code=200)

    async def _kinovi_confirm(self, request: Request) -> Response:
        """Whether the bytes have come."""
        self.steps.append("kinovi confirm")
        path = request.query_params.get("path", "")
        if not self._known(request):
            return JSONResponse({"message": "Invalid API Key"}, 401)
        if path in self._places:
            return JSONResponse({"message": "Upload not found"}, 404)
        return JSONResponse({"url": f"https://static.kinovi.ai/{path}", "path": path})

    async def _studio(self, request: Request) -> Response:
        """Return a cent for a token."""
        self.steps.append("stablestudio")
        body = msgspec.json.decode(await request.body())
        paying = "payment-signature" in request.headers
        pay = self.faults.pop(0) if paying and self.faults[:1] and self.faults[0] in WORDS["pay"] else "ok"

        async def make(_: str) -> Response:
            if body.get("contentType") not in TYPES.values() or self._refused():
                return JSONResponse({"success": False, "error": "Unsupported content type"}, 400)
            return JSONResponse(self._token(body["filename"], body["contentType"]))

        answer = await self.till.sell(request, PRICE, Faults(pay=pay), make)
        if paying and self._refused("hang"):
            self.hanging.set()
            await asyncio.Event().wait()
        return answer

    def _token(self, filename: str, content_type: str) -> dict[str, Any]:
        """Return what opens one place of the blob store, for about five minutes."""
        upload_id = f"upload-{secrets.token_hex(4)}"
        path = f"uploads/{upload_id}/{filename}"
        token = f"vercel_blob_client_{secrets.token_hex(8)}"
        self._places[f"{path} {token}"] = content_type
        expires_at = datetime.fromtimestamp(self.till.now_s(), UTC) + timedelta(minutes=5)
        return {"uploadId": upload_id, "clientToken": token, "pathname": path, "expiresAt": expires_at.isoformat()}

    async def _studio_put(self, request: Request) -> Response:
        """Vercel's blob store: the token in the header is for one path and one type, and what is there stays."""
        self.steps.append("stablestudio put")
        path = request.query_params.get("pathname", "")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        type_ = request.headers.get("x-content-type", "")
        if self._places.get(f"{path} {token}") != type_ or request.headers.get("x-api-version") != "11":
            return JSONResponse({"error": {"code": "forbidden", "message": "Access denied"}}, 403)
        if await self._reset(request):
            return Response(status_code=204)
        kept = await _read("stablestudio", path.rpartition("/")[2], type_, request.stream(), request)
        if self._refused("refuse put"):
            return JSONResponse({"error": {"code": "service_unavailable", "message": "Try again"}}, 503)
        self.kept.append(kept)
        del self._places[f"{path} {token}"]
        url = self.file_url or f"https://sandbox.public.blob.vercel-storage.com/{path}"
        return JSONResponse({"url": url, "downloadUrl": f"{url}?download=1", "pathname": path, "contentType": type_})

    async def _studio_confirm(self, request: Request) -> Response:
        """Free, for a wallet that signs in: a nonce of this server, once. The signature is not looked at."""
        self.steps.append("stablestudio confirm")
        body = msgspec.json.decode(await request.body())
        signed = request.headers.get("sign-in-with-x")
        said: dict[str, Any] = msgspec.json.decode(base64.b64decode(signed)) if signed else {}
        if said.get("nonce") not in self._nonces or not said.get("signature"):
            asked = {"sign-in-with-x": {"info": self._challenge(request)}}
            return JSONResponse({"x402Version": 2, "accepts": [], "extensions": asked}, 402)
        self._nonces.discard(said["nonce"])
        if self._refused("refuse confirm"):
            return JSONResponse({"success": False, "error": "Internal server error"}, 500)
        return JSONResponse({"success": True, "upload": {"id": body["uploadId"], "blobUrl": body["blobUrl"]}})

    def _challenge(self, request: Request) -> dict[str, Any]:
        """Return what is to be signed."""
        nonce, now = secrets.token_hex(16), datetime.fromtimestamp(self.till.now_s(), UTC)
        self._nonces.add(nonce)
        return {
            "domain": request.url.hostname,
            "uri": str(request.url),
            "version": "1",
            "chainId": "eip155:8453",
            "type": "eip191",
            "nonce": nonce,
            "issuedAt": f"{now:%Y-%m-%dT%H:%M:%S}.000Z",
            "expirationTime": f"{now + timedelta(minutes=5):%Y-%m-%dT%H:%M:%S}.000Z",
            "statement": "Sign in to confirm the upload",
        }

    def _known(self, request: Request) -> bool:
        """Whether the provider's key came along."""
        return request.headers.get("authorization") == f"Bearer {self._api_key}"

    def _refused(self, fault: str = "refuse") -> bool:
        """Take the next fault, if it is this refusal."""
        if self.faults[:1] != [fault]:
            return False
        self.faults.pop(0)
        return True

    async def _reset(self, request: Request) -> bool:
        """Hangs up after the first piece of the file, if that is the next fault."""
        if self.faults[:1] != ["reset"]:
            return False
        self.faults.pop(0)
        await anext(request.stream())
        await hang_up(request)
        return True


async def _form(provider: str, request: Request) -> Kept:
    """Yield the file of a form; starlette keeps it on disk while it is read."""
    async with request.form() as form:
        file = form["file"]
        assert not isinstance(file, str), "the part has no file name"

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await file.read(PIECE_BYTES):
                yield piece

        read = await _read(provider, file.filename or "", file.content_type or "", pieces(), request)
        return msgspec.structs.replace(read, fields=tuple(form))


async def _read(provider: str, name: str, content_type: str, pieces: AsyncIterable[bytes], request: Request) -> Kept:
    """Return what a file was, without keeping it."""
    size, digest, start = 0, hashlib.sha256(), b""
    async for piece in pieces:
        size += len(piece)
        digest.update(piece)
        start = start or piece[:START_BYTES]
    return Kept(
        provider=provider,
        name=name,
        content_type=content_type,
        size=size,
        digest=digest.hexdigest(),
        start=start,
        headers=dict(request.headers),
    )
