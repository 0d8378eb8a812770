"""Dockerfile, .dockerignore and docker-compose.yml fit the code and one another; nothing is built or started."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import tomllib
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from configbus.cli.app import app
from configbus.cli.health import LIMIT_SECONDS
from configbus.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
SECRET = re.compile(r"/run/secrets/(\w+)")


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments; comments are left out, continued lines are joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


STEPS = instructions((ROOT / "Dockerfile").read_text(encoding="utf8"))
LAST_STAGE = STEPS[max(place for place, (name, _) in enumerate(STEPS) if name == "FROM") :]


def the(name: str) -> str:
    """The arguments of the one such instruction in the stage that becomes the image."""
    (argument,) = (rest for instruction, rest in LAST_STAGE if instruction == name)
    return argument


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    """A service's variables, those taken from the shell at their defaults."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in service.get("environment", {}).items()}


def parse(arguments: list[str]) -> str:
    """The name of the command that these arguments are for, as the application itself reads them, without running it.

    Raises what the application would refuse them with.
    """
    group: Any = typer.main.get_command(app)
    with group.make_context("configbus", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, arguments)
        command.make_context(name, list(rest), parent=context).close()
    return str(name)


def test_every_command_of_our_image_is_one_with_its_options() -> None:
    assert json.loads(the("ENTRYPOINT")) == list(PROJECT["scripts"]) == ["configbus"]
    assert {name: parse(service["command"]) for name, service in OURS.items()} == {
        "migrate": "migrate",
        "relay": "relay",
    }
    for service in OURS.values():
        match service.get("healthcheck", {"test": None})["test"]:
            case ["CMD", "configbus", *arguments]:
                assert parse(arguments) == "health"
            case other:
                assert other is None
    for line in re.findall(r"docker compose exec relay configbus (.*)", COMPOSE_TEXT):
        assert parse(shlex.split(line))


@pytest.mark.parametrize("arguments", [["healthy"], ["relay", "--forever"], ["health", "--json", "now"]], ids=" ".join)
def test_a_command_that_does_not_exist_would_be_noticed(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=rf"(?i)(no such|unexpected).*{arguments[-1]}"):
        parse(arguments)


def test_every_variable_is_one_of_ours() -> None:
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    known |= {f"{name}_FILE" for name in known}
    used = set(re.findall(rf"{PREFIX}[A-Z_]+", COMPOSE_TEXT)) | set(re.findall(rf"{PREFIX}[A-Z_]+", str(STEPS)))
    assert used >= {"CONFIGBUS_DATABASE_URL_FILE", "CONFIGBUS_REDIS_URL_FILE", "CONFIGBUS_ENVIRONMENT"}
    assert used <= known


def test_the_secrets_made_as_the_comment_says_are_those_that_servers_and_settings_read(tmp_path: Path) -> None:
    lines = re.findall(r"^#   (.+)$", COMPOSE_TEXT, re.MULTILINE)
    assert len(lines) == 3
    subprocess.run(["/bin/sh", "-euc", "\n".join(lines)], cwd=tmp_path, check=True)

    def made(place: str) -> Path:
        (name,) = SECRET.findall(place)
        return tmp_path / str(COMPOSE["secrets"][name]["file"])

    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "secrets").iterdir()} == {0o444}
    postgres = environment_of(SERVICES["postgres"])
    passwords = {
        "postgres": made(postgres["POSTGRES_PASSWORD_FILE"]).read_text(encoding="utf8"),
        "redis": made("/run/secrets/redis_password").read_text(encoding="utf8"),
    }
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in passwords.values())
    assert len(set(passwords.values())) == 2
    for service in OURS.values():
        variables = {
            name: str(made(value)) if name.endswith("_FILE") else value
            for name, value in environment_of(service).items()
        }
        settings = load_settings(variables)
        user, database = postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]
        assert settings.database_url == f"postgresql://{user}:{passwords['postgres']}@postgres:5432/{database}"
        assert settings.redis_url == f"redis://default:{passwords['redis']}@redis:6379/0"
        assert (settings.environment, settings.log_format) == ("production", "json")


def test_no_password_stands_in_the_files() -> None:
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            assert name.endswith("_FILE") or not re.search("PASSWORD|SECRET|URL", name)
    assert not [
        rest for name, rest in STEPS if name in ("ARG", "ENV", "ADD") and re.search("(?i)passw|secret|url", rest)
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user") in ((None,) if name in OURS else ("postgres", "redis"))
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_and_is_restarted_or_is_waited_for_until_it_is_done(name: str) -> None:
    service = SERVICES[name]
    waited_for = {other["depends_on"][name]["condition"] for other in SERVICES.values() if name in wanted(other)}
    if "healthcheck" in service:
        assert service["restart"] == "unless-stopped"
        assert waited_for <= {"service_healthy"}
        assert service["healthcheck"].keys() == {"test", "interval", "timeout", "retries", "start_period"}
        assert "curl" not in str(service["healthcheck"])
    else:
        assert service["restart"] == "no"
        assert waited_for == {"service_completed_successfully"}


def wanted(service: dict[str, Any]) -> set[str]:
    return set(service.get("depends_on", ()))


def test_what_a_service_depends_on_exists() -> None:
    assert wanted(SERVICES["migrate"]) == {"postgres"}
    assert wanted(SERVICES["relay"]) == {"migrate", "postgres", "redis"}
    assert all(wanted(service) <= SERVICES.keys() for service in SERVICES.values())


def test_the_health_check_of_the_relay_has_time_to_answer() -> None:
    timeout = SERVICES["relay"]["healthcheck"]["timeout"]
    assert float(timeout.removesuffix("s")) >= LIMIT_SECONDS + 2


def test_images_are_pinned_and_ours_is_one_that_is_built_here_and_never_pulled() -> None:
    assert {name: service.get("image") for name, service in SERVICES.items()} == {
        "postgres": "postgres:18",
        "redis": "redis:8",
        "migrate": "configbus",
        "relay": "configbus",
    }
    assert {(service["build"], service["pull_policy"]) for service in OURS.values()} == {(".", "build")}
    assert "version" not in COMPOSE


def test_volumes_and_secrets_are_declared_and_used() -> None:
    mounted = {name: [part.partition(":") for part in service.get("volumes", ())] for name, service in SERVICES.items()}
    assert {source for parts in mounted.values() for source, _, _ in parts} == COMPOSE["volumes"].keys()
    assert [target for _, _, target in mounted["postgres"]] == ["/var/lib/postgresql"]
    assert [target for _, _, target in mounted["redis"]] == ["/data"]
    given = {name: set(service.get("secrets", ())) for name, service in SERVICES.items()}
    assert set().union(*given.values()) == COMPOSE["secrets"].keys()
    assert given == {name: set(SECRET.findall(json.dumps(service))) for name, service in SERVICES.items()}


def test_redis_keeps_what_it_has_and_asks_for_a_password() -> None:
    *_, script = SERVICES["redis"]["command"]
    words = shlex.split(script.replace("$$", "$"), comments=True)
    options = dict(pairwise(words))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert options["exec"] == "redis-server"
    assert "requirepass %s\\n" in words


def test_the_image_does_not_run_as_root_and_stops_as_the_relay_does() -> None:
    user, _, group = the("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"--uid {user} " in the("RUN")
    assert the("STOPSIGNAL") == "SIGTERM"
    assert parse(["relay"]) == "relay"


def test_the_image_holds_what_the_project_names() -> None:
    bases = [rest.split()[0] for name, rest in STEPS if name == "FROM"]
    assert bases == ["python:3.13-slim"] * 2
    assert "Programming Language :: Python :: 3.13" in PROJECT["classifiers"]
    installs = re.findall(r"pip[^&]* install [^&]*", " && ".join(rest for name, rest in STEPS if name == "RUN"))
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in install for install in installs)
    (extras,) = re.findall(r"configbus\[([\w,]+)\]", installs[-1])
    assert set(extras.split(",")) == {"store", "cli"} <= PROJECT["optional-dependencies"].keys()
    assert "curl" not in str(STEPS)
    assert [rest.split()[0] for name, rest in LAST_STAGE if name == "COPY"] == ["--from=build"]


def test_docker_is_sent_what_is_copied_and_nothing_else() -> None:
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf8").split("\n") if line and line[0] != "#"
    ]
    assert ignored[0] == "*"
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source
        for name, rest in STEPS
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert let_in == copied
    assert all((ROOT / source).exists() for source in copied)
