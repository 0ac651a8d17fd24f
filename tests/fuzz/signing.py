"""Targets of providers' signatures: each scheme with a shared secret, and the headers of those with published keys."""

from functools import partial
from typing import Final

from relay.security import callback_signatures
from relay.security.callback_signatures import Proven
from relay.security.signatures import SignatureInvalid
from tests.fuzz.target import Target
from tests.unit.test_callback_signatures import NAMED, OTHER, Vector


def written(vector: Vector) -> bytes:
    """Return a signed callback as an input: its headers, an empty line, its body."""
    lines = [f"{name}: {value}" for name, value in vector.headers.items()]
    return "\n".join(lines).encode() + b"\n\n" + vector.body


def proven(vector: Vector, data: bytes) -> str:
    """Check that what is proven is proven of these bytes and by this secret alone."""
    head, _, body = data.partition(b"\n\n")
    headers = {}
    for line in head.decode("latin-1").split("\n")[:40]:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    check = partial(callback_signatures.verify, vector.scheme, headers=headers, now_s=vector.at_s)
    try:
        found = check(secrets=(vector.secret,), body=body)
    except SignatureInvalid as error:
        if vector.secret in str(error):
            raise AssertionError("the refusal repeats the secret") from error
        return "refused"
    others = [((OTHER[vector.scheme],), body)]
    if found is Proven.WHOLE_BODY:
        others += [((vector.secret,), body + b" "), ((vector.secret,), body[1:])]
    for secrets, changed in others:
        try:
            check(secrets=secrets, body=changed)
        except SignatureInvalid:
            continue
        raise AssertionError("another secret, or other bytes, are proven too")
    return "proven"


_WORDS: Final = (b"v1,", b"v3,", b"t=", b"v1=", b",", b" ", b"\n", b"\n\n", b"0", b"=", b'"taskId":', b"webhook-id: ")

TARGETS: Final = tuple(
    Target(
        name=f"verified-{name}",
        check=partial(proven, vector),
        seeds=[written(vector)],
        words=_WORDS,
        structured=True,
        outcomes=frozenset({"proven"}),
    )
    for name, vector in NAMED.items()
)
