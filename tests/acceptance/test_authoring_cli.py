"""An author's day by command: prepare, look, activate, look back, roll back; and everything that is refused."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from authors import DOMAINS, author_of, contents, everything, revision_of
from shell import QuickShell, Shell

from configbus.cli.instants import is_relative, read_moment, read_reference
from configbus.cli.output import cell
from configbus.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authors import Psql

    from configbus.author import Author

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOWHERE = "redis://:hunter2@127.0.0.1:1/0"
SHORT_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)
CONTROL = "\x1b[31mred\x1b[0m\r\x07\x9b2J \u202eback\ttab"


@pytest.fixture
def shell(sample_database_url: str, tmp_path: Path) -> QuickShell:
    return QuickShell(
        tmp_path,
        CONFIGBUS_DATABASE_URL=sample_database_url,
        CONFIGBUS_DOMAINS=",".join(DOMAINS),
        PYTHONPATH=str(Path(__file__).parents[1]),
    )


@pytest.fixture
def author(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url) as author:
        yield author


def done(shell: Shell, *arguments: str, **variables: str) -> str:
    """What a command prints that must succeed, and have nothing to warn of."""
    process = shell(*arguments, **variables)
    assert (process.returncode, process.stderr) == (0, ""), arguments
    assert_plain(process.stdout)
    return process.stdout


def assert_plain(text: str) -> None:
    for line in text.splitlines():
        assert line == line.rstrip(), line
        assert line.isprintable(), line


def table(text: str) -> list[list[str]]:
    """The cells of what a command printed, header first; columns are two blanks apart."""
    return [re.split(r" {2,}", line) for line in text.splitlines()]


def prepared(printed: str) -> tuple[str, int]:
    """Id and version, as commands that prepare a version print them."""
    row, word, version = printed.split()
    assert SHORT_ID.fullmatch(row)
    assert word == "version"
    return row, int(version)


def test_a_domain_from_draft_to_rollback(shell: Shell, psql: Psql) -> None:
    head, then = revision_of(psql), contents(psql)
    row, version = prepared(done(shell, "draft", "trading", "score_threshold=0.9", "--name", "calm"))
    assert version == 2
    edit = ["edit", row, "score_threshold=0.8", "drawdown_reduction_tiers=[]", "--expect", "2"]
    assert prepared(done(shell, *edit)) == (row, 3)

    header, *rows = table(done(shell, "list", "trading"))
    assert header == ["id", "status", "version", "changed", "by", "name"]
    assert rows[0][:3] == [row, "draft", "3"]
    assert rows[0][-1] == "calm"
    assert {cells[1] for cells in rows} == {"draft", "active", "default"}
    header, *rows = table(done(shell, "diff", "trading", "active", row))
    assert header == ["field", "active", row]
    assert {cells[0] for cells in rows} == {"drawdown_reduction_tiers", "score_threshold"}
    assert ["score_threshold", "0.700", "0.800"] in rows

    assert done(shell, "activate", row, "--expect", "3", "--reason", "calm market", "--by", "bob") == f"{head + 1}\n"
    header, newest, *_ = table(done(shell, "history", "trading"))
    assert header == ["revision", "at", "by", "version", "change", "reason"]
    assert (newest[0], newest[2], newest[3], newest[5]) == (str(head + 1), "bob", "3", "calm market")
    assert "score_threshold 0.700 -> 0.800" in newest[4]
    first, columns, *lines = done(shell, "release", str(head + 1)).splitlines()
    assert first.startswith(f"revision {head + 1} of 20")
    assert first.endswith(" by bob: calm market")
    assert columns.split() == ["block", "field", "old", "new"]
    assert ["trading", "score_threshold", "0.700", "0.800"] in table("\n".join(lines))

    assert done(shell, "set", "trading.score_threshold=0.6", "--reason", "storm") == f"{head + 2}\n"
    assert done(shell, "rollback", "trading", "--to", str(head)) == f"{head + 3}\n"
    assert contents(psql) == then
    header, *rows = table(done(shell, "audit", "trading", "-n", "6"))
    assert header == ["at", "block", "action", "by", "change", "reason"]
    assert [cells[2] for cells in rows] == ["activate", "archive", "activate", "archive", "activate", "archive"]
    assert rows[0][-1] == f"rollback to revision {head}"
    assert rows[2][-1] == "storm"
    assert done(shell, "get", "trading.score_threshold") == "0.700\n"
    other = prepared(done(shell, "draft", "trading", "--from", row))
    assert other[1] == 4
    assert prepared(done(shell, "discard", other[0])) == other
    assert shell("discard", other[0]).returncode == 4


SHORT_WAY = {
    "scoring": ("timing_decay_hours", "6", "4"),
    "discovery": ("min_win_rate", "0.6", "0.550"),
    "cluster": ("max_cluster_size", "25", "20"),
    "risk": ("max_drawdown_pct", "15", "20.00"),
    "exit": ("default_strategy_standard_id", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", None),
    "api": ("api_retry_count", "5", "3"),
}


@pytest.mark.parametrize("domain", SHORT_WAY)
def test_every_domain_goes_the_short_way(shell: Shell, psql: Psql, author: Author, domain: str) -> None:
    field, value, default = SHORT_WAY[domain]
    head, then = revision_of(psql), contents(psql)
    row, _ = prepared(done(shell, "draft", domain, f"{field}={value}"))
    assert done(shell, "activate", row) == f"{head + 1}\n"
    old, new = author.release(head + 1).blocks[domain][field]
    assert (None if old is None else str(old)) == default
    assert str(new).startswith(value)
    assert done(shell, "rollback", domain, "--to", str(head)) == f"{head + 2}\n"
    assert contents(psql) == then


ROW_KEYS = (
    "id block environment name status version description created_at created_by updated_at updated_by activated_at"
    " activated_by content"
)


def test_json_of_every_command_has_stable_keys(shell: Shell, psql: Psql) -> None:
    def told(*arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in done(shell, *arguments, "--json").splitlines()]

    def keys(found: list[dict[str, Any]]) -> str:
        (joined,) = {" ".join(record) for record in found}
        return joined

    head = revision_of(psql)
    drafted = told("draft", "lane/a", "venue.host=Zürich", "threshold=0.0200", "fast_bars=3")
    assert keys(drafted) == ROW_KEYS
    assert drafted[0]["content"]["venue"] == {"host": "Zürich", "weight": "1.0"}
    row = drafted[0]["id"]
    edited = told("edit", row, "label=5")
    assert (keys(edited), edited[0]["version"], edited[0]["content"]["label"]) == (ROW_KEYS, 2, "5")
    released = told("activate", row, "--idempotency-key", "k")
    assert released == [{"revision": head + 1, "epoch": released[0]["epoch"], "blocks": ["lane/a"]}]
    spare = told("draft", "lane/a")[0]["id"]
    assert keys(told("list")) == "block id version name activated_at activated_by drafts"
    assert keys(told("list", "lane/a")) == ROW_KEYS
    assert keys(told("discard", spare)) == ROW_KEYS
    assert keys(told("set", "lane/a.fast_bars=4", "trading.score_threshold=0.8")) == "revision epoch blocks"
    assert told("retire", "lane/a", "--reason", "closed")[0]["blocks"] == ["lane/a"]
    assert told("rollback", "--all", "--to", str(head + 1))[0]["blocks"] == ["lane/a", "trading"]

    entries = told("history", "lane/a")
    assert keys(entries) == "block revision released_at actor reason source version row_id retired changes pruned"
    assert [entry["retired"] for entry in entries] == [False, True, False, False]
    assert entries[2]["changes"] == {"fast_bars": [3, 4]}
    assert datetime.fromisoformat(entries[0]["released_at"]).tzinfo is not None
    record = told("release", str(head + 3))
    assert keys(record) == "revision epoch released_at actor reason source state blocks retired"
    assert record[0]["retired"] == ["lane/a"]
    assert told("diff", "lane/a", str(head + 1), str(head + 2)) == [
        {"block": "lane/a", "fields": {"fast_bars": [3, 4]}}
    ]
    audit_keys = "id performed_at block row_id action performed_by reason source_ip user_agent changed_fields old new"
    assert keys(told("audit", "-n", "5")) == audit_keys
    assert keys(told("domains")) == "domain keyed fields class description"


def test_json_of_a_number_beyond_floats_can_be_parsed_by_any_reader(shell: Shell, psql: Psql) -> None:
    psql.execute("""UPDATE configbus.sample_config SET document = '{"x": 1e1200}' WHERE status = 'active'""")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(done(shell, "get", "sample.document", "--json"), parse_constant=refuse)


def test_domains_and_schema_show_the_catalogue_without_a_server(shell: Shell) -> None:
    header, *rows = table(done(shell, "domains", CONFIGBUS_DATABASE_URL=""))
    assert header[0] == "domain"
    assert {cells[0] for cells in rows} >= {"trading", "scoring", "discovery", "cluster", "risk", "exit", "api", "lane"}
    found = shell("schema", "trading", CONFIGBUS_DATABASE_URL="")
    assert (found.returncode, found.stderr) == (0, "")
    field = json.loads(found.stdout)["properties"]["score_threshold"]
    assert field["description"]
    assert field["default"] == "0.700"
    found = shell("schema", "tradng", CONFIGBUS_DATABASE_URL="")
    assert (found.returncode, found.stdout) == (4, "")
    assert "did you mean 'trading'" in found.stderr


REFUSED: dict[str, tuple[list[str], int, list[str]]] = {
    "an age with a key": (
        ["rollback", "trading", "--to", " 1h30m ago", "--idempotency-key", "k"],
        2,
        ["' 1h30m ago' is another instant each time", "with a key give a revision or ISO 8601"],
    ),
    "diff of what never was": (["diff", "lane/alpah", "1"], 4, ["did you mean 'lane/alpha'"]),
    "escapes in a name": (["get", "trad\x1b[31ming\r\x9b"], 4, ["trad\\x1b[31ming\\r\\x9b"]),
    "escapes without a value": (["set", "trad\x1b[31ming"], 2, ["trad\\x1b[31ming", "has no value"]),
    "escapes given twice": (
        ["set", "sample.document.\x1b[31m=1", "sample.document.\x1b[31m=2"],
        2,
        ["document.\\x1b[31m' is given twice"],
    ),
    "escapes for an age": (["rollback", "trading", "--to", "\x1b[31m ago"], 3, ["\\x1b[31m ago"]),
    "escapes for a command": (["\x1b[31m"], 2, ["\\x1b[31m"]),
    "escapes for an option": (["get", "--\x1b[31m"], 2, []),
    "escapes for a number": (["release", "\x1b[31m"], 2, []),
    "escapes in an id": (["activate", "\x1b[31m\u202e"], 4, ["\\x1b[31m\\u202e"]),
    "twice the same": (["draft", "trading", "score_threshold=0.8", "score_threshold=0.9"], 2, ["given twice"]),
    "neither blocks nor all": (["rollback", "--to", "1"], 2, ["--all"]),
    "invalid draft": (["draft", "trading", "score_threshold=7"], 3, ["trading.score_threshold", "less than or equal"]),
    "instant without zone": (["rollback", "trading", "--to", "2026-01-31T12:00:00"], 3, ["instant", "no zone"]),
    "long ago": (["rollback", "trading", "--to", "900w ago"], 4, ["had no release at 20", "its first release is of"]),
    "near key": (["retire", "lane/alpah"], 4, ["did you mean 'lane/alpha'"]),
    "never released": (["history", "lane/alpah"], 4, ["did you mean 'lane/alpha'"]),
    "unknown id": (["activate", "00000000-0000-0000-0000-000000000001"], 4, ["no version row"]),
    "ambiguous id": (["activate", "abcdef"], 4, ["2 rows begin with abcdef"]),
    "foreign id": (["activate", "fedcba"], 4, ["belongs to 'staging'"]),
    "unknown revision": (["rollback", "trading", "--to", "99"], 4, ["no revision 99", "the newest is"]),
    "not in the catalogue": (["rollback", "--all", "--to", "2"], 4, ["lane/alpha", "CONFIGBUS_DOMAINS"]),
    "archived": (["activate", "{archived}"], 5, ["is archived, and only a draft can be activated"]),
    "active": (["activate", "{active}"], 5, ["is active, and only a draft can be activated"]),
    "stale activation": (["activate", "{draft}", "--expect", "9"], 5, ["version 9 was expected"]),
    "key of another call": (
        ["set", "trading.score_threshold=0.1", "--idempotency-key", "k"],
        5,
        ["'k' was used by another call"],
    ),
    "a name that is taken": (["draft", "trading", "--name", "calm"], 5, ["has that name"]),
}


@pytest.mark.parametrize(("arguments", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_has_its_exit_status_and_reason_and_changes_nothing(
    shell: Shell, psql: Psql, author: Author, arguments: list[str], status: int, words: list[str]
) -> None:
    rows = {"archived": author.active("trading").short_id}
    author.set({"trading.score_threshold": "0.8"}, idempotency_key="k")
    rows["active"] = author.active("trading").short_id
    rows["draft"] = author.draft("trading", {"score_threshold": "0.9"}, name="calm").short_id
    author.activate(author.draft("lane/alpha").id)
    psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('staging', 1)")
    psql.execute(
        "INSERT INTO configbus.lane_config (id, environment, key) VALUES"
        " ('abcdef00-0000-4000-8000-000000000001', 'production', 'x'),"
        " ('abcdef01-0000-4000-8000-000000000001', 'production', 'x'),"
        " ('fedcba00-0000-4000-8000-000000000001', 'staging', 'x')"
    )
    before = everything(psql)
    variables = {"CONFIGBUS_DOMAINS": DOMAINS[0]} if "--all" in arguments else {}
    process = shell(*(argument.format(**rows) for argument in arguments), **variables)
    assert process.returncode == status, process.stderr
    assert process.stdout == ""
    assert "Traceback" not in process.stderr
    assert process.stderr.replace("\n", "").isprintable()
    for word in words:
        assert word in " ".join(process.stderr.replace("│", " ").split())
    assert everything(psql) == before


def test_a_block_can_be_rolled_back_where_another_is_not_in_the_catalogue(
    shell: Shell, psql: Psql, author: Author
) -> None:
    head = author.set({"trading.score_threshold": "0.8"}).revision
    author.activate(author.draft("lane/alpha").id)
    assert done(shell, "rollback", "trading", "--to", "2", CONFIGBUS_DOMAINS=DOMAINS[0]) == f"{head + 2}\n"
    assert json.loads(contents(psql)["trading"])["score_threshold"] == "0.700"


def test_an_instant_with_its_zone_is_rolled_back_to(shell: Shell, psql: Psql, author: Author) -> None:
    at = author.release(author.set({"trading.score_threshold": "0.8"}).revision).released_at
    author.set({"trading.score_threshold": "0.9"})
    done(shell, "rollback", "trading", "--to", at.isoformat())
    assert json.loads(contents(psql)["trading"])["score_threshold"] == "0.800"
    unchanged = shell("rollback", "trading", "--to", "0s ago")
    assert (unchanged.returncode, unchanged.stdout) == (0, f"{revision_of(psql)}\n")
    assert "nothing differs" in unchanged.stderr


def test_an_instant_as_it_was_shown_stands_for_the_release_that_was_made_at_it(
    shell: Shell, psql: Psql, author: Author
) -> None:
    for score in ("0.8", "0.9", "0.6"):
        author.set({"trading.score_threshold": score})
    head = revision_of(psql)
    header, *rows = table(done(shell, "history", "trading"))
    instants = {row[header.index("revision")]: row[header.index("at")] for row in rows}
    for number in (head - 1, head):
        shown = instants[str(number)]
        assert done(shell, "release", str(number)).startswith(f"revision {number} of {shown} by ana\n")
        assert cell(author.release(number).released_at) == shown
        shell("rollback", "trading", "--to", shown)
        assert contents(psql) == contents(psql, number)


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (NOW, "2026-01-31T12:00:00.000Z"),
        (NOW.replace(microsecond=1), "2026-01-31T12:00:00.001Z"),
        (NOW.replace(microsecond=1000), "2026-01-31T12:00:00.001Z"),
        (NOW.replace(microsecond=1001), "2026-01-31T12:00:00.002Z"),
        (NOW.replace(second=59, microsecond=999_001), "2026-01-31T12:01:00.000Z"),
        (NOW.replace(microsecond=1).astimezone(timezone(timedelta(hours=5, minutes=45))), "2026-01-31T12:00:00.001Z"),
    ],
)
def test_an_instant_is_shown_to_the_millisecond_that_includes_it(at: datetime, shown: str) -> None:
    assert cell(at) == shown
    assert timedelta(0) <= datetime.fromisoformat(shown) - at < timedelta(milliseconds=1)


def test_only_an_age_is_another_instant_each_time() -> None:
    assert [
        text for text in ("1h ago", " 2 d 1 h ago", "41", "2026-01-31T12:00:00Z", "ago", "") if is_relative(text)
    ] == [
        "1h ago",
        " 2 d 1 h ago",
    ]


def test_a_rollback_with_a_key_takes_what_is_the_same_each_time(shell: Shell, psql: Psql, author: Author) -> None:
    at = author.release(author.set({"trading.score_threshold": "0.8"}).revision).released_at
    author.set({"trading.score_threshold": "0.9"})
    for key, to in {"k": str(revision_of(psql) - 1), "l": at.isoformat()}.items():
        first = done(shell, "rollback", "trading", "--to", to, "--idempotency-key", key, "--json")
        assert done(shell, "rollback", "trading", "--to", to, "--idempotency-key", key, "--json") == first
    draft = author.draft("trading", {"score_threshold": "0.6"})
    first = done(shell, "activate", draft.short_id, "--idempotency-key", "m", "--json")
    assert done(shell, "activate", str(draft.id), "--idempotency-key", "m", "--json") == first


def test_diff_of_a_retired_block_shows_every_field_against_nothing(shell: Shell, author: Author) -> None:
    made = author.activate(author.draft("lane/a", {"fast_bars": 3}).id).revision
    content = author.active("lane/a").content
    author.retire("lane/a")
    header, *rows = table(done(shell, "diff", "lane/a", str(made)))
    assert header == ["field", str(made), "active"]
    assert {cells[0] for cells in rows} == {*content}
    assert ["fast_bars", "3", "null"] in rows
    told = json.loads(done(shell, "diff", "lane/a", str(made), "--json"))
    assert told == {"block": "lane/a", "fields": {field: [value, None] for field, value in content.items()}}


BROKEN_MODULES: dict[str, tuple[str, int, list[str]]] = {
    "SyntaxError": ("x = 1\n\ndef broken(:\n", 2, ["SyntaxError", "own_domains.py:3"]),
    "IndentationError": ("if True:\nx = 1\n", 2, ["IndentationError", "own_domains.py:2"]),
    "NameError": ("\n\nx = nobody_knows_it\n", 2, ["NameError: name 'nobody_knows_it' is not", "own_domains.py:3"]),
    "of what it imports": ("import own_part\n", 2, ["ZeroDivisionError", "own_part.py:2"]),
    "import of nothing": ("\nimport nobody_has_it\n", 2, ["No module named 'nobody_has_it'", "own_domains.py:2"]),
    "escape": ("raise ValueError('\\x1b[31m\\n')\n", 2, ["ValueError: \\x1b[31m", "own_domains.py:1"]),
    "NUL": ("x = 1\0\n", 2, ["own_domains"]),
    "no domain": ("x = 1\n", 2, ["holds no class derived from Block"]),
    "no such domain": (
        "from configbus.block import Block\n\nclass OwnConfig(Block, domain='own'):\n    size: bytes = b''\n",
        1,
        ["own_domains.OwnConfig cannot be a domain: field 'size'"],
    ),
}


@pytest.mark.parametrize(("source", "status", "words"), BROKEN_MODULES.values(), ids=BROKEN_MODULES)
def test_a_module_of_domains_that_cannot_be_used_is_told_with_file_and_line(
    tmp_path: Path, source: str, status: int, words: list[str]
) -> None:
    (tmp_path / "own_domains.py").write_text(source, encoding="utf8")
    (tmp_path / "own_part.py").write_text("\n1 / 0\n", encoding="utf8")
    process = Shell(tmp_path, CONFIGBUS_DOMAINS="configbus.domains,own_domains")("domains")
    assert (process.returncode, process.stdout) == (status, "")
    assert "Traceback" not in process.stderr
    assert process.stderr.replace("\n", "").isprintable()
    for word in ("own_domains", *words):
        assert word in process.stderr


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("1s ago", timedelta(seconds=1)),
        (" 90s ago\n", timedelta(seconds=90)),
        ("1h30m ago", timedelta(minutes=90)),
        ("2 d 1 h ago", timedelta(days=2, hours=1)),
        ("3w ago", timedelta(weeks=3)),
    ],
)
def test_an_age_is_an_instant_with_its_zone(text: str, ago: timedelta) -> None:
    assert read_moment(text, lambda: NOW) == NOW - ago


@pytest.mark.parametrize(
    "text",
    ["", "ago", "1 ago", "1y ago", "-1s ago", "1.5h ago", "\uff11s ago", "999999999w ago", "1s", "v41", "-1", "41.0"],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="instant"):
        read_moment(text, lambda: NOW)


def test_a_reference_is_a_revision_unless_it_is_as_long_as_a_short_id() -> None:
    for text in ("12345678", "active", "abcdef01"):
        assert read_reference(text, lambda: NOW, 8) == text
    assert read_reference("41", lambda: NOW, 8) == 41
    assert read_reference("1h ago", lambda: NOW, 8) == NOW - timedelta(hours=1)
    assert read_reference("2026-01-31T12:00:00Z", lambda: NOW, 8) == NOW


def test_text_holds_nothing_that_a_terminal_would_obey(shell: Shell, psql: Psql, author: Author) -> None:
    row = author.draft("lane/a", {"label": CONTROL}, name=CONTROL)
    with psql.transaction():
        psql.execute("SELECT set_config('configbus.actor', %s, true)", [CONTROL])
        psql.execute("SELECT set_config('configbus.reason', %s, true)", [CONTROL])
        psql.execute("UPDATE configbus.lane_config SET status = 'active' WHERE id = %s", [row.id])
    escaped = "\\x1b[31mred\\x1b[0m\\r\\x07\\x9b2J \\u202eback\\ttab"
    for command, count in {
        ("list",): 2,
        ("list", "lane/a"): 2,
        ("history", "lane/a"): 2,
        ("release", str(revision_of(psql))): 3,
        ("audit", "lane/a", "-n", "1"): 2,
        ("diff", "lane/a", "default", "active"): 1,
    }.items():
        printed = done(shell, *command)
        assert printed.count(escaped) == count, command


def test_a_reason_that_ends_in_blanks_leaves_none_at_the_end_of_a_line(shell: Shell, author: Author) -> None:
    release = author.set({"trading.score_threshold": "0.8"}, reason="storm  ")
    assert_plain(shell("release", str(release.revision)).stdout)


def test_with_redis_down_what_was_committed_is_done_with_a_warning(shell: Shell, psql: Psql, author: Author) -> None:
    head = revision_of(psql)
    row = author.draft("trading", {"score_threshold": "0.9"}).short_id
    for number, command in enumerate((["activate", row], ["rollback", "trading", "--to", str(head)]), 1):
        process = shell(*command, CONFIGBUS_REDIS_URL=NOWHERE)
        assert (process.returncode, process.stdout) == (0, f"{head + number}\n")
        assert "publish_left_to_relay" in process.stderr
        assert "hunter2" not in process.stderr
        assert "Traceback" not in process.stderr
