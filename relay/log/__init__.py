"""Writes log events with fields, one JSON object per line, without callback tokens and secrets.

Every callback and every attempt writes a line, so formatting must be fast: structlog formats console lines only, not
JSON. Logging never raises into its caller and never waits for the log's reader: see `log/writer.py`.
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
    r"|(?P<key>(?<![A-Za-z0-9])rk_)[A-Za-z0-9_-]{32,}"
)
QUEUE_MAX: Final = 10_000
"""The default of RELAY_LOG_QUEUE_MAX."""
FLUSH_S: Final = 2.0
"""How long an ending process waits for the log's reader."""
LINE_BYTES_MAX: Final = 16_384
TEXT_CHARS_MAX: Final = 4_096
"""In a line beyond LINE_BYTES_MAX each field is cut to this length, half of it from the field's end."""
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)


def redact(text: str) -> str:
    """Return the text without callback tokens, webhook secrets, bearer keys and API keys that relay has made."""
    if "/callbacks/" in text or "whs" in text or "earer" in text or "rk_" in text:
        return _SECRETS.sub(lambda m: (m["path"] or m["whsec"] or m["bearer"] or m["key"]) + "[redacted]", text)
    return text


def _clean(value: object) -> object:
    """Return a field's value without secrets, cut to TEXT_CHARS_MAX."""
    if isinstance(value, int | float | None):
        return value
    text = redact(str(value))
    half = TEXT_CHARS_MAX // 2
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:half]} … {text[-half:]}"


def _ascii(text: str) -> str:
    """Return the text in ASCII, which every output can write."""
    return text.encode("ascii", "backslashreplace").decode()


def _ascii_value(value: object) -> str:
    """Return any value as ASCII text, or the name of its type if its own `repr` fails."""
    try:
        return _ascii("".join(traceback.format_exception(value))) if isinstance(value, BaseException) else ascii(value)
    except Exception:  # noqa: BLE001 - an object's own code ran
        return f"<{type(value).__name__}>"


class _Output:
    """Formats lines and passes them to the writer; no method raises, whatever the fields are."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.as_json = False
        self.writer: LogWriter | None = None
        self.dropped = 0
        self._console: Any = None

    def write(self, level: str, source: str, event: str, fields: dict[str, Any]) -> None:
        """Queue one line for the writer; without a writer, as in most commands, write it to standard error."""
        line = self._line(level, source, event, fields)
        if self.writer is not None:
            self.writer.put(line)
            return
        try:
            sys.stderr.write(line.decode())
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # full or gone, closed, or the process has none
            self.dropped += 1

    def dropped_line(self, lines: int) -> bytes:
        """Return the line that says how many lines were dropped."""
        return self._line("warning", "log", "log.lines_dropped", {"lines": lines})

    def _line(self, level: str, source: str, event: str, fields: dict[str, Any]) -> bytes:
        """Return a line; if its fields or the console fail, plain JSON with the fields as ASCII text."""
        try:
            return self._format(level, source, event, fields)
        except Exception as error:  # noqa: BLE001 - a line that cannot be formatted must not fail the code that logs it
            plain: dict[str, object] = {"event": _ascii(event), "unwritable": type(error).__name__}
            for name, value in fields.items():
                plain["exception" if name == "exc_info" else _ascii(name)] = _ascii_value(value)
            plain |= {"source": source, "level": level, "timestamp": rfc3339(time.time_ns() // 1_000_000)}
            return _ENCODER.encode({name: _clean(value) for name, value in plain.items()}) + b"\n"

    def _format(self, level: str, source: str, event: str, fields: dict[str, Any]) -> bytes:
        """Return a line without secrets."""
        line: dict[str, Any] = {"event": event, **fields, "source": source, "level": level}
        if request_id := request_ids.CURRENT.get():
            line["request_id"] = request_id
        if error := line.pop("exc_info", None):
            line["exception"] = "".join(traceback.format_exception(error))
        line["timestamp"] = rfc3339(time.time_ns() // 1_000_000)
        encoded = _ENCODER.encode(line) if self.as_json else b""
        # JSON does not escape these characters, so one search serves all fields.
        suspect = encoded.find(b"/callbacks/") >= 0 or encoded.find(b"whs") >= 0 or encoded.find(b"earer") >= 0
        if not encoded or suspect or len(encoded) > LINE_BYTES_MAX:
            clean = {name: _clean(value) for name, value in line.items()}
            if not self.as_json:
                return f"{self._format_console(level, clean)}\n".encode("utf-8", "backslashreplace")
            encoded = _ENCODER.encode(clean)
        return encoded + b"\n"

    def _format_console(self, level: str, line: dict[str, Any]) -> str:
        """Return a line for a console, coloured on a terminal."""
        if self._console is None:
            import structlog  # noqa: PLC0415 - a server that writes JSON need not load it

            self._console = structlog.dev.ConsoleRenderer(colors=bool(sys.stdout and sys.stdout.isatty()))
        return str(self._console(None, level, line))


_output: Final = _Output()


class Logger:
    """Logs the events of one `source`; an event's name is dotted: `delivery.attempt_finished`."""

    def __init__(self, source: str) -> None:
        self._source = source

    def info(self, event: str, /, **fields: Any) -> None:
        """Log an expected event."""
        if _output.level <= logging.INFO:
            _output.write("info", self._source, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Log an event that an operator may want to check."""
        if _output.level <= logging.WARNING:
            _output.write("warning", self._source, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Log a failure; the field `exc_info` is an exception, logged with its traceback."""
        _output.write("error", self._source, event, fields)


def get(name: str) -> Logger:
    """Return a logger whose lines have `name` as their source."""
    return Logger(name)


def configure(log_format: str, level: int = logging.INFO, queue_max: int = QUEUE_MAX) -> None:
    """Write lines to standard output, from a thread, as `json` or `console`; libraries' warnings included.

    `queue_max` is the number of lines that may wait for the log's reader; further lines are dropped and counted.
    """
    _output.level = level
    _output.as_json = log_format == "json"
    _output.writer = LogWriter(_stdout(), queue_max, _output.dropped_line)
    atexit.register(flush)
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_died


def flush(within_s: float = FLUSH_S) -> None:
    """Write the queued lines, for at most `within_s` seconds; nothing can be logged afterwards."""
    if _output.writer is not None:
        _output.writer.close(within_s)


def dropped() -> int:
    """Return how many lines of this process were dropped because the log's reader was too slow or gone."""
    return _output.dropped + (_output.writer.dropped if _output.writer else 0)


def _stdout() -> int:
    """Return the descriptor of standard output, or of /dev/null for a process that was started without one."""
    return os.open(os.devnull, os.O_WRONLY) if sys.stdout is None else sys.stdout.fileno()


def _unraisable(broken: "sys.UnraisableHookArgs") -> None:
    """Log an exception of a finalizer, which Python would write to standard error."""
    _output.write("error", "python", "python.unraisable", {"object": str(broken.object), "exc_info": broken.exc_value})


def _thread_died(died: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread."""
    name = died.thread.name if died.thread else ""
    _output.write("error", "python", "python.thread_died", {"thread": name, "exc_info": died.exc_value})


class _Library(logging.Handler):
    """Writes libraries' log records as relay's lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record with its logger's name as the source; if it cannot be formatted, its raw message."""
        fields = {"exc_info": record.exc_info[1]} if record.exc_info and record.exc_info[1] else {}
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - wrong arguments are the library's bug and must not fail its caller
            text = str(record.msg)
        _output.write(record.levelname.lower(), record.name, text, fields)
