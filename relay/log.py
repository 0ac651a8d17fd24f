"""Logging: dotted facts with fields, one JSON object a line; callback tokens and secrets are cut out on the way.

A line is written for every callback and every attempt, so the way to it is short: structlog draws the console's lines,
and what libraries log, but not the JSON.
"""

import logging
import re
import sys
import time
import traceback
from typing import Any, Final

import msgspec

from relay.clock import rfc3339

_SECRETS: Final = re.compile(
    r"(?P<path>/callbacks/[\w.-]*/)[^\s\"'?#<>]+|(?P<whsec>whsec_|whsk_)[A-Za-z0-9+/=_-]+|(?P<bearer>[Bb]earer\s+)[^\s\"']+"
)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)


def redact(text: str) -> str:
    """The text without callback tokens, webhook secrets and bearer keys."""
    if _suspicious(text):
        return _SECRETS.sub(lambda m: (m["path"] or m["whsec"] or m["bearer"]) + "[redacted]", text)
    return text


def _suspicious(text: str) -> bool:
    """Whether one of the secrets may be in it; JSON writes these letters as they are."""
    return "/callbacks/" in text or "whs" in text or "earer" in text


def _clean(value: object) -> object:
    """A field's value without secrets."""
    return value if isinstance(value, int | float | None) else redact(str(value))


class _Output:
    """Where lines go, how they look, and which are left out."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.as_json = False
        self._console: Any = None

    def _drawn(self, level: str, line: dict[str, Any]) -> str:
        """A line for a console."""
        if self._console is None:
            import structlog  # noqa: PLC0415 - a server that writes JSON need not load it

            self._console = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
        return str(self._console(None, level, line))

    def write(self, level: str, source: str, fact: str, fields: dict[str, Any]) -> None:
        """One line, flushed, so that a kill loses none."""
        line: dict[str, Any] = {"event": fact, **fields, "source": source, "level": level}
        if error := line.pop("exc_info", None):
            line["exception"] = "".join(traceback.format_exception(error))
        line["timestamp"] = rfc3339(time.time_ns() // 1_000_000)
        text = _ENCODER.encode(line).decode() if self.as_json else ""
        if not self.as_json or _suspicious(text):
            clean = {name: _clean(value) for name, value in line.items()}
            text = _ENCODER.encode(clean).decode() if self.as_json else self._drawn(level, clean)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


_output: Final = _Output()


class Logger:
    """What one module says."""

    def __init__(self, source: str) -> None:
        self._source = source

    def info(self, fact: str, **fields: Any) -> None:
        """Something happened as it should."""
        if _output.level <= logging.INFO:
            _output.write("info", self._source, fact, fields)

    def warning(self, fact: str, **fields: Any) -> None:
        """Something an operator may want to look at."""
        if _output.level <= logging.WARNING:
            _output.write("warning", self._source, fact, fields)

    def error(self, fact: str, **fields: Any) -> None:
        """Something went wrong; `exc_info` is an exception."""
        _output.write("error", self._source, fact, fields)


def get(name: str) -> Logger:
    """A logger; `name` is the module that speaks."""
    return Logger(name)


def configure(log_format: str, level: int = logging.INFO) -> None:
    """`json` or `console`; what libraries log (warnings and worse) goes the same way."""
    _output.level = level
    _output.as_json = log_format == "json"
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)


class _Library(logging.Handler):
    """A library's record as a line of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Under the library's own name."""
        fields = {"exc_info": record.exc_info[1]} if record.exc_info and record.exc_info[1] else {}
        _output.write(record.levelname.lower(), record.name, record.getMessage(), fields)
