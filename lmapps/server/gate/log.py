"""What the server has to tell -> one line each on standard error, with the request's name.

As words a line is for a person and for a machine (key=value, `logfmt`): values with spaces are
quoted as in JSON, a traceback is one value. As JSON it is an object with the same keys. Passwords
and keys are crossed out, whatever wrote them; what a person typed is left out unless it is asked
for.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from contextvars import ContextVar
from typing import Any

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The name of the request that is being answered."""
NAME = "lmapps.request"
"""Where it stands in the request's scope, for what goes on after the answer."""
MOST_CAUSES = 5
"""So many failures that led to one another are told."""
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("words", "json")

_SECRETS = (
    (re.compile(r"(://[^/\s:@'\"]*):[^/\s@'\"]+@"), r"\1:***@"),  # a password inside a URL
    (re.compile(r"\blmapps-[\w-]{20,}"), "lmapps-***"),  # a key of ours
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), r"\1 ***"),
    (
        re.compile(
            r"(?i)\b((?:[\w-]*(?:password|passwd|secret|api[_-]?key|token)|cookie|authorization)"
            r"\b[\"']?\s*[=:]\s*[\"']?)(?!(?:bearer|basic)\b)[^\s\"',;&]{3,}"
        ),
        r"\1***",
    ),
)
_PLAIN = re.compile(r"[^\s\"=\\]+")


class Lines(logging.Formatter):
    """A record -> its line. `extra={"fields": {...}}` adds keys, `extra={"private": "..."}` what
    may quote a person, which is left out unless `with_prompts`."""

    def __init__(self, with_prompts: bool = False, form: str = "words") -> None:
        super().__init__()
        self.with_prompts, self.form = with_prompts, form

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "from": record.name,
            "message": record.getMessage(),
        }
        request = getattr(record, "request", "") or REQUEST.get()
        if request:
            pairs["request"] = request
        pairs |= getattr(record, "fields", {})
        if self.with_prompts and hasattr(record, "private"):
            pairs["private"] = record.private
        if record.exc_info:
            pairs["traceback"] = self.formatException(record.exc_info)
        if self.form == "json":
            told = {key: _told(key, value) for key, value in pairs.items()}
            return json.dumps(told, ensure_ascii=False)
        return without_secrets(" ".join(f"{key}={_value(value)}" for key, value in pairs.items()))


def without_secrets(text: str) -> str:
    """The text with what looks like a password or a key crossed out."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def places_of(error: BaseException | None) -> str:
    """Where something failed, the last first, without what it says, which may quote a person."""
    told = list[str]()
    while error and len(told) < MOST_CAUSES:
        places = "".join(traceback.format_tb(error.__traceback__))
        told.append(f"{places}{type(error).__name__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nafter\n".join(told)


def set_up(level: str = "info", with_prompts: bool = False, form: str = "words") -> None:
    """Log what lmapps and the HTTP server have to tell to standard error, from now on so."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(with_prompts, form))
    for name, least in (("lmapps", level), ("uvicorn", "error")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least.upper())
        logger.propagate = False
    logging.getLogger("uvicorn.error").filters = [_told_elsewhere]


def _told_elsewhere(record: logging.LogRecord) -> bool:
    """What uvicorn says of requests that the gate has logged with their names."""
    return not record.msg.startswith(("Exception in ASGI", "ASGI callable", "Cancel %s running"))


def _told(key: str, value: Any) -> Any:
    """A value as JSON has it; a text without secrets, of which the key may be the name."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if value is None or isinstance(value, int):
        return value
    return without_secrets(f"{key}={value}").removeprefix(f"{key}=")


def _value(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
