"""An author, or somebody with psql, who changes three domains again and again while things break."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql

from configbus.author import Author
from configbus.errors import Unavailable
from configbus.reads import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Make = Callable[[int], int | None]
    """Activates what a number stands for; the revision, where its author was told of it."""

PER_SECOND = 40
FIELDS = {
    "trading": "max_slippage_entry_bps",
    "risk": "drawdown_lookback_days",
    "discovery": "max_wallets_per_run",
}
UPDATE = "UPDATE configbus.{} SET {} = %s WHERE status = 'active'"
PATIENCE = 45.0


class Load:
    """Makes activations at 40/s in a thread of its own; every number is put somewhere, each tenth into two blocks."""

    def __init__(self, make: AbstractContextManager[Make], count: int) -> None:
        self._make = make
        self._count = count
        self._made = 0
        self._progress = threading.Condition()
        self._error: BaseException | None = None
        self.acknowledged: dict[int, int] = {}
        """The revision of each number that the author was told is committed."""
        self._thread = threading.Thread(target=self._run)

    def reached(self, number: int) -> None:
        """Return once that many activations were tried."""
        with self._progress:
            assert self._progress.wait_for(lambda: self._made >= number or self._error is not None, PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        began, clock = now(), threading.Event()
        try:
            with self._make as make:
                for number in range(1, self._count + 1):
                    clock.wait(max(0.0, began + number / PER_SECOND - now()))
                    revision = make(number)
                    with self._progress:
                        if revision is not None:
                            self.acknowledged[number] = revision
                        self._made = number
                        self._progress.notify_all()
        except BaseException as error:  # noqa: BLE001  # raised again in the test's own thread
            with self._progress:
                self._error = error
                self._progress.notify_all()


def changes(number: int) -> dict[str, int]:
    """Which blocks a number goes to, with the value it puts there: none is put twice."""
    names = ["trading", "risk"] if number % 10 == 0 else [list(FIELDS)[number % len(FIELDS)]]
    return dict.fromkeys(names, 1000 + number)


@contextmanager
def by_author(settings: dict[str, Any]) -> Iterator[Make]:
    """Activations by an author; one that Postgres does not answer is not acknowledged."""
    with Author.connect(**settings, actor="load") as author:

        def make(number: int) -> int | None:
            try:
                return author.set({f"{name}.{FIELDS[name]}": value for name, value in changes(number).items()}).revision
            except Unavailable as error:
                if error.server != "Postgres":
                    raise
                return None

        yield make


@contextmanager
def by_sql(database_url: str) -> Iterator[Make]:
    """Plain SQL, which only a relay brings to Redis."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def make(number: int) -> None:
            with connection.transaction():
                for name, value in changes(number).items():
                    names = [sql.Identifier(f"{name}_config"), sql.Identifier(FIELDS[name])]
                    connection.execute(sql.SQL(UPDATE).format(*names), [value])

        yield make
