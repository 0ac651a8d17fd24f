"""`relay incident export`: everything that relay stores about a job in one zip file, secrets redacted."""

import base64
import json
import zipfile
from pathlib import Path
from typing import Any, Final

import click

from relay.cli.remote.connection import EXIT_NOT_FOUND, Refused, progress, whole_file
from relay.cli.remote.output import Session, remote

MANY: Final = 1_000
"""So many events, deliveries and callbacks of a job are in the file, the newest."""
BODIES_MAX: Final = 20


@click.group("incident")
def command() -> None:
    """Collect what is known of a job, for a report."""


@command.command("export")
@click.argument("job")
@click.option("-f", "--file", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="incident-JOB.zip if not given.")  # fmt: skip
@remote
def export(session: Session, job: str, file: Path | None) -> None:
    """Write the job, its timeline, callbacks, events, deliveries, attempts and endpoints into one zip file."""
    path = file or Path(f"incident-{job}.zip")
    relay = session.remote
    shown = relay.get(f"/v1/jobs/{job}")
    events, heads = (list(relay.pages(f"/v1/{noun}", {"job": job}, MANY)) for noun in ("events", "callbacks"))
    deliveries = list(relay.pages("/v1/deliveries", {"job": job}, MANY))
    with progress("reading", len(deliveries) + min(len(heads), BODIES_MAX)) as bar:
        whole = [_counted(bar, relay.get(f"/v1/deliveries/{one['id']}")) for one in deliveries]
        bodies = {
            one["id"]: _counted(bar, relay.get(f"/v1/callbacks/{one['id']}"))["body"] for one in heads[:BODIES_MAX]
        }
    members: dict[str, Any] = {
        "job": shown,
        "timeline": relay.get(f"/v1/jobs/{job}/timeline"),
        "events": events[::-1],
        "deliveries": whole[::-1],
        "callbacks": heads[::-1],
        "endpoints": _endpoints(session, {one["endpoint"] for one in deliveries}),
    }
    with whole_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.json", json.dumps(content, ensure_ascii=False, indent=2))
        for callback, body in bodies.items():
            archive.writestr(f"callbacks/{callback}.bin", base64.b64decode(body))
    click.echo(path)


def _counted(bar: Any, found: Any) -> Any:
    """Advance the bar, and return what was found."""
    bar.update(1)
    return found


def _endpoints(session: Session, ids: set[str]) -> list[Any]:
    """Return the endpoints that still exist."""
    found = []
    for id_ in sorted(ids):
        try:
            found.append(session.remote.get(f"/v1/endpoints/{id_}"))
        except Refused as error:
            if error.exit_status != EXIT_NOT_FOUND:
                raise
    return found
