"""Where Postgres and Redis stand: what `status` shows and `health` judges."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from configbus.errors import ConfigBusError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from configbus.settings import Settings


def of_postgres(settings: Settings) -> dict[str, Any]:
    """The head of Postgres, or the `error` that it is not available. Raises UnknownEnvironment."""
    from configbus.store.connect import Place, connected
    from configbus.store.releases import newest_head

    try:
        with connected(settings.require("database_url")) as connection:
            head = newest_head(connection, Place(settings.schema, settings.environment))
    except Unavailable as error:
        return {"error": str(error)}
    return {"epoch": head.epoch, "revision": head.revision, "state": head.state, "bus": head.bus, "system": head.system}


def ages_of(settings: Settings, revisions: Iterable[int]) -> dict[int, float]:
    """Seconds since each of these releases was made, where there is one. Raises Unavailable."""
    from configbus.errors import UnknownRevision
    from configbus.store.connect import Place, connected
    from configbus.store.releases import age_of_release

    ages = {}
    with connected(settings.require("database_url")) as connection:
        for revision in revisions:
            with suppress(UnknownRevision):
                ages[revision] = age_of_release(connection, Place(settings.schema, settings.environment), revision)
    return ages


def of_redis(settings: Settings) -> dict[str, Any]:
    """The head of Redis and the `age` of its stamp in seconds, or why there is none: `missing`, `damaged`, `error`."""
    from configbus.link import Link, looking_commands, reading_of
    from configbus.wire import Keys, Malformed, read_head, read_stamp

    link = Link(settings.require("redis_url"))
    try:
        replies = link.call(*looking_commands(Keys(settings.namespace, settings.environment)))
        reading = reading_of(replies, ())
        if not reading.head:
            return {"missing": "there is no head: nothing was published yet, or Redis was emptied"}
        head = read_head(reading.head)
        if (ring := settings.keyring) is not None:
            ring.check_head(head, reading.head)
    except Malformed as error:
        return {"damaged": str(error)}
    except ConfigBusError as error:
        return {"error": str(error)}
    finally:
        link.close()
    stamp = read_stamp(reading.head)
    age = (reading.time - stamp) / 1_000_000 if stamp is not None else None
    facts = {"epoch": head.epoch, "revision": head.revision, "state": head.state, "bus": head.bus}
    facts["chain"] = reading.head.get("chain") or None
    facts["signed"] = reading.head.get("signature", "").partition(":")[0] or None
    return facts | {"age": age, "published_at": reading.head.get("published_at")}


def lag_of(postgres: dict[str, Any], redis: dict[str, Any]) -> int | None:
    """How many releases Redis is behind, of one history; None where that is not known, or there is none."""
    if "epoch" not in postgres or "epoch" not in redis or postgres["epoch"] != redis["epoch"]:
        return None
    return int(postgres["revision"] - redis["revision"])


def in_step(postgres: dict[str, Any], redis: dict[str, Any]) -> bool:
    """Whether both have a head, and of one history, revision and content."""
    return all(postgres.get(key) == redis.get(key) is not None for key in ("epoch", "revision", "state"))
