"""What a callback says: a pure function from headers and bytes to a report, or to the reason why there is none.

Nothing here knows of a job, a database or the network. `callbacks/verify.py` decides how far a callback is proven.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from relay.context import ConfiguredProvider
from relay.errors import BadBody, Unreadable
from relay.model import text
from relay.model.job import Report
from relay.security import strict_json
from relay.security.redaction import STEP_BYTES

_CONTROL_FIELDS: Final = frozenset(
    [
        "id",
        "taskid",
        "task_id",
        "status",
        "state",
        "url",
        "output",
        "results",
        "data",
        "content",
        "metadata",
        "error",
        "result_url",
        "video_url",
    ]
)
"""Fields that decide about a job: a body that has one of them twice can be read in two ways, and is not read at all."""


class ParsedCallback(msgspec.Struct, frozen=True):
    """What a callback's body says: `report`, or None and the reason in `unreadable`.

    `reply` is the JSON that the provider waits for, if the body only tests the callback URL.
    """

    report: Report | None = None
    unreadable: str | None = None
    reply: bytes | None = None


async def parse_stepwise(
    provider: ConfiguredProvider | None, headers: Mapping[str, str], body: bytes, now_ms: int
) -> ParsedCallback:
    """Return what `parse` returns; a large body is searched for secrets in steps, between which other work goes on."""
    suspicious = None
    if len(body) > STEP_BYTES and provider is not None and provider.redactor is not None:
        suspicious = await provider.redactor.may_hold_secret_stepwise(body)
    return parse(provider, headers, body, now_ms, suspicious)


def parse(
    provider: ConfiguredProvider | None,
    headers: Mapping[str, str],
    body: bytes,
    now_ms: int,
    suspicious: bool | None = None,
) -> ParsedCallback:
    """Return what the body says in relay's vocabulary, without relay's secrets; never raises for a bad body.

    `provider` is None if this relay does not know it. `headers` have lower-case names. `suspicious` says whether the
    body may hold a secret, if that is known already.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        return ParsedCallback(unreadable="the body is compressed")
    if provider is None:
        return ParsedCallback(unreadable="this relay has no such provider")
    try:
        parsed = strict_json.parse(body)
        if parsed.duplicates and (doubled := {name for name in parsed.duplicates if name.lower() in _CONTROL_FIELDS}):
            return ParsedCallback(unreadable=f"the body has {min(doubled)} twice")
        value = text.kept_json(parsed.value) if text.may_hold_nul(body) else parsed.value
        if not isinstance(value, dict):
            return ParsedCallback(unreadable="the body is not a JSON object")
        # What is echoed is what was sent: it is not searched for secrets, and no part of it is stored but the body.
        if (reply := provider.adapter.reply(value)) is not None:
            return ParsedCallback(reply=msgspec.json.encode(reply))
        redactor = provider.redactor
        if redactor is not None and (redactor.may_hold_secret(body) if suspicious is None else suspicious):
            value = redactor.json(value)
        return ParsedCallback(report=provider.judged(provider.adapter.read_callback(value, now_ms)))
    except (BadBody, Unreadable) as error:
        return ParsedCallback(unreadable=text.kept(str(error)[:300]))
