"""What bypassed the triggers, or was changed in Redis: found, released or put right, and recorded in the audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from configbus.jsontext import members
from configbus.names import block_name, split_block
from configbus.store.connect import sql
from configbus.wire import entry_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

    from configbus.publication import Difference
    from configbus.store.connect import Place
    from configbus.wire import Entry

DRIFT = """
    SELECT domain, key, keyed, released::text, live::text FROM {schema}.drift(:environment)"""
CAPTURE_DRIFT = "SELECT name FROM {schema}.capture_drift(:environment) AS name"
RECORD_REPAIR = """
    SELECT {schema}.record_repair(:environment, :table, CAST(:id AS uuid), :key, CAST(:old AS jsonb),
                                  CAST(:new AS jsonb))"""
LONGEST = 2000
NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Drift:
    """A block whose active row is not what was released last: JSON texts by field, None where there is no such row.

    A singleton without an active row cannot be released: `lost` says so.
    """

    block: str
    released: dict[str, str] | None
    live: dict[str, str] | None
    lost: bool


def queue_usage(connection: Connection) -> float:
    """How full the queue of notifications is, 0 to 1: a session that listens within a transaction fills it."""
    return float(connection.scalar(text("SELECT pg_notification_queue_usage()")) or 0.0)


def find_drift(connection: Connection, place: Place) -> list[Drift]:
    """The blocks that were changed with the triggers switched off."""
    rows = connection.execute(sql(DRIFT, place.schema), {"environment": place.environment})
    return [
        Drift(
            block_name(row.domain, row.key),
            members(row.released) if row.released is not None else None,
            members(row.live) if row.live is not None else None,
            lost=row.live is None and not row.keyed,
        )
        for row in rows
    ]


def capture_drift(connection: Connection, place: Place) -> list[str]:
    """Release what bypassed the triggers, as one release of its own; the names of its blocks."""
    return list(connection.scalars(sql(CAPTURE_DRIFT, place.schema), {"environment": place.environment}))


def record_repair(
    connection: Connection, place: Place, differences: Iterable[Difference], entries: Mapping[str, Entry]
) -> None:
    """One line of the audit log per block, or head or index, that was put right in Redis: what was found, and what
    it was set to.
    """
    by_place: dict[str, list[Difference]] = {}
    for difference in differences:
        by_place.setdefault(difference.where, []).append(difference)
    for where, found in by_place.items():
        domain, key = split_block(where)
        entry = entries.get(where)
        given = {
            "environment": place.environment,
            "table": f"{domain}_config" if entry is not None else f"redis{where}",
            "id": json.loads(entry_fields(entry).get("@id", f'"{NOBODY}"')) if entry is not None else NOBODY,
            "key": key,
            "old": json.dumps({_kept(difference.field): _kept(difference.found) for difference in found}),
            "new": json.dumps({_kept(difference.field): _kept(difference.expected) for difference in found}),
        }
        connection.execute(sql(RECORD_REPAIR, place.schema), given)


def _kept(text: str | None) -> str | None:
    """As JSONB can hold it, and short: what was found may be anything."""
    if text is None:
        return None
    cut = text[:LONGEST] + f"... ({len(text)} characters)" if len(text) > LONGEST else text
    return cut.replace("\0", "\ufffd")
