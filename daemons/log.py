"""One line an event: time, level, event, and key=value pairs."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Final, TextIO

PLAIN: Final = re.compile(r"[\w.,:;/@%+*-]+", re.ASCII)
LOGGER: Final = "rings.daemon"
FIELDS: Final = "rings_fields"


class Log:
    """Writes events to a standard logger, so that a host program can route them."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """Tell what only a developer wants to know."""
        self._logger.debug(event, extra={FIELDS: fields})

    def info(self, event: str, **fields: object) -> None:
        """Tell what happens in the ordinary course."""
        self._logger.info(event, extra={FIELDS: fields})

    def warning(self, event: str, **fields: object) -> None:
        """Tell what an operator may want to look into."""
        self._logger.warning(event, extra={FIELDS: fields})

    def error(self, event: str, *, trace: bool = False, **fields: object) -> None:
        """Tell what went wrong in this process."""
        self._logger.error(event, exc_info=trace, extra={FIELDS: fields})


class KeyValueFormatter(logging.Formatter):
    """Formats a record as `time level event key=value …`, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = dict(getattr(record, FIELDS, {}))
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        words = [f"{seconds}.{int(record.msecs):03d}Z", record.levelname.lower()]
        message = record.getMessage()
        words.append(message if message.isprintable() else _value(message))
        words += [f"{key}={_value(value)}" for key, value in fields.items()]
        return " ".join(words)


def _value(value: object) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)


def log_to(stream: TextIO, level: str) -> Log:
    """Return a log whose lines go to `stream`."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level.upper())
    logger.propagate = False
    channel = logging.StreamHandler(stream)
    channel.setFormatter(KeyValueFormatter())
    logger.handlers[:] = [channel]
    return Log(logger)
