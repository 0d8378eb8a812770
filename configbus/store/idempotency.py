"""Idempotency keys: a call that has one is recorded in its own transaction, with what came of it.

The record is written before anything else, so that the same call at the same time waits for the first one.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from configbus.errors import Conflict, InvalidValue, Problem
from configbus.store.connect import Place, sql
from configbus.wire import Release

if TYPE_CHECKING:
    from sqlalchemy import Connection

LONGEST_KEY = 200
RECORD = """
    INSERT INTO {schema}.idempotency (environment, key, request, called_by)
    VALUES (:environment, :key, :request, :actor) ON CONFLICT DO NOTHING"""
FOUND = """
    SELECT i.request, i.revision, i.epoch, ARRAY(
        SELECT b.name FROM {schema}.release_block AS b
        WHERE i.released AND b.environment = i.environment AND b.revision = i.revision
        ORDER BY b.name COLLATE "C") AS blocks
    FROM {schema}.idempotency AS i WHERE i.environment = :environment AND i.key = :key"""
CONCLUDE = """
    UPDATE {schema}.idempotency SET revision = :revision, epoch = :epoch, released = :released
    WHERE environment = :environment AND key = :key"""


def digest_of_call(request: list[Any], reason: str | None, key: str) -> str:
    """What tells one call from another that has the same key. Raises InvalidValue for what cannot be a key."""
    if not isinstance(key, str) or not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise InvalidValue([Problem("idempotency_key", f"must be 1 to {LONGEST_KEY} printable characters")])
    try:
        told = _told([request, reason or ""])
    except (ValueError, RecursionError):
        return ""  # no call with such values is ever done
    return hashlib.sha256(told.encode(errors="backslashreplace")).hexdigest()


def _told(call: list[Any]) -> str:
    try:
        return json.dumps(call, sort_keys=True, default=str)
    except TypeError:  # names of several types within a document have no order
        return repr(call)


def earlier_call(connection: Connection, place: Place, key: str, request: str, actor: str) -> Release | None:
    """What the same call came to before; None if this is the first one, which is recorded now.

    Raises Conflict if another call had the key.
    """
    given = {"environment": place.environment, "key": key, "request": request, "actor": actor}
    if connection.execute(sql(RECORD, place.schema), given).rowcount:
        return None
    row = connection.execute(sql(FOUND, place.schema), given).one()
    if row.request != request:
        raise Conflict(f"idempotency key {key!r} was used by another call, at revision {row.revision}")
    return Release(row.revision, row.epoch, tuple(row.blocks))


def conclude_call(connection: Connection, place: Place, key: str, release: Release) -> None:
    """Record what came of the call."""
    given = {"revision": release.revision, "epoch": release.epoch, "released": bool(release.blocks)}
    connection.execute(sql(CONCLUDE, place.schema), given | {"environment": place.environment, "key": key})
