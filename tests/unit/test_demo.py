"""What the demo's processes and the commands that run on do with stray lines and signals."""

from __future__ import annotations

import signal

from configbus.cli.demo_workers import Worker
from configbus.cli.running import SHUTDOWN_SIGNALS, until_stopped


def test_a_line_that_a_worker_did_not_print_itself_is_left_and_the_next_is_read() -> None:
    worker = Worker("worker-1", "thread")
    worker.read(["a warning of some library\n", '{"revision": 2}\n', "3\n", '{"revision"\n'])
    assert worker.told == {"revision": 2}


def test_signals_stop_once_and_their_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SHUTDOWN_SIGNALS]
    for number in SHUTDOWN_SIGNALS:
        with until_stopped() as stop:
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set()
    assert [signal.getsignal(number) for number in SHUTDOWN_SIGNALS] == before


def test_a_hang_up_that_is_ignored_as_nohup_wants_it_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with until_stopped() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)
