"""What goes wrong, and when: the table of all faults, and what is drawn from it for one run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from simulator import damage
from simulator.blocks import NAMES, refused_content
from simulator.server import KEYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.driver import Driver
    from simulator.server import Line
    from simulator.world import Memory, World

    Fault = Callable[[World], str | None]

LOSSES = 3
"""Set-backs and failovers in one run: more than a relay answers with new epochs are for people."""

MEMORIES: tuple[Memory, ...] = ("file", "file", "file", "no file", "old file")
FIRST = 2
"""States that no database is set back behind: the empty one and the first release."""


def trouble(world: World) -> None:
    """Put releases and faults on the agenda: in clusters, and of few kinds in each run."""
    random, clock = world.random, world.clock
    kinds = [fault for kind in random.sample(list(FAULTS), random.randrange(1, 7)) for fault in FAULTS[kind]]
    moments = [random.uniform(0.1, world.duration) for _ in range(random.randrange(1, 5))]
    for _ in range(random.randrange(4, 16)):
        names = random.sample(NAMES, random.choice((1, 1, 2, 2, 3)))
        instant = random.choice((random.uniform(0.1, world.duration), random.choice(moments) + random.uniform(0, 2)))
        clock.at(min(instant, world.duration), partial(world.release, names))
    for _ in range(random.randrange(2, 16)):
        instant = random.choice(moments) + random.expovariate(3)
        if instant < world.duration:
            clock.at(instant, partial(_strike, world, random.choice(kinds)))
    for _ in range(2):
        clock.at(random.uniform(0.1, world.duration), partial(damage.copy, world))


def _strike(world: World, fault: Fault) -> None:
    at = len(world.history.events)
    facts = fault(world)
    world.history.events.insert(at, (world.clock.now, "fault", fault.__name__, facts))


def push_killed(world: World) -> str | None:
    return _to_line(world, lambda driver: driver.push, world.redis.drop)


def poll_killed(world: World) -> str | None:
    return _to_line(world, lambda driver: driver.poll.line, world.redis.drop)


def push_half_open(world: World) -> str | None:
    return _to_line(world, lambda driver: driver.push, _silence)


def poll_half_open(world: World) -> str | None:
    return _to_line(world, lambda driver: driver.poll.line, _silence)


def _to_line(world: World, line_of: Callable[[Driver], Line | None], act: Callable[[Line], None]) -> str | None:
    driver = _anyone(world)
    line = line_of(driver) if driver is not None else None
    if driver is None or line is None:
        return None
    act(line)
    return driver.life.name


def _silence(line: Line) -> None:
    line.silent = True


def _anyone(world: World) -> Driver | None:
    return world.random.choice(world.workers).driver


def resubscribed(world: World) -> str | None:
    """The push connection was replaced behind the follower's back, and is confirmed a second time."""
    driver = _anyone(world)
    if driver is None or driver.push is None:
        return None
    push = driver.push
    push.silent = True

    def again() -> None:
        push.silent = False
        world.redis.subscribe(push)

    world.clock.after(min(world.random.random(), world.left), again)
    return driver.life.name


def relay_killed_off(world: World) -> None:
    line = world.random.choice(world.relays).publisher.line
    if line is not None:
        world.redis.drop(line)


def worker_cut_from_redis(world: World) -> str | None:
    """Connections of before are dead afterwards, or bring late what was sent meanwhile."""
    driver = _anyone(world)
    if driver is None:
        return None
    path = driver.poll.path
    path.cut_until, path.holds = _later(world), world.random.random() < 0.5
    if driver.push is not None and not path.holds:
        driver.push.silent = True
    return f"{driver.life.name} until {path.cut_until:.4f}"


def relay_cut_from_redis(world: World) -> str:
    path = world.random.choice(world.relays).publisher.path
    path.cut_until = _later(world)
    return f"until {path.cut_until:.4f}"


def relay_cut_from_postgres(world: World) -> str:
    publisher = world.random.choice(world.relays).publisher
    publisher.cut_from_postgres_until = _later(world)
    return f"until {publisher.cut_from_postgres_until:.4f}"


def redis_hung(world: World) -> str:
    """Redis takes commands, and answers nothing until later."""
    world.redis.hung_until = max(world.redis.hung_until, _later(world))
    return f"until {world.redis.hung_until:.4f}"


def relay_stopped(world: World) -> str:
    publisher = world.random.choice(world.relays).publisher
    publisher.stopped_until = _later(world)
    return f"until {publisher.stopped_until:.4f}"


def postgres_down(world: World) -> str:
    world.postgres.down_until = max(world.postgres.down_until, _later(world))
    return f"until {world.postgres.down_until:.4f}"


def failed_over(world: World) -> str:
    """A standby takes over that lacks the last commits (an epoch among them only where Redis knows it). The old primary
    is dead, or goes on with its own relays and authors until it is fenced; the new one sees its first write sooner or
    later.
    """
    if len(world.record.losses) >= LOSSES:
        return "spared"
    random, old = world.random, world.postgres
    lost = random.randrange(min(3, len(old.line) - 1))
    if old.holds_epochs(lost):
        if not _is_current(world):
            return "spared"
        world.lost = old.head.position
    for truth in old.line[-lost:] if lost and not _is_current(world) else ():
        truth.hidden = True
    world.promote(old.promote_standby(world.clock.now, lost))
    until = 0.0 if random.random() < 0.4 else random.uniform(0, 1.5 * world.left)
    if until < world.left:
        world.clock.after(until, partial(world.fence, old))
    world.clock.after(random.uniform(0, world.left), partial(world.release, ["trading"]))
    return f"{lost} commits lost, the old primary is fenced in {until:.2f} s"


def database_set_back(world: World) -> str:
    """An older backup replaces the database, and Redis holds what was lost: nothing else can tell."""
    postgres = world.postgres
    fenced = all(server.fenced <= world.clock.now for server in world.record.servers if server is not postgres)
    if len(world.record.losses) >= LOSSES or not fenced or not _is_current(world) or len(postgres.line) <= FIRST:
        return "spared"
    world.lost = postgres.head.position
    postgres.set_back(world.clock.now, steps := world.random.randrange(1, min(4, len(postgres.line) - 1)))
    return f"by {steps}"


def _is_current(world: World) -> bool:
    """Whether Redis knows all that Postgres does, and relays can read it: what it does not know can be lost without a
    trace.
    """
    head = world.redis.data.get(KEYS.head)
    return isinstance(head, dict) and "needs" not in head and world.postgres.head.fields().items() <= head.items()


def worker_paused(world: World) -> str | None:
    driver = _anyone(world)
    if driver is None:
        return None
    driver.pause(seconds := min(world.random.uniform(0.5, 5), world.left))
    return f"{driver.life.name} for {seconds:.1f} s"


def worker_restarted(world: World) -> str:
    worker = world.random.choice(world.workers)
    memory = world.random.choice(MEMORIES)
    world.restart(worker, memory)
    return f"{worker.name} with {memory}"


def host_restarted(world: World) -> str:
    """A worker begins before its network does: with its file, or it knows nothing."""
    worker = world.random.choice(world.workers)
    worker.path.cut_until, worker.path.holds = _later(world), False
    world.restart(worker, memory := world.random.choice(MEMORIES))
    return f"{worker.name} with {memory}, cut off until {worker.path.cut_until:.4f}"


def refresh_asked(world: World) -> str | None:
    driver = _anyone(world)
    if driver is None:
        return None
    driver.refresh()
    return driver.life.name


def content_rejected(world: World) -> None:
    """A release with a block that some workers refuse; mostly it is mended later."""
    names = world.random.sample(NAMES, world.random.choice((1, 2, 3)))
    world.release(names, refused_content)
    if world.random.random() < 0.7:
        world.clock.after(min(world.random.uniform(0.2, 3), world.left), partial(world.release, names))


def _later(world: World) -> float:
    return world.clock.now + min(world.random.uniform(0.3, 5), world.left)


FAULTS: dict[str, tuple[Fault, ...]] = {
    "Redis killed, back empty": (damage.killed_and_empty,),
    "Redis killed, back with an old copy": (damage.killed_and_old, damage.old_copy_loaded),
    "flush": (damage.flushed,),
    "keys evicted, fields edited": (damage.key_lost, damage.field_edited),
    "connections killed": (push_killed, poll_killed, relay_killed_off, resubscribed),
    "half-open connections": (push_half_open, poll_half_open),
    "partition": (worker_cut_from_redis, relay_cut_from_redis, relay_cut_from_postgres),
    "Redis hangs": (redis_hung,),
    "relay pauses between read and write": (relay_stopped,),
    "Postgres down": (postgres_down,),
    "failover that loses commits, with a zombie": (failed_over,),
    "worker restart": (worker_restarted, host_restarted),
    "Redis down": (damage.down,),
    "rejected content": (content_rejected,),
    "database set back": (database_set_back,),
    "worker paused, refresh asked for": (worker_paused, refresh_asked),
    "forged heads and messages": (damage.head_forged, damage.message_forged),
}
"""By kind: the first fourteen are the ones that must be survived whatever else is built; then some more."""
