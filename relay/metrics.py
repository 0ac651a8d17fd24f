"""Counts what relay does; every metric is in one table.

Counts are kept in a dictionary; the Prometheus library is loaded at the first scrape, not at start.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from relay import __version__, log
from relay.errors import Bound
from relay.model.alert import Alert, AlertKind
from relay.model.archive import CopyErrorCode
from relay.model.delivery import Outcome
from relay.model.job import Disposition, EventType, Job, Unconfirmed

UNKNOWN_STATUSES_MAX: Final = 1000
"""Limit of the unknown statuses that are remembered, so that each is logged once."""


class Metric(msgspec.Struct, frozen=True):
    """One metric: its name, its kind (`counter` or `gauge`), its help text and its labels."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]


METRICS: Final = (
    Metric("relay_callbacks", "counter", "callbacks by disposition", ("provider", "verdict")),
    Metric("relay_callbacks_refused", "counter", "callbacks with an invalid or expired token", ("provider",)),
    Metric("relay_submissions", "counter", "submissions of jobs by outcome", ("provider", "outcome")),
    Metric("relay_status_checks", "counter", "status checks by outcome", ("provider", "finding")),
    Metric(
        "relay_jobs_finished",
        "counter",
        "jobs that reached a final status, by its source and its verification",
        ("provider", "status", "finished_by", "verification"),
    ),
    Metric(
        "relay_jobs_unconfirmed",
        "counter",
        "final statuses accepted by the callback's token, without a confirming status check, by reason",
        ("provider", "why"),
    ),
    Metric("relay_jobs_corrected", "counter", "final statuses that were corrected later", ("provider",)),
    Metric("relay_unknown_words", "counter", "statuses that the provider has not published", ("provider",)),
    Metric("relay_provider_key_refused", "gauge", "1 while the provider refuses relay's key", ("provider",)),
    Metric("relay_answers_unstored", "gauge", "providers' answers that are not stored yet", ()),
    Metric("relay_events", "counter", "events by type", ("type",)),
    Metric("relay_attempts", "counter", "delivery attempts by outcome", ("outcome",)),
    Metric("relay_archive_tries", "counter", "tries of copies of results by outcome", ("provider", "outcome")),
    Metric("relay_archive_bytes", "counter", "bytes of results that were copied to the archive", ("provider",)),
    Metric("relay_archive_milliseconds", "counter", "how long the copies took that were made", ("provider",)),
    Metric("relay_archive_failing", "gauge", "1 while the archive's bucket takes no copy", ()),
    Metric("relay_pruned_rows", "counter", "rows deleted past the retention limit, by table", ("table",)),
    Metric("relay_open_jobs", "gauge", "jobs without a final status, in the whole database; counted up to 100,000", ()),
    Metric("relay_pending_deliveries", "gauge", "pending deliveries, in the whole database; counted up to 100,000", ()),
    Metric("relay_held_endpoints", "gauge", "endpoints with an open circuit after failures, in the whole database", ()),
    Metric("relay_alerts_open", "gauge", "open alerts by kind, in the whole database", ("kind",)),
    Metric("relay_oldest_due_seconds", "gauge", "how late the oldest due delivery is", ()),
    Metric("relay_database_size_bytes", "gauge", "the database's size on disk", ()),
    Metric("relay_lookups_hung", "counter", "DNS lookups that took longer than a second", ()),
    Metric(
        "relay_refused",
        "counter",
        "refusals by a limit, by the name of its setting",
        ("bound",),
    ),
    Metric("relay_streams_open", "gauge", "open event streams", ()),
    Metric("relay_connections", "gauge", "open connections", ()),
    Metric(
        "relay_connections_closed",
        "counter",
        "connections that relay closed, by setting or reason",
        ("reason",),
    ),
    Metric("relay_log_lines_dropped", "counter", "log lines dropped because standard output was too slow", ()),
    Metric("relay_build_info", "gauge", "1, with the version as label", ("version",)),
)


class Metrics:
    """The counts of one process, since its start."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, ...]] = Counter({("relay_build_info", __version__): 1})
        self._values.update({("relay_refused", bound): 0 for bound in Bound})
        self._unknown_statuses: set[tuple[str, str]] = set()

    def callback(self, provider: str, disposition: Disposition) -> None:
        """Count a stored callback."""
        self._values["relay_callbacks", provider, disposition] += 1

    def callback_refused(self, provider: str) -> None:
        """Count a callback without a valid token."""
        self._values["relay_callbacks_refused", provider] += 1

    def submitted(self, provider: str, outcome: str) -> None:
        """Count a finished submission."""
        self._values["relay_submissions", provider, outcome] += 1

    def checked(self, provider: str, finding: str) -> None:
        """Count a finished status check."""
        self._values["relay_status_checks", provider, finding] += 1

    def unstored(self, more: int) -> None:
        """Count a provider's answer that waits to be stored (1), or no longer does (-1)."""
        self._values[("relay_answers_unstored",)] += more

    def announced(self, job: Job, kind: EventType) -> None:
        """Count an event, and with a final one its finished job."""
        self._values["relay_events", kind] += 1
        if kind is EventType.JOB_CORRECTED:
            self._values["relay_jobs_corrected", job.provider] += 1
        elif kind.final:
            by = job.finished_by or ""
            self._values["relay_jobs_finished", job.provider, job.state, by, job.verification] += 1

    def unconfirmed(self, provider: str, why: Unconfirmed) -> None:
        """Count a final status that was accepted without a confirming status check."""
        self._values["relay_jobs_unconfirmed", provider, why] += 1

    def key_refused(self, provider: str, *, refused: bool) -> None:
        """Set whether the provider refuses relay's key."""
        self._values["relay_provider_key_refused", provider] = int(refused)

    def unknown_status(self, provider: str, status: str) -> bool:
        """Count an unknown status; return True the first time, so that it is logged once."""
        self._values["relay_unknown_words", provider] += 1
        if (provider, status) in self._unknown_statuses or len(self._unknown_statuses) >= UNKNOWN_STATUSES_MAX:
            return False
        self._unknown_statuses.add((provider, status))
        return True

    def attempted(self, outcome: Outcome) -> None:
        """Count a finished delivery attempt."""
        self._values["relay_attempts", outcome] += 1

    def copied(self, provider: str, size: int, duration_ms: int) -> None:
        """Count a result that was copied to the archive."""
        self._values["relay_archive_tries", provider, "archived"] += 1
        self._values["relay_archive_bytes", provider] += size
        self._values["relay_archive_milliseconds", provider] += duration_ms

    def not_copied(self, provider: str, code: CopyErrorCode) -> None:
        """Count a try of a copy that failed."""
        self._values["relay_archive_tries", provider, code] += 1

    def archive_failing(self, *, failing: bool) -> None:
        """Set whether the archive's bucket takes no copy."""
        self._values[("relay_archive_failing",)] = int(failing)

    def lookup_hangs(self) -> None:
        """Count a DNS lookup that runs longer than a second."""
        self._values[("relay_lookups_hung",)] += 1

    def refused(self, bound: Bound | None) -> None:
        """Count a refusal by a limit; do nothing for None."""
        if bound is not None:
            self._values["relay_refused", bound] += 1

    def streams_open(self, number: int) -> None:
        """Set the number of open event streams."""
        self._values[("relay_streams_open",)] = number

    def connections(self, number: int) -> None:
        """Set the number of open connections."""
        self._values[("relay_connections",)] = number

    def connection_closed(self, reason: str) -> None:
        """Count a connection that relay closed to protect the others."""
        self._values["relay_connections_closed", reason] += 1

    def pruned(self, removed: Mapping[str, int]) -> None:
        """Count rows deleted past the retention limit, by table."""
        for table, number in removed.items():
            self._values["relay_pruned_rows", table] += number

    def database_size(self, size_bytes: int) -> None:
        """Set the database's size on disk."""
        self._values[("relay_database_size_bytes",)] = size_bytes

    def backlog(self, row: Mapping[str, Any], now_ms: int) -> None:
        """Set the open jobs and deliveries from the database's backlog row."""
        for name in ("open_jobs", "pending_deliveries", "held_endpoints"):
            self._values[(f"relay_{name}",)] = row[name]
        due_at = row["oldest_due_at"]
        self._values[("relay_oldest_due_seconds",)] = 0 if due_at is None else max(0, now_ms - due_at) // 1000

    def alerts_open(self, opened: Iterable[Alert]) -> None:
        """Set the number of open alerts of each kind."""
        numbers = Counter(alert.kind for alert in opened)
        for kind in AlertKind:
            self._values["relay_alerts_open", kind] = numbers[kind]

    def value(self, name: str, *labels: str) -> int:
        """Return the value of a metric with these labels; 0 if nothing was counted."""
        return self._values[(name, *labels)]

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, version 0.0.4."""
        import prometheus_client  # noqa: PLC0415 - it takes 40 ms to load

        registry = prometheus_client.CollectorRegistry()
        registry.register(self)
        return prometheus_client.generate_latest(registry)

    def collect(self) -> Iterator[Any]:
        """Yield a family for each metric, also without counts, as the library's collector protocol requires."""
        from prometheus_client import core  # noqa: PLC0415 - as above

        self._values[("relay_log_lines_dropped",)] = log.dropped()
        families = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}
        for metric in METRICS:
            family = families[metric.kind](metric.name, metric.meaning, labels=metric.labels)
            for (name, *labels), value in sorted(self._values.items()):
                if name == metric.name:
                    family.add_metric(labels, value)
            yield family
