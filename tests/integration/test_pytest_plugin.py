"""The fixtures, as a project uses them that has installed configbus and pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]

DOMAINS = """
from pydantic import Field
from configbus import Block

class PaceConfig(Block, domain="pace", keyed=True):
    bars: int = Field(20, ge=2)

class HouseConfig(Block, domain="house"):
    rooms: int = 3
"""

IN_MEMORY = """
from configbus import AsyncConfigBus, ConfigBus
from configbus.testing import FakeAsyncBus, FakeBus

def rooms(bus: ConfigBus) -> int:
    return bus.get("house.rooms")

async def rooms_at(bus: AsyncConfigBus, release) -> int:
    await bus.wait_for(release)
    return bus.get("house.rooms")

def test_first(config_bus: FakeBus) -> None:
    assert rooms(config_bus) == 3
    config_bus.set_values({"house.rooms": 4, "pace/x": {}})
    assert (rooms(config_bus), config_bus.keys("pace")) == (4, ["x"])

def test_second(config_bus: FakeBus) -> None:
    assert (rooms(config_bus), config_bus.keys("pace"), config_bus.revision) == (3, [], 1)
    with config_bus.with_values({"house.rooms": 5}):
        assert rooms(config_bus) == 5

async def test_third(async_config_bus: FakeAsyncBus) -> None:
    told = []

    @async_config_bus.on_change("house")
    async def note(change) -> None:
        told.append(change.new.rooms)

    assert await rooms_at(async_config_bus, await async_config_bus.set_values({"house.rooms": 6})) == 6
    assert told == [3, 6]

def test_domains(configbus_domains) -> None:
    assert configbus_domains == ("house_domains",)
"""

ON_SERVERS = """
from dataclasses import asdict

import pytest
from configbus import AsyncConfigBus, ConfigBus, State
from configbus.author import Author
from configbus.pytest_plugin import Servers
from configbus.settings import Settings

@pytest.mark.parametrize("number", range(3))
def test_each_sees_its_own_values(
    configbus_author: Author, configbus_live_bus: ConfigBus, configbus_settings: Settings, number: int
) -> None:
    assert configbus_live_bus.state is State.LIVE
    assert configbus_live_bus.get("house.rooms") == 3
    assert configbus_live_bus.keys("pace") == []
    assert len(configbus_author.history("house")) == 1
    release = configbus_author.set({"house.rooms": 10 + number})
    draft = configbus_author.draft("pace/x", {"bars": 7})
    configbus_live_bus.wait_for(configbus_author.activate(draft.id))
    assert (configbus_live_bus.get("house.rooms"), configbus_live_bus.get("pace/x.bars")) == (10 + number, 7)
    assert configbus_author.release(release.revision).actor == "pytest"

def test_the_servers_are_on_loopback(configbus_servers: Servers, configbus_settings: Settings) -> None:
    assert configbus_settings.redis_url == configbus_servers.redis_url
    assert configbus_settings.database_url.rpartition("/")[0] == configbus_servers.database_url.rpartition("/")[0]
    assert "127.0.0.1" in configbus_servers.database_url and "127.0.0.1" in configbus_servers.redis_url
    assert "//" not in repr(configbus_servers)

async def test_a_bus_of_ones_own(configbus_settings: Settings, configbus_author: Author) -> None:
    async with AsyncConfigBus.connect(**asdict(configbus_settings), require="live") as bus:
        await bus.wait_for(configbus_author.set({"house.rooms": 4}))
        assert bus.get("house.rooms") == 4
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with domains of its own, named in its settings of pytest."""
    for name in [name for name in os.environ if name.startswith(("CONFIGBUS_", "PYTEST_"))]:
        monkeypatch.delenv(name)
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\npythonpath = ["."]\nfilterwarnings = ["error"]\nasyncio_mode = "auto"\n'
        'asyncio_default_fixture_loop_scope = "function"\n'
        'configbus_domains = ["house_domains"]\n'
    )
    pytester.makepyfile(house_domains=DOMAINS)
    return pytester


def test_the_fixtures_in_memory_start_nothing_and_begin_anew_for_each_test(project: pytest.Pytester) -> None:
    project.makepyfile(IN_MEMORY)
    project.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)


def test_the_fixtures_on_servers_give_each_test_a_place_of_its_own(project: pytest.Pytester) -> None:
    project.makepyfile(ON_SERVERS)
    project.runpytest_subprocess("-p", "no:cacheprovider", "--durations=10").assert_outcomes(passed=5)


def test_the_variable_names_the_domains_before_the_settings_of_pytest_do(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIGBUS_DOMAINS", "configbus.domains, house_domains")
    project.makepyfile(
        """
        def test_domains(config_bus, configbus_domains):
            assert configbus_domains == ("configbus.domains", "house_domains")
            assert config_bus.get("trading.max_slippage_entry_bps") and config_bus.get("house.rooms")
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_missing_extra_is_said_in_a_sentence(project: pytest.Pytester) -> None:
    project.makeconftest("import sys; sys.modules['sqlalchemy'] = None")
    project.makepyfile(
        """
        def test_live(configbus_live_bus): ...
        def test_in_memory(config_bus): ...
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*sqlalchemy*pip install 'configbus?embedded,store,testing?'*"])


def test_loading_the_plugin_imports_nothing_that_a_worker_needs(tmp_path: Path) -> None:
    program = (
        "import sys, configbus.pytest_plugin\n"
        "loaded = {'pydantic', 'redis', 'structlog', 'sqlalchemy', 'psycopg', 'fakeredis'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
