"""Verifies providers' callbacks by their shared secrets: a table of schemes, and an adapter names the one it has.

Each scheme has its own header names, signed text and form of a secret, and says how much a valid signature proves.
Schemes with published keys need I/O for the keys: the adapter reads the headers (`Signing` in providers/base.py), and
`outbound/jwks.py` has the keys. Sources of the facts are on each provider's page in docs/providers/.
"""

import base64
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, Literal, get_args

import msgspec

from relay.errors import BadBody
from relay.security import signatures, strict_json
from relay.security.signatures import SECRET_PREFIX, SignatureInvalid, check_age, parse_timestamp

SECRETS_MAX: Final = 4
TEXT_SECRET_MIN: Final = 8
TEXT_SECRET_MAX: Final = 512
SIGNATURES_MAX: Final = 16
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{43}=")
_TEXT_SECRET: Final = re.compile(r"[!-~]+")

VerifierName = Literal["standard-webhooks", "fal-jwks", "wavespeed-v3", "openrouter", "shared-header", "none"]
"""`fal-jwks` is for published keys, which the adapter reads; `none` for a provider that signs nothing."""
VERIFIER_NAMES: Final[tuple[str, ...]] = get_args(VerifierName)


class Proven(Enum):
    """What a valid signature proves: every byte of the body, or only who sent the request."""

    WHOLE_BODY = "whole_body"
    ORIGIN_ONLY = "origin_only"


Verify = Callable[[Sequence[str], Mapping[str, str], bytes, int], Proven]
"""Verifies with any of the secrets, as of a unix time in seconds; raises SignatureInvalid. Names in lower case."""


class Verifier(msgspec.Struct, frozen=True):
    """One scheme: how it is verified, and what is wrong with a secret of it (ValueError, never with the secret)."""

    verify: Verify
    check_secret: Callable[[str], object]


def check_secrets(name: VerifierName, text: str) -> tuple[str, ...]:
    """Return the secrets of a setting, which blanks separate; raise ValueError, whose text never repeats a secret."""
    verifier, secrets = VERIFIERS.get(name), tuple(text.split())
    if verifier is None:
        raise ValueError("must not be set: the provider signs no callbacks with a secret")
    if not 1 <= len(secrets) <= SECRETS_MAX:
        raise ValueError(f"must hold 1 to {SECRETS_MAX} secrets with blanks between them, not {len(secrets)}")
    for secret in secrets:
        verifier.check_secret(secret)
    return secrets


def verify(name: VerifierName, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: int) -> Proven:
    """Return what a callback's signature proves; raise SignatureInvalid if it is missing, wrong or too old.

    Header names are in lower case. `now_s` is when the callback was received, in unix seconds.
    """
    return VERIFIERS[name].verify(secrets, headers, body, now_s)


def _standard_webhooks(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: int) -> Proven:
    """Verify by Standard Webhooks 1.0.0; the sender may have signed with any of the secrets."""
    invalid = SignatureInvalid("there is no secret")
    for secret in secrets:
        try:
            signatures.verify(secret, headers, body, now_s)
        except SignatureInvalid as error:
            invalid = error
        else:
            return Proven.WHOLE_BODY
    raise invalid


def _wavespeed(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: int) -> Proven:
    """Verify `v3,<hex>` in the headers of Standard Webhooks; the key is the text after `whsec_`, not its base64."""
    event_id = headers.get(signatures.ID_HEADER, "")
    if not signatures.is_event_id(event_id):
        raise SignatureInvalid(f"{signatures.ID_HEADER} is missing or malformed")
    timestamp = headers.get(signatures.TIMESTAMP_HEADER, "")
    at_s = parse_timestamp(signatures.TIMESTAMP_HEADER, timestamp)
    listed = headers.get(signatures.SIGNATURE_HEADER, "").split(" ", SIGNATURES_MAX)[:SIGNATURES_MAX]
    given = [one.removeprefix("v3,") for one in listed if one.startswith("v3,")]
    content = f"{event_id}.{timestamp}.".encode() + body
    keys = [secret.removeprefix(SECRET_PREFIX).encode() for secret in secrets]
    _require_hex(signatures.SIGNATURE_HEADER, given, keys, content)
    check_age(at_s, now_s)
    return Proven.WHOLE_BODY


def _openrouter(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: int) -> Proven:
    """Verify `t=<unix seconds>,v1=<hex>` over the time, a comma and the body."""
    header = "x-openrouter-signature"
    fields = [part.strip().partition("=")[::2] for part in headers.get(header, "").split(",", SIGNATURES_MAX)]
    times = [value for name, value in fields if name == "t"]
    if len(times) != 1:
        raise SignatureInvalid(f"{header} is missing or malformed")
    at_s = parse_timestamp(header, times[0])
    given = [value for name, value in fields if name == "v1"]
    _require_hex(header, given, [secret.encode() for secret in secrets], f"{times[0]},".encode() + body)
    check_age(at_s, now_s)
    return Proven.WHOLE_BODY


def _shared_header(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: int) -> Proven:
    """Verify base64 of an HMAC over the task's id and the time only, so that the rest of the body stays unproven."""
    header, time_header = "x-webhook-signature", "x-webhook-timestamp"
    timestamp = headers.get(time_header, "")
    at_s = parse_timestamp(time_header, timestamp)
    given = headers.get(header, "")
    if not _BASE64.fullmatch(given):
        raise SignatureInvalid(f"{header} is missing or malformed")
    content = f"{_task_id(body)}.{timestamp}".encode(errors="replace")
    expected = [base64.b64encode(hmac.digest(secret.encode(), content, "sha256")) for secret in secrets]
    if not any(hmac.compare_digest(one, given.encode()) for one in expected):
        raise SignatureInvalid(f"{header} is not valid")
    check_age(at_s, now_s)
    return Proven.ORIGIN_ONLY


def _task_id(body: bytes) -> str:
    """Return the `taskId` or `task_id` of a body's `data`; raise SignatureInvalid without one."""
    try:
        value = strict_json.parse(body).value
    except BadBody:
        value = None
    data = value.get("data") if isinstance(value, dict) else None
    for name in ("taskId", "task_id"):
        if isinstance(data, dict) and isinstance(found := data.get(name), str):
            return found
    raise SignatureInvalid("the body has no taskId, which the signature covers")


def _require_hex(header: str, given: Sequence[str], keys: Sequence[bytes], content: bytes) -> None:
    """Raise SignatureInvalid unless one of the hexadecimal signatures is an HMAC-SHA256 of the content by a key."""
    wellformed = [one.encode() for one in given if _HEX.fullmatch(one)]
    expected = [hmac.digest(key, content, "sha256").hex().encode() for key in keys] if wellformed else []
    if not any(hmac.compare_digest(right, one) for right in expected for one in wellformed):
        raise SignatureInvalid(f"no signature in {header} is valid")


def _check_text_secret(text: str) -> None:
    """Raise ValueError for a secret that is too short or too long, or has other than visible ASCII characters."""
    if not TEXT_SECRET_MIN <= len(text) <= TEXT_SECRET_MAX or not _TEXT_SECRET.fullmatch(text):
        raise ValueError(f"must have {TEXT_SECRET_MIN} to {TEXT_SECRET_MAX} visible ASCII characters")


VERIFIERS: Final[Mapping[str, Verifier]] = {
    "standard-webhooks": Verifier(_standard_webhooks, signatures.check_secret),
    "wavespeed-v3": Verifier(_wavespeed, _check_text_secret),
    "openrouter": Verifier(_openrouter, _check_text_secret),
    "shared-header": Verifier(_shared_header, _check_text_secret),
}
"""The schemes with a shared secret; a secret for any other scheme is refused at the start."""
