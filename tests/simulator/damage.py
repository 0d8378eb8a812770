"""What happens to Redis' data, and what is written there or sent over the channel by somebody else."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from configbus.wire import HEAD_FIELDS, bookmark
from simulator.server import KEYS

if TYPE_CHECKING:
    from simulator.world import World

FORGED_HEADS = (("v", "2"), ("bus", "another"), ("needs", "more"))
JUNK = ("", "x", "0", "7:0123456789abcdef0123456789abcdef", "9" * 400, '"1.00"', "[", "-1")


def emptied(world: World) -> None:
    world.redis.data.clear()


def restarted_empty(world: World) -> None:
    world.redis.data.clear()
    _down(world)


def set_back(world: World) -> str | None:
    """Failed over to a copy that lags, on a host whose clock is another; relays take their time to find it."""
    if not world.copies:
        return None
    world.redis.data = deepcopy(world.random.choice(world.copies))
    shift = int(world.random.uniform(-3, 3) * 1_000_000)
    world.redis.offset += shift
    for relay in world.relays:
        relay.publisher.stopped_until = world.clock.now + min(2 * world.random.random(), world.left)
    _down(world)
    _newcomer_later(world)
    return f"clock shifted by {shift / 1_000_000:.3f} s"


def restored(world: World) -> None:
    """An old copy is loaded into the running server: no connection breaks, the clock goes on."""
    if world.copies:
        world.redis.data = deepcopy(world.random.choice(world.copies))
        _newcomer_later(world)


def key_lost(world: World) -> str | None:
    if not world.redis.data:
        return None
    key = world.random.choice(sorted(world.redis.data))
    if world.random.random() < 0.2:
        world.redis.data[key] = "a text where a hash belongs"
    else:
        del world.redis.data[key]
    _damaged(world)
    return key


def field_edited(world: World) -> str | None:
    hashes = {key: value for key, value in sorted(world.redis.data.items()) if isinstance(value, dict)}
    if not hashes:
        return None
    key = world.random.choice([*hashes, *hashes.keys() & {KEYS.head}])
    fields = hashes[key]
    field = world.random.choice([*sorted(fields), *[name for name in ("asof", "@with") if name in fields] * 3])
    if world.random.random() < 0.3 and len(fields) > 1:
        del fields[field]
    else:
        fields[field] = world.random.choice(JUNK)
    _damaged(world)
    return f"{key} {field} {fields.get(field, 'deleted')[:40]}"


def head_forged(world: World) -> str | None:
    """A whole head of another installation, or of a protocol to come."""
    head = world.redis.data.get(KEYS.head)
    if not isinstance(head, dict) or not all(field in head for field in HEAD_FIELDS):
        return None
    field, value = world.random.choice(FORGED_HEADS)
    head[field] = value
    _damaged(world)
    return field


def message_forged(world: World) -> str:
    """A message of nobody's, of another installation, of a protocol to come, or of a head that is not there."""
    head = world.postgres.head
    other = replace(head, bus="another", revision=head.revision + 1)
    absent = replace(head, revision=head.revision + world.random.randrange(3), state="0123456789abcdef" * 2)
    newer = bookmark(head, "now").replace('"v": 1', '"v": 2')
    text = world.random.choice((*JUNK, bookmark(other, "now"), bookmark(absent, "now"), newer))
    world.redis.publish(text.encode())
    return text[:60]


def _down(world: World) -> None:
    """All connections break, and nobody answers for a while."""
    world.redis.up = False
    world.redis.drop_all()
    world.clock.after(world.random.random(), partial(setattr, world.redis, "up", True))


def _damaged(world: World) -> None:
    """Nobody repairs single keys yet: an operator empties Redis, soon or after the run's faults."""
    world.damaged = True
    _newcomer_later(world)
    if world.random.random() < 0.5:
        world.clock.after(min(2 * world.random.random(), world.left), partial(emptied, world))


def _newcomer_later(world: World) -> None:
    """A worker without memory of what was there before, half of the times."""
    if world.random.random() < 0.5:
        worker = world.random.choice(world.workers)
        world.clock.after(min(world.random.random(), world.left), partial(world.start, worker))
