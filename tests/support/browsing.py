"""A browser without JavaScript: signs in to a running relay's dashboard, follows its forms, reads its pages."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape

import httpx

from tests.support.running import KEY, Running, http_client


class Page:
    """An answer of the dashboard, with what its reader sees."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status = response.status_code
        self.html = response.text
        self.path = response.url.raw_path.decode()

    @property
    def text(self) -> str:
        """The words of the page's main part, without tags."""
        main = self.html.partition("<main")[2]
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", f"<main{main}")).split())

    def fields(self, action: str) -> dict[str, str]:
        """Return the hidden fields of the form with this action; AssertionError if the page has none."""
        form = re.search(rf'<form[^>]* action="{re.escape(action)}"[^>]*>(.*?)</form>', self.html, re.DOTALL)
        assert form, f"no form for {action} on {self.path}: {self.text[:500]}"
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form[1])
        return {name: unescape(value) for name, value in hidden}


class Browser:
    """One browser, with its cookies."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str) -> Page:
        """Return a page, after redirects."""
        return Page(await self.client.get(path, follow_redirects=True))

    async def sign_in(self, key: str = KEY) -> Page:
        """Return the page after a sign-in."""
        form = {"key": key, "next": ""}
        return Page(await self.client.post("/signin", data=form, follow_redirects=True))

    async def send(self, page: Page, action: str, **fields: str) -> Page:
        """Return what comes after the form with this action was sent from a page, with more fields typed."""
        form = page.fields(action) | fields
        return Page(await self.client.post(action, data=form, follow_redirects=True))


@asynccontextmanager
async def browser(running: Running, key: str | None = KEY) -> AsyncIterator[Browser]:
    """Yield a browser that is signed in with a key; with None it is not."""
    async with http_client(running.origin, None) as client:
        opened = Browser(client)
        if key is not None:
            await opened.sign_in(key)
        yield opened
