"""Verifies notifications by Standard Webhooks, and reads them."""

import base64
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from relay.client.types import Job
from relay.security import signatures
from relay.security.signatures import PUBLIC_PREFIX, SECRET_PREFIX, SignatureInvalid, Signed


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A genuine notification: `id` is the same if it comes again, `sequence` orders the events of a job."""

    id: str
    type: str
    timestamp: str
    project: str | None = None
    data: dict[str, Any]

    @property
    def job(self) -> Job | None:
        """The job after the event; None for an event about an endpoint."""
        found = self.data.get("job")
        return None if found is None else msgspec.convert(found, Job)

    @property
    def job_id(self) -> str | None:
        """The job's id; None for an event about an endpoint."""
        return (self.data.get("job") or {}).get("id")

    @property
    def sequence(self) -> int:
        """The event's number among those of its job, from 1."""
        return int(self.data["sequence"])

    @property
    def final(self) -> bool:
        """Whether it announces the job's end."""
        return bool(self.data["final"])


def verify(
    headers: Mapping[str, str], body: bytes, secret: str, *, project: str | None = None, now_s: float | None = None
) -> Notification:
    """Return the notification; raise SignatureInvalid unless the holder of the secret sent it within five minutes.

    `body` is the received bytes. `secret` is the endpoint's (`whsec_…`), or a public key of the project (`whpk_…` of
    `/.well-known/webhook-keys?project=`); with a public key give the `project` too, since every tenant has one.
    """
    received_s = int(time.time() if now_s is None else now_s)
    if secret.startswith(SECRET_PREFIX):
        signatures.verify(secret, headers, body, received_s)
    elif secret.startswith(PUBLIC_PREFIX):
        _verify_v1a(base64.b64decode(secret.removeprefix(PUBLIC_PREFIX)), headers, body, received_s)
    else:
        raise ValueError(f"the secret must begin with {SECRET_PREFIX} or {PUBLIC_PREFIX}")
    found = msgspec.json.decode(body, type=Notification)
    if project is not None and found.project != project:
        raise SignatureInvalid("the notification is of another project")
    return found


def _verify_v1a(public: bytes, headers: Mapping[str, str], body: bytes, now_s: int) -> None:
    """Raise SignatureInvalid unless a `v1a` signature is by the holder of the public key, and new enough."""
    lower = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp = lower.get(signatures.ID_HEADER, ""), lower.get(signatures.TIMESTAMP_HEADER, "")
    timestamp_s = signatures.parse_timestamp(signatures.TIMESTAMP_HEADER, timestamp)
    message = f"{event_id}.{timestamp}.".encode() + body
    for listed in lower.get(signatures.SIGNATURE_HEADER, "").split(" ")[:16]:
        version, _, encoded = listed.partition(",")
        try:
            signature = base64.b64decode(encoded, validate=True) if version == "v1a" else b""
        except ValueError:
            continue
        given = Signed(key_id=None, message=message, signature=signature, timestamp_s=timestamp_s)
        if signature and signatures.is_signed_by(public, given):
            signatures.check_age(timestamp_s, now_s)
            return
    raise SignatureInvalid(f"no v1a signature in {signatures.SIGNATURE_HEADER} is valid")
