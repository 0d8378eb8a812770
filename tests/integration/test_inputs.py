"""Documents and names that must not pass, at every door: each is refused in a sentence, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest
from authors import DOMAINS, author_of, everything, revision_of
from psycopg import sql
from psycopg.types.json import Jsonb
from sample_domains import AWKWARD

from configbus.catalogue import load_catalogue
from configbus.errors import (
    ConfigBusError,
    InvalidValue,
    SettingsError,
    UnknownBlock,
    UnknownField,
    UnknownVersion,
)
from configbus.values import from_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authors import Psql

    from configbus.author import Author

TOLD = 400
"""Characters that a refusal may take."""


@pytest.fixture
def author(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url) as author:
        yield author


def brackets(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


BAD_KEYS = {
    "empty": "",
    "dots": "..",
    "slashes": "a/b/c",
    "slash": "/",
    "space": "a b",
    "leading space": " a",
    "trailing newline": "a\n",
    "64 characters": "x" * 64,
    "100,000 characters": "x" * 100_000,
    "zero-width space": "a\u200bb",
    "zero-width joiner at the end": "a\u200d",
    "Cyrillic a": "\u0430bc",
    "full-width a": "\uff41bc",
    "Arabic digit": "a\u0661",
    "Kelvin sign": "\u212a",
    "dunder": "__proto__",
    "SQL": "a'; DROP TABLE configbus.lane_config; --",
    "percent": "%s",
    "format": "{0.__class__}",
    "placeholder": "{schema}",
    "parameter": ":environment",
    "hash tag": "{production}",
    "star": "*",
    "path": "../etc/passwd",
    "NUL": "a\0",
    "escape": "\x1b[31m",
    "lone surrogate": "a\ud800",
    "leading dash": "-a",
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
def test_what_no_key_may_be_called_is_refused_at_every_door(psql: Psql, author: Author, key: str) -> None:
    before = everything(psql)
    for name in (f"lane/{key}", key):
        doors: list[Callable[[], object]] = [
            lambda name=name: author.set({f"{name}.fast_bars": 3}),  # type: ignore[misc]  # mypy infers no default of a lambda
            lambda name=name: author.draft(name, {"fast_bars": 3}),  # type: ignore[misc]  # the same
            lambda name=name: author.retire(name),  # type: ignore[misc]  # the same
            lambda name=name: author.rollback([name], to=1),  # type: ignore[misc]  # the same
            lambda name=name: author.active(name),  # type: ignore[misc]  # the same
            lambda name=name: author.versions(name),  # type: ignore[misc]  # the same
            lambda name=name: author.history(name),  # type: ignore[misc]  # the same
            lambda name=name: author.audit(name),  # type: ignore[misc]  # the same
            lambda name=name: author.diff(name, 1),  # type: ignore[misc]  # the same
        ]
        for door in doors:
            with pytest.raises(UnknownBlock) as refusal:
                door()
            assert "no domain" in str(refusal.value) or "needs a key" in str(refusal.value)
    assert everything(psql) == before


@pytest.mark.parametrize("key", [key for key in BAD_KEYS.values() if "\0" not in key and "\ud800" not in key])
def test_what_no_key_may_be_called_is_refused_by_the_table(psql: Psql, key: str) -> None:
    before = everything(psql)
    insert = "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', %s, 'active')"
    with pytest.raises(psycopg.errors.CheckViolation, match="key_allowed"):
        psql.execute(insert, [key])
    assert everything(psql) == before


BAD_ENVIRONMENTS = [
    *(name for key, name in BAD_KEYS.items() if key not in ("NUL", "lone surrogate")),
    "Production",
    "prod_uction",
    "/etc/passwd",
    "1st",
    "production\n",
]


@pytest.mark.parametrize("name", BAD_ENVIRONMENTS)
def test_what_no_environment_may_be_called_is_refused_by_settings_and_table(
    psql: Psql, sample_database_url: str, name: str
) -> None:
    before = everything(psql)
    if name:  # an empty setting counts as one that is not there
        with pytest.raises(SettingsError, match="CONFIGBUS_ENVIRONMENT"):
            author_of(sample_database_url, environment=name)
    with pytest.raises(psycopg.errors.CheckViolation, match="environment_name"):
        psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES (%s, 1)", [name])
    assert everything(psql) == before


BAD_IDS = {
    "empty": "",
    "space": " ",
    "dots": "..",
    "dashes": "----",
    "slashes": "a/b/c",
    "not hexadecimal": "xyz",
    "33 digits": "0" * 33,
    "100,000 digits": "1" * 100_000,
    "zero-width space": "a\u200bb",
    "full-width digits": "\uff11\uff12",
    "Cyrillic a": "\u0430bc",
    "hexadecimal with a prefix": "0xabc",
    "in braces": "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
    "SQL": "a' OR '1'='1",
    "percent": "%",
    "underscore": "_",
    "star": "*",
    "format": "{schema}",
    "NUL": "a\0",
    "escape": "\x1b[31m",
    "lone surrogate": "a\ud800",
    "number": 1.5,
    "none": None,
}


@pytest.mark.parametrize("given", BAD_IDS.values(), ids=BAD_IDS)
def test_what_is_no_id_is_refused_at_every_door(psql: Psql, author: Author, given: Any) -> None:
    author.draft("lane/a")
    before = everything(psql)
    doors: list[Callable[[], object]] = [
        lambda: author.edit(given, {"fast_bars": 3}),
        lambda: author.discard(given),
        lambda: author.activate(given),
        lambda: author.version(given),
    ]
    if given is not None:
        doors.append(lambda: author.draft("lane/b", base=given))
    for door in doors:
        with pytest.raises(UnknownVersion, match="is not the id of a version row, nor its beginning") as refusal:
            door()
        assert len(str(refusal.value)) < TOLD
        assert str(refusal.value).isprintable()
    assert everything(psql) == before


BAD_FIELDS = {
    "empty": "",
    "dots": "..",
    "dot at the end": "venue.",
    "dot at the beginning": ".venue",
    "two dots": "venue..host",
    "trailing newline": "fast_bars\n",
    "space": "fast bars",
    "capitals": "Fast_Bars",
    "zero-width": "fast\u200b_bars",
    "Cyrillic a": "f\u0430st_bars",
    "full-width": "\uff46ast_bars",
    "dunder": "__proto__",
    "class": "__class__",
    "a method": "model_dump",
    "a class variable": "table_checks",
    "lifecycle": "status",
    "the row's id": "id",
    "SQL": "fast_bars = 3, version",
    "quote": 'fast_bars"',
    "format": "{schema}",
    "star": "*",
    "NUL": "fast_bars\0",
    "lone surrogate": "\ud800",
    "below a number": "fast_bars.x",
    "below a text": "label.x",
    "nested, unknown": "venue.hots",
    "nested, dunder": "venue.__class__",
    "nested, star": "venue.*",
    "block and field": "lane/a.fast_bars",
}


@pytest.mark.parametrize("field", BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_what_is_no_field_is_refused_at_every_door(psql: Psql, author: Author, field: str) -> None:
    row = author.draft("lane/a")
    author.activate(author.draft("lane/a").id)
    before = everything(psql)
    for door in (
        lambda: author.set({"risk.max_drawdown_pct": 15, f"lane/a.{field}": 3}),
        lambda: author.draft("lane/a", {"slow_bars": 61, field: 3}),
        lambda: author.edit(row.id, {"slow_bars": 61, field: 3}),
    ):
        with pytest.raises(UnknownField) as refusal:
            door()
        assert "lane" in str(refusal.value)
    assert everything(psql) == before


LOOP: list[Any] = []
LOOP.append(LOOP)
DOCUMENTS: dict[str, tuple[str, Any, str]] = {
    "NaN": ("ratio", float("nan"), "not a finite number"),
    "Infinity": ("document", {"a": [float("inf")]}, "not a finite number"),
    "decimal NaN": ("amount", Decimal("NaN"), "finite"),
    "1e999": ("amount", "1e999", "digits"),
    "huge exponent": ("amount", "1e1000000000", "digits|less than"),
    "huge exponent, nested": ("limits.venue.weight", Decimal("1e1000000000"), "digits"),
    "2**63": ("count", 2**63, "less than or equal to"),
    "2**53 + 1 for a float": ("ratio", 2**53 + 1, "more digits than a float can hold"),
    "5,000 digits": ("count", 10**5000, "digits|number"),
    "true for an int": ("small", True, "valid integer"),
    "1 for a bool": ("enabled", 1, "valid boolean"),
    "text for a number": ("small", "5", "valid integer"),
    "full-width digits": ("amount", "\uff15", "plain digits"),
    "underscores": ("amount", "1_000", "plain digits"),
    "spaces": ("amount", " 7\n", "plain digits"),
    "NUL": ("remark", "a\0b", "NUL"),
    "NUL in a name": ("document", {"a\0": 1}, "NUL"),
    "lone surrogate": ("limits.venue.host", "\ud800", "surrogate"),
    "invalid UTF-8": ("remark", b"\xff\xfe", "bytes"),
    "1 MB text": ("remark", "x" * 2**20, "bytes"),
    "1 MB text, nested": ("limits.venue.host", "x" * 2**20, "bytes"),
    "10,001 fields": ("document", {str(number): 1 for number in range(10_001)}, "10001 members"),
    "100,000 brackets": ("document", {"a": brackets(100_000)}, "nested deeper than 50"),
    "itself": ("document", {"a": LOOP}, "nested deeper than 50"),
    "not an object": ("document", [], "object|dictionary"),
    "unknown nested field": ("limits", {"soft": 1, "venu": {}}, "did you mean 'venue'"),
    "nested null": ("limits.venue", None, "Venue|object"),
    "time without zone": ("since", datetime(2026, 1, 31, 12), "no zone"),  # noqa: DTZ001  # that is what is refused
    "a date that there is not": ("until", "2026-02-30T12:00:00Z", "datetime"),
    "a time that there is not": ("until", "2026-03-29T25:00:00Z", "datetime"),
    "no choice": ("mode", "FAST", "'slow and steady' or 'fast'"),
    "too long": ("note", "x" * 201, "at most 200"),
    "a class": ("document", {"a": int}, "cannot be a configuration value"),
}


@pytest.mark.parametrize(("field", "value", "words"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_that_must_not_pass_is_refused_at_every_door(
    psql: Psql, author: Author, field: str, value: Any, words: str
) -> None:
    row = author.draft("sample")
    before = everything(psql)
    for door in (
        lambda: author.set({f"sample.{field}": value}),
        lambda: author.draft("sample", {field: value}),
        lambda: author.edit(row.id, {"small": 3, field: value}),
    ):
        with pytest.raises(InvalidValue, match=words) as refusal:
            door()
        for problem in refusal.value.problems:
            assert problem.path.startswith(f"sample.{field}"[:80])
            assert len(str(problem)) < TOLD
    assert everything(psql) == before


OVERLAPPING: list[dict[str, Any]] = [
    {"document.note": "x", "document": {}},
    {"document": {}, "document.note": "x"},
    {"limits.venue.host": "x", "limits": {"soft": 1}},
    {"limits.venue.host": "x", "limits.venue": {"weight": "2.5"}},
    {"extra": {"a": 1}, "extra.a": 2},
    {"extra.a": 2, "extra": None},
]


@pytest.mark.parametrize("values", OVERLAPPING, ids=[" ".join(values) for values in OVERLAPPING])
def test_paths_that_overlap_are_put_in_order_or_refused_in_our_words(
    psql: Psql, author: Author, values: dict[str, Any]
) -> None:
    author.set({"sample.extra": {"a": 0}})
    row = author.draft("sample")
    before = everything(psql)
    for door in (
        lambda: author.set({f"sample.{path}": value for path, value in values.items()}),
        lambda: author.draft("sample", values),
        lambda: author.edit(row.id, values),
    ):
        try:
            door()
        except ConfigBusError:
            assert everything(psql) == before
        else:
            before = everything(psql)


TEXTS = {
    "awkward": AWKWARD,
    "SQL": "'; DROP TABLE configbus.release; --",
    "percent": "100% %s %(x)s",
    "format": "{schema} {0.__class__} {}",
    "parameter": ":environment ::text \\:x",
    "backslashes": "\\'\\\"\\n",
    "control": "\x1b[31m\r\n\t\x07\x7f\x9b",
    "zero-width and bidirectional": "a\u200b\u202e\ufeffb",
    "beyond the first plane": "🚀\U0010ffff",
    "100 kB": "x" * 100_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_reason_is_kept_as_it_is_by_every_call(author: Author, text: str) -> None:
    releases = [
        author.activate(author.draft("lane/a").id, reason=text),
        author.set({"lane/a.fast_bars": 3}, reason=text),
        author.retire("lane/a", reason=text),
        author.rollback(["lane/a"], to=3, reason=text),
    ]
    assert [author.release(release.revision).reason for release in releases] == [text] * 4
    assert {entry.reason for entry in author.audit("lane/a")} == {text, None}


@pytest.mark.parametrize("reason", ["a\0b", "a\ud800b"])
def test_a_reason_that_postgres_cannot_hold_is_refused_by_every_call(psql: Psql, author: Author, reason: str) -> None:
    author.activate(author.draft("lane/a").id)
    row = author.draft("lane/a")
    before = everything(psql)
    doors: list[Callable[[], object]] = [
        lambda: author.activate(row.id, reason=reason),
        lambda: author.retire("lane/a", reason=reason),
        lambda: author.rollback(["lane/a"], to=1, reason=reason),
        lambda: author.set({"lane/a.fast_bars": 3}, reason=reason, idempotency_key="k"),
    ]
    for door in doors:
        with pytest.raises(InvalidValue, match="reason: the text holds"):
            door()
    assert everything(psql) == before


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "x" * 101, "🚀" * 101])
def test_a_drafts_name_that_cannot_be_kept_is_refused(psql: Psql, author: Author, name: str) -> None:
    before = everything(psql)
    with pytest.raises(InvalidValue, match=r"name: (the text holds|it has 101 characters, 100 are allowed)"):
        author.draft("lane/a", name=name)
    assert everything(psql) == before


@pytest.mark.parametrize("actor", ["a\nb", "a\0b", "\x1b[31m", "a\u200bb", "\ud800"])
def test_an_actor_that_is_not_printable_is_refused(sample_database_url: str, actor: str) -> None:
    with pytest.raises(SettingsError, match="CONFIGBUS_ACTOR"):
        author_of(sample_database_url, actor=actor)


@pytest.mark.parametrize(
    "actor", ["'; DROP TABLE configbus.release; --", "%s {schema} :x", "ana@example.com", "Zoë 漢"]
)
def test_any_printable_actor_is_kept_as_it_is(sample_database_url: str, actor: str) -> None:
    with author_of(sample_database_url, actor=actor) as author:
        release = author.set({"risk.max_drawdown_pct": 15})
        assert author.release(release.revision).actor == actor
        assert author.active("risk").activated_by == actor


BAD_JSON: dict[str, bytes] = {
    "broken": b'{"a": ',
    "empty": b"",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "beyond numeric": b'{"a": 1e1000000000}',
    "NUL": b'{"a": "\\u0000"}',
    "NUL in a name": b'{"\\u0000": 1}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "two documents": b"{} {}",
    "comment": b"{} -- no",
    "underscores": b'{"a": 1_000}',
    "full-width digits": '{"a": \uff15}'.encode(),
    "leading zero": b'{"a": 010}',
    "100,000 brackets": b"[" * 100_000 + b"]" * 100_000,
    "invalid UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("status", ["active", "draft"])
def test_a_document_that_is_no_json_is_refused_by_postgres(
    psql: Psql, author: Author, text: bytes, status: str
) -> None:
    author.draft("sample")
    before = everything(psql)
    update = "UPDATE configbus.sample_config SET document = convert_from(%s, 'UTF8')::jsonb WHERE status = %s"
    with pytest.raises((psycopg.DataError, psycopg.errors.StatementTooComplex)):
        psql.execute(update, [text, status])
    assert everything(psql) == before
    assert psql.execute("SELECT 1").fetchall() == [(1,)]


BAD_SQL: dict[str, tuple[LiteralString, LiteralString]] = {
    "a text for a number": ("small", "'five'"),
    "2**31": ("small", "2147483648"),
    "2**63": ("count", "9223372036854775808"),
    "full-width digits": ("small", "'\uff15'"),
    "huge exponent": ("amount", "1e100000"),
    "NaN": ("amount", "'NaN'"),
    "float NaN": ("ratio", "'NaN'"),
    "null": ("document", "NULL"),
    "too long": ("note", "repeat('x', 1000000)"),
    "no choice": ("mode", "'slow'"),
    "no UUID": ("token", "'{'"),
    "no time": ("since", "'2026-02-30T12:00:00Z'"),
    "infinity": ("since", "'infinity'"),
    "another status": ("status", "'live'"),
}


@pytest.mark.parametrize(("column", "value"), BAD_SQL.values(), ids=BAD_SQL)
def test_a_value_that_must_not_pass_is_refused_by_the_table_in_insert_and_update(
    psql: Psql, column: LiteralString, value: LiteralString
) -> None:
    before = everything(psql)
    update = sql.SQL("UPDATE configbus.sample_config SET {} = {} WHERE status = 'active'")
    insert = sql.SQL("INSERT INTO configbus.sample_config (environment, {}) VALUES ('production', {})")
    for statement in (update, insert):
        with pytest.raises((psycopg.IntegrityError, psycopg.DataError)):
            psql.execute(statement.format(sql.SQL(column), sql.SQL(value)))
    assert everything(psql) == before


def test_raw_sql_of_awkward_values_is_released_exactly(psql: Psql, author: Author) -> None:
    document = {"a": AWKWARD, "": [1, None, {"{schema}": "%s"}], "n": 2**53 + 1}
    psql.execute(
        "UPDATE configbus.sample_config SET note = %s, remark = %s, document = %s WHERE status = 'active'",
        [AWKWARD, "\u200b\x1b[31m'; --", Jsonb(document)],
    )
    content = author.active("sample").content
    assert (content["note"], content["remark"], content["document"]) == (AWKWARD, "\u200b\x1b[31m'; --", document)
    assert author.release(revision_of(psql)).blocks["sample"]["remark"] == (None, "\u200b\x1b[31m'; --")


TYPED: dict[str, tuple[str, str, str]] = {
    "broken": ("document", '{"a": ', "not JSON"),
    "single quotes": ("limits", "{'soft': 1}", "not JSON"),
    "duplicate names": ("document", '{"a": 1, "a": 2}', "not JSON"),
    "duplicate names, nested": ("limits", '{"venue": {"host": "a", "host": "b"}}', "not JSON"),
    "NaN": ("document", '{"a": NaN}', "not JSON"),
    "1e999": ("ratio", "1e999", "finite"),
    "100,000 brackets": ("document", "[" * 100_000 + "]" * 100_000, "not JSON"),
    "5,000 digits": ("count", "9" * 5000, "not a number"),
    "YAML's no": ("enabled", "NO", "not true or false"),
    "a sexagesimal": ("small", "1:30", "not a number"),
    "an octal": ("small", "010", "not a number"),
    "more digits than a float": ("free", "0.12345678901234567890", "digits"),
    "a trailing newline": ("small", "5\n", "not a number"),
    "full-width": ("small", "\uff15", "not a number"),
}


@pytest.mark.parametrize(("field", "text", "words"), TYPED.values(), ids=TYPED)
def test_a_typed_value_that_must_not_pass_is_refused_with_its_path(field: str, text: str, words: str) -> None:
    domain = load_catalogue(DOMAINS).domain("sample")
    with pytest.raises(InvalidValue, match=words) as refusal:
        from_text(domain, field, text, f"sample.{field}")
    assert [problem.path for problem in refusal.value.problems] == [f"sample.{field}"]
    assert len(str(refusal.value)) < TOLD


PROCESSES: dict[str, tuple[list[str | bytes], int, str]] = {
    "invalid UTF-8": (["set", b"sample.remark=\xff\xfe"], 3, "sample.remark"),
    "invalid UTF-8 in a name": (["draft", b"lane/\xff"], 4, "needs a key"),
    "invalid UTF-8 in a reason": (["set", "risk.max_drawdown_pct=15", "--reason", b"\xff"], 3, "reason"),
    "duplicate names": (["draft", "sample", 'document={"a": 1, "a": 2}'], 3, "sample.document"),
    "brackets": (["edit", "{draft}", f"document={'[' * 30_000}{']' * 30_000}"], 3, "sample.document"),
    "SQL for an id": (["activate", "a' OR '1'='1"], 4, "is not the id"),
    "dots for a block": (["retire", ".."], 4, "no domain '..'"),
    "a key with a zero-width letter": (["draft", "lane/a\u200bb"], 4, "needs a key"),
    "escape for a field": (["draft", "lane/a", "\x1b[31m=3"], 4, "lane has no field"),
}


@pytest.mark.parametrize(("arguments", "status", "words"), PROCESSES.values(), ids=PROCESSES)
def test_a_command_with_what_must_not_pass_says_so_without_a_traceback(
    psql: Psql, author: Author, sample_database_url: str, arguments: list[str | bytes], status: int, words: str
) -> None:
    row = author.draft("sample").short_id
    before = everything(psql)
    variables = {
        "CONFIGBUS_DATABASE_URL": sample_database_url,
        "CONFIGBUS_ENVIRONMENT": "production",
        "CONFIGBUS_DOMAINS": ",".join(DOMAINS),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
    given = [argument.replace("{draft}", row) if isinstance(argument, str) else argument for argument in arguments]
    process = subprocess.run(
        [sys.executable, "-m", "configbus", *given],
        capture_output=True,
        env=clean | variables,
        timeout=30,
        check=False,
    )
    stderr = process.stderr.decode(errors="replace")
    assert process.returncode == status, stderr
    assert "Traceback" not in stderr
    assert "\x1b" not in stderr
    assert words in stderr
    assert (process.stdout, len(stderr.splitlines())) == (b"", 1)
    assert everything(psql) == before


def test_a_reason_that_is_no_text_is_refused_by_its_name(psql: Psql, author: Author) -> None:
    before = everything(psql)
    for reason in (object(), 5):
        with pytest.raises(InvalidValue, match="reason"):
            author.set({"risk.max_drawdown_pct": 15}, reason=reason)  # type: ignore[arg-type]  # that is what is refused
    assert everything(psql) == before


@pytest.mark.parametrize("text", ["2.50", "1.10", "0.00", "9999.00"])
def test_a_decimal_typed_for_a_nested_path_keeps_its_zeros_as_in_python(author: Author, text: str) -> None:
    domain = load_catalogue(DOMAINS).domain("lane")
    typed = from_text(domain, "venue", text, "lane/a.venue.weight")
    in_python = author.draft("lane/a", {"venue.weight": text}).content["venue"]
    assert in_python["weight"] == text
    assert author.draft("lane/a", {"venue.weight": typed}).content["venue"] == in_python
