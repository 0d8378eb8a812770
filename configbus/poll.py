"""The second connection of a `ConfigBus`: it looks at the head, loads, and says where this worker stands.

Used by one thread at a time. What it is asked to do in its own thread is answered by an event.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from configbus import protocol
from configbus.errors import ConfigBusError
from configbus.link import Link, looking_commands, reading_commands, reading_of
from configbus.presence import leaving_commands, saying_commands
from configbus.protocol import ANSWER_SECONDS
from configbus.wire import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.presence import Presence
    from configbus.reads import Plan


class Poll:
    """`post` takes the events; `look` and `say` return at once."""

    def __init__(self, the_plan: Plan, post: Callable[[protocol.Event], None]) -> None:
        self._plan = the_plan
        self._post = post
        self._link = Link(the_plan.settings.require("redis_url"), worker=the_plan.settings.worker)
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[float | Presence | None] = queue.SimpleQueue()
        self._identity = the_plan.identity
        self._said = False

    def look(self, asked: float) -> None:
        """Look at the head now; Looked or LookFailed."""
        self._asked.put(asked)

    def say(self, presence: Presence) -> None:
        """Write where this worker stands; Said."""
        self._asked.put(presence)

    def read(self, names: tuple[str, ...], seconds: float) -> protocol.Reading:
        """Clock, head, index and these blocks, in the caller's thread. Raises Unavailable and Malformed."""
        with self._lock:
            self._link.limit(seconds)
            return reading_of(self._link.call(*reading_commands(self._plan.keys, names)), names)

    def run(self) -> None:
        """Do what was asked for until it is over; the thread's own function."""
        while (asked := self._asked.get()) is not None:
            self._post(self._look(asked) if isinstance(asked, float) else self._say(asked))
        if self._said:
            self._leave()
        self._link.close()

    def end(self) -> None:
        """Have `run` return when it has done what was asked before."""
        self._asked.put(None)

    def drop(self) -> None:
        """Close the connection, whoever uses it."""
        self._link.close()

    def _look(self, asked: float) -> protocol.Event:
        try:
            with self._lock:
                self._link.limit(ANSWER_SECONDS)
                replies = self._link.call(*looking_commands(self._plan.keys))
                generation = self._link.generation
            reading = reading_of(replies, ())
            return protocol.Looked(asked, generation, reading.time, reading.head)
        except (ConfigBusError, Malformed) as error:
            return protocol.LookFailed(str(error))
        except Exception as error:
            self._plan.logger.exception("look_failed")
            return protocol.LookFailed(repr(error))

    def _say(self, presence: Presence) -> protocol.Event:
        commands = saying_commands(self._plan.keys, self._plan.settings.worker, self._identity, presence)
        self._said = True
        try:
            with self._lock:
                self._link.limit(ANSWER_SECONDS)
                return protocol.Said(self._link.attempt(*commands))
        except ConfigBusError as error:
            return protocol.Said(str(error))
        except Exception as error:
            self._plan.logger.exception("presence_failed")
            return protocol.Said(repr(error))

    def _leave(self) -> None:
        try:
            with self._lock:
                self._link.limit(ANSWER_SECONDS)
                self._link.attempt(*leaving_commands(self._plan.keys, self._plan.settings.worker))
        except ConfigBusError as error:
            self._plan.logger.info("presence_left", reason=str(error))
