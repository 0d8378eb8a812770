"""This process's own settings: where they come from, what is refused by name, and what is never shown."""

from __future__ import annotations

import getpass
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from configbus.errors import ConfigBusError, SettingsError
from configbus.log import log, masked
from configbus.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

DATABASE = "postgresql://ana:geheim@db.example/config"
REDIS = "redis://:geheim@redis.example:6379/0"


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    facts: dict[str, Any] = record.__dict__["facts"]
    return facts


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings({})
    assert (settings.database_url, settings.redis_url) == (None, None)
    assert (settings.environment, settings.namespace, settings.schema) == ("development", "configbus", "configbus")
    assert settings.domains == ("configbus.domains",)
    assert (settings.log_level, settings.log_format) == ("INFO", "console")
    assert settings.actor == getpass.getuser()


def test_a_worker_is_called_by_host_and_process_unless_it_has_a_name() -> None:
    assert re.fullmatch(r".+:\d+", load_settings({}).worker)
    assert load_settings({"CONFIGBUS_WORKER": "trader-1"}).worker == "trader-1"


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("CONFIGBUS_DATABASE_URL", DATABASE, "database_url", DATABASE),
        ("CONFIGBUS_REDIS_URL", REDIS, "redis_url", REDIS),
        ("CONFIGBUS_ENVIRONMENT", "production", "environment", "production"),
        ("CONFIGBUS_NAMESPACE", "trade-1", "namespace", "trade-1"),
        ("CONFIGBUS_SCHEMA", "My_Schema", "schema", "My_Schema"),
        ("CONFIGBUS_DOMAINS", "configbus.domains, ours.domains ,", "domains", ("configbus.domains", "ours.domains")),
        ("CONFIGBUS_WORKER", "trader-1", "worker", "trader-1"),
        ("CONFIGBUS_ACTOR", "ana", "actor", "ana"),
        ("CONFIGBUS_LOG_LEVEL", "debug", "log_level", "debug"),
        ("CONFIGBUS_LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_a_setting_comes_from_its_variable_its_file_or_an_argument(
    variable: str, value: str, field: str, expected: object, tmp_path: Path
) -> None:
    assert getattr(load_settings({variable: value}), field) == expected
    secret = tmp_path / "secret"
    secret.write_text(f"  {value}\n", encoding="utf8")
    assert getattr(load_settings({f"{variable}_FILE": str(secret)}), field) == expected
    assert getattr(load_settings({}, **{field: value}), field) == expected


def test_an_argument_goes_before_a_variable_and_a_variable_before_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-file", encoding="utf8")
    source = {"CONFIGBUS_ACTOR_FILE": str(secret)}
    assert load_settings(source).actor == "from-file"
    source["CONFIGBUS_ACTOR"] = "from-variable"
    assert load_settings(source).actor == "from-variable"
    assert load_settings(source, actor="from-argument").actor == "from-argument"
    assert load_settings(source, actor=None).actor == "from-variable"


def test_domains_may_be_given_as_a_sequence() -> None:
    assert load_settings({}, domains=["a", "b"]).domains == ("a", "b")


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings({"CONFIGBUS_ENVIRONMENT": "", "CONFIGBUS_DATABASE_URL": ""}) == load_settings({})


def test_the_environment_falls_back_to_that_of_the_machine() -> None:
    assert load_settings({"ENVIRONMENT": "staging"}).environment == "staging"
    assert load_settings({"ENVIRONMENT": "staging", "CONFIGBUS_ENVIRONMENT": "production"}).environment == "production"
    assert load_settings({"ENVIRONMENT": "staging"}, environment="production").environment == "production"
    assert load_settings({"ENVIRONMENT": ""}).environment == "development"


def test_the_urls_of_other_applications_are_never_taken() -> None:
    source = {"DATABASE_URL": DATABASE, "REDIS_URL": REDIS, "PGHOST": "db", "DATABASE_URL_FILE": "/etc/passwd"}
    settings = load_settings(source)
    assert (settings.database_url, settings.redis_url) == (None, None)


def test_the_process_environment_is_read_where_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGBUS_NAMESPACE", "from-the-process")
    assert load_settings().namespace == "from-the-process"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONFIGBUS_ENVIRONMENT", "Production"),
        ("CONFIGBUS_ENVIRONMENT", "../etc"),
        ("CONFIGBUS_ENVIRONMENT", "a/b/c"),
        ("CONFIGBUS_ENVIRONMENT", "prod uction"),
        ("CONFIGBUS_ENVIRONMENT", "production\n"),
        ("CONFIGBUS_ENVIRONMENT", "x" * 64),
        ("CONFIGBUS_ENVIRONMENT", "{production}"),
        ("CONFIGBUS_ENVIRONMENT", "*"),
        ("CONFIGBUS_ENVIRONMENT", "pr\u043eduction"),
        ("CONFIGBUS_NAMESPACE", "a:b"),
        ("CONFIGBUS_NAMESPACE", "A"),
        ("CONFIGBUS_SCHEMA", "pg_config"),
        ("CONFIGBUS_SCHEMA", "x" * 64),
        ("CONFIGBUS_SCHEMA", "\u00e9"),
        ("CONFIGBUS_SCHEMA", "it's"),
        ("CONFIGBUS_LOG_LEVEL", "LOUD"),
        ("CONFIGBUS_LOG_FORMAT", "xml"),
        ("CONFIGBUS_DOMAINS", " , "),
        ("CONFIGBUS_ACTOR", "a\nb"),
        ("CONFIGBUS_WORKER", "\udcff"),
        ("CONFIGBUS_WORKER", "x" * 201),
        ("CONFIGBUS_SIGNING_KEYS", ""),
    ],
)
def test_a_bad_value_is_refused_and_its_variable_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({variable: value})
    assert variable in str(caught.value)
    assert isinstance(caught.value, ConfigBusError)


def test_a_bad_environment_of_the_machine_is_refused_and_that_variable_named() -> None:
    with pytest.raises(SettingsError, match=r"(?<!CONFIGBUS_)ENVIRONMENT is 'Production'"):
        load_settings({"ENVIRONMENT": "Production"})


@pytest.mark.parametrize("schema", ["x" * 63, "trading-desk_2", "Config"])
def test_a_schema_may_have_such_a_name(schema: str) -> None:
    assert load_settings({}, schema=schema).schema == schema


@pytest.mark.parametrize("level", ["DEBUG", "info", "Warning", "ERROR", "CRITICAL"])
def test_a_log_level_may_be_in_any_case(level: str) -> None:
    assert load_settings({}, log_level=level).log_level == level


def test_a_file_that_cannot_be_read_is_refused_and_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SettingsError) as caught:
            load_settings({"CONFIGBUS_REDIS_URL_FILE": str(path)})
        assert "CONFIGBUS_REDIS_URL_FILE" in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_file_that_holds_no_text_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="CONFIGBUS_REDIS_URL_FILE"):
        load_settings({"CONFIGBUS_REDIS_URL_FILE": str(tmp_path / "binary")})


def test_an_empty_file_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", encoding="utf8")
    with pytest.raises(SettingsError, match=f"CONFIGBUS_REDIS_URL_FILE names {tmp_path}/empty, which is empty"):
        load_settings({"CONFIGBUS_REDIS_URL_FILE": str(tmp_path / "empty")})


@pytest.mark.parametrize("value", [REDIS, "default:geheim@h/0"])
def test_a_url_in_place_of_its_files_name_is_not_repeated(value: str) -> None:
    with pytest.raises(SettingsError, match="CONFIGBUS_REDIS_URL_FILE") as caught:
        load_settings({"CONFIGBUS_REDIS_URL_FILE": value})
    assert "geheim" not in str(caught.value)


def test_the_file_of_a_setting_that_is_given_is_not_read() -> None:
    source = {"CONFIGBUS_DATABASE_URL_FILE": "/nope", "CONFIGBUS_ENVIRONMENT_FILE": "/nope"}
    settings = load_settings(source, database_url=DATABASE, environment="production")
    assert (settings.database_url, settings.environment) == (DATABASE, "production")


@pytest.mark.parametrize("variable", ["CONFIGBUS_DATABASE_URL", "CONFIGBUS_REDIS_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "SCHEME://u:S3C@RET@127.0.0.1:1/x",
        "SCHEME://u:S3C/RET@127.0.0.1:1/x",
        "SCHEME://u:S3C#RET@127.0.0.1:1/x",
        "SCHEME://u:S3C?RET@127.0.0.1:1/x",
        "SCHEME://u:123/RET@127.0.0.1:1/x",
        "SCHEME://u:123?RET=x@127.0.0.1:1/x",
        "SCHEME://u:S3C RET@127.0.0.1:1/x",
        "SCHEME://u:S3CRET/x",
        "SCHEME://u:3141592653/x",
        "SCHEME:/u:S3CRET@h/x",
        "u:S3CRET@h/x",
        "SCHEME//u:S3CRET@h/x",
        "host=h password=S3CRET",
    ],
)
def test_what_drivers_would_misread_is_refused_and_not_repeated(variable: str, url: str) -> None:
    scheme = "redis" if "REDIS" in variable else "postgresql"
    with pytest.raises(SettingsError, match=f"{variable} is not a URL such as {scheme}://.*percent-encoded") as caught:
        load_settings({variable: url.replace("SCHEME", scheme)})
    assert "S3C" not in str(caught.value)
    assert "RET" not in str(caught.value)
    assert "314" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:S3C%40RET@db.example:5432/x?sslmode=require",
        "postgresql+psycopg://u:a:b@[::1]:5432/x",
        "postgresql:///x?host=/run/postgresql&options=-c search_path=a",
        "postgresql://x@/x?host=a:1&host=b:2",
        "redis://h",
        "redis://[fe80::1%25eth0]:6379",
        "rediss://:geheim@h:6379/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_a_url_may_look_like_this(url: str) -> None:
    name = "redis_url" if url.startswith(("redis", "unix")) else "database_url"
    assert getattr(load_settings({}, **{name: url}), name) == url


def test_an_unknown_argument_is_refused_and_the_near_one_named() -> None:
    with pytest.raises(TypeError, match=r"'enviroment'.*'environment'"):
        load_settings({}, enviroment="production")


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("CONFIGBUS_ENVIROMENT", "CONFIGBUS_ENVIRONMENT"),
        ("CONFIGBUS_REDIS_ULR", "CONFIGBUS_REDIS_URL"),
        ("CONFIGBUS_DATABASE_URL_FIEL", "CONFIGBUS_DATABASE_URL_FILE"),
    ],
)
def test_an_unknown_variable_is_warned_about_with_the_nearest_known_name(
    variable: str, near: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_settings({variable: "geheim", "PATH": "/bin", "OTHER_CONFIGBUS_X": "1", "CONFIGBUS_ACTOR_FILE": ""})
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("configbus", logging.WARNING)
    assert record.getMessage().startswith(f"unknown_setting variable={variable} near=")
    assert facts_of(record)["near"].split(", ")[0] == near
    assert facts_of(record)["environment"] == "development"
    assert "geheim" not in record.getMessage()


def test_an_unknown_variable_like_no_other_is_warned_about_too(caplog: pytest.LogCaptureFixture) -> None:
    load_settings({"CONFIGBUS_": "x"})
    (record,) = caplog.records
    assert facts_of(record)["variable"] == "CONFIGBUS_"


def test_known_variables_are_not_warned_about(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("ana", encoding="utf8")
    known = {"CONFIGBUS_ENVIRONMENT": "production", "CONFIGBUS_ACTOR_FILE": str(secret), "CONFIGBUS_WORKER": "w"}
    load_settings(known)
    assert caplog.records == []


def test_no_url_is_shown() -> None:
    settings = load_settings({"CONFIGBUS_DATABASE_URL": DATABASE, "CONFIGBUS_REDIS_URL": REDIS})
    for shown in (repr(settings), str(settings), f"{settings}", f"{[settings]}"):
        assert "geheim" not in shown
        assert "://" not in shown
        assert "development" in shown


def test_a_url_that_an_action_needs_is_given_or_asked_for_by_its_variable() -> None:
    assert load_settings({"CONFIGBUS_DATABASE_URL": DATABASE}).require("database_url") == DATABASE
    with pytest.raises(SettingsError, match="CONFIGBUS_REDIS_URL is not set"):
        load_settings({}).require("redis_url")


def test_settings_are_values() -> None:
    assert load_settings({}, actor="ana") == load_settings({"CONFIGBUS_ACTOR": "ana"})
    assert Settings(environment="staging") != Settings()
    with pytest.raises(AttributeError):
        Settings().environment = "production"  # type: ignore[misc]  # that it is frozen is the point


def test_an_event_is_told_as_text_and_as_facts(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("release_published", environment="test", revision=42, reason='the "big" one', nothing=None)
    (record,) = caplog.records
    assert record.getMessage() == 'release_published environment=test revision=42 reason="the \\"big\\" one"'
    told = {"event": "release_published", "environment": "test", "revision": 42, "reason": 'the "big" one'}
    assert facts_of(record) == told


def test_no_event_tells_the_password_of_a_url(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("told", environment="test", reason=f"{DATABASE} and {REDIS} at 7 o'clock", error=OSError(REDIS))
    (record,) = caplog.records
    assert "geheim" not in record.getMessage()
    reason = "postgresql://ana:***@db.example/config and redis://:***@redis.example:6379/0 at 7 o'clock"
    assert facts_of(record)["reason"] == reason


@pytest.mark.parametrize(
    "text",
    [
        "why; the rest of the password\nis here = kept",
        "http://host:80 and ana@example.org",
        "redis://host:6379/0",
    ],
)
def test_nothing_else_is_masked(text: str) -> None:
    assert masked(text) == text


def test_a_long_text_is_masked_in_no_time() -> None:
    for part in ("?", "://a:", ";password", "&a="):
        text = part * (200_000 // len(part))
        assert masked(text).startswith(part)


def test_the_library_is_silent_until_logging_is_configured(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = logging.getLogger().handlers[:]
    logging.getLogger().handlers.clear()
    try:
        log.error("told_to_nobody", environment="test")
    finally:
        logging.getLogger().handlers[:] = handlers
    assert capfd.readouterr() == ("", "")


def test_what_is_below_the_level_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="configbus"):
        log.warning("not_told")
        log.error("told", environment="test")
    assert [facts_of(record)["event"] for record in caplog.records] == ["told"]
