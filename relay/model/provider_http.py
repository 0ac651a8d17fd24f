"""A request to a provider and its answer, as plain values that adapters make and read and the client carries."""

from typing import Any, Final

import msgspec

from relay.errors import BadBody, Unreadable
from relay.log import redact
from relay.model import text
from relay.security import strict_json

EXCERPT_BYTES: Final = 2048
KEPT_HEADERS: Final = frozenset({"date", "retry-after", "payment-required", "payment-response", "x-payment-response"})


class ProviderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a provider: `path` is appended to the configured origin, `body` is sent as JSON.

    `headers` are added. `bearer` is False where the API key must not be sent in the Authorization header.
    """

    method: str
    path: str
    body: dict[str, object] | None = None
    headers: dict[str, str] = {}
    bearer: bool = True


class FileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A file to send: as the bare body or, with `filename`, as the field `file` of a form.

    `bearer` says that the provider's API key is sent; `guarded` that the URL comes from a provider's answer, and must
    pass the URL policy.
    """

    method: str
    url: str
    size: int
    content_type: str
    filename: str | None = None
    headers: dict[str, str] = {}
    bearer: bool = False
    guarded: bool = False


class ProviderResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's answer as received, with the headers of KEPT_HEADERS, their names in lower case.

    `fault` says why the body is cut or could not be inflated.
    """

    status_code: int
    content_type: str
    body: bytes
    headers: dict[str, str] = {}
    fault: str | None = None

    def json(self) -> Any:
        """Return the decoded body, its texts as relay stores them; Unreadable where it is not JSON, or is cut."""
        if self.fault is not None:
            raise Unreadable(f"HTTP {self.status_code} with a body that {self.fault}")
        try:
            strict_json.check_cost(self.body)
            value = msgspec.json.decode(self.body.removeprefix(b"\xef\xbb\xbf"))
        except (BadBody, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unreadable(f"HTTP {self.status_code} with a body that is not JSON") from None
        return text.kept_json(value) if text.may_hold_nul(self.body) else value

    @property
    def excerpt(self) -> str:
        """Return the first 2 KB as text, without callback tokens and keys that a provider may repeat."""
        return redact(text.kept(self.body[:EXCERPT_BYTES].decode("utf-8", "replace")))
