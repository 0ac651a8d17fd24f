"""What relay counts, in one table. Counting is a dictionary; the library that writes it out is loaded by a scrape."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from relay import __version__, log
from relay.errors import Bound
from relay.model.delivery import Outcome
from relay.model.job import Disposition, EventType, Job, Unconfirmed

WORDS_MAX: Final = 1000
"""How many unknown status words are remembered, so that each is warned about once."""


class Metric(msgspec.Struct, frozen=True):
    """One metric: its name, whether it only grows, what it counts, its labels."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]


METRICS: Final = (
    Metric("relay_callbacks", "counter", "callbacks by what became of them", ("provider", "verdict")),
    Metric("relay_callbacks_refused", "counter", "callbacks whose token was not good", ("provider",)),
    Metric("relay_submissions", "counter", "requests that submit a job, by how they ended", ("provider", "outcome")),
    Metric("relay_status_checks", "counter", "status checks by what they found", ("provider", "finding")),
    Metric(
        "relay_jobs_finished",
        "counter",
        "jobs that reached a final state, by who ended them and how far that is proven",
        ("provider", "status", "finished_by", "verification"),
    ),
    Metric(
        "relay_jobs_unconfirmed",
        "counter",
        "final states that no status check confirmed in time, believed on the callback's token, by why",
        ("provider", "why"),
    ),
    Metric("relay_jobs_corrected", "counter", "final states that turned out to be wrong", ("provider",)),
    Metric("relay_unknown_words", "counter", "status words that the provider never published", ("provider",)),
    Metric("relay_provider_key_refused", "gauge", "1 while the provider refuses relay's key", ("provider",)),
    Metric("relay_answers_unstored", "gauge", "answers of providers that are not stored yet", ()),
    Metric("relay_events", "counter", "events by type", ("type",)),
    Metric("relay_attempts", "counter", "attempts of deliveries by outcome", ("outcome",)),
    Metric("relay_pruned_rows", "counter", "rows that were removed because they were old, by table", ("table",)),
    Metric("relay_open_jobs", "gauge", "jobs that have not ended, in the whole database; 100,000 at most", ()),
    Metric("relay_pending_deliveries", "gauge", "deliveries that wait, in the whole database; 100,000 at most", ()),
    Metric("relay_held_endpoints", "gauge", "endpoints that are held after failures, in the whole database", ()),
    Metric("relay_oldest_due_seconds", "gauge", "how late the delivery is that is due for longest", ()),
    Metric("relay_database_size_bytes", "gauge", "what the database takes on its disk", ()),
    Metric("relay_lookups_hung", "counter", "look-ups of host names that took longer than a second", ()),
    Metric(
        "relay_refused",
        "counter",
        "what a limit refused, by the name of its setting",
        ("bound",),
    ),
    Metric("relay_streams_open", "gauge", "event streams that are open", ()),
    Metric("relay_connections", "gauge", "connections that are open", ()),
    Metric(
        "relay_connections_closed",
        "counter",
        "connections that relay closed, by setting or reason",
        ("reason",),
    ),
    Metric("relay_log_lines_dropped", "counter", "log lines that standard output did not take", ()),
    Metric("relay_build_info", "gauge", "1, with the version as label", ("version",)),
)


class Metrics:
    """The counts of one process."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, ...]] = Counter({("relay_build_info", __version__): 1})
        self._values.update({("relay_refused", bound): 0 for bound in Bound})
        self._words: set[tuple[str, str]] = set()

    def callback(self, provider: str, disposition: Disposition) -> None:
        """A callback was stored."""
        self._values["relay_callbacks", provider, disposition] += 1

    def callback_refused(self, provider: str) -> None:
        """A callback came without a good token."""
        self._values["relay_callbacks_refused", provider] += 1

    def submitted(self, provider: str, outcome: str) -> None:
        """A submission ended."""
        self._values["relay_submissions", provider, outcome] += 1

    def checked(self, provider: str, finding: str) -> None:
        """A status check ended."""
        self._values["relay_status_checks", provider, finding] += 1

    def unstored(self, more: int) -> None:
        """A provider's answer waits to be stored (1), or does no more (-1)."""
        self._values[("relay_answers_unstored",)] += more

    def announced(self, job: Job, kind: EventType) -> None:
        """An event was made, perhaps the one that ends its job."""
        self._values["relay_events", kind] += 1
        if kind is EventType.JOB_CORRECTED:
            self._values["relay_jobs_corrected", job.provider] += 1
        elif kind.final:
            by = job.finished_by or ""
            self._values["relay_jobs_finished", job.provider, job.state, by, job.verification] += 1

    def unconfirmed(self, provider: str, why: Unconfirmed) -> None:
        """Count a final status that was believed though no status check confirmed it."""
        self._values["relay_jobs_unconfirmed", provider, why] += 1

    def key_refused(self, provider: str, *, refused: bool) -> None:
        """The provider refuses relay's key, or takes it again."""
        self._values["relay_provider_key_refused", provider] = int(refused)

    def unknown_word(self, provider: str, word: str) -> bool:
        """A status word that nobody published; True the first time, for a warning."""
        self._values["relay_unknown_words", provider] += 1
        if (provider, word) in self._words or len(self._words) >= WORDS_MAX:
            return False
        self._words.add((provider, word))
        return True

    def attempted(self, outcome: Outcome) -> None:
        """An attempt of a delivery ended."""
        self._values["relay_attempts", outcome] += 1

    def lookup_hangs(self) -> None:
        """The look-up of a host's name takes long."""
        self._values[("relay_lookups_hung",)] += 1

    def refused(self, bound: Bound | None) -> None:
        """Count what was refused because a bound was reached; None is no bound."""
        if bound is not None:
            self._values["relay_refused", bound] += 1

    def streams_open(self, number: int) -> None:
        """An event stream was opened or closed; so many are open now."""
        self._values[("relay_streams_open",)] = number

    def connections(self, number: int) -> None:
        """A connection was opened or closed; so many are open now."""
        self._values[("relay_connections",)] = number

    def connection_closed(self, reason: str) -> None:
        """relay closed a connection to protect the others."""
        self._values["relay_connections_closed", reason] += 1

    def pruned(self, removed: Mapping[str, int]) -> None:
        """Rows were removed because they were old."""
        for table, number in removed.items():
            self._values["relay_pruned_rows", table] += number

    def database_size(self, size_bytes: int) -> None:
        """What the database takes on its disk now."""
        self._values[("relay_database_size_bytes",)] = size_bytes

    def backlog(self, found: Mapping[str, Any], now_ms: int) -> None:
        """What is not done yet, as the database told it now."""
        for name in ("open_jobs", "pending_deliveries", "held_endpoints"):
            self._values[(f"relay_{name}",)] = found[name]
        due_at = found["oldest_due_at"]
        self._values[("relay_oldest_due_seconds",)] = 0 if due_at is None else max(0, now_ms - due_at) // 1000

    def value(self, name: str, *labels: str) -> int:
        """Return what is counted under a metric's name and labels; 0 where nothing is."""
        return self._values[(name, *labels)]

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format, version 0.0.4."""
        import prometheus_client  # noqa: PLC0415 - 40 ms that a start need not wait for

        registry = prometheus_client.CollectorRegistry()
        registry.register(self)
        return prometheus_client.generate_latest(registry)

    def collect(self) -> Iterator[Any]:
        """What the library asks a collector for: a family for each metric, also where nothing is counted yet."""
        from prometheus_client import core  # noqa: PLC0415 - as above

        self._values[("relay_log_lines_dropped",)] = log.dropped()
        families = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}
        for metric in METRICS:
            family = families[metric.kind](metric.name, metric.meaning, labels=metric.labels)
            for (name, *labels), value in sorted(self._values.items()):
                if name == metric.name:
                    family.add_metric(labels, value)
            yield family
