"""However a worker's process ends, it ends soon and says nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from configbus.settings import Settings

END_SECONDS = 2.0
SYNC = "from configbus import ConfigBus; import sys, time; bus = ConfigBus.connect(require='live'); "
ASYNC = "from configbus import AsyncConfigBus; import asyncio, sys\n"
TELL = "print('ready', flush=True); "
ENDS = {
    "with": "from configbus import ConfigBus\n"
    "with ConfigBus.connect(require='live') as bus:\n    print('ready', flush=True)",
    "without close": SYNC + TELL,
    "the shared bus": "import configbus; configbus.bus().get('trading'); print('ready', flush=True)",
    "sys.exit": SYNC + TELL + "sys.exit(0)",
    "with callbacks waiting": SYNC + "bus.on_change('*', lambda change: time.sleep(60)); " + TELL,
    "async with": ASYNC
    + "async def main():\n"
    + "    async with AsyncConfigBus.connect(require='live') as bus:\n        print('ready', flush=True)\n"
    + "asyncio.run(main())",
    "asyncio.run without close": ASYNC
    + "async def main():\n    bus = await AsyncConfigBus.connect(require='live')\n    print('ready', flush=True)\n"
    + "asyncio.run(main())",
    "asyncio.run with a waiting coroutine": ASYNC
    + "async def main():\n    bus = await AsyncConfigBus.connect(require='live')\n"
    + "    async def wait(change):\n        await asyncio.sleep(60)\n"
    + "    bus.on_change('*', wait)\n    print('ready', flush=True)\n"
    + "asyncio.run(main())",
}
STAYS = {
    "thread": SYNC + TELL + "time.sleep(60)",
    "asyncio": ASYNC
    + "async def main():\n    bus = await AsyncConfigBus.connect(require='live')\n    print('ready', flush=True)\n"
    + "    await asyncio.sleep(60)\n"
    + "asyncio.run(main())",
}


def started(settings: Settings, program: str) -> subprocess.Popen[str]:
    """The program, once it has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ
        | {"CONFIGBUS_REDIS_URL": settings.require("redis_url"), "CONFIGBUS_ENVIRONMENT": settings.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Exit status, what was said on stderr, and how long the end took."""
    began = time.monotonic()
    _, told = process.communicate(timeout=30)
    return process.returncode, told, time.monotonic() - began


@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_a_program_that_ends_ends_at_once_and_in_silence(relay: Settings, program: str) -> None:
    status, told, seconds = ended(started(relay, program))
    assert (status, told) == (0, "")
    assert seconds < END_SECONDS


@pytest.mark.parametrize("program", STAYS.values(), ids=STAYS)
def test_sigterm_ends_a_worker_at_once(relay: Settings, program: str) -> None:
    process = started(relay, program)
    process.send_signal(signal.SIGTERM)
    status, told, seconds = ended(process)
    assert (status, told) == (-signal.SIGTERM, "")
    assert seconds < END_SECONDS


@pytest.mark.parametrize("program", STAYS.values(), ids=STAYS)
def test_ctrl_c_ends_a_worker_at_once_with_nothing_of_ours_on_stderr(relay: Settings, program: str) -> None:
    process = started(relay, program)
    process.send_signal(signal.SIGINT)
    status, told, seconds = ended(process)
    assert status == -signal.SIGINT
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in told
    assert seconds < END_SECONDS
