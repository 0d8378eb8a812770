"""The library's logger: snake_case events with facts, through the stdlib logger `configbus`.

Silent until the application configures logging. A plain handler shows `event key=value ...`;
a structured one finds the facts in `record.facts`. Neither ever holds the password of a URL; a
traceback is handed on as it is.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

PASSWORD = re.compile(r"(://[^\s:@]{0,256}:)\S{0,4096}@")
SECRET = re.compile(r"([?&;][^=&\s]{0,32}(?:password|secret|token)[^=&\s]{0,32}=)[^&#\s]*", re.IGNORECASE)

_stdlib = logging.getLogger("configbus")
_stdlib.addHandler(logging.NullHandler())
_logfmt = structlog.processors.LogfmtRenderer(key_order=["event"])


def masked(text: str) -> str:
    """The text with the passwords of the URLs in it made unreadable."""
    return SECRET.sub(r"\1***", PASSWORD.sub(r"\1***@", text))


def _to_stdlib(_logger: WrappedLogger, _method: str, event: EventDict) -> tuple[tuple[Any, ...], dict[str, Any]]:
    error = event.pop("exc_info", None)
    facts = {
        key: masked(value) if isinstance(value, str) else value for key, value in event.items() if value is not None
    }
    told = _logfmt(_logger, _method, {key: masked(str(value)) for key, value in facts.items()})
    return (str(told).removeprefix("event="),), {"exc_info": error, "extra": {"facts": facts}}


log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    _stdlib, processors=[structlog.stdlib.filter_by_level, _to_stdlib], wrapper_class=structlog.stdlib.BoundLogger
)
