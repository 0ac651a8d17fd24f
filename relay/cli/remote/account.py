"""`relay login`, `whoami`, `status` and `open`: the connection itself, and how the relay behind it is."""

import sys

import click
import httpx

from relay.cli.remote.connection import EXIT_AGAIN, LOOPBACK, Profile, Refused, Remote, chosen, write_profile
from relay.cli.remote.output import Session, remote
from relay.errors import SettingsError


@click.command("login")
@click.option("--url", metavar="URL", help="Where relay is; else RELAY_URL or 127.0.0.1:8000.")
@click.option("--profile", default="default", show_default=True, metavar="NAME", help="The name to store it under.")
def login(url: str | None, profile: str) -> None:
    """Store where relay is and an API key, in a file that only you may read.

    The key is asked for without being shown, or read from standard input if that is no terminal.
    """
    where = chosen(url, None).url
    if where.startswith("http:") and httpx.URL(where).host not in LOOPBACK:
        click.echo(f"{where} is not encrypted: others on the way can read the key", err=True)
    key = click.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise SettingsError("no key was given")
    made = Profile(where, key.strip())
    me = Remote(made).get("/v1/whoami")
    path = write_profile(profile, made)
    click.echo(
        f"logged in to {where} as {me['key']['name'] or me['key']['id']}, project {me['project']['name']}; "
        f"profile {profile} is in {path}",
        err=True,
    )


@click.command("whoami")
@remote
def whoami(session: Session) -> None:
    """Show the key, its scopes and its project."""
    session.item(
        session.remote.get("/v1/whoami"),
        {
            "key": "key.id",
            "name": "key.name",
            "scopes": lambda me: ", ".join(me["key"]["scopes"]),
            "project": lambda me: f"{me['project']['name']} ({me['project']['id']})",
            "operator": "operator",
            "environment": "environment",
            "relay": lambda me: f"{me['version']} at {session.remote.url}",
        },
    )


@click.command("status")
@remote
def status(session: Session) -> None:
    """Show whether relay is ready, what is due, and what needs attention; exit with 75 if it is not ready."""
    relay = session.remote
    ready = True
    try:
        relay.get("/readyz")
    except Refused:
        ready = False
    me, stats = relay.get("/v1/whoami"), relay.get("/v1/stats", {"from": "-1h"})
    alerts = relay.get("/v1/alerts")["data"]
    found = {
        "url": relay.url,
        "ready": ready,
        "version": me["version"],
        "environment": me["environment"],
        "project": me["project"]["name"],
        "due": stats["backlog"]["due"],
        "oldest_due_at": stats["backlog"]["oldest_due_at"],
        "jobs_finished_last_hour": sum(stats["totals"]["jobs_finished"].values()),
        "alerts": [f"{one['kind']}: {one['summary']}" for one in alerts],
    }
    session.item(
        found if session.output != "table" else found | {"alerts": "\n  ".join(["", *found["alerts"]]) or None}
    )
    if not ready:
        raise Refused("relay is not ready", EXIT_AGAIN)


@click.command("open")
@click.argument("id_", metavar="[ID]", required=False)
@remote
def open_(session: Session, id_: str | None) -> None:
    """Open the dashboard, or the page of a job, endpoint or callback, in the browser."""
    pages = {"job_": "/jobs/", "ep_": "/endpoints/", "cb_": "/callback/"}
    path = next((page + id_ for prefix, page in pages.items() if id_ and id_.startswith(prefix)), "/")
    click.echo(session.remote.url + path)
    click.launch(session.remote.url + path)
