"""The dashboard's frame: sessions, forms, refusals, headers, and that pages read and act through the API alone."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.errors import StorageUnavailable
from relay.security.signed_cookies import SignedCookies
from relay.web.dashboard.session import (
    AGE_MAX_MS,
    FAILED_MAX,
    FAILED_WITHIN_MS,
    IDLE_MAX_MS,
    RENEWED_AFTER_MS,
    Session,
)
from tests.support.browsing import browser
from tests.support.running import KEY, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that the test advances."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=clock) as started:
        yield started


async def new_key(running: Running, *scopes: str, project: str = "default") -> tuple[str, str]:
    """Return the id and the text of a new key."""
    made = await running.app.store.access.create_api_key(project, "a key", scopes, running.clock.now_ms())
    return made.id, made.text


async def test_the_first_requests_find_every_page(running: Running) -> None:
    """Answer requests that come together as the first, and name every method of a page, as later ones are answered."""
    answers = await asyncio.gather(*(running.client.get(path) for path in ("/signin", "/jobs", "/nothing") * 5))
    assert [answer.status_code for answer in answers] == [200, 303, 404] * 5
    refused = await running.client.delete("/signin")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_the_first_request_may_be_one_that_a_page_refuses(running: Running) -> None:
    """Refuse a page's wrong method as the first request of all."""
    refused = await running.client.delete("/jobs")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_a_page_asks_for_a_sign_in_and_shows_itself_after_it(running: Running) -> None:
    """Send a browser without a session to the sign-in, and after it to the page that it asked for."""
    async with browser(running, None) as reader:
        asked = await reader.client.get("/jobs?status=failed")
        assert (asked.status_code, asked.headers["location"]) == (303, "/signin?next=%2Fjobs%3Fstatus%3Dfailed")
        after = await reader.client.post("/signin", data={"key": KEY, "next": "/jobs?status=failed"})
        assert (after.status_code, after.headers["location"]) == (303, "/jobs?status=failed")
        page = await reader.get("/jobs?status=failed")
        assert page.status == 200
        assert "No job matches" in page.text


@pytest.mark.parametrize(
    "next_",
    [
        *("//evil.example/jobs", "https://evil.example/jobs", "/nothing", "/v1/jobs", "\\/x"),
        *("/\t/evil.example/jobs", "/\r\n/evil.example/jobs", "//[", "/\t/[", "https://["),
    ],
)
async def test_a_sign_in_leads_to_pages_of_the_dashboard_alone(running: Running, next_: str) -> None:
    """Ignore a way back that is no page of this dashboard."""
    async with browser(running, None) as reader:
        after = await reader.client.post("/signin", data={"key": KEY, "next": next_})
        assert re.fullmatch(r"/(jobs)?", after.headers["location"])
        again = await reader.client.get("/signin", params={"next": next_})
        assert re.fullmatch(r"/(jobs)?", again.headers["location"])


async def test_the_cookie_holds_no_key_and_is_for_this_host_alone(running: Running) -> None:
    """Set a cookie that no script reads and no other site sends; the key is neither in it nor on a page."""
    async with browser(running, None) as reader:
        answer = await reader.client.post("/signin", data={"key": KEY, "next": ""})
        cookie = answer.headers["set-cookie"]
        assert re.fullmatch(r"relay-session=\S+; HttpOnly; Path=/; SameSite=lax", cookie)
        assert KEY not in cookie
        assert KEY not in (await reader.get("/jobs")).html


@pytest.mark.parametrize("header", [{"x-forwarded-proto": "https"}])
async def test_the_cookie_is_secure_behind_https(running: Running, header: dict[str, str]) -> None:
    """Mark the cookie Secure, with the prefix that browsers hold to it, when the browser came over HTTPS."""
    async with browser(running, None) as reader:
        answer = await reader.client.post("/signin", data={"key": KEY, "next": ""}, headers=header)
        assert answer.headers["set-cookie"].startswith("__Host-relay-session=")
        assert "; Secure" in answer.headers["set-cookie"]


async def test_a_wrong_key_starts_no_session(running: Running) -> None:
    """Answer 401 with the reason on the sign-in page to an unknown key, an empty one, and one that is too long."""
    for key in ("wrong", "", "x" * 600):
        async with browser(running, None) as reader:
            page = await reader.sign_in(key)
            assert (page.status, "not known here" in page.text) == (401, True)
            assert "set-cookie" not in page.response.headers


async def test_a_key_without_the_scope_read_starts_no_session(running: Running) -> None:
    """Answer 403 to a key that may only submit."""
    _, text = await new_key(running, "submit")
    async with browser(running, None) as reader:
        assert (await reader.sign_in(text)).status == 403


async def test_a_revoked_key_ends_its_sessions(running: Running) -> None:
    """Sign a browser out with the first request after its key was revoked."""
    key_id, text = await new_key(running, "read")
    async with browser(running, text) as reader:
        assert (await reader.get("/jobs")).path == "/jobs"
        await running.app.store.access.revoke_api_key(key_id, running.clock.now_ms())
        assert (await reader.get("/jobs")).path.startswith("/signin")


async def test_another_value_of_the_settings_key_ends_its_sessions(tmp_path: Path) -> None:
    """Sign out what signed in with the former RELAY_API_KEY."""
    async with relay(tmp_path) as running, browser(running) as reader:
        cookies = dict(reader.client.cookies)
        assert (await reader.get("/jobs")).path == "/jobs"
    other = relay(tmp_path, RELAY_API_KEY="another-admin-key-for-the-tests")
    async with other as running, browser(running, None) as reader:
        reader.client.cookies.update(cookies)
        assert (await reader.get("/jobs")).path.startswith("/signin")


@pytest.mark.parametrize(("limit_ms", "every_ms"), [(IDLE_MAX_MS, IDLE_MAX_MS), (AGE_MAX_MS, IDLE_MAX_MS - 1)])
async def test_a_session_ends_at_its_limits(running: Running, clock: HeldClock, limit_ms: int, every_ms: int) -> None:
    """End a session that was idle for two hours, or began twelve hours ago; not a millisecond before."""
    async with browser(running) as reader:
        left_ms = limit_ms - 1
        while left_ms > 0:
            step_ms = min(left_ms, every_ms)
            await clock.advance(step_ms / 1000)
            left_ms -= step_ms
            if left_ms:
                assert (await reader.get("/jobs")).path == "/jobs"
        cookies = dict(reader.client.cookies)
        assert (await reader.get("/jobs")).path == "/jobs"
        reader.client.cookies.clear()
        reader.client.cookies.update(cookies)
        await clock.advance(0.001)
        assert (await reader.get("/jobs")).path.startswith("/signin")


async def test_a_cookie_is_renewed_once_a_minute(running: Running, clock: HeldClock) -> None:
    """Renew the cookie with the first request a minute after its last renewal."""
    async with browser(running) as reader:
        await clock.advance((RENEWED_AFTER_MS - 1) / 1000)
        assert "set-cookie" not in (await reader.get("/jobs")).response.headers
        await clock.advance(0.001)
        assert "relay-session" in (await reader.get("/jobs")).response.headers["set-cookie"]


async def test_failed_sign_ins_of_an_address_are_limited(running: Running, clock: HeldClock) -> None:
    """Answer 429 after ten failures within five minutes, also to the right key; successes do not count."""
    async with browser(running, None) as reader:
        assert (await reader.sign_in(KEY)).status == 200
        for _ in range(FAILED_MAX):
            assert (await reader.sign_in("wrong")).status == 401
        refused = await reader.sign_in(KEY)
        assert (refused.status, refused.response.headers["retry-after"]) == (429, "300")
        await clock.advance((FAILED_WITHIN_MS - 1) / 1000)
        assert (await reader.sign_in(KEY)).status == 429
        await clock.advance(0.001)
        assert (await reader.sign_in(KEY)).status == 200


async def test_a_forged_or_foreign_cookie_is_none(running: Running) -> None:
    """Accept a cookie of this environment and purpose alone."""
    now_ms = running.clock.now_ms()
    session = Session(key_id="RELAY_API_KEY", project_id="prj_default", began_at=now_ms, seen_at=now_ms, csrf="c")
    ours = running.app.cookies
    forged = [
        "nonsense",
        ours.make("note", session),
        SignedCookies(["another-key-that-is-long-enough"], "default").make("session", session),
        ours.make("session", session),  # without the mark of the setting's key
        ours.make("session", session) + "x" * 4000,
    ]
    for cookie in forged:
        async with browser(running, None) as reader:
            reader.client.cookies.set("relay-session", cookie)
            assert (await reader.get("/jobs")).path.startswith("/signin")


async def test_signing_out_ends_the_session_and_needs_its_form(running: Running) -> None:
    """End a session by its own form; refuse one without its CSRF value, or from another site."""
    async with browser(running) as reader:
        page = await reader.get("/jobs")
        fields = page.fields("/signout")
        foreign, malformed = {"origin": "https://evil.example"}, {"origin": "http://["}
        for form, headers in (({}, {}), (fields | {"csrf": "x"}, {}), (fields, foreign), (fields, malformed)):
            assert (await reader.client.post("/signout", data=form, headers=headers)).status_code == 403
            assert (await reader.get("/jobs")).path == "/jobs"
        assert (await reader.send(page, "/signout")).path == "/signin"
        assert (await reader.get("/jobs")).path.startswith("/signin")


async def test_a_copied_cookie_opens_nothing_after_signing_out(running: Running, clock: HeldClock) -> None:
    """End the session itself: refuse a copy of its cookie, and one renewed since; leave other sessions of the key."""
    async with browser(running) as reader, browser(running) as other, browser(running, None) as thief:
        copied = reader.client.cookies["relay-session"]
        await clock.advance(RENEWED_AFTER_MS / 1000)
        page = await reader.get("/jobs")
        renewed = reader.client.cookies["relay-session"]
        assert renewed != copied
        fields = page.fields("/signout")
        assert (await reader.send(page, "/signout")).path == "/signin"
        for cookie in (copied, renewed):
            thief.client.cookies.set("relay-session", cookie)
            assert (await thief.get("/jobs")).path.startswith("/signin")
            assert (await thief.client.get("/live/jobs")).status_code == 204
            answer = await thief.client.post("/signout", data=fields)
            assert (answer.status_code, answer.headers["location"]) == (303, "/signin")
        assert (await other.get("/jobs")).path == "/jobs"


async def test_a_session_that_was_ended_is_remembered_until_its_cookie_expires(
    running: Running, clock: HeldClock
) -> None:
    """Keep the row of an ended session for as long as its cookie is valid, and no longer."""
    access, ends_at = running.app.store.access, clock.now_ms() + AGE_MAX_MS
    async with browser(running) as reader:
        session = running.app.cookies.read("session", reader.client.cookies["relay-session"], Session)
        assert session is not None
        assert (await reader.send(await reader.get("/jobs"), "/signout")).path == "/signin"
    assert not session.lives(ends_at)
    await access.forget(ends_at)
    assert await access.session_ended(session.csrf)
    await access.forget(ends_at + 1)
    assert not await access.session_ended(session.csrf)


async def test_a_session_goes_on_if_its_end_cannot_be_stored(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer 503 to a sign-out that the database does not store, and keep the cookie."""
    async with browser(running) as reader:
        page = await reader.get("/jobs")

        async def away(*_: object) -> None:
            raise StorageUnavailable("the database is away")

        with monkeypatch.context() as patched:
            patched.setattr(running.app.store.access, "end_session", away)
            assert (await reader.client.post("/signout", data=page.fields("/signout"))).status_code == 503
        assert (await reader.get("/jobs")).path == "/jobs"


async def test_every_page_forbids_what_is_not_its_own(running: Running) -> None:
    """Send the policy without unsafe-*, and no page has an inline style or script, or anything from elsewhere."""
    async with browser(running) as reader:
        for path in ("/jobs", "/signin", "/jobs?status=nonsense"):
            page = await reader.get(path)
            assert page.response.headers["content-security-policy"].startswith("default-src 'self';")
            assert "unsafe" not in page.response.headers["content-security-policy"]
            assert page.response.headers["x-content-type-options"] == "nosniff"
            assert page.response.headers["cache-control"] == "no-store"
            assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! src=)|(?:src|href)=\"(?:https?:)?//", page.html)


async def test_files_are_named_after_their_content(running: Running) -> None:
    """Serve the files that a page names for ever, without a session, and no other file."""
    async with browser(running, None) as reader:
        page = await reader.get("/signin")
        names = re.findall(r"/assets/[^\"]+", page.html)
        assert any(name.endswith(".css") for name in names)
        for name in names:
            file = await reader.client.get(name)
            assert (file.status_code, file.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        for name in ("/assets/style.css", "/assets/../view.py", "/assets/%2e%2e/view.py", "/assets/"):
            assert (await reader.client.get(name)).status_code == 404


async def test_the_theme_is_rendered_by_the_server(running: Running) -> None:
    """Write the cookie's theme into the page, so that it does not flash; ignore other values."""
    async with browser(running) as reader:
        page = await reader.get("/jobs")
        assert "data-theme=" not in page.html
        page = await reader.send(page, "/theme")
        assert (page.path, '<html lang="en" data-theme="dark">' in page.html) == ("/jobs", True)
        reader.client.cookies.clear()
        reader.client.cookies.set("relay-theme", '"><script>')
        assert "data-theme=" not in (await reader.get("/signin")).html


async def test_what_a_client_sent_is_text_on_a_page(running: Running) -> None:
    """Escape metadata, and whatever else a client or a provider wrote."""
    await running.submit(metadata={"<b>key": "\"'><script>alert(1)</script>"})
    async with browser(running) as reader:
        page = await reader.get("/jobs")
        assert "<b>key=\"'><script>alert(1)</script>" in page.text
        assert "<script>alert" not in page.html


async def test_another_projects_jobs_are_not_on_a_page(running: Running) -> None:
    """Show a session what its key's project has."""
    job = await running.submit()
    _, stranger = await new_key(running, "admin", project="strangers")
    async with browser(running) as mine, browser(running, stranger) as theirs:
        assert job["id"] in (await mine.get("/jobs")).html
        assert job["id"] not in (await theirs.get("/jobs")).html


async def test_a_wrong_filter_is_refused_with_its_reason(running: Running) -> None:
    """Show the API's refusal, its code and the request id, with the API's status."""
    async with browser(running) as reader:
        page = await reader.get("/jobs?status=nonsense")
        assert (page.status, "invalid_input" in page.text, "must be one of" in page.text) == (422, True, True)
        assert page.response.headers["request-id"] in page.text


async def test_the_dashboard_can_be_turned_off(tmp_path: Path) -> None:
    """Answer 404 to every page with RELAY_DASHBOARD=0, while the API works."""
    async with relay(tmp_path, RELAY_DASHBOARD="0") as running:
        for path in ("/", "/jobs", "/signin", "/assets/style.css"):
            assert (await running.client.get(path)).status_code == 404
        assert (await running.client.get("/v1/jobs")).status_code == 200


async def test_the_navigation_shows_open_alerts(tmp_path: Path, clock: HeldClock) -> None:
    """Count the open alerts beside the page that they lead to."""
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0") as running, browser(running) as reader:
        assert 'class="n warn"' not in (await reader.get("/jobs")).html
        running.sink.answers = [500] * 10
        await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.*"]})
        await running.submit()
        await running.until("/v1/deliveries?status=exhausted", lambda shown: len(shown["data"]) == 1)
        for _ in range(3):
            await clock.advance(60)
        number = len((await running.get("/v1/alerts"))["data"])
        assert number
        nav = (await reader.get("/jobs")).html.partition("</nav>")[0]
        assert f'<a href="/endpoints">Endpoints<span class="n warn" title="need a look">{number}' in nav


async def test_a_page_names_the_project_and_the_key(running: Running) -> None:
    """Show whose pages these are, from the sign-in on."""
    _, text = await new_key(running, "read", project="films")
    async with browser(running, text) as reader:
        page = await reader.get("/jobs")
        assert "project <b>films</b> · key <b>a key</b> (read)" in page.html


async def test_a_browser_gets_a_page_for_a_path_that_is_not_there(running: Running) -> None:
    """Answer 404 with a page to a browser, and with a problem document to a program and below /v1."""
    async with browser(running, None) as reader:
        for path, accept, kind in (
            ("/nothing", "text/html,*/*", "text/html; charset=utf-8"),
            ("/nothing", "*/*", "application/problem+json"),
            ("/v1/nothing", "text/html", "application/problem+json"),
        ):
            answer = await reader.client.get(path, headers={"accept": accept})
            assert (answer.status_code, answer.headers["content-type"]) == (404, kind)


async def test_a_page_that_may_work_soon_asks_again_by_itself(tmp_path: Path) -> None:
    """Answer 503 while the database is away, with a page that loads itself anew, whether or not a session is read."""
    async with relay(tmp_path) as running:
        _, text = await new_key(running, "read")
        async with browser(running) as reader, browser(running, text) as other:
            await running.app.store.close(running.clock.now_ms())
            for page in (await reader.get("/jobs"), await other.get("/jobs")):
                assert (page.status, "storage_unavailable" in page.text) == (503, True)
                assert '<meta http-equiv="refresh" content="5">' in page.html
