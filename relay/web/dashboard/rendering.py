"""Renders templates and serves the dashboard's own files, whose names hold a hash of their content.

Nothing is loaded from elsewhere, and no page has an inline script or style, so that the policy below holds.
"""

import asyncio
import hashlib
import time
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay.web.dashboard import charts, formats

FOLDER: Final = Path(__file__).parent
STATIC: Final = FOLDER / "static"
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every page."""
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
STEP_S: Final = 0.001
"""How long a page is made at a time, before others get their turn."""
THEME: Final = "relay-theme"
THEMES: Final = ("light", "dark")


class Asset(msgspec.Struct, frozen=True):
    """A file as it is served."""

    content: bytes
    type: str


class Assets:
    """The files under `static/`, by names that change with their content."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder

    @cached_property
    def _hashed(self) -> dict[str, str]:
        """Return the served name of each file; others than scripts, styles and pictures are not served."""
        found = {}
        for path in sorted(self._folder.rglob("*")):
            if path.suffix in TYPES:
                name = path.relative_to(self._folder).as_posix()
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
                found[name] = f"{name.removesuffix(path.suffix)}.{digest}{path.suffix}"
        return found

    @cached_property
    def _files(self) -> dict[str, Asset]:
        """Return each file by its served name."""
        return {
            hashed: Asset((self._folder / name).read_bytes(), TYPES[Path(name).suffix])
            for name, hashed in self._hashed.items()
        }

    def path(self, name: str) -> str:
        """Return the path of a file below the dashboard's root."""
        return f"/assets/{self._hashed[name]}"

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return name in self._hashed

    def get(self, hashed: str) -> Asset | None:
        """Return the file with this served name."""
        return self._files.get(hashed)


def theme_of(http: Request) -> str:
    """Return the theme that the browser's cookie asks for; empty: the system's."""
    asked = http.cookies.get(THEME, "")
    return asked if asked in THEMES else ""


class Templates:
    """The dashboard's templates; jinja2 is loaded with the first page."""

    def __init__(self, base: str, assets: Assets) -> None:
        self._base = base
        self._assets = assets

    @cached_property
    def _environment(self) -> Any:
        """Return jinja2's environment; a name that a template does not know is an error, not nothing."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - a start does not wait for it

        environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        environment.filters |= {
            "age": formats.age,
            "amount": formats.amount,
            "code": formats.code,
            "full": formats.full,
            "number": formats.number,
            "shape": formats.shape,
            "short": formats.short,
            "size": formats.size,
            "span": formats.span,
            "url": formats.url,
        }
        environment.globals |= {
            "block": charts.block,
            "legend": charts.legend,
            "share": charts.share,
            "asset": lambda name: self.href(self._assets.path(name)),
            "has_asset": self._assets.has,
            "between": formats.between,
            "href": self.href,
            "ms_of": formats.ms_of,
        }
        return environment

    def href(self, path: str) -> str:
        """Return a path of the dashboard as the browser reaches it, behind the path of RELAY_PUBLIC_URL."""
        return self._base + path

    def render(self, name: str, context: dict[str, Any]) -> str:
        """Return a template's text."""
        return str(self._environment.get_template(name).render(context))

    async def render_in_steps(self, name: str, context: dict[str, Any]) -> str:
        """Return a template's text; between its pieces others get their turn, so that no callback waits for it."""
        pieces, began = [], time.perf_counter()
        for piece in self._environment.get_template(name).generate(context):
            pieces.append(piece)
            if time.perf_counter() - began > STEP_S:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return "".join(pieces)


def html(text: str, status: int = 200) -> Response:
    """Return a page."""
    return Response(text, status, HEADERS, media_type="text/html; charset=utf-8")


@lru_cache
def shared_assets() -> Assets:
    """Return the assets, whose hashes are computed once."""
    return Assets()


@lru_cache(maxsize=8)
def shared_templates(base: str) -> Templates:
    """Return the templates below a path, each compiled once in a process: an application may embed several relays."""
    return Templates(base, shared_assets())
