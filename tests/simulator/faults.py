"""What goes wrong, and when: releases and faults drawn for one run, those of processes and connections first."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

from simulator import damage
from simulator.blocks import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.driver import Driver
    from simulator.server import Line
    from simulator.world import World

    Fault = Callable[[World], str | None]


def trouble(world: World) -> None:
    """Put releases and faults on the agenda: in clusters, and of few kinds in each run."""
    random, clock = world.random, world.clock
    kinds = random.sample(FAULTS, random.randrange(1, 5))
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
        clock.at(random.uniform(0.1, world.duration), lambda: world.copies.append(deepcopy(world.redis.data)))


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


def worker_paused(world: World) -> str | None:
    driver = _anyone(world)
    if driver is None:
        return None
    driver.pause(seconds := min(world.random.uniform(0.5, 5), world.left))
    return f"{driver.life.name} for {seconds:.1f} s"


def worker_restarted(world: World) -> str:
    worker = world.random.choice(world.workers)
    world.start(worker)
    return worker.name


def refresh_asked(world: World) -> str | None:
    driver = _anyone(world)
    if driver is None:
        return None
    driver.refresh()
    return driver.life.name


def relay_cut_off(world: World) -> None:
    line = world.random.choice(world.relays).publisher.line
    if line is not None:
        world.redis.drop(line)


def relay_stopped(world: World) -> str:
    publisher = world.random.choice(world.relays).publisher
    publisher.stopped_until = world.clock.now + min(world.random.uniform(0.5, 5), world.left)
    return f"until {publisher.stopped_until:.4f}"


def redis_hung(world: World) -> str:
    """Redis takes commands, and answers nothing until later."""
    world.redis.hung_until = world.clock.now + min(world.random.uniform(0.5, 4), world.left)
    return f"until {world.redis.hung_until:.4f}"


def postgres_promoted(world: World) -> str:
    lost = world.random.randrange(min(3, len(world.postgres.releases)))
    world.postgres.promote(world.clock.now, lost)
    return f"{lost} releases lost"


FAULTS: tuple[Fault, ...] = (
    push_killed,
    poll_killed,
    push_half_open,
    poll_half_open,
    resubscribed,
    worker_paused,
    worker_restarted,
    refresh_asked,
    relay_cut_off,
    relay_stopped,
    redis_hung,
    postgres_promoted,
    damage.emptied,
    damage.restarted_empty,
    damage.set_back,
    damage.restored,
    damage.key_lost,
    damage.field_edited,
    damage.head_forged,
    damage.message_forged,
)
