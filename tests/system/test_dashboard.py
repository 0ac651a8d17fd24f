"""The dashboard in a real browser: sign-in, pages and verbs as an operator uses them, at every width, judged by axe."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.web.dashboard import PAGES
from tests.support.chromium import Tab, chromium, sign_in, tab
from tests.support.running import Running, relay

pytestmark = pytest.mark.anyio
WIDTHS = (320, 375, 800, 1024, 1280)
LISTS = sorted(page.path for page in PAGES if "{" not in page.path)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on the machine's clock, which the browser has too."""
    async with relay(tmp_path, clock=SystemClock()) as started:
        yield started


async def opened_details(opened: Tab) -> None:
    """Open everything on the page that can be opened."""
    await opened.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


async def test_every_page_holds_for_everybody(running: Running, node_packages: Path) -> None:
    """Break no rule of axe, no rule of the page's policy and no width, light and dark, with details closed and open."""
    jobs = [await running.submit(notify=[{"url": running.hook}], metadata={"user": user}) for user in "123"]
    for job in jobs:
        await running.world.finish(job["provider_job_id"])
    made = await running.client.post("/v1/endpoints", json={"url": running.hook + "/standing"})
    pages = [*LISTS, f"/jobs/{jobs[0]['id']}", f"/endpoints/{made.json()['id']}"]
    async with chromium() as browser:
        for scheme in ("light", "dark"):
            async with tab(browser, running, color_scheme=scheme) as opened:
                await sign_in(opened)
                for path in pages:
                    await opened.open(path)
                    found = await opened.axe(node_packages)
                    await opened_details(opened)
                    found += await opened.axe(node_packages)
                    wide = {width: over for width in WIDTHS if (over := await opened.wider_by(width)) > 0}
                    assert (found, wide, await opened.violations(), opened.complaints) == ([], {}, [], []), path


async def test_the_theme_is_there_from_the_first_paint(running: Running) -> None:
    """Answer with the theme of the cookie in the page itself, so that no other one is seen first."""
    async with chromium() as browser, tab(browser, running, color_scheme="light") as opened:
        await sign_in(opened, then="/jobs")
        await opened.page.get_by_role("button", name="Theme").click()
        assert await opened.page.locator("html").get_attribute("data-theme") == "dark"
        answer = await opened.page.goto(opened.origin + "/jobs")
        assert answer is not None
        assert '<html lang="en" data-theme="dark">' in await answer.text()


async def test_pages_are_read_without_javascript(running: Running) -> None:
    """Sign in, list and filter with scripts blocked."""
    await running.submit(metadata={"user": "42"})
    await running.submit(metadata={"user": "43"})
    async with chromium() as browser, tab(browser, running, java_script_enabled=False) as opened:
        await sign_in(opened, then="/jobs")
        assert await opened.page.locator("tbody tr").count() == 2
        await opened.page.get_by_label("Metadata").fill("user=42")
        async with opened.page.expect_navigation():
            await opened.page.get_by_role("button", name="Apply").click()
        assert await opened.page.locator("tbody tr").count() == 1
