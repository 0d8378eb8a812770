"""This process's own settings: CONFIGBUS_* variables, and what is given instead of them."""

from __future__ import annotations

import getpass
import os
import re
import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configbus.errors import SettingsError
from configbus.log import log, masked
from configbus.names import is_environment, near
from configbus.signing import Keyring, read_keys
from configbus.wire import Keys

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "CONFIGBUS_"
ENVIRONMENT_RULE = "but must be 1 to 63 of a-z, 0-9 and -, beginning with a letter"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
URL = re.compile(
    r"[a-z]+(\+[a-z]+)?://([^\s@/?#]*@)?(\[[^\s@/?#\]]+\]|[^\s@/?#:\[\]]*)(:[0-9]{0,5})?([/?#][^@]*)?", re.IGNORECASE
)
"""What drivers agree about; an `@` after the host would be one of a password that is not percent-encoded."""
SCHEME = re.compile(r"(?:postgres|postgresql|postgresql\+psycopg|redis|rediss|unix)://")
URLS = {
    "database_url": "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    "redis_url": "redis://USER:PASSWORD@HOST:6379/0",
}
SCHEMA = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}", re.ASCII)
LONGEST_NAME = 200
SURROGATE = re.compile("[\ud800-\udfff]")
"""What stands in a variable for bytes that are no UTF-8."""
FORMATS = ("console", "json")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the servers are and who this process is. URLs may hold passwords, and keys are secret: never print them."""

    database_url: str | None = None
    redis_url: str | None = None
    environment: str = "development"
    namespace: str = "configbus"
    schema: str = "configbus"
    domains: tuple[str, ...] = ("configbus.domains",)
    worker: str = ""
    actor: str = ""
    snapshot_dir: str | None = None
    signing_keys: str | None = None
    log_level: str = "INFO"
    log_format: str = "console"

    def __repr__(self) -> str:
        return f"Settings(environment={self.environment!r}, namespace={self.namespace!r}, schema={self.schema!r})"

    @property
    def keyring(self) -> Keyring | None:
        """The keys by which what is published is known to be ours; None where nothing is signed."""
        if not self.signing_keys:
            return None
        return Keyring(read_keys(self.signing_keys), Keys(self.namespace, self.environment).prefix)

    def require(self, name: str) -> str:
        """A URL that this action cannot do without; SettingsError names the variable."""
        value = getattr(self, name)
        if not value:
            raise SettingsError(f"{PREFIX}{name.upper()} is not set: this needs it")
        return str(value)


def load_settings(environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Settings from arguments (None counts as not given), then variables, then defaults. Raises SettingsError."""
    settings = read_settings(environ, **given)
    warn_of_unknown(os.environ if environ is None else environ, settings.environment)
    check_urls(settings)
    return settings


def read_settings(environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """The same, with URLs that nobody has looked at, and without a word of unknown variables."""
    source = os.environ if environ is None else environ
    names = [field.name for field in fields(Settings)]
    if unknown := sorted(given.keys() - set(names)):
        raise TypeError(f"unknown setting {unknown[0]!r}; did you mean {near(unknown[0], names) or names}?")
    asked = [name for name in names if given.get(name) is None]
    values = {name: value for name in asked if (value := _read(source, name)) is not None}
    if not given.get("environment") and "environment" not in values and source.get("ENVIRONMENT"):
        values["environment"] = _fallback_environment(source["ENVIRONMENT"])
    values |= {name: value for name, value in given.items() if value is not None}
    if "domains" in values:
        values["domains"] = _domains(values["domains"])
    values.setdefault("actor", _user())
    values.setdefault("worker", f"{socket.gethostname()}:{os.getpid()}")
    settings = Settings(**values)
    _check(settings)
    return settings


def check_urls(settings: Settings) -> None:
    """Refuse what drivers would read differently, or parts of a password as the host. Raises SettingsError."""
    for name in URLS:
        value = getattr(settings, name)
        if value and not URL.fullmatch(value):
            raise SettingsError(f"{PREFIX}{name.upper()} is {_no_url(name)}")


def warn_of_unknown(source: Mapping[str, str], environment: str) -> None:
    """Log the variables that look like ours and are none: a typing error in one leaves a default in force."""
    known = [PREFIX + field.name.upper() for field in fields(Settings)]
    known += [name + "_FILE" for name in known]
    for variable in source:
        if variable.startswith(PREFIX) and variable not in known:
            similar = ", ".join(near(variable, known)) or None
            log.warning("unknown_setting", variable=variable, near=similar, environment=environment)


@dataclass(frozen=True, slots=True)
class Origin:
    """What holds for one setting, fit to be shown, and where it came from."""

    variable: str
    value: str
    source: str


def origins(settings: Settings, environ: Mapping[str, str], given: Mapping[str, Any]) -> list[Origin]:
    """Every setting with its source: an option, a variable, a file, or the default. Passwords are masked."""
    found = []
    for field in fields(Settings):
        value, variable = getattr(settings, field.name), PREFIX + field.name.upper()
        if field.name == "signing_keys" and value:
            value = ",".join(f"{key_id}:***" for key_id in read_keys(value))
        shown = masked(",".join(value) if isinstance(value, tuple) else str(value or ""))
        if field.name in URLS and value and not URL.fullmatch(value):
            scheme = SCHEME.match(value)
            shown = f"{scheme.group() if scheme else ''}*** ({_no_url(field.name)})"
        found.append(Origin(variable, shown, _source(field.name, environ, given)))
    return found


def _no_url(name: str) -> str:
    return f"not a URL such as {URLS[name]}; write / # ? @ and % in the password percent-encoded"


def _source(name: str, environ: Mapping[str, str], given: Mapping[str, Any]) -> str:
    variable = PREFIX + name.upper()
    if given.get(name) is not None:
        return "option"
    if environ.get(variable):
        return "variable"
    if environ.get(variable + "_FILE"):
        return f"file {_path(environ[variable + '_FILE'])}"
    if name == "environment" and environ.get("ENVIRONMENT"):
        return "variable ENVIRONMENT"
    return "default"


def _read(source: Mapping[str, str], name: str) -> Any:
    variable = PREFIX + name.upper()
    if value := source.get(variable):
        return value
    if path := source.get(variable + "_FILE"):
        told = f"{variable}_FILE names {_path(path)}, which"
        try:
            value = Path(path).read_text(encoding="utf8").strip()
        except OSError as error:
            raise SettingsError(f"{told} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{told} is not UTF-8 text") from error
        if not value:
            raise SettingsError(f"{told} is empty")
        return value
    return "" if name == "signing_keys" and value == "" else None


def _path(value: str) -> str:
    """What stands in a `_FILE`, fit to be shown: a URL may stand there by mistake."""
    return value if value.startswith(("/", ".")) or "@" not in value else "***"


def _fallback_environment(value: str) -> str:
    if not is_environment(value):
        raise SettingsError(f"ENVIRONMENT is {value!r}, {ENVIRONMENT_RULE}; set CONFIGBUS_ENVIRONMENT instead")
    return value


def _domains(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())


def _check(settings: Settings) -> None:
    for name in ("environment", "namespace"):
        value = getattr(settings, name)
        if not is_environment(value):
            raise SettingsError(f"{PREFIX}{name.upper()} is {value!r}, {ENVIRONMENT_RULE}")
    if not settings.actor.isprintable() or len(settings.actor) > LONGEST_NAME:
        raise SettingsError(
            f"{PREFIX}ACTOR is {settings.actor[:40]!r}, but must be printable, and at most {LONGEST_NAME} characters"
        )
    if SURROGATE.search(settings.worker) or len(settings.worker) > LONGEST_NAME:
        raise SettingsError(
            f"{PREFIX}WORKER is {settings.worker[:40]!r}, but must be UTF-8, and at most {LONGEST_NAME} characters"
        )
    if settings.signing_keys == "":
        raise SettingsError(f"{PREFIX}SIGNING_KEYS is set, and empty: leave it away where nothing is to be signed")
    if settings.signing_keys:
        try:
            read_keys(settings.signing_keys)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}SIGNING_KEYS: {error}") from None
    if not settings.domains:
        raise SettingsError(f"{PREFIX}DOMAINS names no module; configbus.domains is the built-in one")
    if not SCHEMA.fullmatch(settings.schema) or settings.schema.startswith("pg_"):
        raise SettingsError(
            f"{PREFIX}SCHEMA is {settings.schema!r}, but must be 1 to 63 of a-z, A-Z, 0-9, _ and -,"
            " beginning with a letter, and not with pg_"
        )
    if settings.log_level.upper() not in LEVELS:
        raise SettingsError(f"{PREFIX}LOG_LEVEL is {settings.log_level!r}; it may be {', '.join(LEVELS)}")
    if settings.log_format not in FORMATS:
        raise SettingsError(f"{PREFIX}LOG_FORMAT is {settings.log_format!r}; it may be {' or '.join(FORMATS)}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
