"""Results that lie behind their provider's API key: relay sends the key to that provider alone, whichever it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.archive.copier import Copied, Copier, CopyLimits
from relay.archive.folder import Folder
from relay.context import ConfiguredProvider
from relay.model.archive import CopyErrorCode
from relay.outbound.download import Downloader, DownloadFailed, ResultKey
from relay.outbound.resolver import Resolver
from relay.outbound.trust import Trust
from relay.providers import PROVIDERS
from relay.sandbox.contract import API_KEY
from relay.sandbox.faults import Faults
from relay.sandbox.world import RESULTS_PATH
from relay.security.url_policy import AddressPolicy
from relay.settings import parse_networks
from relay.storage.copies import CopyName, DueCopy
from tests.flow.test_archive import Archiving, archiving
from tests.support.quiescence import quiet
from tests.support.results import CLIP, Answer, Results, head, sent, whole
from tests.support.rows import rows
from tests.support.running import HeldClock

pytestmark = pytest.mark.anyio
KEY = "an-access-key:and-its-secret"
"""In the form of Kling's two keys; to all others it is one key with a colon."""
PATH = "/api/v1/videos/one/content"
NOW_MS = 1_795_000_000_000


class Scene:
    """Two servers, of which the first is the provider's configured one, and the copier under test."""

    def __init__(self, own: Results, other: Results, copier: Copier) -> None:
        self.own = own
        self.other = other
        self.copier = copier

    async def copied(
        self,
        name: str = "openrouter",
        *,
        url: str | None = None,
        needs_key: bool = True,
        api_key: str | None = KEY,
        key: str | None = None,
        bucket: str = "",
    ) -> Copied:
        """Return the copy of a result of a provider, at the provider's own server unless a URL is given."""
        provider = ConfiguredProvider(PROVIDERS[name], self.own.origin, api_key, now_ms=lambda: NOW_MS)
        copy = DueCopy(
            id="cpy_1", project_id="prj_default", job_id="job_1", number=0, provider=name, kind="video",
            url=url or self.own.origin + PATH, host="", needs_key=needs_key, expires_at=None, attempts_made=0,
            gone_seen=0, created_at=NOW_MS, held_until=None, supersedes=None, bucket=bucket,
            key=key, writes=0, writing=False, leased_until=NOW_MS,
        )  # fmt: skip
        return await self.copier.copy(copy, provider, _unnamed)


async def _unnamed(_: CopyName) -> bool:
    """Store no key of the bucket."""
    return True


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Yield the servers and the copier."""
    policy, limits = (
        AddressPolicy(parse_networks("127.0.0.0/8"), True),
        CopyLimits("{job}-{n}", ("video/*",), 10_000, 30, 1 << 30),
    )
    own, other = Results(), Results()
    async with own.served(), other.served(), Downloader(policy, Resolver(), Trust()) as downloader:
        yield Scene(own, other, Copier(downloader, Folder(tmp_path), limits, HeldClock()))


def authorization(request: str) -> str | None:
    """Return the Authorization header of a request, None without one."""
    lines = (line.partition(": ") for line in request.split("\r\n"))
    return next((value for name, _, value in lines if name.lower() == "authorization"), None)


def redirect(to: str) -> Answer:
    """Return a redirect."""
    return sent(head("302 Found", f"location: {to}", "content-length: 0"))


@pytest.mark.parametrize("name", sorted(PROVIDERS))
async def test_each_provider_gets_its_own_form_of_the_key(scene: Scene, name: str) -> None:
    """Send the header that the provider's other requests have, and none for a result that needs no key."""
    assert (await scene.copied(name)).size == len(CLIP)
    await scene.copied(name, needs_key=False)
    keyed, plain = map(authorization, scene.own.requests)
    assert keyed == PROVIDERS[name].authorization(KEY, NOW_MS // 1000)
    assert plain is None


async def test_what_was_written_before_is_not_downloaded_again(scene: Scene, tmp_path: Path) -> None:
    """Return what an earlier try has written, whole; download where that is nothing, or in another bucket."""
    first = await scene.copied()
    for bucket in ("", tmp_path.as_uri()):
        assert await scene.copied(key=first.key, bucket=bucket) == first
    assert len(scene.own.requests) == 1
    assert await scene.copied(key="nothing", bucket=tmp_path.as_uri()) == first
    assert (await scene.copied(key=first.key, bucket="file:///another")).sha256 == first.sha256
    assert len(scene.own.requests) == 3


async def test_the_key_does_not_leave_its_provider(scene: Scene) -> None:
    """Send no key to where the provider redirects, and to no URL at another server."""
    scene.own.answers = [redirect(f"{scene.other.origin}/signed")]
    assert (await scene.copied()).size == len(CLIP)
    assert (await scene.copied(url=f"{scene.other.origin}{PATH}")).size == len(CLIP)
    assert [authorization(request) is not None for request in scene.own.requests] == [True]
    assert [authorization(request) for request in scene.other.requests] == [None, None]


async def test_the_key_is_sent_again_where_a_redirect_stays_at_the_provider(scene: Scene) -> None:
    """Send the key to each URL at the provider's configured address."""
    scene.own.answers = [redirect("/files/one.mp4")]
    await scene.copied()
    assert scene.own.paths == [PATH, "/files/one.mp4"]
    assert None not in map(authorization, scene.own.requests)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_refused_key_is_no_result_that_is_gone(scene: Scene, status: str) -> None:
    """Say whether the key was refused, is not set, or was not sent because the result is somewhere else."""
    scene.own.answer = scene.other.answer = whole(b"no", status)
    cases: list[tuple[dict[str, Any], CopyErrorCode, str]] = [
        ({}, CopyErrorCode.KEY_REFUSED, "it refuses the API key"),
        ({"api_key": None}, CopyErrorCode.KEY_REFUSED, "none is set"),
        ({"url": f"{scene.other.origin}{PATH}"}, CopyErrorCode.KEY_REFUSED, "not at the provider's configured address"),
        ({"needs_key": False}, CopyErrorCode.GONE, f"answers HTTP {status[:3]}"),
    ]
    for given, code, reason in cases:
        with pytest.raises(DownloadFailed, match=reason) as failed:
            await scene.copied(**given)
        assert failed.value.code is code
        assert KEY not in str(failed.value)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_refusal_behind_a_redirect_says_nothing_of_the_key(scene: Scene, status: str) -> None:
    """Read a refusal of where the provider redirects as that of any result: the provider itself took the key."""
    scene.own.answers = [redirect(f"{scene.other.origin}/signed")]
    scene.other.answer = whole(b"expired", status)
    with pytest.raises(DownloadFailed, match=f"answers HTTP {status[:3]}$") as failed:
        await scene.copied()
    assert failed.value.code is CopyErrorCode.GONE


@pytest.mark.parametrize("status", ["400 Bad Request", "402 Payment Required", "404 Not Found"])
async def test_other_refusals_say_nothing_of_the_key(scene: Scene, status: str) -> None:
    """Read other client errors as those of any result."""
    scene.own.answer = whole(b"no", status)
    with pytest.raises(DownloadFailed) as failed:
        await scene.copied()
    assert failed.value.code is CopyErrorCode.GONE


@rows(
    ("url", "sent_to"),
    [
        *(("https://api.example/a", True), ("https://api.example/", True), ("https://api.example//evil.example", True)),
        *(("https://api.example.evil.example/a", False), ("https://api.example:443/a", False)),
        *(("https://api.example@evil.example/a", False), ("https://api.example:pw@evil.example/a", False)),
        *(("http://api.example/a", False), ("https://api.example", False), ("https://api.example?/a", False)),
    ],
)
def test_a_url_is_at_the_provider_or_not(url: str, sent_to: bool) -> None:
    """Compare scheme, host and port exactly: what looks like the provider's address does not get the key."""
    assert (ResultKey("https://api.example", "Bearer x").header(url) is not None) is sent_to
    assert ResultKey("https://api.example", None).header(url) is None


@rows(("path", "sent_to"), [("/v1/a", True), ("/v1x/a", False), ("/a", False)])
def test_the_configured_address_may_have_a_path(path: str, sent_to: bool) -> None:
    """Send the key below the path of a configured address alone."""
    assert (ResultKey("https://proxy.example/v1", "x").header(f"https://proxy.example{path}") is not None) is sent_to


@asynccontextmanager
async def keyed(folder: Path) -> AsyncIterator[tuple[Archiving, dict[str, Any]]]:
    """Yield a relay with an archive, and a job whose result needs the key and is not at the provider's address."""
    async with archiving(folder) as archive:
        archive.results.answer = whole(b"no", "401 Unauthorized")
        archive.results.origin += RESULTS_PATH  # the stand-in links to its own route there
        archive.running.world.next_faults.append(Faults(version="unsigned"))
        yield archive, await archive.succeeded("openrouter")


@pytest.mark.both_databases
async def test_a_copy_that_the_key_does_not_open_fails_as_that(tmp_path: Path) -> None:
    """Try four times, fail as `key_refused`, never show the key, and offer no URL to a client."""
    async with keyed(tmp_path) as (archive, job):
        assert job["outputs"][0]["needs_key"] is True
        for _ in range(3):
            assert (await archive.job(job))["outputs"][0]["archive"]["state"] == "pending"
            await archive.advance(60)
        assert (await archive.job(job))["outputs"][0]["archive"]["error"] == "key_refused"
        assert len(archive.results.requests) == 4
        shown = await archive.client.get(f"/v1/jobs/{job['id']}/copies")
        assert "not at the provider's configured address" in shown.json()["data"][0]["error_detail"]
        assert API_KEY not in shown.text + "".join(archive.results.requests)
        answer = await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")
        assert (answer.status_code, "shows it to relay alone" in answer.json()["detail"]) == (404, True)


@pytest.mark.both_databases
async def test_the_key_opens_what_it_did_not_open_before(tmp_path: Path) -> None:
    """Download the copy of a result that only relay's key opens, once it was copied, without that key."""
    async with keyed(tmp_path) as (archive, job):
        archive.results.answer = whole()
        assert (await archive.client.post(f"/v1/jobs/{job['id']}/copies")).status_code == 202
        await quiet()
        assert (await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")).content == CLIP
