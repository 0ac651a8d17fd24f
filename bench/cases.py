"""The statements that `reads` looks at, each with parameters as they come: batches of 64, and the worst usual ones."""

from collections.abc import Sequence
from typing import Any

import msgspec

from bench.explaining import Explainer, Row
from bench.filling import HOSTS, Filled, an_id
from bench.stock import HOUR_MS, PROVIDER
from relay.model import ids
from relay.storage import pages
from relay.storage.alerts import ATTEMPTS_READ, OPEN_MAX, READ_MAX
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.copies import BATCH as COPIES_BATCH
from relay.storage.copies import FEW as COPIES_FEW
from relay.storage.copies import WINDOW as COPIES_WINDOW
from relay.storage.deliveries import CLAIMERS, WALK, WINDOW
from relay.storage.endpoint_status import FAILING_REASON
from relay.storage.examination import COUNTED_MAX
from relay.storage.job_rows import Timer
from relay.storage.redeliveries import EVENTS_READ_MAX
from relay.storage.statistics import COPIES_COUNTED_MAX

BATCH = 64
DAY_MS = 24 * HOUR_MS


class Case(msgspec.Struct, frozen=True):
    """A statement with its parameters; `note` sets apart two of one statement.

    `hot` runs on each turn or each request of a usual kind, and reads no more than `rows_max`, however much there is.
    What is not is asked for by a person, and may go through as many rows as it must.
    """

    name: str
    many: tuple[dict[str, Any], ...]
    note: str = ""
    hot: bool = True
    writes: bool = False
    rows_max: int = 20 * BATCH


class Sample(msgspec.Struct, frozen=True):
    """What the parameters are taken from: neighbours in the middle of all that is finished, and retries."""

    jobs: list[Row]
    callbacks: list[Row]
    events: list[Row]
    deliveries: list[Row]
    retries: list[Row]
    copies: list[Row]
    waiting_copies: list[Row]
    left: list[Row]
    filled: Filled
    now_ms: int
    statements: frozenset[str]


async def sample(explainer: Explainer, filled: Filled, now_ms: int) -> Sample:
    """Return rows of each table, some two weeks old."""
    found = {}
    own = f"project_id = '{DEFAULT_PROJECT}' AND id"
    for table, prefix in (("jobs", ids.JOB), ("callbacks", ids.CALLBACK), ("events", ids.EVENT)):
        first = an_id(prefix, now_ms - 15 * DAY_MS, 0)
        found[table] = await explainer.ask(f"SELECT * FROM {table} WHERE {own} > '{first}' ORDER BY id LIMIT {BATCH}")
    first = an_id(ids.DELIVERY, now_ms - 15 * DAY_MS, 0)
    newest = f"ORDER BY id DESC LIMIT {BATCH}"
    return Sample(
        **found,
        deliveries=await explainer.ask(f"SELECT * FROM deliveries WHERE {own} > '{first}' ORDER BY id LIMIT {BATCH}"),
        retries=await explainer.ask(f"SELECT * FROM deliveries WHERE state = 'pending' {newest}"),
        copies=await explainer.ask(f"SELECT * FROM copies WHERE state = 'archived' {newest}"),
        waiting_copies=await explainer.ask(f"SELECT * FROM copies WHERE state = 'pending' {newest}"),
        left=await explainer.ask(f"SELECT * FROM objects_left ORDER BY due_at LIMIT {BATCH}"),
        filled=filled,
        now_ms=now_ms,
        statements=frozenset(explainer.statements),
    )


def cases(of: Sample) -> list[Case]:
    """Return every case of a statement that the database has."""
    made = (
        *_dispatch(of),
        *_record(of),
        *_archive(of),
        *_clocks(of),
        *_alerts(of),
        *_pages(of),
        *_of_one(of),
        *_pruning(of),
        *_by_hand(of),
    )
    return [case for case in made if case.name in of.statements]


def _dispatch(of: Sample) -> list[Case]:
    """Return what sending a notification costs; half of the retries are due."""
    due: dict[str, Any] = {"now": of.now_ms + 4 * HOUR_MS, "leased_until": of.now_ms + 5 * HOUR_MS, "limit": BATCH}
    due |= {"window": WINDOW, "candidates": CLAIMERS * BATCH, "full": [], "boot": 1}
    busy = list(of.filled.retry_endpoints)
    retries = [str(row["id"]) for row in of.retries]
    attempt = {"outcome": "ok", "status_code": 200, "error": None, "started_at": of.now_ms, "duration_ms": 9}
    own, answer = {"project_id": DEFAULT_PROJECT}, {"response_excerpt": "", "exchange": ",,,0.8"}
    attempts = [
        attempt | own | answer | {"id": an_id(ids.ATTEMPT, of.now_ms, n), "delivery_id": one}
        for n, one in enumerate(retries)
    ]
    after = own | {"state": "delivered", "next_attempt_at": None, "finished_at": of.now_ms}
    health = {"at": of.now_ms, "held_until": None}
    return [
        *(
            Case("claim_deliveries", (due | {"busy": some},), note, writes=True, rows_max=6 * WINDOW)
            for note, some in (("", []), ("half are busy", busy[::2]), ("all are busy", busy))
        ),
        _case("next_due_delivery", due),
        _case("endpoints_waiting", {"after": "", "limit": WALK}),
        _case("claim_deliveries_of_endpoint", due | {"endpoint_id": busy[0]}, writes=True),
        _case("take_back_deliveries", {"boots": [1], "now": of.now_ms, "until": of.now_ms + 25_000}, writes=True),
        _case("due_deliveries", {"keys": [[DEFAULT_PROJECT, one] for one in retries]}),
        _case("event_bodies", {"keys": [[DEFAULT_PROJECT, row["id"]] for row in of.events]}),
        _case("endpoints_sent_to", {"ids": busy[:BATCH]}),
        _case("attempts_written", {"ids": retries}),
        _many("insert_attempt", attempts),
        _many("settle_delivery", [after | {"id": one} for one in retries]),
        _many("release_deliveries", [own | {"id": one, "now": of.now_ms} for one in retries]),
        _many("note_endpoint_outcome", [health | {"id": one, "good": n % 2} for n, one in enumerate(busy[:BATCH])]),
    ]


def _record(of: Sample) -> list[Case]:
    """Return what a callback costs, and a submission."""
    jobs, projects = {"ids": [row["id"] for row in of.jobs]}, {"projects": [DEFAULT_PROJECT]}
    new = of.now_ms + HOUR_MS
    fresh = [{"id": an_id(ids.CALLBACK, new, n), "digest": n.to_bytes(16)} for n in range(BATCH)]
    callbacks = [row | other for row, other in zip(of.callbacks, fresh, strict=True)]
    events = [row | {"id": an_id(ids.EVENT, new, n), "sequence": 2} for n, row in enumerate(of.events)]
    deliveries = [row | {"id": an_id(ids.DELIVERY, new, n), "next_attempt_at": new} for n, row in enumerate(of.retries)]
    made = [row | {"id": an_id(ids.JOB, new, n)} for n, row in enumerate(of.jobs)]
    return [
        _case("jobs_and_listeners", jobs),
        _case("recorded_digests", jobs),
        _case("calls_written", {"ids": [an_id(ids.CALL, new, n) for n in range(BATCH)]}),
        _case("hold_events", projects | {"ids": [row["id"] for row in of.events]}),
        _case("tombstones_by_id", jobs),
        _case("callbacks_kept", jobs),
        _many("insert_callback", callbacks),
        _many("update_job", [job | {"version": None} for job in of.jobs]),
        _many("update_job_and_provider_id", [job | {"version": None} for job in of.jobs]),
        _many("insert_event", events),
        _case("endpoints_listening", {"project_id": DEFAULT_PROJECT}),
        _many("insert_delivery", deliveries),
        _many("insert_job", made),
        _many(
            "insert_job_request",
            [{"job_id": row["id"], "request": "{}", "input": None, "metadata": "{}"} for row in made],
        ),
        _case("jobs_to_submit", {"ids": [of.jobs[0]["id"]]}),
        _case("start_submission", of.jobs[0] | {"boot": 1}, writes=True),
    ]


def _archive(of: Sample) -> list[Case]:
    """Return what copies of results cost; half of those that wait are due."""
    later, row, copied = of.now_ms + 4 * HOUR_MS, of.waiting_copies[0], of.copies[0]
    due: dict[str, Any] = {
        "now": later,
        "leased_until": later + HOUR_MS,
        "limit": 1,
        "boot": 1,
        "window": COPIES_WINDOW,
    }
    due |= {"full": [], "full_hosts": [], "in_turn": 0, "few": COPIES_FEW}
    own, other = {"project_id": DEFAULT_PROJECT}, ids.encode(of.now_ms << 80)
    of_job = own | {"job_id": row["job_id"], "number": 0, "leased_until": row["due_at"], "id": row["id"]}
    written = {"bucket": "", "key": "another.mp4", "content_type": "video/mp4", "writes": 2}
    ended = {"state": "archived", "digest": "0" * 64, "bytes": 9, "finished_at": of.now_ms, "error_code": None}
    ended |= written | {"error": None}
    again = {"due_at": of.now_ms, "attempts_made": 2, "gone_seen": 0, "error_code": "gone", "error": "it is gone"}
    again |= {"writing": 0}
    waiting, archived = [dict(one) for one in of.waiting_copies], [dict(one) for one in of.copies]
    new = [one | {"id": f"{ids.COPY}{other[:-3]}{n:03}", "due_at": of.now_ms} for n, one in enumerate(archived)]
    until = {"now": later, "leased_until": later + HOUR_MS}
    left, pruned = dict(of.left[0]), {"jobs": [one["job_id"] for one in archived], "copies_kept": 1}
    return [
        Case("claim_copies", (due,), writes=True),
        Case("claim_copies", (due | {"now": of.now_ms},), "nothing is due", writes=True),
        Case("claim_copies_beside", (due | {"full": [DEFAULT_PROJECT]},), "its project is full", writes=True),
        Case(
            "claim_copies_beside",
            (due | {"full_hosts": [row["host"]]},),
            "a host is full",
            writes=True,
            rows_max=10 * COPIES_FEW * HOSTS,
        ),
        _case("next_copy", {"now": of.now_ms}),
        _case("copies_out_of_time", {"now": of.now_ms, "limit": COPIES_BATCH}),
        _case("copies_past_retention", {"before": of.now_ms, "limit": COPIES_BATCH}),
        _case("hold_copies", {"ids": [one["id"] for one in waiting]}),
        _case("name_copy", of_job | written, writes=True),
        _case("copy_leased", of_job),
        _case("retry_copy", of_job | again, writes=True),
        _many("release_event", [{"job_id": one["job_id"]} for one in waiting]),
        _many("end_copy", [ended | {"copy_id": one["id"]} for one in waiting]),
        _many("delete_copy", [{"copy_id": one["id"], "finished_at": of.now_ms} for one in archived]),
        _many("renew_copy", waiting),
        _many("insert_copy", new),
        _many("leave_copy", [one | {"due_at": of.now_ms} for one in archived]),
        _many("leave_object", [one | {"key": one["id"], "due_at": of.now_ms} for one in archived]),
        _case("forget_copy", {"id": copied["id"]}, writes=True),
        _case("hasten_copies", of_job | {"now": of.now_ms}, writes=True),
        _case("take_back_copies", {"boots": [1], "now": of.now_ms}, writes=True),
        _case("give_back_copies", {"boots": [1], "now": of.now_ms}, writes=True),
        _case("buckets_left", {"now": later}),
        _case("claim_object_left", {"bucket": left["bucket"]} | until, writes=True),
        _case("postpone_object_left", left | {"leased_until": left["due_at"]}, writes=True),
        _case("forget_object_left", left | {"leased_until": left["due_at"]}, writes=True),
        _case("leave_copies_of_jobs", pruned | {"due_at": of.now_ms}, writes=True),
        _case("prune_copies_of_jobs", pruned, writes=True),
        _case("copy_of_output", of_job),
        _case("copies_of_job", of_job),
        Case("copies_now", (own | {"most": COPIES_COUNTED_MAX},), rows_max=2 * COPIES_COUNTED_MAX),
        _case("copy_counts", own, hot=False),
        _case("archive_modes", {}),
    ]


def _clocks(of: Sample) -> list[Case]:
    """Return what the loops ask on every turn."""
    due: dict[str, Any] = {"now": of.now_ms + 4 * HOUR_MS, "before": of.now_ms, "limit": BATCH, "provider": PROVIDER}
    leased = due | {"leased_until": of.now_ms + 5 * HOUR_MS, "boot": 1}
    ended = {"boots": [1], "now": of.now_ms, "until": of.now_ms + 60_000, "provider": PROVIDER}
    soon = {"now": of.now_ms + HOUR_MS + 6 * HOUR_MS // 100}
    return [
        *(_case("due_jobs", due | {"timer": timer.value}, timer.value) for timer in Timer),
        _case("jobs_left_in_submission", due),
        Case("claim_checks", (leased | soon,), "one in a hundred is due", writes=True, rows_max=40 * BATCH),
        Case("claim_checks", (leased,), "half are due", writes=True, rows_max=40 * BATCH),
        _case("claim_check", leased | {"id": of.jobs[0]["id"]}, writes=True),
        _case("take_back_checks", ended, writes=True),
        _case("take_back_confirmations", ended | {"project_id": DEFAULT_PROJECT}, writes=True),
        _case("next_checks", {}),
        _case("claim_confirmations", leased | {"project_id": DEFAULT_PROJECT}, writes=True),
        _case("next_confirmations", {"limit": BATCH}),
        _case("next_job_clock", {}),
        _case("backlog", {"most": 100_000}, hot=False),
        _case("due_of_projects", {"now": of.now_ms, "most": 20_000}, hot=False),
        _case("count_positions_anew", {}, "at each start", writes=True),
        _case("forget_positions_of_endpoints", {}, "at each start", writes=True),
        _case("forget_positions_of_redeliveries", {}, "at each start", writes=True),
        _case("payments_to_prove", due),
        _case("open_redeliveries", due | {"after": ""}),
    ]


def _alerts(of: Sample) -> list[Case]:
    """Return what the search for conditions asks every half minute, of everything that is kept."""
    since = {"since": of.now_ms - 30 * DAY_MS, "lost_since": of.now_ms - 30 * DAY_MS, "limit": READ_MAX}
    first = {"first": an_id(ids.CALLBACK, of.now_ms - 30 * DAY_MS, 0)}
    made = {"first": an_id(ids.JOB, of.now_ms - 20 * DAY_MS, 0), "last": an_id(ids.JOB, of.now_ms, 0)}
    late = {"before": of.now_ms + 4 * HOUR_MS, "limit": READ_MAX}
    page = {"project_id": DEFAULT_PROJECT, "before": None, "limit": BATCH, "floor": None, "kind": None, "ended": None}
    return [
        _case("open_alerts", {"limit": OPEN_MAX}),
        _case("alert_page", page),
        _case("alert_page_open", page),
        _case("endpoints_in_trouble", late | {"failing": FAILING_REASON}),
        _case(
            "last_failure_of_endpoint",
            {"endpoint_id": of.filled.retry_endpoints[0], "window": ATTEMPTS_READ},
        ),
        Case("endpoints_given_up", (since,), rows_max=6 * READ_MAX),
        _case("number_given_up", since),
        Case("callbacks_in_quarantine", (since | first,), rows_max=3 * READ_MAX),
        _case("payments_in_doubt", since),
        _case("spending_by_project", since),
        Case("oldest_due", (late,), rows_max=5 * READ_MAX),
        Case("jobs_ended", (made | {"limit": READ_MAX},), rows_max=2 * READ_MAX),
    ]


def _pages(of: Sample) -> list[Case]:
    """Return the lists; a filter that few rows pass, or none, has no index of its own and is not hot."""
    page = {"project_id": DEFAULT_PROJECT, "before": None, "limit": BATCH, "floor": None, "window": pages.WINDOW - 1}
    page |= {"created_after": None, "created_before": None}
    event = page | {"after": "", "type": None, "job_id": None, "undelivered": 0, "follows": 0, "position": 0}
    event |= {"patience": of.now_ms, "horizon": 0}
    after = {"after": of.events[0]["id"], "position": of.events[0]["position"], "end": 0, "before": ""}
    delivery = page | {"endpoint_id": None, "status": None, "event_id": None, "job_id": None}
    job = page | {
        "status": None,
        "provider": None,
        "reason": None,
        "provider_job_id": None,
        "pairs": "[]",
        "pair": None,
        "pair_count": 0,
        "undelivered": 0,
        "result_undelivered": 0,
        "copies": None,
    }
    callback = page | {"job_id": None, "disposition": None}
    old = {"before": of.events[0]["id"]}
    pair = {"pairs": ["customer=7"], "pair": "customer=7", "pair_count": 1}
    floors = [
        {"before": rows[-1]["id"], "floor": rows[0]["id"]} for rows in (of.jobs, of.callbacks, of.events, of.deliveries)
    ]
    few_jobs, few_callbacks, few_events, few_deliveries = floors
    job_id, times = {"job_id": of.jobs[0]["id"]}, pages.Span(of.now_ms - 20 * DAY_MS, of.now_ms - 10 * DAY_MS)

    def span(prefix: str) -> dict[str, Any]:
        listing, lowest = times.narrow(pages.Listing(before=None, limit=BATCH), prefix)
        return times.params() | {"before": listing.before, "floor": lowest}

    retried, everything = {"endpoint_id": of.filled.retry_endpoints[0]}, {"endpoint_id": of.filled.endpoints[0]}
    return [
        _case("event_page", event),
        _case("event_page", event | old, "before"),
        _case("event_page_of_job", event | job_id),
        _case("event_page_of_job", event | job_id | {"follows": 1}, "after"),
        _case("event_page_after", event | after),
        _case("event_page", event | {"type": "job.failed"}, "of a type that is not there", hot=False),
        _case("event_page", event | old | {"undelivered": 1}, "undelivered, few", hot=False),
        _case("delivery_page", delivery),
        _case("delivery_page", delivery | {"before": of.deliveries[0]["id"]}, "before"),
        _case("delivery_page_of_endpoint", delivery | everything),
        _case("delivery_page_of_endpoint", delivery | retried, "with little"),
        _case("delivery_page_of_endpoint", delivery | everything | {"status": "canceled"}, "canceled, none", hot=False),
        _case("delivery_page", delivery | {"status": "pending"}, "pending"),
        _case("delivery_page_failed", delivery | {"status": "exhausted"}, "few"),
        _case("delivery_page_failed", delivery | {"status": "canceled"}, "none"),
        _case("delivery_page_of_event", delivery | {"event_id": of.events[0]["id"]}),
        _case("delivery_page_of_job", delivery | job_id),
        _case("job_page", job),
        _case("job_page_by_metadata", job | pair),
        _case("job_page_by_provider_id", job | {"provider_job_id": "task-7"}),
        *_search(),
        _case("job_page", job | {"status": "submitted"}, "submitted"),
        _case("job_page", job | {"status": "failed"}, "failed, none", hot=False),
        _case("job_page", job | {"provider": "other"}, "of a provider without any", hot=False),
        _case("job_page", job | span(ids.JOB), "of a time"),
        _case("event_page", event | span(ids.EVENT), "of a time"),
        _case("callback_page", callback | span(ids.CALLBACK), "of a time"),
        _case("callback_page_doubtful", callback | span(ids.CALLBACK) | {"disposition": "quarantined"}, "of a time"),
        _case("delivery_page", delivery | span(ids.DELIVERY), "of a time"),
        _case("delivery_page_failed", delivery | span(ids.DELIVERY) | {"status": "exhausted"}, "of a time"),
        _case("delivery_page_of_endpoint", delivery | span(ids.DELIVERY) | everything, "of a time"),
        _case("callback_page", callback),
        _case("callback_page_of_job", callback | job_id),
        _case("callback_page", callback | {"disposition": "stale"}, "stale, none", hot=False),
        _case("callback_page_doubtful", callback | {"disposition": "quarantined"}, "none"),
        _case("endpoint_page", page),
        _case("job_page", job | few_jobs | {"status": "failed"}, "failed, none, of a few"),
        _case("job_page_by_metadata", job | few_jobs | pair, "of a few"),
        _case("job_page", job | few_jobs | {"undelivered": 1}, "undelivered, of a few"),
        _case("job_page", job | few_jobs | {"result_undelivered": 1}, "with a result undelivered, of a few"),
        _case("job_page", job | few_jobs | {"copies": "failed"}, "with a copy that failed, of a few"),
        _case("callback_page", callback | few_callbacks | {"disposition": "stale"}, "stale, none, of a few"),
        _case("event_page", event | few_events | {"type": "job.failed"}, "of a type that is not there, of a few"),
        _case("event_page", event | few_events | {"undelivered": 1}, "undelivered, of a few"),
        _case("delivery_page", delivery | few_deliveries | {"status": "pending"}, "pending, of a few"),
        _case("delivery_page_of_endpoint", delivery | few_deliveries | everything | {"status": "canceled"}, "of a few"),
        *(
            Case(
                name,
                (page | {"endpoint_id": everything["endpoint_id"], "pair": "customer=7"},),
                rows_max=2 * pages.WINDOW,
            )
            for name in ("job_floor", "job_floor_by_pair", "callback_floor", "event_floor", "delivery_floor")
        ),
        Case("delivery_floor_of_endpoint", (page | everything,), rows_max=2 * pages.WINDOW),
        Case("event_floor_after", (event | after | {"end": 1 << 62},), rows_max=2 * pages.WINDOW),
    ]


def _search() -> list[Case]:
    """Return what a search reads."""
    found = {"project_id": DEFAULT_PROJECT, "limit": 50}

    def between(prefix: str) -> dict[str, Any]:
        return found | {"first": f"{prefix}0", "last": f"{prefix}{'z' * 26}"}

    return [
        _case("search_jobs_by_id", between(ids.JOB)),
        _case("search_jobs_by_provider_job_id", found | {"text": "task-7"}),
        _case("search_jobs_by_metadata", found | {"pairs": ["customer=7", "customer=8", "user=9"]}),
        _case("latest_metadata", found | {"limit": BATCH}),
        _case("search_events", between(ids.EVENT)),
        _case("search_deliveries", between(ids.DELIVERY)),
        _case("search_callbacks", between(ids.CALLBACK)),
        _case("search_endpoints_by_id", between(ids.ENDPOINT)),
        _case("search_endpoints_by_text", found | {"pattern": "%nothing%"}),
        _case("search_redeliveries", between(ids.REDELIVERY)),
    ]


def _of_one(of: Sample) -> list[Case]:
    """Return what one object is shown with, and the stream of events."""
    one = {"job_id": of.jobs[0]["id"], "limit": 500, "project_id": DEFAULT_PROJECT}
    place = {"position": of.events[0]["position"], "id": of.events[0]["id"], "type": None, "patience": of.now_ms}
    place |= {"horizon": 0, "window": pages.WINDOW}
    gone = {"id": an_id(ids.EVENT, of.now_ms - 90 * DAY_MS, 0), "window": pages.WINDOW}
    return [
        _case("callbacks_of_job", one),
        _case("reprocessings_of_job", one),
        _case("callback_bytes", {"ids": [row["id"] for row in of.jobs]}),
        _case("events_of_job", one),
        _case("calls_of_job", one),
        _case("deliveries_of_job", one),
        _case("attempts_of_deliveries", one | {"ids": [row["id"] for row in of.deliveries]}),
        Case("delivery_counts", ({"ids": [row["id"] for row in of.events]},), rows_max=40 * BATCH),
        Case("endpoints_reached", ({"ids": [row["id"] for row in of.events]},), rows_max=40 * BATCH),
        _case("events_following", one | place | {"limit": BATCH}),
        _case("event_place", one | place),
        Case("first_event_after", (one | gone,), rows_max=2 * pages.WINDOW),
        _case("latest_event", one | place),
        _case("pending_of_endpoint", {"endpoint_id": of.filled.endpoints[0], "by": of.now_ms}),
    ]


def _pruning(of: Sample) -> list[Case]:
    """Return what pruning asks in each of its batches."""
    old = {"before": of.now_ms - 20 * DAY_MS, "now": of.now_ms, "limit": BATCH, "nothing": b""}
    jobs = {"jobs": [row["id"] for row in of.jobs], "events": [row["id"] for row in of.events]}
    jobs |= {"projects": [DEFAULT_PROJECT], "callbacks": [row["id"] for row in of.callbacks]}
    looks = ("prunable_jobs", "prunable_events", "prunable_callbacks", "events_to_hold")
    writes = (
        "attempts_of_events",
        "deliveries_of_events",
        "events",
        "callbacks_of_jobs",
        "reprocessings_of_jobs",
        "calls_of_jobs",
    )
    more = ("endpoints_of_jobs", "requests_of_jobs", "jobs", "redeliveries", "endpoints", "tombstones")
    return [
        *(_case(name, old | jobs) for name in looks),
        Case("jobs_to_prune", (old | jobs,), rows_max=80 * BATCH),
        Case("events_to_prune", (old | jobs,), rows_max=80 * BATCH),
        _case("prune_callbacks", old | jobs, writes=True),
        *(Case(f"prune_{table}", (old | jobs,), writes=True, rows_max=80 * BATCH) for table in (*writes, *more)),
        _case("forget_headers_of_payments", old | jobs, writes=True),
    ]


def _by_hand(of: Sample) -> list[Case]:
    """Return what a person asks for."""
    today = {"project_id": DEFAULT_PROJECT, "since": of.now_ms, "first": an_id(ids.JOB, of.now_ms, 0)}
    batch = {
        "project_id": DEFAULT_PROJECT,
        "endpoint_id": of.filled.endpoints[0],
        "job_id": None,
        "since_at": of.events[0]["created_at"],
        "until_at": of.now_ms,
        "any_type": 1,
        "any_job_type": 0,
        "types": [],
        "providers": None,
        "which": "failed",
        "to_now": 0,
        "position": of.events[0]["position"],
        "after": "",
        "limit": EVENTS_READ_MAX,
        "horizon": 0,
    }
    counted = batch | {"first": of.events[0]["position"], "end": of.events[-1]["position"]}
    gone = {"id": of.filled.retry_endpoints[0], "now": of.now_ms}
    return [
        _case("costs_of_project", today),
        _case("costs_of_all", today),
        _case("costs_of_files", today),
        Case("count_events_to_redeliver", (counted,), "failed, of 64 events", rows_max=30 * BATCH),
        *(
            Case("events_to_redeliver", (batch | {"which": which},), which, rows_max=30 * EVENTS_READ_MAX)
            for which in ("failed", "missing", "undelivered", "all")
        ),
        _case("deliveries_of_events_to_endpoint", batch | {"ids": [row["id"] for row in of.events]}),
        _many("make_delivery_due", [row | {"now": 1, "leased_until": 1} for row in of.retries]),
        _case("hold_endpoint", gone, writes=True),
        _case("position_in_time", {"project_id": DEFAULT_PROJECT, "at": of.events[0]["created_at"]}),
        _case("cancel_deliveries_of_endpoint", gone, "its retries", hot=False, writes=True),
        _case("cancel_deliveries_of_endpoint", gone | {"id": of.filled.endpoints[0]}, "nothing waits", writes=True),
        _case("count_open_jobs", {"first": 0, "last": of.now_ms, "most": COUNTED_MAX}, hot=False),
        _case("overdue", {}),
        _case("count_prunable", {"before": of.now_ms - 29 * DAY_MS, "now": of.now_ms}, hot=False),
    ]


def _case(name: str, params: dict[str, Any], note: str = "", *, hot: bool = True, writes: bool = False) -> Case:
    """Return a statement that runs once."""
    return Case(name, (params,), note, hot, writes)


def _many(name: str, many: Sequence[dict[str, Any]]) -> Case:
    """Return a statement that runs for a batch."""
    return Case(name, tuple(many), f"{len(many)} at once", writes=True)
