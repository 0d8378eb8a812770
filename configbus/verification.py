"""Everything held against everything: active rows, release tables, Redis, and the models; and a new history by hand."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from configbus.adoption import Refusal, parse_entry
from configbus.catalogue import load_catalogue
from configbus.link import Link
from configbus.names import split_block
from configbus.publication import Verdict
from configbus.publisher import Publisher
from configbus.repair import Repair
from configbus.store.connect import LONG, Place, begun, connected, translated
from configbus.store.drift import capture_drift, find_drift
from configbus.store.releases import newest_head, raise_epoch
from configbus.store.versions import begin_authoring
from configbus.wire import Keys, entry_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from configbus.catalogue import Catalogue
    from configbus.settings import Settings
    from configbus.store.drift import Drift
    from configbus.wire import Entry


AGAIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be; JSON texts, None where there is nothing.

    In `postgres`, `found` is in the active row and `expected` in the newest release: it was written with the triggers
    switched off, and to repair is to release it. In `redis`, `expected` is in the newest release. In `model`,
    `expected` is why workers refuse the value; no program can mend that.
    """

    where: Literal["postgres", "redis", "model"]
    block: str
    field: str
    found: str | None
    expected: str | None
    repaired: bool


def verify(settings: Settings, *, repair: bool) -> list[Finding]:
    """What differs, before any of it is put right.

    Raises Unavailable, and with `repair` what keeps a publisher from publishing: Superseded, HistoryLost, Conflict.
    """
    place, catalogue = Place(settings.schema, settings.environment), load_catalogue(settings.domains)
    link = Link(settings.require("redis_url"))
    publisher = Publisher(link, Keys(settings.namespace, settings.environment), place, settings.keyring)
    checker = Repair(publisher, place)
    with closing(link), translated(), connected(settings.require("database_url"), LONG) as connection:
        with connection.begin():
            drift = find_drift(connection, place)
        findings = [finding for block in drift for finding in _of_drift(block, repaired=repair and not block.lost)]
        wrong = list(_of_redis(publisher, checker, connection))
        if repair:
            for _ in range(len(drift)):
                with begun(connection):
                    begin_authoring(connection, settings.actor, None, publishes=True)
                    if not capture_drift(connection, place):
                        break
            publisher.bring_up(connection)
            checker.repair(connection)
            left = set(_of_redis(publisher, checker, connection))
            wrong = [replace(finding, repaired=finding not in left) for finding in wrong]
        findings += wrong
        findings += _of_models(checker.state(connection).entries, catalogue)
    return findings


def begin_epoch(settings: Settings, reason: str) -> int:
    """Begin a new history above that of Postgres and of Redis, and publish it; its epoch. Raises Unavailable."""
    place = Place(settings.schema, settings.environment)
    link = Link(settings.require("redis_url"))
    publisher = Publisher(link, Keys(settings.namespace, settings.environment), place, settings.keyring)
    with closing(link), translated(), connected(settings.require("database_url"), LONG) as connection:
        with connection.begin():
            head = newest_head(connection, place)
        _, found = publisher.judge(publisher.look(), head)
        with begun(connection):
            begin_authoring(connection, settings.actor, reason, publishes=True)
            raise_epoch(connection, place, head.epoch, found.epoch if found is not None else 0, reason)
        return publisher.bring_up(connection).epoch


def refused_by_models(entries: Iterable[Entry], catalogue: Catalogue) -> Iterator[tuple[Entry, Refusal]]:
    """The entries that workers with this catalogue refuse; those of other domains are not judged."""
    for entry in entries:
        if split_block(entry.name)[0] in catalogue.domains:
            block = parse_entry(entry, catalogue)
            if isinstance(block, Refusal):
                yield entry, block


def _of_drift(block: Drift, *, repaired: bool) -> Iterator[Finding]:
    if block.lost:
        yield Finding("postgres", block.block, "", None, "an active row", repaired=False)
        return
    released, live = block.released or {}, block.live or {}
    changed = [field for field in sorted(released.keys() | live.keys()) if released.get(field) != live.get(field)]
    for field in changed or ["@"]:
        yield Finding("postgres", block.block, field, live.get(field), released.get(field), repaired)


def _of_redis(publisher: Publisher, checker: Repair, connection: Connection) -> Iterator[Finding]:
    """What differs in Redis; where it is not at the head of Postgres it may be on its way, and is looked at again."""
    for pause in (AGAIN_SECONDS, AGAIN_SECONDS, 0.0):
        if (differences := checker.compare(connection)) is not None:
            for wrong in (difference for difference in differences if not difference.renewal):
                yield Finding("redis", wrong.where, wrong.field, wrong.found, wrong.expected, repaired=False)
            return
        time.sleep(pause)
    found, truth = publisher.look(), checker.state(connection).head
    verdict, _ = publisher.judge(found, truth)
    if verdict is not Verdict.DONE:
        fields = found.fields
        there = f"epoch {fields.get('epoch')}, revision {fields.get('revision')}" if fields else None
        expected = f"epoch {truth.epoch}, revision {truth.revision}"
        yield Finding("redis", "@head", verdict.name.lower(), there, expected, repaired=False)


def _of_models(entries: Iterable[Entry], catalogue: Catalogue) -> Iterator[Finding]:
    for entry, refusal in refused_by_models(entries, catalogue):
        value = entry_fields(entry).get(refusal.field.partition(".")[0])
        yield Finding("model", entry.name, refusal.field, value, refusal.reason, repaired=False)
