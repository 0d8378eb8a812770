"""What happens to Redis' data, and what is written there or sent over the channel by somebody else."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from configbus.wire import HEAD_FIELDS, bookmark
from simulator.postgres import BUS
from simulator.server import KEYS

if TYPE_CHECKING:
    from simulator.world import World

JUNK = ("", "x", "0", "7:0123456789abcdef0123456789abcdef", "9" * 400, '"1.00"', "[", "-1")
OTHER_STATE = "0123456789abcdef" * 2


def copy(world: World) -> None:
    """Something to be set back to; without the head, where it is a forged one."""
    data = deepcopy(world.redis.data)
    head = data.get(KEYS.head)
    if isinstance(head, dict) and (head.get("bus"), head.get("v"), head.get("needs")) != (BUS, "1", None):
        del data[KEYS.head]
    world.copies.append(data)


def flushed(world: World) -> str | None:
    if world.redis_must_stay:
        return "spared"
    world.redis.data.clear()
    return None


def killed_and_empty(world: World) -> str | None:
    if world.redis_must_stay:
        return "spared"
    world.redis.data.clear()
    _down(world, world.random.random())
    return None


def killed_and_old(world: World) -> str | None:
    """Failed over to a copy that lags, on a host whose clock is another; relays take their time to find it."""
    if not world.copies or world.redis_must_stay:
        return "spared"
    world.redis.data = deepcopy(world.random.choice(world.copies))
    shift = int(world.random.uniform(-3, 3) * 1_000_000)
    world.redis.offset += shift
    for relay in world.relays:
        relay.publisher.stopped_until = world.clock.now + min(2 * world.random.random(), world.left)
    _down(world, world.random.random())
    newcomer_later(world)
    return f"clock shifted by {shift / 1_000_000:.3f} s"


def down(world: World) -> str:
    """Away for a while, and back with all that it held."""
    seconds = min(world.random.uniform(0.3, 5), world.left)
    _down(world, seconds)
    return f"for {seconds:.1f} s"


def old_copy_loaded(world: World) -> str | None:
    """An old copy is loaded into the running server: no connection breaks, the clock goes on."""
    if not world.copies or world.redis_must_stay:
        return "spared"
    world.redis.data = deepcopy(world.random.choice(world.copies))
    newcomer_later(world)
    return None


def key_lost(world: World) -> str | None:
    keys = [key for key in sorted(world.redis.data) if key != KEYS.head or not world.redis_must_stay]
    if not keys:
        return "spared"
    key = world.random.choice(keys)
    if world.random.random() < 0.2:
        world.redis.data[key] = "a text where a hash belongs"
    else:
        del world.redis.data[key]
    newcomer_later(world)
    return key


def field_edited(world: World) -> str | None:
    """By hand; a `v` that nobody knows says that a newer configbus is there, so that is only deleted."""
    hashes = {key: value for key, value in sorted(world.redis.data.items()) if isinstance(value, dict) and value}
    if world.redis_must_stay:
        hashes.pop(KEYS.head, None)
    if not hashes:
        return "spared"
    key = world.random.choice([*hashes, *(hashes.keys() & {KEYS.head})])
    fields = hashes[key]
    field = world.random.choice([*sorted(fields), *[name for name in ("asof", "@with") if name in fields] * 3])
    if len(fields) > 1 and (world.random.random() < 0.3 or (key == KEYS.head and field in ("v", "needs"))):
        del fields[field]
    else:
        fields[field] = world.random.choice(JUNK)
    newcomer_later(world)
    return f"{key} {field} {fields.get(field, 'deleted')[:40]}"


def head_forged(world: World) -> str | None:
    """A whole head of another installation, or of a protocol to come; who put it there takes it away again. Its blocks
    are not there: a worker without memory that finds those, too, belongs to that installation.
    """
    head = world.redis.data.get(KEYS.head)
    if world.redis_must_stay or not isinstance(head, dict) or not all(field in head for field in HEAD_FIELDS):
        return "spared"
    other = replace(world.postgres.head, bus="another", state=OTHER_STATE).fields()
    forged = world.random.choice((other, {"v": "2"}, {"needs": "more"}))
    head |= forged

    def undo() -> None:
        found = world.redis.data.get(KEYS.head)
        if isinstance(found, dict) and all(found.get(field) == value for field, value in forged.items()):
            world.redis.data.pop(KEYS.head)

    world.clock.after(min(2 * world.random.random(), world.left), undo)
    newcomer_later(world)
    return str(forged)[:40]


def message_forged(world: World) -> str:
    """A message of nobody's, of another installation, of a protocol to come, or of a head that is not there."""
    head = world.postgres.head
    other = replace(head, bus="another", revision=head.revision + 1)
    absent = replace(head, revision=head.revision + world.random.randrange(3), state=OTHER_STATE)
    newer = bookmark(head, "now").replace('"v": 1', '"v": 2')
    text = world.random.choice((*JUNK, bookmark(other, "now"), bookmark(absent, "now"), newer))
    world.redis.publish(text.encode())
    return text[:60]


def newcomer_later(world: World) -> None:
    """A worker without memory of what was there before, now and then."""
    if world.random.random() < 0.4:
        worker = world.random.choice(world.workers)
        world.clock.after(min(world.random.random(), world.left), partial(world.restart, worker, "no file"))


def _down(world: World, seconds: float) -> None:
    """All connections break, and nobody answers for a while."""
    world.redis.down_until = max(world.redis.down_until, world.clock.now + min(seconds, world.left))
    world.redis.drop_all()
