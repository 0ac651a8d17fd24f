"""The overview: what needs attention, worst first, and charts of the last hour, day, week or month."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay.web.dashboard import charts, formats
from relay.web.dashboard.charts import Plot, Series
from relay.web.dashboard.view import PageRoute, Verb, View

ALERTS: Final = 50
SOON_MAX: Final = 20
"""So many jobs are counted for one line; beyond that it says “or more”."""
LATE_MS: Final = 600_000
"""A copy that is pending for so long needs attention."""
_CRITICAL: Final = frozenset(
    {
        "endpoint.failing",
        "delivery.exhausted",
        "provider.key_refused",
        "spend.cap_reached",
        "payment.lost",
        "backlog.old",
    }
)


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How a range is drawn: the API's bucket, how many make a bar, and what both are called."""

    bucket: str
    per_bar: int
    bar: str
    point: str


SCALES: Final = {
    "1h": Scale(bucket="1m", per_bar=5, bar="per 5 min", point="per min"),
    "24h": Scale(bucket="15m", per_bar=4, bar="per hour", point="per 15 min"),
    "7d": Scale(bucket="1h", per_bar=6, bar="per 6 h", point="per hour"),
    "30d": Scale(bucket="1d", per_bar=1, bar="per day", point="per day"),
}


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """One line of what needs attention; `since` is when it began, `label` and `path` where it is mended."""

    critical: bool
    title: str
    text: str
    since: str | None
    label: str
    path: str


async def index(view: View) -> Response:
    """Show what needs attention, and the charts of the page's range."""
    chosen = view.range if view.range in SCALES else "24h"
    scale = SCALES[chosen]
    stats = await view.get("/v1/stats", {"from": f"-{chosen}", "bucket": scale.bucket})
    called_back = [one["last_callback_at"] for one in stats["providers"] if one["last_callback_at"]]
    return await view.page(
        "overview.html",
        attention=await _attention(view, stats, chosen),
        chosen=chosen,
        scale=scale,
        stats=stats,
        spend=await view.get("/v1/spend"),
        last_callback=max(called_back, default=None),
        archive=view.app.archive is not None,
        **_plots(stats, scale),
    )


async def _attention(view: View, stats: dict[str, Any], chosen: str) -> list[Attention]:
    """Return the open alerts, and the jobs that wait for a person; what is critical first, each by its age."""
    alerts = (await view.get("/v1/alerts", {"limit": str(ALERTS)}))["data"]
    found = [
        Attention(
            critical=alert["kind"] in _CRITICAL,
            title=alert["kind"].replace(".", " ").replace("_", " ").capitalize(),
            text=alert["summary"],
            since=alert["since"],
            label=alert["action"]["label"],
            path=alert["action"]["path"],
        )
        for alert in alerts
    ]
    limit = str(SOON_MAX)
    expiring = (await view.get("/v1/jobs", {"expiring_undelivered": "true", "limit": limit}))["data"]
    if expiring:
        first = min(output["expires_at"] for job in expiring for output in job["outputs"] if output["expires_at"])
        found.append(
            Attention(
                critical=True,
                title=f"{_count(expiring, 'result')} will expire, and no endpoint has accepted {_them(expiring)}",
                text=f"The first is gone at {formats.full(first)}.",
                since=None,
                label=f"Show {_count(expiring, 'job')}",
                path="/jobs?expiring_undelivered=true&range=30d",
            )
        )
    lost = (await view.get("/v1/jobs", {"status": "open", "reason": "submit_unknown", "limit": limit}))["data"]
    if lost:
        found.append(
            Attention(
                critical=False,
                title=f"{_count(lost, 'submission')} got no answer",
                text="The provider may have them and charge them. relay waits, and never sends them again.",
                since=lost[-1]["created_at"],
                label=f"Show {_count(lost, 'job')}",
                path="/jobs?status=open&reason=submit_unknown&range=30d",
            )
        )
    found += _copies(view, stats, chosen)
    return sorted(found, key=lambda one: (not one.critical, one.since or ""))


def _copies(view: View, stats: dict[str, Any], chosen: str) -> list[Attention]:
    """Return that copies are late, because the archive takes none or providers are slow, and that some failed."""
    now, failed = stats["archive"], stats["totals"]["archive"]["failed"]
    found = []
    since = now["oldest_pending_at"]
    if since is not None and view.now_ms - formats.ms_of(since) >= LATE_MS:
        number = _number(now["pending"], now["more"])
        found.append(
            Attention(
                critical=False,
                title=f"{number} result{' is' if now['pending'] == 1 else 's are'} not copied yet",
                text="relay goes on trying. A job’s page says why the last try failed.",
                since=since,
                label="Show their jobs",
                path="/jobs?copies=pending&range=30d",
            )
        )
    if failed and now["failed"]:
        found.append(
            Attention(
                critical=False,
                title=f"{_number(failed, more=False)} cop{'y' if failed == 1 else 'ies'} of results failed in the last "
                f"{view.ranges[chosen]}",
                text="Their providers will delete the results. Mend the cause, and copy them again.",
                since=None,
                label="Show failed copies",
                path="/jobs?copies=failed&range=30d",
            )
        )
    return found


def _number(number: int, more: bool) -> str:
    """Return a number, `20,000 or more` where not all were counted."""
    return formats.number(number) + (" or more" if more else "")


def _count(found: Sequence[Any], noun: str) -> str:
    """Return a number with its noun, `20 or more jobs` where the page is full."""
    more = " or more" if len(found) >= SOON_MAX else ""
    return f"{len(found)}{more} {noun}{'' if len(found) == 1 else 's'}"


def _them(found: Sequence[Any]) -> str:
    """Return the pronoun of so many."""
    return "it" if len(found) == 1 else "them"


def _plots(stats: dict[str, Any], scale: Scale) -> dict[str, Plot]:
    """Return the charts by their names in the template."""
    series: list[dict[str, Any]] = stats["series"]
    groups = _grouped(series, scale.per_bar)
    bars = [_name(group[0], scale, last=group[-1]["unfinished"]) for group in groups]
    points = [_name(one, scale, last=one["unfinished"]) for one in series]

    def summed(name: str, style: str, *path: str) -> Series:
        return Series(name=name, style=style, values=[sum(_at(one, path) for one in group) for group in groups])

    def line(name: str, style: str, *path: str, by: float = 1) -> Series:
        values = [None if one[path[0]] is None else _at(one, path) / by for one in series]
        return Series(name=name, style=style, values=values)

    finished, deliveries = "jobs_finished", "deliveries"
    return {
        "jobs": charts.bars(
            bars,
            [
                summed("failed", "f-bad", finished, "failed"),
                summed("expired", "f-warn", finished, "expired"),
                summed("canceled", "f-off", finished, "canceled"),
                summed("succeeded", "f-ok", finished, "succeeded"),
            ],
            f"Jobs finished {scale.bar} by outcome",
        ),
        "delivered": charts.bars(
            bars,
            [
                summed("exhausted", "f-bad", deliveries, "exhausted"),
                summed("after retries", "f-2", deliveries, "after_retries"),
                summed("at the first attempt", "f-ok", deliveries, "first_attempt"),
            ],
            f"Deliveries finished {scale.bar} by outcome",
        ),
        "copies": charts.bars(
            bars,
            [summed("failed", "f-bad", "archive", "failed"), summed("archived", "f-ok", "archive", "archived")],
            f"Copies of results finished {scale.bar} by outcome",
        ),
        "latency": charts.lines(
            points,
            [
                line("p50", "a", "latency", "p50_ms"),
                line("p95", "b", "latency", "p95_ms"),
                line("p99", "c", "latency", "p99_ms"),
            ],
            f"Time from callback to accepted notification {scale.point}, logarithmic",
            logarithmic=True,
        ),
        "due": charts.lines(
            points, [line("due", "b", "backlog", "due_most")], f"Due deliveries, the most {scale.point}"
        ),
        "oldest": charts.lines(
            points,
            [line("minutes", "c", "backlog", "oldest_due_ms_most", by=60_000)],
            f"Age of the oldest due delivery in minutes, the most {scale.point}",
        ),
    }


def _grouped(series: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    """Return the buckets in groups of a size; only the oldest group may have fewer."""
    begin = len(series) % size
    return [*([series[:begin]] if begin else []), *(series[at : at + size] for at in range(begin, len(series), size))]


def _at(one: Any, path: Sequence[str]) -> float:
    """Return a number within a bucket."""
    for name in path:
        one = one[name]
    return float(one or 0)


def _name(one: dict[str, Any], scale: Scale, *, last: bool) -> str:
    """Return what a bucket is called below its chart: the time, or the day of a longer range; the last one is `now`."""
    if last:
        return "now"
    at: str = one["at"]
    clock, day = at[11:16], f"{at[8:10]}.{at[5:7]}."
    return {"1h": f"{day} {clock}", "1d": day}.get(scale.bucket, clock)


PAGES: Final = (PageRoute("/", index, live=True),)
VERBS: Final[tuple[Verb, ...]] = ()
