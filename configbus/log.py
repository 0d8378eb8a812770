"""The library's logger: snake_case events with facts, through the stdlib logger `configbus`.

Silent until the application configures logging. A plain handler shows `event key=value ...`;
a structured one finds the facts in `record.facts`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_stdlib = logging.getLogger("configbus")
_stdlib.addHandler(logging.NullHandler())
_logfmt = structlog.processors.LogfmtRenderer(key_order=["event"])


def _to_stdlib(_logger: WrappedLogger, _method: str, event: EventDict) -> tuple[tuple[Any, ...], dict[str, Any]]:
    error = event.pop("exc_info", None)
    facts = {key: value for key, value in event.items() if value is not None}
    told = _logfmt(_logger, _method, {key: str(value) for key, value in facts.items()})
    return (str(told).removeprefix("event="),), {"exc_info": error, "extra": {"facts": facts}}


log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    _stdlib, processors=[structlog.stdlib.filter_by_level, _to_stdlib], wrapper_class=structlog.stdlib.BoundLogger
)
