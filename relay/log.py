"""Logging: dotted facts with fields, one JSON object a line; callback tokens and secrets are cut out on the way."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

_SECRETS: Final = re.compile(
    r"(?P<path>/callbacks/[\w.-]*/)[^\s\"'?#<>]+|(?P<whsec>whsec_|whsk_)[A-Za-z0-9+/=_-]+|(?P<bearer>[Bb]earer\s+)[^\s\"']+"
)


def redact(text: str) -> str:
    """The text without callback tokens, webhook secrets and bearer keys."""
    return _SECRETS.sub(lambda m: (m["path"] or m["whsec"] or m["bearer"]) + "[redacted]", text)


def _redact_fields(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redacts every text field, the rendered exception among them."""
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = redact(value)
        elif not isinstance(value, int | float | bool | None):
            fields[name] = redact(str(value))
    return fields


def configure(log_format: str, level: int = logging.INFO) -> None:
    """Sets up structlog, and sends what libraries log (warnings and worse) the same way."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_fields,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger; `name` is the module that speaks."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(source=name)
    return logger
