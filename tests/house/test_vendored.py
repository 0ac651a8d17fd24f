"""Files of other projects: they are what their sums say, with their licence, and nothing is loaded from elsewhere."""

import hashlib
import re
from pathlib import Path

DASHBOARD = Path(__file__).parents[2] / "relay" / "web" / "dashboard"
VENDOR = DASHBOARD / "static" / "vendor"


def test_vendored_files_are_unchanged() -> None:
    """Hold each script to its sum, and list each script there is."""
    lines = [line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(VENDOR.glob("*.js"))}
    assert "Zero-Clause BSD" in (VENDOR / "LICENSE").read_text()


def test_pages_load_nothing_from_elsewhere() -> None:
    """Name no other host in templates, styles and scripts of relay's own, and style nothing inline."""
    for path in [*DASHBOARD.rglob("*.html"), *DASHBOARD.glob("static/*.*")]:
        text = path.read_text()
        assert re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", text) == [], path
        assert re.findall(r"\sstyle=|<style|\son\w+=|javascript:", text) == [], path


def test_the_dashboards_own_style_is_short() -> None:
    """Keep the style within 400 lines."""
    assert len((DASHBOARD / "static" / "style.css").read_text().splitlines()) <= 400
