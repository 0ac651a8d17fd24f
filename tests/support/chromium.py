"""A real browser for the tests: chromium, driven by Playwright; what it complains of is collected."""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.oracles import oracle_missing
from tests.support.running import KEY, Running

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_COLLECT = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(
    `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""


@asynccontextmanager
async def chromium() -> AsyncIterator["Browser"]:
    """Yield a browser."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - not every worker needs what takes so long to load

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        oracle_missing("chromium is not installed (apt-get install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


class Tab:
    """A page that is open in a browser, with what went wrong in it."""

    def __init__(self, page: "Page", origin: str) -> None:
        self.page = page
        self.origin = origin
        self.complaints: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def open(self, path: str) -> None:
        """Go to a page of the dashboard."""
        await self.page.goto(self.origin + path)

    async def violations(self) -> list[str]:
        """Return what the page's policy has refused."""
        found: list[str] = await self.page.evaluate("window.violations")
        return found

    async def wider_by(self, width: int) -> int:
        """Return by how many pixels the page is wider than a window of this width."""
        await self.page.set_viewport_size({"width": width, "height": 900})
        over: int = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return over

    async def axe(self, node_packages: Path, rules: Sequence[str] = ()) -> list[str]:
        """Return the violations of these rules, or of every rule, that axe-core finds on the page, of any level.

        axe's list of all that holds stays in the browser: reading it takes longer than finding it.
        """
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate((node_packages / "node_modules" / "axe-core" / "axe.min.js").read_text())
        options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        found: list[dict[str, Any]] = await self.page.evaluate(
            "async (options) => (await axe.run(options)).violations", options
        )
        return [f"{one['id']} ({one['impact']}): {node['html'][:150]}" for one in found for node in one["nodes"]]


@asynccontextmanager
async def tab(browser: "Browser", running: Running, **options: Any) -> AsyncIterator[Tab]:
    """Yield an empty tab with cookies of its own; `options` are those of a browser's context."""
    context: BrowserContext = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
    context.set_default_timeout(30_000)
    await context.add_init_script(_COLLECT)
    try:
        yield Tab(await context.new_page(), running.origin)
    finally:
        await context.close()


async def sign_in(opened: Tab, key: str = KEY, then: str = "/") -> None:
    """Sign in with a key, as its owner would."""
    await opened.open(f"/signin?next={then}")
    await opened.page.get_by_label("API key").fill(key)
    async with opened.page.expect_navigation():
        await opened.page.get_by_role("button", name="Sign in").click()
