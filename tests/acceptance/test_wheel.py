"""The wheel as a stranger installs it: light without extras, whole, and clear about what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from relays import running_relay

from configbus.settings import load_settings

ROOT = Path(__file__).parents[2]
INSTALLED_BYTES = 20_000_000
WORKER = """
import importlib.util, sys
from configbus import ConfigBus
with ConfigBus.connect(require="live") as bus:
    print(bus.get("trading.score_threshold"), bus.state)
heavy = "sqlalchemy", "psycopg", "typer", "rich", "alembic"
print([name for name in heavy if name in sys.modules or importlib.util.find_spec(name)])
"""


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CONFIGBUS_", "PYTHONPATH"))}
    return subprocess.run(
        [str(part) for part in command], env=clean | variables, cwd="/", capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    done = run(*pip, "--wheel-dir", directory, ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = directory.iterdir()
    return wheel


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel and what it asks for, and nothing of any extra."""
    directory = tmp_path_factory.mktemp("bare")
    done = run(sys.executable, "-m", "venv", directory)
    assert done.returncode == 0, done.stderr
    done = run(directory / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    assert done.returncode == 0, done.stderr
    return directory / "bin"


def test_the_wheel_carries_migrations_scripts_and_the_mark_of_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "configbus").rglob("*")
        if path.suffix in (".py", ".sql", ".lua", ".typed")
    }
    assert {"configbus/py.typed", "configbus/publish.lua", "configbus/stamp.lua"} <= sources <= names
    assert {Path(name).parts[0] for name in names} == {"configbus", f"{wheel.name.partition('-py')[0]}.dist-info"}


@pytest.mark.timeout(120)
def test_without_extras_a_worker_works_and_stays_light_and_commands_name_the_extra_to_install(
    bare: Path, database_url: str, redis_url: str
) -> None:
    settings = load_settings({}, database_url=database_url, redis_url=redis_url, environment="production")
    with running_relay(settings):
        done = run(
            bare / "python",
            "-W",
            "error",
            "-c",
            WORKER,
            CONFIGBUS_REDIS_URL=redis_url,
            CONFIGBUS_ENVIRONMENT="production",
        )
    assert (done.stdout, done.stderr) == ("0.700 live\n[]\n", "")
    packages = next((bare.parent / "lib").glob("python*")) / "site-packages"
    own = [path for path in packages.rglob("*") if path.is_file() and path.relative_to(packages).parts[0] != "pip"]
    assert sum(path.stat().st_size for path in own if "__pycache__" not in path.parts) < INSTALLED_BYTES

    start = "import logging; logging.basicConfig(); from configbus import ConfigBus; ConfigBus.connect(start_timeout=1)"
    nowhere = "redis://127.0.0.1:1/0"
    done = run(bare / "python", "-c", start, CONFIGBUS_REDIS_URL=nowhere, CONFIGBUS_DATABASE_URL=database_url)
    assert done.stderr.count("CONFIGBUS_DATABASE_URL is set, and psycopg is not installed: pip install") == 1
    assert "standing_on_defaults" in done.stderr
    assert "Traceback" not in done.stderr

    for command in ("migrate", "list", "up"):
        done = run(bare / "configbus", command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "pip install 'configbus[cli,store]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1
