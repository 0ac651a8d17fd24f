"""An alert: a condition that an operator should know of, from the moment when relay finds it until it is over."""

from enum import StrEnum
from typing import Final, Literal

import msgspec

from relay.model.job import EventType

OPS: Final = "ops."
"""The events about alerts have the alert's kind as their type, with this in front."""

SubjectType = Literal["endpoint", "provider", "cap", "relay"]


class AlertKind(StrEnum):
    """The conditions that relay finds; a closed list."""

    DELIVERY_EXHAUSTED = "delivery.exhausted"
    ENDPOINT_FAILING = "endpoint.failing"
    CALLBACK_QUARANTINED = "callback.quarantined"
    PROVIDER_KEY_REFUSED = "provider.key_refused"
    PROVIDER_SILENT = "provider.silent"
    SPEND_CAP_NEAR = "spend.cap_near"
    SPEND_CAP_REACHED = "spend.cap_reached"
    PAYMENT_UNKNOWN = "payment.unknown"
    PAYMENT_LOST = "payment.lost"
    BACKLOG_OLD = "backlog.old"

    @property
    def event_type(self) -> EventType:
        """Return the type of the events that announce the condition and its end."""
        return EventType(OPS + self)


class Subject(msgspec.Struct, frozen=True):
    """What a condition is about; `id` is an endpoint's id, a provider's name or a setting, `name` is for people."""

    type: SubjectType
    id: str
    name: str


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition as relay finds it, in one sentence and in fields; it concerns one project.

    `seen_at` (unix ms) is when it was last true as far as this process knows.
    """

    project_id: str
    kind: AlertKind
    subject: Subject
    summary: str
    detail: dict[str, object] = {}
    seen_at: int

    @property
    def key(self) -> tuple[str, AlertKind, str]:
        """Return what distinguishes it from other conditions."""
        return self.project_id, self.kind, self.subject.id


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A stored condition; times are unix milliseconds, `ended_at` is None while it is open."""

    id: str
    project_id: str
    kind: AlertKind
    subject: Subject
    summary: str
    detail: dict[str, object]
    opened_at: int
    ended_at: int | None

    @property
    def key(self) -> tuple[str, AlertKind, str]:
        """Return what distinguishes it from other conditions."""
        return self.project_id, self.kind, self.subject.id
