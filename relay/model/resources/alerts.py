"""An alert, and the `data` of the events that announce it and its end."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.alert import Alert, AlertKind, SubjectType
from relay.model.resources.envelopes import Json
from relay.model.resources.times import Time, time_or_none


class AlertSubjectResource(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert is about."""

    type: SubjectType
    id: Annotated[str, Meta(description="An endpoint's id, `notify`, a provider's name, a setting, or `relay`.")]
    name: str


class AlertActionResource(msgspec.Struct, frozen=True, kw_only=True):
    """Where an operator can act on an alert."""

    label: str
    path: Annotated[str, Meta(description="A page of the dashboard.")]
    url: Annotated[str | None, Meta(description="The same page, whole; null without RELAY_PUBLIC_URL.")]


class AlertResource(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that an operator should know of."""

    id: Annotated[str, Meta(pattern="^alr_")]
    object: Literal["alert"] = "alert"
    kind: AlertKind
    state: Literal["open", "ended"]
    since: Time
    ended_at: Time | None
    subject: AlertSubjectResource
    summary: Annotated[
        str, Meta(description="What is wrong, in a sentence; it is kept up to date while the alert is open.")
    ]
    detail: Json
    action: AlertActionResource
    project: str


class AlertEventData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event about an alert."""

    alert: Annotated[AlertResource, Meta(description="The alert after the event.")]
    job: None = None
    sequence: int = 0
    final: bool = False
    supersedes: None = None


_ACTIONS: Final = {
    AlertKind.CALLBACK_QUARANTINED: ("Read the callbacks", "/callbacks?verdict=quarantined"),
    AlertKind.PROVIDER_KEY_REFUSED: ("Open the providers", "/providers"),
    AlertKind.PROVIDER_SILENT: ("Open the providers", "/providers"),
    AlertKind.SPEND_CAP_NEAR: ("Open spend", "/spend"),
    AlertKind.SPEND_CAP_REACHED: ("Open spend", "/spend"),
    AlertKind.PAYMENT_UNKNOWN: ("Open spend", "/spend"),
    AlertKind.PAYMENT_LOST: ("Open spend", "/spend"),
}


def alert(alert: Alert, public_url: str | None) -> AlertResource:
    """Return an alert; `public_url` is where the dashboard is."""
    subject = alert.subject
    label, path = _ACTIONS.get(alert.kind, ("Open the endpoints", "/endpoints"))
    if subject.id.startswith("ep_"):
        label, path = "Open the endpoint", f"/endpoints/{subject.id}"
    return AlertResource(
        id=alert.id,
        kind=alert.kind,
        state="open" if alert.ended_at is None else "ended",
        since=rfc3339(alert.opened_at),
        ended_at=time_or_none(alert.ended_at),
        subject=AlertSubjectResource(type=subject.type, id=subject.id, name=subject.name),
        summary=alert.summary,
        detail=alert.detail,
        action=AlertActionResource(label=label, path=path, url=public_url and public_url + path),
        project=alert.project_id,
    )
