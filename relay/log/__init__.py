"""Logging: dotted facts with fields, one JSON object a line; callback tokens and secrets are cut out on the way.

A line is written for every callback and every attempt, so formatting is short: structlog draws the console's lines, but
not the JSON. Logging never raises into its caller and never waits for what reads the log: see `log/writer.py`.
"""

import atexit
import logging
import os
import re
import sys
import threading
import time
import traceback
from typing import Any, Final

import msgspec

from relay.clock import rfc3339
from relay.log import request_ids
from relay.log.writer import LogWriter

_SECRETS: Final = re.compile(
    r"(?P<path>/callbacks/[\w.-]*/)[^\s\"'?#<>]+|(?P<whsec>whsec_|whsk_)[A-Za-z0-9+/=_-]+|(?P<bearer>[Bb]earer\s+)[^\s\"']+"
)


QUEUE_MAX: Final = 10_000
"""The default of RELAY_LOG_QUEUE_MAX."""
FLUSH_S: Final = 2.0
"""How long a process that ends waits for what reads its log."""
LINE_CHARS_MAX: Final = 16_384
TEXT_CHARS_MAX: Final = 4_096
"""Of a line that is too long, each field keeps so many characters, half of them from its end."""
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
    """A field's value without secrets, and not too long."""
    if isinstance(value, int | float | None):
        return value
    text = redact(str(value))
    half = TEXT_CHARS_MAX // 2
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:half]} … {text[-half:]}"


def _ascii(text: str) -> str:
    """The text in ASCII, so that it can be written whatever is in it."""
    return text.encode("ascii", "backslashreplace").decode()


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as text that can be written; an exception, which is text then too, under its usual name."""
    return {"exception" if name == "exc_info" else _ascii(name): _spelled(value) for name, value in fields.items()}


def _spelled(value: object) -> str:
    """Any value as ASCII text; the name of its type where it cannot be spelled."""
    try:
        return _ascii("".join(traceback.format_exception(value))) if isinstance(value, BaseException) else ascii(value)
    except Exception:  # noqa: BLE001 - an object's own code ran
        return f"<{type(value).__name__}>"


class _Output:
    """Formats lines, and passes them to the writer; nothing in it raises, whatever the fields are."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.as_json = False
        self.writer: LogWriter | None = None
        self.dropped = 0
        self._console: Any = None

    def write(self, level: str, source: str, fact: str, fields: dict[str, Any]) -> None:
        """Pass on one line; without a writer it goes to standard error at once."""
        line = self._line(level, source, fact, fields)
        if self.writer is not None:
            self.writer.put(line)
        else:
            self._to_stderr(line)

    def notice(self, lines: int) -> bytes:
        """Return the line that says how many lines were dropped."""
        return self._line("warning", "log", "log.lines_dropped", {"lines": lines})

    def _line(self, level: str, source: str, fact: str, fields: dict[str, Any]) -> bytes:
        """Return a line; one whose fields or console cannot be used is plain JSON with the fields as ASCII text."""
        try:
            text = self._formatted(level, source, fact, fields)
        except Exception as error:  # noqa: BLE001 - what cannot be written must not stop what logs it
            plain = {"event": _ascii(fact), "unwritable": type(error).__name__} | _plain(fields)
            plain |= {"source": source, "level": level, "timestamp": rfc3339(time.time_ns() // 1_000_000)}
            text = _ENCODER.encode({name: _clean(value) for name, value in plain.items()}).decode()
        return f"{text}\n".encode("utf-8", "backslashreplace")

    def _formatted(self, level: str, source: str, fact: str, fields: dict[str, Any]) -> str:
        """Return the text of a line, without secrets."""
        line: dict[str, Any] = {"event": fact, **fields, "source": source, "level": level}
        if request_id := request_ids.CURRENT.get():
            line["request_id"] = request_id
        if error := line.pop("exc_info", None):
            line["exception"] = "".join(traceback.format_exception(error))
        line["timestamp"] = rfc3339(time.time_ns() // 1_000_000)
        text = _ENCODER.encode(line).decode() if self.as_json else ""
        if not self.as_json or _suspicious(text) or len(text) > LINE_CHARS_MAX:
            clean = {name: _clean(value) for name, value in line.items()}
            text = _ENCODER.encode(clean).decode() if self.as_json else self._drawn(level, clean)
        return text

    def _drawn(self, level: str, line: dict[str, Any]) -> str:
        """Return a line for a console."""
        if self._console is None:
            import structlog  # noqa: PLC0415 - a server that writes JSON need not load it

            self._console = structlog.dev.ConsoleRenderer(colors=bool(sys.stdout and sys.stdout.isatty()))
        return str(self._console(None, level, line))

    def _to_stderr(self, line: bytes) -> None:
        """Write a line of a command that serves nobody, where its own output is not disturbed."""
        try:
            sys.stderr.write(line.decode())
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # full or gone, closed, or never there
            self.dropped += 1


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


def configure(log_format: str, level: int = logging.INFO, queue_max: int = QUEUE_MAX) -> None:
    """Write lines to standard output, from a thread, as `json` or `console`; libraries' warnings go the same way.

    `queue_max` is the number of lines that may wait for a reader; more are dropped and counted.
    """
    _output.level = level
    _output.as_json = log_format == "json"
    _output.writer = LogWriter(_stdout(), queue_max, _output.notice)
    atexit.register(flush)
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_died


def flush(within_s: float = FLUSH_S) -> None:
    """Write what waits, for `within_s` seconds at most; nothing is logged after it."""
    if _output.writer is not None:
        _output.writer.close(within_s)


def dropped() -> int:
    """Return how many lines of this process were dropped because nothing took them."""
    return _output.dropped + (_output.writer.dropped if _output.writer else 0)


def _stdout() -> int:
    """Return the descriptor of standard output, or of /dev/null for a process that was started without one."""
    return os.open(os.devnull, os.O_WRONLY) if sys.stdout is None else sys.stdout.fileno()


def _unraisable(broken: "sys.UnraisableHookArgs") -> None:
    """Log what a finalizer raised, which Python would write to standard error."""
    _output.write("error", "python", "python.unraisable", {"object": str(broken.object), "exc_info": broken.exc_value})


def _thread_died(died: threading.ExceptHookArgs) -> None:
    """Log what ended a thread."""
    name = died.thread.name if died.thread else ""
    _output.write("error", "python", "python.thread_died", {"thread": name, "exc_info": died.exc_value})


class _Library(logging.Handler):
    """A library's record as a line of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it under the library's own name; a record that cannot be formatted is written as it is."""
        fields = {"exc_info": record.exc_info[1]} if record.exc_info and record.exc_info[1] else {}
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - wrong arguments of a logging call are the library's bug, not the caller's
            text = str(record.msg)
        _output.write(record.levelname.lower(), record.name, text, fields)
