"""Logs of a server: one JSON object a line, with the id of each request and nothing of what is in it."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("suffice_runtime.http")
"""Logger of requests."""

FIELDS = "fields"
"""Attribute of a record with the entries of its object."""


class JsonFormatter(logging.Formatter):
    """Format of records as JSON objects in ASCII, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON of a record."""
        entries: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            entries["error"] = self.formatException(record.exc_info)
        return json.dumps(entries, default=str)


def log(level: int, message: str, *, exc_info: BaseException | None = None, **entries: Any) -> None:
    """Write a record with entries."""
    LOGGER.log(level, message, extra={FIELDS: entries}, exc_info=exc_info)


def configuration(level: str = "INFO") -> dict[str, Any]:
    """Return the configuration of `logging` for a server, whose records go to the standard error."""
    handler = {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.{JsonFormatter.__name__}"}},
        "handlers": {"stderr": handler},
        "loggers": {
            name: {"handlers": ["stderr"], "level": level, "propagate": False}
            for name in ("suffice_runtime", "uvicorn", "uvicorn.error")
        },
    }
