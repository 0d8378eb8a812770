"""The last-good file whose writer is killed or finds no room: what is there is the old or the new, never a mixture."""

from __future__ import annotations

import builtins
import fcntl
import os
import pathlib
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from entries import history_of
from waiting import until

from configbus import lastgood_file
from configbus.lastgood import LastGood, to_text
from configbus.lastgood_file import LastGoodFile
from configbus.log import log
from faults.cluster import KEYS, Process, last_for

if TYPE_CHECKING:
    from pathlib import Path

    from faults.cluster import Cluster

KILLS = 50
DIED, LIVED = 9, 0
MOUNTED = ["unshare", "--mount", "sh", "-c"]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def file_in(directory: Path) -> LastGoodFile:
    return LastGoodFile(
        str(directory / "kept"), KEYS, ["trading", "risk", "strategy"], log.bind(environment="production")
    )


def state_at(revision: int) -> LastGood:
    """A state whose every block says at which revision it is, and of a length that changes."""
    step: dict[str, dict[str, Any]] = {
        "trading": {"max_slippage_entry_bps": 1 + revision},
        "strategy/a": {"notes": {"n": ["x"] * (revision % 97)}},
    }
    history = history_of(*[{}] * (revision - 1), step)
    return LastGood(
        history.head, {n: e.mark for n, e in history.entries.items()}, history.entries, {}, 1000.0 + revision
    )


def revision_in(directory: Path) -> int:
    """What is kept there, whole; 0 if there is nothing. AssertionError for anything that is refused."""
    file = file_in(directory)
    kept = file.read()
    if kept is None:
        assert not file.path.exists(), "what is there is not to be used"
        return 0
    assert to_text(kept, KEYS.prefix) == to_text(state_at(kept.head.revision), KEYS.prefix)
    assert kept.vouched == 1000.0 + kept.head.revision, "a state, and the instant of that very state"
    return kept.head.revision


@pytest.mark.long
def test_c9_a_writer_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    dice = random.Random(9)  # noqa: S311  # when to kill, not a secret
    newest = 0
    for _ in range(KILLS):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                file = file_in(tmp_path)
                for revision in range(newest + 1, newest + 2000):
                    file.write(state_at(revision))
                    os.write(writer, b".")
            finally:
                os._exit(LIVED)
        os.close(writer)
        assert os.read(reader, 1)
        last_for(dice.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = newest + 1
        while more := os.read(reader, 4096):
            acknowledged += len(more)
        os.close(reader)
        newest = revision_in(tmp_path)
        assert newest in (acknowledged, acknowledged + 1)
    assert newest > KILLS


def write_and_die(directory: Path, revision: int, *, at: int) -> int:
    """The exit status of a process that writes a state and dies before or, for a write, in the middle of a step."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = iter(range(at - 1, -1, -1))

    def step(*_anything: object) -> None:
        if next(left, 1) == 0:
            os._exit(DIED)

    def at_each(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def stepping(*given: Any, **named: Any) -> Any:
            step()
            return real(*given, **named)

        setattr(owner, name, stepping)

    class Half:
        """A file that writes the first half of everything, and then perhaps no more."""

        def __init__(self, file: int, mode: str, **more: Any) -> None:
            self._whole = builtins.open(file, mode, buffering=0, **more)  # noqa: SIM115  # closed by whom it is given to

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None:
            self._whole.close()

        def write(self, content: bytes) -> None:
            step()
            self._whole.write(content[: len(content) // 2])
            step()
            self._whole.write(content[len(content) // 2 :])

        def read(self, size: int) -> bytes:
            return bytes(self._whole.read(size))

    try:
        for name in ("open", "fsync", "utime", "close"):
            at_each(os, name)
        for name in ("unlink", "rename", "mkdir", "lstat"):
            at_each(pathlib.Path, name)
        at_each(fcntl, "flock")
        lastgood_file.open = Half  # type: ignore[attr-defined]  # a fail-point
        file_in(directory).write(state_at(revision))
    finally:
        os._exit(LIVED)


def test_c9_a_writer_that_dies_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    found, outcomes, steps = [], [], range(1, 31)
    for at in steps:
        file_in(tmp_path).write(state_at(2 * at - 1))
        assert revision_in(tmp_path) == 2 * at - 1
        outcomes.append(write_and_die(tmp_path, 2 * at, at=at))
        found.append(revision_in(tmp_path) - 2 * at)
    died = outcomes.count(DIED)
    assert outcomes == [DIED] * died + [LIVED] * (len(steps) - died), "one death for each step, and then none"
    assert died >= 12
    turn = found.index(0)
    assert found == [-1] * turn + [0] * (len(steps) - turn), "old until the step at which all of it is new"
    assert 0 < turn < died - 1, "there are steps after that one, too"


FAULTS: dict[str, tuple[str, str]] = {
    "disk full": ("-o size=256k", "No space left on device"),
    "read-only": ("-o size=1m", "Read-only file system"),
    "limited": ("", "File too large"),
}


def may_mount(directory: Path) -> bool:
    """Whether this process may have a file system of its own, seen by nobody else and gone with it."""
    if sys.platform != "linux":
        return False
    attempt = [*MOUNTED, 'mount -t tmpfs -o size=64k none "$0" && mount -o remount,ro "$0"', str(directory)]
    try:
        return subprocess.run(attempt, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("driver", ["thread", "asyncio"])
def test_c9_where_nothing_can_be_written_the_worker_goes_on(driver: str, fault: str, bare_cluster: Cluster) -> None:
    if fault != "limited" and not may_mount(bare_cluster.directory):
        pytest.skip("no file system of its own may be mounted here")
    cluster = bare_cluster
    cluster.start_relay()
    options, reason = FAULTS[fault]
    kept = cluster.directory / "kept"
    kept.mkdir(mode=0o700)
    keeper = start_keeper(cluster, driver, kept, options)
    with cluster.load(5):
        pass
    old = cluster.head()
    assert ask(keeper, f"hold {old}") == f"live {old}"
    assert ask(keeper, f"kept {old}") == f"{old}", "before the fault"
    ask(keeper, f"hurt {fault}")
    with cluster.load(20):
        pass
    assert ask(keeper, f"hold {cluster.head()}") == f"live {cluster.head()}"
    until(lambda: "snapshot_not_written" in keeper.log)
    assert reason in keeper.log
    assert ask(keeper, f"kept {old}") == f"{old}", "the old one is whole"
    ask(keeper, f"heal {fault}")
    with cluster.load(1):
        pass
    assert ask(keeper, f"hold {cluster.head()}") == f"live {cluster.head()}"
    assert ask(keeper, f"kept {cluster.head()}") == f"{cluster.head()}"
    keeper.end()
    assert keeper.popen.returncode == 0
    assert keeper.log.count("snapshot_not_written") == 1, "it is said once"
    assert "Traceback" not in keeper.log


def start_keeper(cluster: Cluster, driver: str, kept: Path, options: str) -> Process:
    environ = cluster._environ(CONFIGBUS_REDIS_URL=cluster.valkey.url, CONFIGBUS_SNAPSHOT_DIR=str(kept))  # noqa: SLF001  # of this package
    command = ["-m", "faults.keeper", driver]
    if options:
        mount = f'mount -t tmpfs {options} none "$0" && exec "$@"'
        command = [
            "-c",
            f"import os, sys; os.execvp({MOUNTED[0]!r}, {[*MOUNTED, mount, str(kept), sys.executable, *command]!r})",
        ]
    process = Process(cluster.directory, "keeper", command, environ)
    cluster.streams.append(process)
    process.wait_for("ready")
    return process


def ask(keeper: Process, line: str) -> str:
    before = len(keeper.said)
    keeper.tell(line)
    until(lambda: len(keeper.said) > before or keeper.popen.poll() is not None)
    assert len(keeper.said) > before, keeper.log
    return keeper.said[-1]
