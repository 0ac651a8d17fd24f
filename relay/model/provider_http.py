"""A request to a provider and its answer, as plain values that adapters make and read and the client carries."""

from typing import Any, Final

import msgspec

from relay import strict_json
from relay.errors import BadBody, Unreadable
from relay.log import redact
from relay.model import text

EXCERPT_BYTES: Final = 2048
KEPT_HEADERS: Final = frozenset({"retry-after", "payment-required", "payment-response", "x-payment-response"})


class ApiRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a provider: the path goes behind the configured origin, the key into the Authorization header.

    `body` is sent as JSON; `headers` are added. `bearer` is False where no key goes with it.
    """

    method: str
    path: str
    body: dict[str, object] | None = None
    headers: dict[str, str] = {}
    bearer: bool = True


class FileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A file to send: as the bare body, or, where `filename` is given, as the field `file` of a form.

    `bearer` says that the provider's key goes with it; `guarded` that the URL is somebody's data.
    """

    method: str
    url: str
    size: int
    content_type: str
    filename: str | None = None
    headers: dict[str, str] = {}
    bearer: bool = False
    guarded: bool = False


class ApiAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's answer as it came; of its headers those in KEPT_HEADERS, their names in lower case.

    `fault` says why the body is not all that was sent, or not what it should be.
    """

    status_code: int
    content_type: str
    body: bytes
    headers: dict[str, str] = {}
    fault: str | None = None

    def json(self) -> Any:
        """The decoded body, its texts as relay keeps them; Unreadable when it is not JSON, or not all of it."""
        if self.fault is not None:
            raise Unreadable(f"HTTP {self.status_code} with a body that {self.fault}")
        try:
            strict_json.check_exponents(self.body)
            value = msgspec.json.decode(self.body.removeprefix(b"\xef\xbb\xbf"))
        except (BadBody, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unreadable(f"HTTP {self.status_code} with a body that is not JSON") from None
        return text.kept_json(value) if text.may_hold_nul(self.body) else value

    @property
    def excerpt(self) -> str:
        """The first 2 KB as text, without callback tokens and keys that a provider may repeat."""
        return redact(text.kept(self.body[:EXCERPT_BYTES].decode("utf-8", "replace")))
