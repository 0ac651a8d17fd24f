"""Find the changes of `/openapi.json` that break a client or a receiver, by oasdiff."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.oracles import ROOT

Document = dict[str, Any]

MODULE: Final = ROOT / "tests" / "oasdiff"
"""A Go module that names the version of oasdiff."""
CONTRACT: Final = "docs/openapi.json"
NOTIFICATIONS: Final = "/notifications/"
ERROR, WARNING = 3, 2
"""oasdiff's levels: surely breaking, and breaking for some readers."""


def released() -> Document | None:
    """Return the contract of the last release, from its tag; None without a tag, or outside of a git checkout."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")
    return None if tag is None else json.loads(_git("show", f"{tag.strip()}:{CONTRACT}") or "null")


def breaking(old: Document, new: Document, folder: Path) -> list[str]:
    """Return what breaks between two documents, a line each; `folder` keeps the files.

    Of oasdiff's warnings two kinds break as well: those about requests, since relay refuses what it does not know, and
    those about notifications, since a receiver cannot choose which version of relay calls it.
    """
    go = shutil.which("go", path=os.environ["PATH"] + ":/usr/local/go/bin")
    if go is None:
        pytest.skip("Go is not installed; Debian 12 has none that is new enough for oasdiff")
    files = [folder / "old.json", folder / "new.json"]
    for file, document in zip(files, (old, new), strict=True):
        file.write_text(json.dumps(_notifications_as_answers(document)))
    command = [go, "tool", "oasdiff", "breaking", *map(str, files), "--format", "json"]
    done = subprocess.run(command, cwd=MODULE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    changes = json.loads(done.stdout or "null") or []
    return [f"{change.get('path', '')} {change['text']}".strip() for change in changes if _counts(change)]


def _notifications_as_answers(document: Document) -> Document:
    """Return the document with each notification as the answer of a route.

    oasdiff reads a webhook as a request that relay receives: a field that is gone would be harmless, and a new one
    would break.
    """
    answers = {
        f"{NOTIFICATIONS}{name}": {"get": {"responses": {"200": {"description": "", **_sent(webhook["post"])}}}}
        for name, webhook in document["webhooks"].items()
    }
    return {**document, "paths": document["paths"] | answers, "webhooks": {}}


def _sent(operation: Document) -> Document:
    """Return the body and the headers that relay sends."""
    headers = {parameter["name"]: _header(parameter) for parameter in operation["parameters"]}
    return {"content": operation["requestBody"]["content"], "headers": headers}


def _header(parameter: Document) -> Document:
    """Return a parameter of a request as a header of an answer."""
    return {key: value for key, value in parameter.items() if key in ("schema", "required")}


def _counts(change: Document) -> bool:
    """Return whether a change breaks: an error does, and a warning about a request or a notification."""
    strict = change.get("path", "").startswith(NOTIFICATIONS) or change["id"].startswith("request")
    return bool(change["level"] >= (WARNING if strict else ERROR))


def _git(*arguments: str) -> str | None:
    """Return what git prints; None if it fails."""
    try:
        done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
