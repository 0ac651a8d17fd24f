"""What stands in a callback or a status answer when a fault has been at it."""

import codecs
import gzip
from typing import Any, Final

import msgspec

from relay.sandbox.contract import ProviderJob, StandIn

Body = dict[str, Any]
LEVELS: Final = 100_000
DIGITS: Final = 5_000
NUL: Final = rb"\u0000"
SURROGATE: Final = rb"\ud800"
_NOTES: Final = {
    "nan": b"NaN",
    "deep": b"[" * LEVELS + b"]" * LEVELS,
    "nul": b'"' + NUL + b'"',
    "surrogate": b'"' + SURROGATE + b'"',
    "bigint": b"9" * DIGITS,
}
_INTO_TEXTS: Final = {"nul": NUL, "surrogate": SURROGATE}


def of_callback(stand_in: StandIn, job: ProviderJob, word: str = "") -> bytes:
    """Return the callback's bytes for the job's state, or for another status word, as its faults want them."""
    faults = job.faults
    about = msgspec.structs.replace(job, id=job.id + "x") if faults.wrong_id else job
    body = stand_in.callback(about)
    if word:
        body = reworded(stand_in, body, word)
    if faults.huge:
        body = body | {"padding": "x" * faults.huge}
    raw = msgspec.json.encode(body)
    return encoded(_malformed(stand_in, job, body, raw), faults.encoding)


def reworded(stand_in: StandIn, body: Body, word: str) -> Body:
    """Return the body with another status word."""
    held, key = stand_in.status_holder(body)
    held[key] = word
    return body


def encoded(raw: bytes, encoding: str) -> bytes:
    """Return the bytes in another encoding; as they are for none."""
    match encoding:
        case "gzip":
            return gzip.compress(raw, mtime=0)
        case "utf-16":
            return raw.decode().encode("utf-16")
        case "bom":
            return codecs.BOM_UTF8 + raw
        case _:
            return raw


def _malformed(stand_in: StandIn, job: ProviderJob, body: Body, raw: bytes) -> bytes:
    """Return what is sent in place of a body; a text that upsets databases stands in the provider's message too."""
    kind = job.faults.malformed
    match kind:
        case "":
            return raw
        case "not_json":
            return b"status=completed"
        case "empty":
            return b""
        case "array":
            return b"[" + raw + b"]"
        case "twice":
            return _twice(stand_in, job, body, raw)
        case _:
            words = raw.replace(b'"message":"', b'"message":"' + _INTO_TEXTS.get(kind, b""))
            return words[:-1] + b',"note":' + _NOTES[kind] + b"}"


def _twice(stand_in: StandIn, job: ProviderJob, body: Body, raw: bytes) -> bytes:
    """Return the body with a contrary status word before its own, under the same key."""
    held, key = stand_in.status_holder(body)
    contrary = "failed" if job.state == "succeeded" else "succeeded"
    other, other_key = stand_in.status_holder(stand_in.callback(msgspec.structs.replace(job, state=contrary)))
    own, before = (msgspec.json.encode({key: word})[1:-1] for word in (held[key], other[other_key]))
    return raw.replace(own, before + b"," + own, 1)
