"""`relay status`: how a running relay does, in a few lines: ready or not, its backlog, alerts, and the last day's numbers."""

import click
import httpx

from relay.cli import EXIT_AGAIN, CommandFailed
from relay.cli.connection import Connection, connected, path_of, transport_options

READY_S = 10
ALERTS_MAX = 50


@click.command("status")
@connected
def command(relay: Connection) -> None:
    """Show how relay does; exit 75 if it is not ready."""
    with httpx.Client(**transport_options(relay.url)) as http:
        ready = http.get(f"{relay.url}/readyz", timeout=READY_S).is_success
    me, stats = relay.get(path_of("whoami")), relay.get(path_of("stats"), {"from": "-24h", "bucket": "1h"})
    alerts, _ = relay.rows(path_of("alerts"), {"state": "open"}, ALERTS_MAX)
    totals = stats["totals"]
    relay.print(
        {
            "url": relay.url,
            "version": me["version"],
            "environment": me["environment"],
            "project": me["project"]["name"],
            "ready": ready,
            "backlog": stats["backlog"],
            "last_24h": {
                "jobs_created": totals["jobs_created"],
                "jobs_finished": totals["jobs_finished"],
                "deliveries": totals["deliveries"],
                "latency": totals["latency"],
            },
            "alerts": [{"kind": one["kind"], "since": one["since"], "summary": one["summary"]} for one in alerts],
        }
    )
    if not ready:
        raise CommandFailed(f"the relay at {relay.url} is not ready", EXIT_AGAIN)
