"""A last-good file that is not what was written is refused with its reason, whatever is wrong; its worker goes on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from buses import connected_bus
from relays import running_relay

from configbus.author import Author
from configbus.reads import plan
from configbus.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from configbus.lastgood_file import LastGoodFile
    from faults.cluster import Cluster

DOWN = "redis://127.0.0.1:1/0"
DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])
BITS = (0x01, 0x80, 0xFF)


@pytest.fixture
def keeping(bare_cluster: Cluster) -> Iterator[dict[str, Any]]:
    """Settings of a worker that has kept revision 2, while a relay runs."""
    ordinary = {name: value for name, value in bare_cluster.settings.items() if name != "database_url"}
    keeping = ordinary | {"snapshot_dir": str(bare_cluster.directory / "kept")}
    with (
        running_relay(load_settings({}, **bare_cluster.settings)),
        Author.connect(**bare_cluster.settings, actor="tester") as author,
    ):
        with connected_bus("thread", **keeping, require="live") as bus:
            bus.wait_for(author.set({"risk.drawdown_lookback_days": 77}))
        yield keeping


def file_of(keeping: dict[str, Any]) -> LastGoodFile:
    file = plan(None, None, 1.0, keeping).file
    assert file is not None
    return file


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "snapshot_refused" in record.message]


def test_c9_every_flipped_byte_is_noticed(keeping: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    file = file_of(keeping)
    right = file.path.read_bytes()
    assert file.read() is not None
    with file.path.open("r+b", buffering=0) as damaged:
        for at in range(len(right)):
            bit = BITS[at % len(BITS)]
            damaged.seek(at)
            damaged.write(bytes([right[at] ^ bit]))
            assert file.read() is None, f"byte {at} of {len(right)}, {bit:#x}"
            damaged.seek(at)
            damaged.write(right[at : at + 1])
    assert len(refusals(caplog)) == len(right) > 1000
    assert all(re.search(r"reason='?\"?(is no|has |does not fit|cannot be read)", line) for line in refusals(caplog))
    assert file.read() is not None


def test_c9_every_length_but_the_whole_is_noticed(keeping: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    file = file_of(keeping)
    right = file.path.read_bytes()
    for length in range(0, len(right) - 1, 97):
        file.path.write_bytes(right[:length])
        assert file.read() is None
    for more in (b"x", b"\n", right):
        file.path.write_bytes(right + more)
        assert file.read() is None
    assert len(refusals(caplog)) > 10


def become(path: Path, other: Callable[[Path], object]) -> None:
    path.unlink()
    other(path)


def link_elsewhere(path: Path) -> None:
    elsewhere = path.with_suffix(".elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def of_another_environment(path: Path) -> None:
    """What staging kept, moved to where production looks for its own; its checksum is right."""
    from hashlib import sha256

    body = path.read_text().partition("\n")[2].removesuffix("\n").replace("{production}", "{staging}")
    head = path.read_text().partition(", sha256")[0]
    path.write_text(f"{head}, sha256 {sha256(body.encode()).hexdigest()}\n{body}\n")


WRONG: dict[str, Callable[[Path], object]] = {
    "is no last-good snapshot": lambda path: path.write_bytes(b""),
    "has format '9', and this configbus reads 2": lambda path: path.write_text(
        path.read_text().replace("format 2", "format 9")
    ),
    "is of 'configbus:{staging}:', not of 'configbus:{production}:'": of_another_environment,
    "Is a directory|is no regular file": lambda path: become(path, lambda gone: gone.mkdir()),
    "Too many levels of symbolic links": link_elsewhere,
    "others may write to it": lambda path: path.chmod(0o666),
    "does not fit its checksum": lambda path: path.write_bytes(path.read_bytes()[:-20]),
}


@DRIVERS
@pytest.mark.parametrize("reason", WRONG)
def test_c9_a_refusal_says_why_and_the_worker_goes_on(
    driver: str, reason: str, keeping: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = file_of(keeping).path
    WRONG[reason](path)
    with connected_bus(driver, **keeping | {"redis_url": DOWN}, start_timeout=0.3) as bus:
        assert (bus.reads.origin, bus.reads.get("risk.drawdown_lookback_days")) == ("layers", 30)
    assert len(refusals(caplog)) == 1
    assert any(re.search(option, refusals(caplog)[0]) for option in map(as_logged, reason.split("|")))
    with connected_bus(driver, **keeping, require="live") as bus:
        assert (bus.reads.origin, bus.reads.get("risk.drawdown_lookback_days")) == ("redis", 77)
    if not path.is_dir():
        kept = file_of(keeping).read()
        assert kept is not None, "and a good one is in its place again"
        assert kept.head.revision == 2


def as_logged(reason: str) -> str:
    """A pattern for it, whichever quotes a log line has."""
    return re.escape(reason).replace("'", r"\\?['\"]")


@DRIVERS
def test_c9_a_file_where_the_directory_should_be_is_told_once(
    driver: str, keeping: dict[str, Any], caplog: pytest.LogCaptureFixture, bare_cluster: Cluster
) -> None:
    place = bare_cluster.directory / "no-directory"
    place.write_text("mine")
    with (
        connected_bus(driver, **keeping | {"snapshot_dir": str(place)}, require="live") as bus,
        Author.connect(**bare_cluster.settings, actor="tester") as author,
    ):
        for number in (78, 79, 80):
            bus.wait_for(author.set({"risk.drawdown_lookback_days": number}))
        assert bus.reads.get("risk.drawdown_lookback_days") == 80
        assert bus.reads.state == "live"
    told = [record.message for record in caplog.records if "snapshot_not_written" in record.message]
    assert len(told) == 1
    assert re.search("Not a directory|File exists", told[0])
    assert place.read_text() == "mine"
