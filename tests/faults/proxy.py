"""A TCP proxy in a thread, that is slow, drips, cuts, or goes silent without a word to either side."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import TYPE_CHECKING, Literal, Self, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

Manner = Literal["pass", "delay", "drip", "cut"]
DELAY_SECONDS = 0.2
DRIP_SECONDS = 0.01
CUT_CHANCE = 0.05
"""That a connection is reset at a chunk, somewhere within it."""
CHUNK = 65_536
PATIENCE = 10.0


class _Path:
    """One connection through the proxy, both ways."""

    def __init__(self) -> None:
        self.silent = False
        self.deaf = False
        self.writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Stands in front of a server on loopback; `manner` may be changed at any time."""

    def __init__(self, url: str, seed: int = 0) -> None:
        self._upstream = int(urlsplit(url).port or 0)
        self._upstream_url = url
        self._random = random.Random(seed)  # noqa: S311  # where to cut, not a secret
        self._paths: set[_Path] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.manner: Manner = "pass"
        self.lost: bytes | None = None
        """Of what a client says, that to which the answer is lost, and the connection with it."""
        self.loses_silently = False
        """Whether the client is not told that its connection is lost."""
        self.port = 0

    @property
    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        return self._upstream_url.replace(f":{self._upstream}/", f":{self.port}/")

    def silence(self) -> int:
        """From now on nothing passes on any connection that is open, and none of them is closed; how many."""
        return self._call(self._silence)

    def opened(self) -> int:
        """How many connections there are on which something still passes."""
        return self._call(lambda: sum(not path.silent for path in self._paths))

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._await(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_error: object) -> None:
        self._await(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = _Path()
        path.writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._paths.add(path)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            path.writers.append(far_writer)
            ways = [self._pump(path, reader, far_writer, asked=True), self._pump(path, far_reader, writer)]
            await asyncio.wait([asyncio.create_task(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # at the end of the proxy: Python 3.11 complains of a server's task that ends as cancelled
        finally:
            if not path.silent:
                path.cut()
                self._paths.discard(path)
            self._tasks.discard(task)

    async def _pump(
        self, path: _Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asked: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if path.deaf:
                    if self.loses_silently:
                        await asyncio.get_running_loop().create_future()
                    return
                path.deaf = asked and self.lost is not None and self.lost in data
                if self.manner == "cut" and self._random.random() < CUT_CHANCE:
                    writer.write(data[: self._random.randrange(len(data))])
                    await writer.drain()
                    return
                for piece, seconds in self._pieces(data):
                    if seconds and self.manner != "pass":
                        await asyncio.sleep(seconds)
                    if path.silent:
                        await asyncio.get_running_loop().create_future()
                    writer.write(piece)
                    await writer.drain()
        if path.silent:
            await asyncio.get_running_loop().create_future()

    def _pieces(self, data: bytes) -> list[tuple[bytes, float]]:
        match self.manner:
            case "delay":
                return [(data, DELAY_SECONDS)]
            case "drip":
                return [(data[at : at + 1], DRIP_SECONDS) for at in range(len(data))]
        return [(data, 0.0)]

    def _silence(self) -> int:
        for path in self._paths:
            path.silent = True
        return len(self._paths)

    async def _end(self) -> None:
        self._server.close()
        for path in self._paths:
            path.cut()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _call(self, action: Callable[[], int]) -> int:
        async def run() -> int:
            return action()

        return self._await(run())

    def _await(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)
