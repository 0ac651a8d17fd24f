"""The dashboard in a real browser: sign-in, pages and verbs as an operator uses them, at every width, judged by axe."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pytest

from relay.clock import SystemClock
from relay.sandbox.faults import Faults
from relay.web.dashboard import PAGES, VERBS
from relay.web.dashboard.view import Verb
from tests.flow.test_archive import archiving
from tests.support import browsing
from tests.support.chromium import Tab, chromium, sign_in, tab
from tests.support.paying import Seller, selling
from tests.support.results import CLIP, whole
from tests.support.running import INPUT, Running, relay

if TYPE_CHECKING:
    from playwright.async_api import Browser, Route

pytestmark = pytest.mark.anyio
WIDTHS = (320, 375, 800, 1024, 1280)
DOWNLOADS = {"/spend/receipts"}
"""What a browser saves in place of showing it."""
LISTS = sorted({page.path for page in PAGES if "{" not in page.path} - DOWNLOADS)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator["Browser"]:
    """Yield a browser for all tests of this file; each has tabs with cookies of their own."""
    async with chromium() as started:
        yield started


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on the machine's clock, which the browser has too."""
    async with relay(tmp_path, clock=SystemClock()) as started:
        yield started


SCHEMES: Final[dict[Literal["light", "dark"], tuple[str, ...]]] = {
    "light": (),
    "dark": ("color-contrast", "link-in-text-block"),
}
"""The rules of axe that are tried with each theme; all of them, if none is named."""


async def opened_details(opened: Tab) -> None:
    """Open everything on the page that can be opened."""
    await opened.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


async def test_every_page_holds_for_everybody(running: Running, browser: "Browser", node_packages: Path) -> None:
    """Break no rule of axe, no rule of the page's policy and no width, light and dark, with details closed and open.

    The dark theme has other colours and nothing else, so of axe's rules the ones of colour are tried on it.
    """
    jobs = [await running.submit(notify=[{"url": running.hook}], metadata={"user": user}) for user in "123"]
    for job in jobs:
        await running.world.finish(job["provider_job_id"])
    made = await running.client.post("/v1/endpoints", json={"url": running.hook + "/standing"})
    pages = [*LISTS, f"/jobs/{jobs[0]['id']}", f"/endpoints/{made.json()['id']}"]
    for scheme, rules in SCHEMES.items():
        async with tab(browser, running, color_scheme=scheme) as opened:
            await sign_in(opened)
            for path in pages:
                await opened.open(path)
                found = await opened.axe(node_packages, rules)
                await opened_details(opened)
                found += await opened.axe(node_packages, rules)
                wide = {width: over for width in WIDTHS if (over := await opened.wider_by(width)) > 0}
                assert (found, wide, await opened.violations(), opened.complaints) == ([], {}, [], []), path


COVERED: Final = """() => {
  const cut = (rect, element) => {
    let {left, right, top, bottom} = rect;
    for (let one = element; one; one = one.parentElement) {
      if (getComputedStyle(one).overflow === "visible") continue;
      const box = one.getBoundingClientRect();
      [left, right] = [Math.max(left, box.left), Math.min(right, box.right)];
      [top, bottom] = [Math.max(top, box.top), Math.min(bottom, box.bottom)];
    }
    return {left, right, top, bottom};
  };
  const texts = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || !node.parentElement.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) texts.push({node, ...cut(rect, node.parentElement)});
  }
  const buttons = [...document.querySelectorAll("main button.copy")].filter((one) => one.checkVisibility());
  const covered = buttons.flatMap((button) => {
    const box = button.getBoundingClientRect();
    return texts.filter((text) => !button.contains(text.node)
      && Math.min(text.right, box.right) - Math.max(text.left, box.left) > 1
      && Math.min(text.bottom, box.bottom) - Math.max(text.top, box.top) > 1
    ).map((text) => `${button.ariaLabel} over ${text.node.data.trim()}`);
  });
  return [buttons.length, covered];
}"""
"""How many Copy buttons a page shows, and the texts that lie under one of them."""
POINTERS: Final[dict[str, dict[str, bool]]] = {"fine": {}, "coarse": {"has_touch": True, "is_mobile": True}}


async def test_no_copy_button_covers_a_text(running: Running, browser: "Browser") -> None:
    """Give each Copy button room of its own, with a mouse and on a tablet, which shows all of them."""
    described = {"url": running.hook + "/standing", "description": "a sentence that is longer than the endpoint's URL"}
    made = await running.client.post("/v1/endpoints", json=described)
    job = await running.submit(notify=[{"url": running.hook}], metadata={"user": "42"})
    await running.world.finish(job["provider_job_id"])
    await running.client.post("/v1/keys", json={"name": "reader", "scopes": ["read"]})
    await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 4)
    await running.submit("kinovi")
    pages = ("/jobs", "/endpoints", "/callbacks", "/keys", f"/jobs/{job['id']}", f"/endpoints/{made.json()['id']}")
    for pointer, options in POINTERS.items():
        async with tab(browser, running, **options) as opened:
            await sign_in(opened)
            assert await opened.page.evaluate(f"matchMedia('(pointer: {pointer})').matches")
            for path in pages:
                await opened.open(path)
                for width in (390, *WIDTHS):
                    await opened.wider_by(width)
                    number, covered = await opened.page.evaluate(COVERED)
                    assert (number > 0, covered) == (True, []), (path, width, pointer)


async def test_the_page_of_what_was_spent_holds_with_a_payment(
    tmp_path: Path, browser: "Browser", node_packages: Path
) -> None:
    """Break no rule of axe and no width with a wallet, a payment and a job that waits; its receipts are a file."""
    async with selling(tmp_path, Seller(), SystemClock(), RELAY_APPROVAL_ABOVE="0.2") as running:
        body = {"provider": "x402org", "input": INPUT}
        jobs = [(await running.client.post("/v1/jobs", json=body)).json()["id"] for _ in range(2)]
        await running.client.post(f"/v1/jobs/{jobs[0]}/approvals", json={"approve": True})
        async with tab(browser, running) as opened:
            await sign_in(opened, then="/spend?all=1")
            await opened_details(opened)
            found = await opened.axe(node_packages)
            wide = {width: over for width in WIDTHS if (over := await opened.wider_by(width)) > 0}
            assert (found, wide, await opened.violations(), opened.complaints) == ([], {}, [], [])
            async with opened.page.expect_download() as download:
                await opened.page.get_by_role("link", name="Receipts as CSV").click()
            assert (await download.value).suggested_filename == "receipts.csv"


async def test_the_pages_of_copies_hold_and_download(tmp_path: Path, browser: "Browser", node_packages: Path) -> None:
    """Break no rule of axe and no width with copies in each state; save a copy, and copy one again by a press."""
    async with archiving(tmp_path, clock=SystemClock(), RELAY_ARCHIVE_MAX_BYTES="10000") as archive:
        archive.results.answers = [whole(), whole(bytes(10_001))]
        job = await archive.succeeded("kinovi")
        archive.results.answer = whole(status="503 Service Unavailable")
        pending = await archive.succeeded()
        await archive.running.until("/v1/stats", lambda shown: shown["totals"]["archive"]["failed"] == 1)
        for scheme, rules in SCHEMES.items():
            async with tab(browser, archive.running, color_scheme=scheme) as opened:
                await sign_in(opened)
                for path in ("/", "/jobs?copies=failed", f"/jobs/{job['id']}", f"/jobs/{pending['id']}"):
                    await opened.open(path)
                    await opened_details(opened)
                    found = await opened.axe(node_packages, rules)
                    wide = {width: over for width in WIDTHS if (over := await opened.wider_by(width)) > 0}
                    assert (found, wide, await opened.violations(), opened.complaints) == ([], {}, [], []), path
        async with tab(browser, archive.running) as opened:
            await sign_in(opened, then=f"/jobs/{job['id']}")
            async with opened.page.expect_download() as download:
                await opened.page.get_by_role("link", name="Download").first.click()
            saved = await download.value
            assert saved.suggested_filename == f"{job['id']}-0.mp4"
            await saved.save_as(tmp_path / "saved.mp4")
            assert await asyncio.to_thread((tmp_path / "saved.mp4").read_bytes) == CLIP
            archive.results.answer = whole()
            await click(opened, "Copy to archive")
            facts = opened.page.locator("#facts")
            await facts.get_by_text("archived", exact=True).nth(1).wait_for()
            assert await opened.page.get_by_role("link", name="Download").count() == 2


async def test_the_theme_is_there_from_the_first_paint(running: Running, browser: "Browser") -> None:
    """Answer with the theme of the cookie in the page itself, so that no other one is seen first."""
    async with tab(browser, running, color_scheme="light") as opened:
        await sign_in(opened, then="/jobs")
        await opened.page.get_by_role("button", name="Theme").click()
        assert await opened.page.locator("html").get_attribute("data-theme") == "dark"
        answer = await opened.page.goto(opened.origin + "/jobs")
        assert answer is not None
        assert '<html lang="en" data-theme="dark">' in await answer.text()


async def test_pages_are_read_without_javascript(running: Running, browser: "Browser") -> None:
    """Sign in, list and filter with scripts blocked."""
    await running.submit(metadata={"user": "42"})
    await running.submit(metadata={"user": "43"})
    async with tab(browser, running, java_script_enabled=False) as opened:
        await sign_in(opened, then="/jobs")
        assert await opened.page.locator("tbody tr").count() == 2
        await opened.page.get_by_label("Metadata").fill("user=42")
        async with opened.page.expect_navigation():
            await opened.page.get_by_role("button", name="Apply").click()
        assert await opened.page.locator("tbody tr").count() == 1


async def click(opened: Tab, name: str, within: str = "main") -> None:
    """Press a button, and return on the page that follows."""
    async with opened.page.expect_navigation():
        await opened.page.locator(within).get_by_role("button", name=name, exact=True).first.click()


async def watch_a_failure(running: Running, opened: Tab) -> None:
    """See a job fail while its page is open, without a reload, and send its last event again."""
    page = opened.page
    running.world.next_faults.append(Faults(outcome="failed"))
    job = await running.submit(metadata={"user": "42"})
    await sign_in(opened, then=f"/jobs/{job['id']}")
    await page.locator("#timeline").get_by_text("submitted").first.wait_for()
    await running.world.finish(job["provider_job_id"])
    await page.locator("#timeline").get_by_text("Job failed").wait_for()
    await page.locator("#status").get_by_text("failed").wait_for()
    await page.locator("#deliveries").get_by_text("bad_status").first.wait_for()

    await running.sink.wait_for(lambda sink: "job.failed" in sink.events())
    await page.get_by_text("Redeliver", exact=True).first.click()
    await click(opened, "Redeliver to 1 endpoint")
    await running.sink.wait_for(lambda sink: any("relay-redelivery" in one.headers for one in sink.received))


async def rotate_a_secret(running: Running, opened: Tab, endpoint: str) -> None:
    """Make a new secret, and see it once."""
    await opened.open(f"/endpoints/{endpoint}")
    await opened.page.get_by_text("Rotate secret", exact=True).click()
    await click(opened, "Rotate 1 secret")
    secret = await opened.page.locator("#secret").inner_text()
    assert secret == (await running.get(f"/v1/endpoints/{endpoint}/secret"))["secret"]


async def release_a_callback(running: Running, opened: Tab) -> None:
    """Read a callback whose signature does not fit, and release it."""
    held = await running.submit("kinovi")
    await running.world.finish(held["provider_job_id"])
    await running.until("/v1/callbacks?verdict=quarantined", lambda shown: bool(shown["data"]))
    await opened.open("/callbacks")
    await opened.page.get_by_text("Release", exact=True).first.click()
    await click(opened, "Release 1 callback")
    await opened.page.get_by_text("Released. It is now").wait_for()


async def send_what_is_missing(running: Running, opened: Tab) -> None:
    """Count what a new endpoint never received, send exactly that, and see how far it has come."""
    late = await running.client.post("/v1/endpoints", json={"url": running.hook + "/late", "event_types": ["*"]})
    page = opened.page
    await opened.open(f"/endpoints/{late.json()['id']}")
    await page.get_by_text("Redeliver missing", exact=True).first.click()
    await page.get_by_label("From (UTC)").fill("2020-01-01 00:00")
    await page.get_by_label("Which").select_option("missing")
    await click(opened, "Count only")
    number = int((await page.locator("#redeliver").get_by_role("status").inner_text()).split()[0])
    assert number >= 4
    received = len(running.sink.received)
    await click(opened, f"Send {number} deliveries")
    await page.get_by_text(f"A batch of {number} is on its way").wait_for()
    await running.sink.wait_for(lambda sink: len(sink.received) == received + number)


async def test_an_operator_finds_and_repairs_what_is_wrong(tmp_path: Path, browser: "Browser") -> None:
    """Watch a job end live, redeliver, rotate, release, send what is missing; break no rule of the policy by it."""
    secret = "whsec_" + "A" * 43 + "="
    async with AsyncExitStack() as stack:
        started = relay(tmp_path, clock=SystemClock(), RELAY_KINOVI_CALLBACK_SECRET=secret)
        running = await stack.enter_async_context(started)
        opened = await stack.enter_async_context(tab(browser, running))
        running.sink.answers.append(503)
        made = await running.client.post("/v1/endpoints", json={"url": running.hook, "schedule_s": [0, 1]})
        await watch_a_failure(running, opened)
        await rotate_a_secret(running, opened, made.json()["id"])
        await release_a_callback(running, opened)
        await send_what_is_missing(running, opened)
        assert (await opened.violations(), opened.complaints) == ([], [])


async def test_a_page_is_live_however_late_its_scripts_come(tmp_path: Path, browser: "Browser") -> None:
    """Connect a page to its stream though the script for streams comes long after htmx."""
    async with relay(tmp_path, clock=SystemClock()) as running, tab(browser, running) as opened:
        page = opened.page

        async def late(route: "Route") -> None:
            await page.wait_for_function("window.htmx && document.readyState !== 'loading'")
            await page.evaluate("new Promise(done => setTimeout(() => setTimeout(done)))")
            await route.continue_()

        await page.route("**/hx-sse*.js", late)
        async with page.expect_request(lambda request: "text/event-stream" in request.headers.get("accept", "")):
            await sign_in(opened, then="/jobs")


async def test_a_key_that_may_only_read_can_send_no_verb(running: Running) -> None:
    """Refuse every form of every page to it, generated from the list of verbs: a new one is refused too."""
    made = await running.app.store.access.create_api_key("default", "reader", ("read",), running.clock.now_ms())
    job = await running.submit(notify=[{"url": running.hook}])
    async with browsing.browser(running, made.text) as reader:
        own = (await reader.get("/jobs")).fields("/signout")
        for verb in VERBS:
            path = re.sub(r"\{(\w+)\}", lambda name: job["id"] if name[1] in ("id", "job") else "red_x", verb.path)
            form = own | {"back": "/jobs", "delivery": "dlv_x", "action": "cancel", "job": job["id"]}
            answer = await reader.client.post(path, data=form)
            if isinstance(verb, Verb):
                assert answer.status_code == 403, verb.path
            else:  # a form of many verbs says on its page which were refused
                assert "403" in (await reader.get("/jobs")).text, verb.path
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    refusals = (await running.get("/v1/audit?limit=200"))["data"]
    assert {one["status"] for one in refusals if one["verb"] != "dashboard.sign_in"} == {403}
