"""The second connection of an `AsyncConfigBus`, the twin of `poll.Poll`: looks, loads, and what this worker says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from configbus import protocol
from configbus.aiolink import AsyncLink
from configbus.errors import ConfigBusError
from configbus.link import looking_commands, reading_commands, reading_of
from configbus.presence import leaving_commands, saying_commands
from configbus.wire import Malformed

if TYPE_CHECKING:
    from configbus.presence import Presence
    from configbus.reads import Plan


class AsyncPoll:
    """One command at a time on one connection; a look and a say are answered by an event."""

    def __init__(self, the_plan: Plan) -> None:
        self._plan = the_plan
        self._link = AsyncLink(the_plan.settings.require("redis_url"), the_plan.settings.worker)
        self._lock = asyncio.Lock()
        self._identity = the_plan.identity
        self._said = False

    async def read(self, names: tuple[str, ...], seconds: float) -> protocol.Reading:
        """Clock, head, index and these blocks. Raises Unavailable and Malformed."""
        async with self._lock:
            replies = await self._link.call(*reading_commands(self._plan.keys, names), seconds=seconds)
        return reading_of(replies, names)

    async def look(self, asked: float) -> protocol.Event:
        """Clock and head: Looked or LookFailed."""
        try:
            async with self._lock:
                replies = await self._link.call(*looking_commands(self._plan.keys))
                generation = self._link.generation
            reading = reading_of(replies, ())
            return protocol.Looked(asked, generation, reading.time, reading.head)
        except (ConfigBusError, Malformed) as error:
            return protocol.LookFailed(str(error))
        except Exception as error:
            self._plan.logger.exception("look_failed")
            return protocol.LookFailed(repr(error))

    async def say(self, presence: Presence) -> protocol.Event:
        """Write where this worker stands: Said."""
        commands = saying_commands(self._plan.keys, self._plan.settings.worker, self._identity, presence)
        self._said = True
        try:
            async with self._lock:
                return protocol.Said(await self._link.attempt(*commands))
        except ConfigBusError as error:
            return protocol.Said(str(error))
        except Exception as error:
            self._plan.logger.exception("presence_failed")
            return protocol.Said(repr(error))

    async def leave(self) -> None:
        """Take this worker's name away, if it was ever said."""
        if not self._said:
            return
        try:
            async with self._lock:
                await self._link.attempt(*leaving_commands(self._plan.keys, self._plan.settings.worker))
        except ConfigBusError as error:
            self._plan.logger.info("presence_left", reason=str(error))

    async def close(self) -> None:
        """Drop the connection; the next use opens a new one."""
        await self._link.close()
