"""The audit: who changed what, when, from where; nothing is changed without an entry, and no entry holds a secret."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.clock import rfc3339
from relay.errors import StorageUnavailable
from relay.storage import audit
from relay.storage.audit import DETAIL_MAX_CHARS, REFUSALS_MAX, AuditEntry, Via, cut
from relay.web.api.audited import TARGET_MAX_CHARS
from relay.web.routes import API
from tests.support.browsing import browser
from tests.support.running import KEY, START_MS, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
DAY_S = 86_400


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, RELAY_CLIENT_IP="xff:1") as started:
        yield started


async def key(running: Running, project: str, *scopes: str, name: str = "") -> tuple[str, dict[str, str]]:
    """Return the id of a new key and its Authorization header."""
    created = await running.app.store.access.create_api_key(project, name, scopes, 1)
    return created.id, {"authorization": f"Bearer {created.text}"}


async def entries(running: Running, query: str = "", headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Return the entries that the audit shows, newest first."""
    answer = await running.client.get(f"/v1/audit{query}", headers=headers or {})
    assert answer.status_code == 200, answer.text
    shown: list[dict[str, Any]] = answer.json()["data"]
    return shown


async def test_a_change_is_in_the_audit_with_who_when_what_and_from_where(running: Running) -> None:
    """Show key, name, time, verb, target, fields, client, program, request id and status of a change."""
    key_id, headers = await key(running, "default", "admin", name="night shift")
    more = {"x-forwarded-for": "203.0.113.7", "relay-via": "cli", "x-request-id": "request-of-the-test"}
    body = {"url": running.hook, "event_types": ["job.*"], "headers": {"x-key": "very-secret-value"}}
    made = (await running.client.post("/v1/endpoints", json=body, headers=headers | more)).json()
    (entry,) = await entries(running)
    assert entry.pop("id").startswith("aud_")
    assert entry == {
        "at": rfc3339(START_MS),
        "object": "audit_entry",
        "project": "prj_default",
        "key": key_id,
        "key_name": "night shift",
        "via": "cli",
        "address": "203.0.113.7",
        "request_id": "request-of-the-test",
        "verb": "endpoints.create",
        "target": made["id"],
        "detail": 'url, event_types=["job.*"], headers',
        "status": 201,
        "code": None,
    }


async def test_each_changing_route_is_in_the_audit_but_submissions_and_quotes(running: Running) -> None:
    """Refuse every route to a key without scopes, and have an entry for each that changes something."""
    _, headers = await key(running, "default")
    for route in API:
        path = route.path.replace("{id}", "nothing").replace("{redelivery}", "nothing")
        await running.client.request(route.method, path, headers=headers)
    expected = {route.verb for route in API if route.in_audit}
    assert {entry["verb"] for entry in await entries(running, "?limit=200")} == expected
    quiet = {(route.method, route.path) for route in API if route.method != "GET" and not route.in_audit}
    assert {("POST", "/v1/jobs"), ("POST", "/v1/quotes")} <= quiet
    assert "endpoints.show_secret" in expected


async def test_a_refusal_says_why(running: Running) -> None:
    """Record 403, 404, 409 and 422 with their code, beside what was done."""
    job = await running.submit()
    for path, body in (
        ("cancellations", {}),
        ("cancellations", {}),
        ("failures", {"reason": ""}),
        ("failures", {"reason": "the provider says so"}),
    ):
        await running.client.post(f"/v1/jobs/{job['id']}/{path}", json=body)
    await running.client.post("/v1/jobs/job_nothing/failures", json={"reason": "gone"})
    _, weak = await key(running, "default", "read")
    await running.client.post(f"/v1/jobs/{job['id']}/status-checks", headers=weak)
    shown = [(entry["verb"], entry["status"], entry["code"]) for entry in reversed(await entries(running))]
    assert shown == [
        ("jobs.cancel", 200, None),
        ("jobs.cancel", 409, "conflict"),
        ("jobs.fail", 422, "invalid_input"),
        ("jobs.fail", 409, "conflict"),
        ("jobs.fail", 404, "not_found"),
        ("jobs.check", 403, "forbidden"),
    ]
    assert (await entries(running, "?verb=jobs.fail&limit=1"))[0]["detail"] == "reason=gone"


async def test_refusals_of_one_key_are_recorded_up_to_a_number_a_minute(tmp_path: Path) -> None:
    """Record REFUSALS_MAX refusals of a key in a minute, and others again in the next one, and those of another key."""
    async with relay(tmp_path, clock=(clock := HeldClock())) as running:
        _, weak = await key(running, "default", "read")
        other_id, other = await key(running, "default", "read")
        for _ in range(REFUSALS_MAX + 3):
            await running.client.post("/v1/projects", json={}, headers=weak)
        assert len(await entries(running, "?limit=200")) == REFUSALS_MAX
        await running.client.post("/v1/projects", json={}, headers=other)
        assert len(await entries(running, f"?limit=200&key={other_id}")) == 1
        await clock.advance(60)
        await running.client.post("/v1/projects", json={}, headers=weak)
        assert len(await entries(running, "?limit=200")) == REFUSALS_MAX + 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/projects", {"name": ""}, 422),
        ("/v1/keys/key_1/revocations", {}, 404),
        ("/v1/endpoints", {"url": "javascript:alert(1)"}, 422),
    ],
)
async def test_any_refusals_of_a_key_are_kept_up_to_a_number_a_minute(
    tmp_path: Path, path: str, body: dict[str, Any], status: int
) -> None:
    """Keep REFUSALS_MAX entries of verbs that were refused in a minute, whatever refused them, and every change."""
    async with relay(tmp_path, clock=(clock := HeldClock())) as running:
        for _ in range(REFUSALS_MAX + 3):
            assert (await running.client.post(path, json=body)).status_code == status
        found = await entries(running, "?limit=200")
        assert [entry["status"] for entry in found] == [status] * REFUSALS_MAX
        for number in range(2):
            assert (await running.client.post("/v1/projects", json={"name": f"films-{number}"})).status_code == 201
        assert [entry["status"] for entry in (await entries(running))[:2]] == [201, 201]
        await clock.advance(60)
        assert (await running.client.post(path, json=body)).status_code == status
        assert [entry["status"] for entry in (await entries(running))[:2]] == [status, 201]


async def test_a_repetition_does_nothing_and_leaves_no_entry(running: Running) -> None:
    """Have one entry for two requests with the same Idempotency-Key."""
    headers = {"idempotency-key": "the same"}
    assert (await running.client.post("/v1/endpoints", json={"url": running.hook}, headers=headers)).is_success
    repeated = await running.client.post("/v1/endpoints", json={"url": running.hook}, headers=headers)
    assert repeated.headers["idempotent-replayed"] == "true"
    assert len(await entries(running)) == 1


async def test_nothing_is_changed_that_cannot_be_recorded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer 503 and change nothing if the entry cannot be stored."""

    async def away(entry: AuditEntry) -> None:
        raise StorageUnavailable(f"the database does not take {entry.verb}")

    with monkeypatch.context() as patched:
        patched.setattr(running.app.store.audit, "record", away)
        assert (await running.client.post("/v1/endpoints", json={"url": running.hook})).status_code == 503
    assert (await running.get("/v1/endpoints"))["data"] == []


async def test_what_is_done_is_answered_though_its_end_cannot_be_recorded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answer what was done, and leave the entry open, if the database goes away in between."""

    async def away(entry: AuditEntry) -> None:
        raise StorageUnavailable(f"the database does not take {entry.verb}")

    monkeypatch.setattr(running.app.store.audit, "end", away)
    assert (await running.client.post("/v1/endpoints", json={"url": running.hook})).status_code == 201
    assert [entry["status"] for entry in await entries(running)] == [None]


async def test_characters_that_a_database_refuses_are_replaced(running: Running) -> None:
    """Record a change, and a refusal, whose path or fields hold U+0000 or a lone surrogate, as any other."""
    _, weak = await key(running, "default", "read")
    job = await running.submit()
    assert (await running.client.post("/v1/jobs/job_%00/failures", headers=weak)).status_code == 403
    for reason in (b'{"reason": "a\\u0000b"}', b'{"reason": "a\\ud800b"}', b'{"rea\\u0000son": "a"}'):
        answer = await running.client.post(f"/v1/jobs/{job['id']}/failures", content=reason)
        assert answer.status_code in (400, 422), answer.text
    targets = {entry["target"] for entry in await entries(running)}
    assert "job_\ufffd" in targets


async def test_a_verb_that_a_stop_cuts_off_stays_without_a_status(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Store the entry before the verb runs; a verb that never answers leaves it with neither status nor code."""
    job = await running.submit()
    begun = asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(running.app.interventions, "cancel", hang)
    request = asyncio.create_task(running.client.post(f"/v1/jobs/{job['id']}/cancellations"))
    await begun.wait()
    (entry,) = await entries(running)
    assert (entry["verb"], entry["status"], entry["code"]) == ("jobs.cancel", None, None)
    request.cancel()


async def test_a_project_sees_its_own_audit_and_an_operator_every_one(running: Running) -> None:
    """Keep a project's entries from another's admin key; let an operator name the project by its name or id."""
    films_id, films = await key(running, "films", "admin")
    await running.client.post("/v1/endpoints", json={"url": running.hook}, headers=films)
    assert await entries(running) == []
    (seen,) = await entries(running, headers=films)
    assert seen["key"] == films_id
    project = (await running.client.get("/v1/whoami", headers=films)).json()["project"]["id"]
    for given in ("films", project):
        assert await entries(running, f"?project={given}") == [seen]
        assert (await running.client.get(f"/v1/audit?project={given}", headers=films)).status_code == 200
    for given in ("default", "prj_default", "nothing"):
        assert (await running.client.get(f"/v1/audit?project={given}", headers=films)).status_code == 404


async def test_the_audit_is_filtered_and_paged(tmp_path: Path) -> None:
    """Filter by key, verb, target, program and time, and list every entry once, newest first."""
    async with relay(tmp_path) as running:
        for number in range(7):
            verb = "keys.create" if number % 2 else "keys.revoke"
            entry = AuditEntry(
                project_id="prj_default", at=START_MS, via=Via.DATABASE, verb=verb, target=f"key_{number % 3}"
            )
            await running.app.store.audit.record(entry)
        every = [entry["id"] for entry in await entries(running)]
        assert every == sorted(every, reverse=True)
        assert len(every) == 7
        paged, cursor = [], ""
        while True:
            page = await running.get(f"/v1/audit?limit=2{cursor}")
            paged += [entry["id"] for entry in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert paged == every
        assert len(await entries(running, "?verb=keys.create")) == 3
        assert len(await entries(running, "?target=key_0")) == 3
        assert len(await entries(running, "?via=database&verb=keys.revoke&target=key_0")) == 2
        assert await entries(running, "?via=cli") == []
        assert await entries(running, "?key=key_0") == []
        assert len(await entries(running, "?created_after=-1h")) == 7
        assert await entries(running, "?created_before=-1h") == []


async def test_old_entries_are_deleted_after_their_retention(tmp_path: Path) -> None:
    """Keep an entry for RELAY_AUDIT_RETENTION_DAYS and not a sweep longer."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_AUDIT_RETENTION_DAYS="5") as running:
        await running.client.post("/v1/endpoints", json={"url": running.hook})
        await clock.advance(5 * DAY_S)
        assert len(await entries(running)) == 1
        await clock.advance(3600)
        assert await entries(running) == []


def test_a_detail_is_cut_to_its_limit() -> None:
    """Keep DETAIL_MAX_CHARS characters and cut one more."""
    assert cut("x" * DETAIL_MAX_CHARS) == "x" * DETAIL_MAX_CHARS
    assert cut("x" * (DETAIL_MAX_CHARS + 1)) == "x" * (DETAIL_MAX_CHARS - 1) + "…"


async def test_no_secret_is_in_the_audit(running: Running) -> None:
    """Show no header, secret, key or callback token that a client sends, in a field that is shown by its name too."""
    secret = "whsec_" + "A" * 43 + "="
    await running.submit()
    token = running.callback_url().rpartition("/")[2]
    for body in (
        {"url": running.hook + "?password=hunter2", "headers": {"x-key": "very-secret-value"}, "secret": secret},
        {"reason": f"see /callbacks/evolink/{token} and {KEY}"},
        {"status": {"nested": secret}, KEY: 1, "hunter2": 1, secret: 1},
    ):
        await running.client.post("/v1/endpoints", json=body)
    shown = json.dumps(await entries(running))
    for hidden in (secret, token, KEY, "hunter2", "very-secret-value"):
        assert hidden
        assert hidden not in shown


async def test_no_key_is_in_the_audit_where_an_id_or_a_reason_is_expected(running: Running) -> None:
    """Show neither the text of a key that was taken for its id, nor one that a reason names."""
    made = await running.client.post("/v1/keys", json={"scopes": ["read"]})
    job = await running.submit()
    for text in (made.json()["key"], KEY):
        await running.client.post(f"/v1/keys/{text}/revocations")
        await running.client.post(f"/v1/jobs/{job['id']}/failures", json={"reason": f"asked by {text}"})
        assert text not in json.dumps(await entries(running))
    assert [entry["verb"] for entry in (await entries(running))[:4]] == ["jobs.fail", "keys.revoke"] * 2


async def test_the_dashboards_sign_ins_and_verbs_are_in_the_audit(running: Running) -> None:
    """Record a sign-in, a verb and a sign-out of the dashboard with the key of the session."""
    key_id, headers = await key(running, "default", "admin", name="ops")
    job = await running.submit()
    async with browser(running, headers["authorization"].partition(" ")[2]) as reader:
        page = await reader.get(f"/jobs/{job['id']}")
        after = await reader.send(page, f"/jobs/{job['id']}/cancellations")
        await reader.send(after, "/signout")
    shown = [(entry["verb"], entry["via"], entry["key"], entry["target"]) for entry in reversed(await entries(running))]
    assert shown == [
        ("dashboard.sign_in", "dashboard", key_id, None),
        ("jobs.cancel", "dashboard", key_id, job["id"]),
        ("dashboard.sign_out", "dashboard", key_id, None),
    ]


async def test_old_entries_are_deleted_in_batches(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete FORGET_MAX entries by one statement, the oldest first."""
    assert audit.FORGET_MAX == 1_000
    monkeypatch.setattr(audit, "FORGET_MAX", 2)
    store = running.app.store.audit
    for number in (3, 1, 2):
        entry = AuditEntry(project_id="prj_default", at=START_MS + number, via=Via.API, verb=f"verb.{number}")
        await store.record(entry)
    await store.forget(START_MS + 4)
    assert [entry["verb"] for entry in await entries(running)] == ["verb.3"]
    await store.forget(START_MS + 4)
    assert await entries(running) == []


async def test_a_path_is_kept_up_to_its_limit(running: Running) -> None:
    """Keep TARGET_MAX_CHARS characters of what a client writes in the place of an id."""
    assert TARGET_MAX_CHARS == 64
    for length in (64, 65):
        await running.client.post(f"/v1/jobs/{'x' * length}/failures", json={"reason": "gone"})
    assert [entry["target"] for entry in await entries(running)] == ["x" * 64] * 2
