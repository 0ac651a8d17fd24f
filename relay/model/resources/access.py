"""Who may do what and who did it: the key that asks, projects, API keys, entries of the audit."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.model.resources.times import Time

Scope = Literal["submit", "read", "admin"]


class ProjectResource(msgspec.Struct, frozen=True, kw_only=True):
    """The owner of jobs, endpoints and API keys."""

    id: Annotated[str, Meta(pattern="^prj_")]
    object: Literal["project"] = "project"
    name: str
    created_at: Time
    keys_live: Annotated[int, Meta(description="API keys that work, without the one of RELAY_API_KEY.")]


class CallerKeyResource(msgspec.Struct, frozen=True, kw_only=True):
    """The API key of a request."""

    id: Annotated[str, Meta(description="`RELAY_API_KEY` for the key of that setting.")]
    name: str
    scopes: list[Scope]
    created_at: Annotated[Time | None, Meta(description="null for the key of RELAY_API_KEY.")]


class WhoamiResource(msgspec.Struct, frozen=True, kw_only=True):
    """The API key of the request, its project, and this relay."""

    object: Literal["whoami"] = "whoami"
    key: CallerKeyResource
    project: ProjectResource
    operator: Annotated[bool, Meta(description="Whether the key may see all projects.")]
    environment: Annotated[str, Meta(description="RELAY_ENV.")]
    version: str
    docs: Annotated[str, Meta(description="The path of the API's description.")]


class KeyResource(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its text."""

    id: Annotated[str, Meta(pattern="^key_")]
    object: Literal["api_key"] = "api_key"
    project: str
    name: str
    scopes: list[Scope]
    created_at: Time
    last_used_at: Annotated[Time | None, Meta(description="Exact to a minute; null if it was never used.")]
    revoked_at: Time | None


class NewKeyResource(KeyResource, frozen=True, kw_only=True):
    """An API key as `POST /v1/keys` answers it."""

    key: Annotated[str, Meta(description="Its text, which is shown only here.")]


class AuditEntryResource(msgspec.Struct, frozen=True, kw_only=True):
    """One verb that changed something, or was refused: who, when, what, on which object, from where."""

    id: Annotated[str, Meta(pattern="^aud_")]
    object: Literal["audit_entry"] = "audit_entry"
    at: Time
    project: str
    key: Annotated[str | None, Meta(description="The API key's id; null for a command on the database.")]
    key_name: str | None
    via: Annotated[
        Literal["api", "dashboard", "cli", "database"], Meta(description="By which program, as it says itself.")
    ]
    address: Annotated[str | None, Meta(description="The client's, by the rule of RELAY_CLIENT_IP.")]
    request_id: str | None
    verb: Annotated[str, Meta(description="Such as `jobs.cancel`.")]
    target: Annotated[str | None, Meta(description="The id of the object.")]
    detail: Annotated[str | None, Meta(description="The fields that were sent; values only of those without secrets.")]
    status: Annotated[
        int | None, Meta(description="Of the answer; null if relay stopped before it: it may or may not be done.")
    ]
    code: Annotated[str | None, Meta(description="Of the problem, if it was refused.")]
