"""One connection to Redis for asyncio, the twin of `link.Link`: it never reconnects behind its user's back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from configbus.errors import Unavailable
from configbus.link import FAULTS, options, reason, refusal_in, unopened, without_library
from configbus.protocol import ANSWER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence


class AsyncLink:
    """A connection that is opened on first use and dropped at the first fault; `generation` counts openings."""

    def __init__(self, url: str, worker: str) -> None:
        pool = unopened(redis.asyncio.ConnectionPool, url)
        pool.connection_kwargs |= options(None, worker) | {"retry": Retry(NoBackoff(), 0)}
        self._connection: Any = without_library(pool.make_connection())
        self._open = False
        self.generation = 0

    async def send(self, *commands: Sequence[Any], seconds: float = ANSWER_SECONDS) -> None:
        """Send commands without reading their replies; at most so many seconds. Raises Unavailable."""
        if not self._open:
            await self._guarded(self._connection.connect(), seconds)
            self._open = True
            self.generation += 1
        packed = self._connection.pack_commands(commands)
        await self._guarded(self._connection.send_packed_command(packed), seconds)

    async def receive(self) -> Any:
        """The next reply. Raises Unavailable for a fault of the connection and for an error reply."""
        return await self._guarded(self._connection.read_response(), None)

    async def call(self, *commands: Sequence[Any], seconds: float = ANSWER_SECONDS) -> list[Any]:
        """Send commands at once and return their replies. Raises Unavailable; then the connection is dropped."""
        await self.send(*commands, seconds=seconds)
        return [await self._guarded(self._connection.read_response(), seconds) for _ in commands]

    async def attempt(self, *commands: Sequence[Any]) -> str | None:
        """Send commands that the server may refuse: None, or its first error, which leaves the connection open.

        Raises Unavailable.
        """
        await self.send(*commands)
        refusals = [await self._guarded(self._refusal(), ANSWER_SECONDS) for _ in commands]
        return next((refusal for refusal in refusals if refusal), None)

    async def _refusal(self) -> str | None:
        try:
            reply = await self._connection.read_response()
        except redis.ResponseError as error:
            return reason(error, self._connection)
        return refusal_in(reply, self._connection)

    async def close(self) -> None:
        """Drop the connection; the next use opens a new one."""
        self._open = False
        if (writer := self._connection._writer) is not None:  # noqa: SLF001  # TLS would go on to say farewell
            writer.transport.abort()
        await self._connection.disconnect(nowait=True)

    async def _guarded(self, action: Awaitable[Any], seconds: float | None) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await action
        except FAULTS as error:
            await self.close()
            told = reason(error, self._connection, f"no answer within {seconds} s")
            raise Unavailable("Redis", told) from error
        except asyncio.CancelledError:
            await self.close()
            raise
