"""How a database would run relay's hot statements: by which index, and whether it would read a big table whole."""

import json
import re
import sqlite3
from contextlib import closing
from typing import Any

import asyncpg
import msgspec

from relay.storage import statements
from relay.storage.postgres import SESSION, Statement

HOT = (
    "claim_deliveries",
    "parcels",
    "next_due_delivery",
    "settle_delivery",
    "insert_attempt",
    "release_deliveries",
    "jobs_by_id",
    "recorded_digests",
    "endpoints_listening",
    "update_job",
    "start_submission",
    "jobs_to_submit",
    "jobs_left_in_submission",
    "claim_checks",
    "next_checks",
    "jobs_past_deadline",
    "jobs_to_settle",
    "next_job_clock",
    "callbacks_of_job",
    "events_of_job",
    "deliveries_of_job",
    "attempts_of_deliveries",
    "job_of_project",
    "event_page",
    "delivery_page",
    "job_page",
    "delivery_counts",
    "events_following",
    "latest_event",
    "pending_of_endpoint",
    "prunable_jobs",
)
BIG = ("jobs", "events", "callbacks", "deliveries", "attempts")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


class Plan(msgspec.Struct, frozen=True):
    """One statement's plan: the indexes it uses, and the big tables it reads whole."""

    name: str
    indexes: tuple[str, ...]
    scanned: tuple[str, ...]


def sqlite_plans(path: str) -> list[Plan]:
    """The plans of the file as it is."""
    texts = statements.load()
    with closing(sqlite3.connect(path)) as connection:
        found = []
        for name in HOT:
            params = dict.fromkeys(_PARAMETER.findall(texts[name]))
            steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {texts[name]}", params)]
            indexes = [index for step in steps for index in re.findall(r"USING (?:COVERING )?INDEX (\w+)", step)]
            scanned = [table for step in steps for table in re.findall(r"^SCAN (\w+)(?! USING)", step)]
            whole = [step for step in steps if re.match(r"SCAN \w+ USING", step)]
            found.append(_plan(name, indexes, [*scanned, *(_scanned_by_index(step) for step in whole)]))
        return found


def _scanned_by_index(step: str) -> str:
    """A walk along a whole index is one over the table, unless it is ended by a LIMIT or is a partial one."""
    table, index = re.findall(r"SCAN (\w+) USING (?:COVERING )?INDEX (\w+)", step)[0]
    return "" if index in PARTIAL else table


PARTIAL = (
    "deliveries_due",
    "jobs_to_submit",
    "jobs_to_check",
    "jobs_to_settle",
    "jobs_open",
    "jobs_being_submitted",
    "payments_to_prove",
)
"""Indexes that hold only what there is to do; to read one of them whole is what it is for."""


async def postgres_plans(url: str) -> list[Plan]:
    """The generic plans, which are the ones that relay runs."""
    texts = statements.load()
    connection: Any = await asyncpg.connect(url, server_settings=SESSION)
    try:
        found = []
        for number, name in enumerate(HOT):
            statement = Statement(texts[name])
            await connection.execute(f"PREPARE p{number} AS {statement.text}")
            nothing = ", ".join(["NULL"] * len(statement.names))
            execute = f"EXECUTE p{number}" + (f"({nothing})" if nothing else "")
            told = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {execute}")
            nodes = list(_nodes(json.loads(told)[0]["Plan"]))
            indexes = [node["Index Name"] for node in nodes if "Index Name" in node]
            scanned = [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"]
            found.append(_plan(name, indexes, scanned))
        return found
    finally:
        await connection.close()


def _nodes(plan: dict[str, Any]) -> Any:
    """Every step of a plan."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _plan(name: str, indexes: list[str], scanned: list[str]) -> Plan:
    """Without what is small."""
    return Plan(name, tuple(dict.fromkeys(indexes)), tuple(sorted({table for table in scanned if table in BIG})))
