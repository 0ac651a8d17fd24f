"""A notification as a message for Slack's incoming webhooks: `{"text": "…"}`, made from the event's body alone.

So every attempt sends the same bytes. The text's form: https://docs.slack.dev/messaging/formatting-message-text
"""

from typing import Any, Final

import msgspec

FORMAT: Final = "slack"
TEXT_CHARS_MAX: Final = 3_000
"""Slack cuts longer texts."""
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class _Notification(msgspec.Struct):
    """What is read of a notification's body."""

    type: str
    data: dict[str, Any]


class _Message(msgspec.Struct, frozen=True):
    """A message."""

    text: str


def message(body: bytes) -> bytes:
    """Return the message for a notification's body."""
    read = msgspec.json.decode(body, type=_Notification)
    text = _alert(read.data["alert"]) if "alert" in read.data else f"*{read.type}*{_about(read.data)}"
    return msgspec.json.encode(_Message(text[:TEXT_CHARS_MAX]))


def _alert(alert: dict[str, Any]) -> str:
    """Return the text about an alert, with a link to where an operator can act, if relay knows its own URL."""
    action = alert["action"]
    mark, state = (":red_circle:", "") if alert["state"] == "open" else (":white_check_mark:", " ended")
    link = f" <{_escaped(action['url'])}|{_escaped(action['label'])}>" if action["url"] else ""
    return f"{mark} *{_escaped(alert['kind'])}*{state}: {_escaped(alert['summary'])}{link}"


def _about(data: dict[str, Any]) -> str:
    """Return what an event is about: a job with its provider and error, or an endpoint with the reason."""
    job, endpoint = data.get("job"), data.get("endpoint")
    if job:
        error = f": {job['error']['message']}" if job.get("error") else ""
        return _escaped(f" {job['id']} at {job['provider']}{error}")
    if isinstance(endpoint, dict):
        reason = f": {endpoint['disabled_reason']}" if endpoint.get("disabled_reason") else ""
        return _escaped(f" {endpoint['url']}{reason}")
    return _escaped(f" {endpoint}") if endpoint else ""


def _escaped(text: str) -> str:
    """Return a text without Slack's control characters."""
    return text.translate(_ESCAPES)
