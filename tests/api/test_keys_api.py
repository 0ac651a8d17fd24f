"""API keys and projects over HTTP: what an admin key may manage, and what is shown once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay import __version__
from relay.storage import projects
from tests.support.running import INPUT, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, RELAY_ENV="staging") as started:
        yield started


def bearer(text: str) -> dict[str, str]:
    """Return the header that authorizes a request."""
    return {"authorization": f"Bearer {text}"}


async def make(running: Running, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a key that relay made."""
    answer = await running.client.post("/v1/keys", json=fields, headers=headers or {})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return an error's status and code."""
    return answer.status_code, answer.json()["code"]


async def test_whoami_says_who_asks(running: Running) -> None:
    """Show key, scopes, project, environment and version to every valid key, whatever its scopes."""
    made = await make(running, name="reports", scopes=["submit"])
    shown = (await running.client.get("/v1/whoami", headers=bearer(made["key"]))).json()
    assert shown["key"] == {
        "id": made["id"],
        "name": "reports",
        "scopes": ["submit"],
        "created_at": made["created_at"],
    }
    assert (shown["environment"], shown["version"], shown["operator"]) == ("staging", __version__, False)
    assert shown["project"] == (await running.get("/v1/projects"))["data"][0]
    setting = await running.get("/v1/whoami")
    assert setting["key"] == {"id": "RELAY_API_KEY", "name": "RELAY_API_KEY", "scopes": ["admin"], "created_at": None}
    assert setting["operator"] is True
    async with http_client(running.origin, None) as nobody:
        assert refusal(await nobody.get("/v1/whoami")) == (401, "unauthorized")


async def test_a_key_is_made_listed_used_and_revoked(running: Running) -> None:
    """Show the text once, let the key do what its scopes say, and refuse it after its revocation."""
    made = await make(running, name="ci", scopes=["read", "submit", "read"])
    assert made["scopes"] == ["submit", "read"]
    text = made.pop("key")
    listed = (await running.get("/v1/keys"))["data"]
    assert listed == [made]
    assert text not in str(listed)
    assert (await running.client.get("/v1/jobs", headers=bearer(text))).status_code == 200
    assert refusal(await running.client.get("/v1/keys", headers=bearer(text))) == (403, "forbidden")
    revoked = (await running.client.post(f"/v1/keys/{made['id']}/revocations")).json()
    assert revoked["revoked_at"] is not None
    assert refusal(await running.client.get("/v1/jobs", headers=bearer(text))) == (401, "unauthorized")
    again = (await running.client.post(f"/v1/keys/{made['id']}/revocations")).json()
    assert again == revoked
    assert (await running.get("/v1/keys?live=true"))["data"] == []
    assert (await running.get("/v1/keys?live=false"))["data"] == [revoked]
    assert refusal(await running.client.get("/v1/keys?live=maybe")) == (422, "invalid_input")


async def test_a_key_without_fields_may_submit_and_read(running: Running) -> None:
    """Give a key the scopes of `relay keys create` if none are given, and refuse an empty or unknown list."""
    assert (await make(running))["scopes"] == ["submit", "read"]
    wrong: tuple[dict[str, Any], ...] = ({"scopes": []}, {"scopes": ["root"]}, {"name": "x" * 101}, {"scope": ["read"]})
    for fields in wrong:
        assert refusal(await running.client.post("/v1/keys", json=fields)) == (422, "invalid_input")
    assert (await make(running, name="x" * 100))["name"] == "x" * 100


async def test_a_key_cannot_revoke_itself(running: Running) -> None:
    """Refuse what would lock the client out, and let another key do it."""
    made = await make(running, scopes=["admin"])
    path = f"/v1/keys/{made['id']}/revocations"
    assert refusal(await running.client.post(path, headers=bearer(made["key"]))) == (409, "conflict")
    assert (await running.client.post(path)).status_code == 200


async def test_an_admin_key_manages_its_own_project_only(running: Running) -> None:
    """Show another project's keys to an operator, and answer 404 to any other admin key."""
    assert (await running.client.post("/v1/projects", json={"name": "films"})).status_code == 201
    films = await make(running, project="films", scopes=["admin"])
    mine = await make(running, scopes=["admin"])
    as_films = bearer(films["key"])
    assert films["project"] != mine["project"]
    own = await make(running, as_films, project="films")
    assert own["project"] == films["project"]
    assert [one["id"] for one in (await running.get("/v1/keys?project=films"))["data"]] == [own["id"], films["id"]]
    assert refusal(await running.client.get("/v1/keys?project=default", headers=as_films)) == (404, "not_found")
    elsewhere = await running.client.post("/v1/keys", json={"project": "default"}, headers=as_films)
    assert refusal(elsewhere) == (404, "not_found")
    foreign = await running.client.post(f"/v1/keys/{mine['id']}/revocations", headers=as_films)
    assert refusal(foreign) == (404, "not_found")
    assert (await running.client.get("/v1/jobs", headers=bearer(mine["key"]))).status_code == 200
    assert (await running.client.post(f"/v1/keys/{films['id']}/revocations")).status_code == 200


async def test_projects_are_made_by_an_operator_and_have_a_signing_key(running: Running) -> None:
    """Make a project once, with the key that signs its notifications; show all to an operator and its own to others."""
    made = (await running.client.post("/v1/projects", json={"name": "films"})).json()
    assert refusal(await running.client.post("/v1/projects", json={"name": "films"})) == (409, "conflict")
    published = await running.client.get(f"/.well-known/webhook-keys?project={made['id']}")
    assert len(published.json()["keys"]) == 1
    key = await make(running, project=made["id"], scopes=["admin"])
    as_films = bearer(key["key"])
    assert refusal(await running.client.post("/v1/projects", json={"name": "x"}, headers=as_films)) == (
        403,
        "forbidden",
    )
    (own,) = (await running.client.get("/v1/projects", headers=as_films)).json()["data"]
    assert own == made | {"keys_live": 1}
    assert [one["name"] for one in (await running.get("/v1/projects"))["data"]] == ["default", "films"]
    for name in ("", " films", "prj_films", "x" * 101, 5):
        assert refusal(await running.client.post("/v1/projects", json={"name": name})) == (422, "invalid_input")
    job = await running.client.post("/v1/jobs", json={"provider": "evolink", "input": INPUT}, headers=as_films)
    assert job.status_code == 202


async def test_a_repeated_request_makes_one_key(running: Running) -> None:
    """Answer with the same text under the same Idempotency-Key, and store it encrypted."""
    answers = [
        await running.client.post("/v1/keys", json={"name": "once"}, headers={"idempotency-key": "k"}) for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert len((await running.get("/v1/keys"))["data"]) == 1
    twice = [
        await running.client.post("/v1/projects", json={"name": "films"}, headers={"idempotency-key": "p"})
        for _ in range(2)
    ]
    assert twice[0].json() == twice[1].json()


async def test_a_project_has_a_limit_of_live_keys(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make as many keys as KEYS_MAX, refuse one more, and allow it after a revocation."""
    assert projects.KEYS_MAX == 1_000
    monkeypatch.setattr(projects, "KEYS_MAX", 3)
    made = [await make(running, name=str(number)) for number in range(3)]
    assert refusal(await running.client.post("/v1/keys", json={})) == (409, "conflict")
    await running.client.post(f"/v1/keys/{made[0]['id']}/revocations")
    await make(running)


async def test_keys_and_projects_are_paged(running: Running) -> None:
    """List every key and project once, newest first, however small the pages are."""
    for number in range(5):
        await make(running, name=str(number))
        await running.client.post("/v1/projects", json={"name": f"project {number}"})
    for kind, expected in (("keys", 5), ("projects", 6)):
        seen, cursor = [], ""
        while True:
            page = await running.get(f"/v1/{kind}?limit=2{cursor}")
            seen += [one["id"] for one in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert len(seen) == len(set(seen)) == expected
        assert kind == "projects" or seen == sorted(seen, reverse=True)
