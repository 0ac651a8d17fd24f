"""`relay projects` and `relay keys remote`: projects and API keys of a running relay, over HTTP.

`relay keys create` and its like work on the database instead: they make the first key, when no relay runs.
"""

from typing import Any, Final

import click

from relay.cli.remote.output import Columns, Session, remote, yes

PROJECTS: Final[Columns] = {"PROJECT": "id", "NAME": "name", "KEYS": "keys_live", "CREATED": "created_at"}
KEYS: Final[Columns] = {
    "KEY": "id", "NAME": "name", "SCOPES": lambda key: ", ".join(key["scopes"]), "PROJECT": "project",
    "CREATED": "created_at", "LAST USED": "last_used_at", "REVOKED": "revoked_at",
}  # fmt: skip
_LIMIT: Final = click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
_PROJECT: Final = click.option("--project", help="Another project; needs an operator's key.")


@click.group("projects")
def projects() -> None:
    """List and make projects."""


@projects.command("list")
@_LIMIT
@remote
def projects_list(session: Session, limit: int) -> None:
    """List the key's project; all of them with an operator's key."""
    session.items(session.remote.pages("/v1/projects", {}, limit), PROJECTS)


@projects.command("create")
@click.argument("name")
@remote
def projects_create(session: Session, name: str) -> None:
    """Make a project; needs an operator's key."""
    session.item(session.remote.post("/v1/projects", {"name": name}))


@click.group("remote")
def keys() -> None:
    """Make, list and revoke API keys of a running relay, over HTTP."""


@keys.command("create")
@click.option("--name", default="", help="What the key is for.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(["submit", "read", "admin"]), help="One of several."
)
@_PROJECT
@remote
def keys_create(session: Session, name: str, scopes: tuple[str, ...], project: str | None) -> None:
    """Make a key; its text is in what is printed, and shown nowhere else."""
    fields: dict[str, Any] = {"name": name}
    if scopes:
        fields["scopes"] = list(scopes)
    if project is not None:
        fields["project"] = project
    session.item(session.remote.post("/v1/keys", fields))


@keys.command("list")
@click.option("--live", is_flag=True, help="Without those that are revoked.")
@_PROJECT
@_LIMIT
@remote
def keys_list(session: Session, live: bool, project: str | None, limit: int) -> None:
    """List keys without their texts, newest first."""
    session.items(session.remote.pages("/v1/keys", {"live": live or None, "project": project}, limit), KEYS)


@keys.command("revoke")
@click.argument("key")
@yes
@remote
def keys_revoke(session: Session, key: str) -> None:
    """Stop a key from working."""
    session.confirm(f"Revoke {key}? Programs that use it get 401 from now on.")
    session.item(session.remote.post(f"/v1/keys/{key}/revocations"))
