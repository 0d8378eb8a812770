"""The fake of a ConfigBus: callbacks are called before the change returns."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar, overload

from configbus.client import ConfigBus
from configbus.reads import check_callback, reached
from configbus.subscription import Subscription
from configbus.testing.memory import InMemory, raise_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from configbus.block import Block
    from configbus.change import Change, Pending
    from configbus.snapshot import Rejection, State
    from configbus.testing.memory import Callback, StateCallback
    from configbus.wire import Release


C = TypeVar("C", bound="Callback")


class _Called(Subscription):
    """A subscription whose callback is called by whoever changes the values, in order and never within itself."""

    def __init__(self, pending: Pending, callback: Callback, siblings: list[_Called]) -> None:
        self._pending = pending
        self._callback = callback
        self._siblings = siblings
        self._calling = False
        siblings.append(self)

    def offer(self, change: Change[Any]) -> None:
        self._pending.offer(change)

    def cancel(self) -> None:
        """Call no more."""
        if self in self._siblings:
            self._siblings.remove(self)

    def call(self) -> list[Exception]:
        """Tell the callback of all it has not seen; what it raised."""
        if self._calling:
            return []
        failures: list[Exception] = []
        self._calling = True
        try:
            while self in self._siblings and (change := self._pending.take()) is not None:
                failures += _failures_of(self._callback, change)
        finally:
            self._calling = False
        return failures


class FakeBus(InMemory[_Called], ConfigBus):
    """A ConfigBus in memory; make one with `fake_bus`.

    Callbacks run in the thread that changes the values, before the call that changes them returns; what they
    raise rises from there. Change the values from one thread at a time; reads and `wait_for` are for any.
    """

    def __init__(self, values: Mapping[str, Any] | None, domains: Iterable[str] | str | None) -> None:
        super().__init__(values, domains)
        self._changed = threading.Condition()

    def set_values(self, values: Mapping[str, Any]) -> Release:
        """Make a release with these values, whose paths and errors are those of `fake_bus`, and tell the callbacks.

        Where no value differs nothing happens: the release returned is the current one, without blocks.
        """
        release = self._put(values)
        self._tell()
        return release

    def retire(self, name: str) -> Release:
        """Take a keyed block away. Raises UnknownBlock, and Conflict for a block without a key."""
        release = self._retire(name)
        self._tell()
        return release

    @contextlib.contextmanager
    def with_values(self, values: Mapping[str, Any]) -> Iterator[Release]:
        """`set_values` for a block of code; afterwards everything is as it was before, which is a release, too."""
        before = self._snapshot
        try:
            yield self.set_values(values)
        finally:
            self._put_back(before)
            self._tell()

    def set_state(self, state: State, *, held: Mapping[str, Rejection] | None = None) -> None:
        """Show this state and these held blocks, and tell the callbacks of `on_state`; the values stay as they are."""
        if (before := self._pretend(state, held)) is not state:
            raise_all(
                [failure for callback in list(self._watchers) for failure in _failures_of(callback, before, state)]
            )

    @overload
    def on_change(self, target: str | type[Block]) -> Callable[[C], Subscription]: ...
    @overload
    def on_change(self, target: str | type[Block], callback: Callback) -> Subscription: ...
    def on_change(self, target: str | type[Block], callback: Callback | None = None) -> Any:
        """As ConfigBus.on_change, but the callback is called for what is there before this returns."""
        if callback is None:
            return lambda function: self.on_change(target, function)
        check_callback(callback, 1, coroutines=False)
        subscription = _Called(self._pending(target), callback, self._listeners)
        raise_all(subscription.call())
        return subscription

    def on_state(self, callback: StateCallback) -> None:
        """Call back with old and new state whenever `set_state` changes it."""
        check_callback(callback, 2, coroutines=False)
        self._refuse_closed("on_state")
        self._watchers.append(callback)

    def wait_for(self, release: Release | int, timeout: float = 5.0) -> None:
        """Return once another thread's `set_values` has made the release; at once where it is there already."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or reached(self, release), timeout)
        if not reached(self, release):
            self._refuse_closed("wait_for")
            raise self._late(release, timeout)

    def refresh(self, timeout: float = 5.0) -> None:  # noqa: ARG002  # of the interface; there is nothing to wait for
        """Nothing can be newer than what is here. Raises Closed."""
        self._refuse_closed("refresh")

    def close(self) -> None:
        """As ConfigBus.close: reads go on serving the last values."""
        self._finish()
        self._listeners.clear()
        with self._changed:
            self._changed.notify_all()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        raise_all([failure for subscription in list(self._listeners) for failure in subscription.call()])


def _failures_of(callback: Callable[..., object], *told: Any) -> list[Exception]:
    """Call it; what it raises rises once everybody was told, as nobody misses a call on a real bus."""
    try:
        callback(*told)
    except Exception as error:  # noqa: BLE001  # raised by the caller, once all were told
        return [error]
    return []
