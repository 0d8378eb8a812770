"""What Postgres tells of itself afterwards: who changed what, when and why, and what differs from what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from authors import DOMAINS, author_of, contents, everything, revision_of
from sample_domains import AWKWARD

from configbus.catalogue import load_catalogue
from configbus.errors import (
    ConfigBusError,
    InvalidValue,
    UnknownBlock,
    UnknownEnvironment,
    UnknownRevision,
    UnknownVersion,
)
from configbus.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authors import Psql

    from configbus.author import Author
    from configbus.store.history import AuditEntry

LANE_FIELDS = ("fast_bars", "label", "slow_bars", "threshold", "venue")
INSERT_LANE = "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"


@pytest.fixture
def author(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url) as author:
        yield author


@pytest.fixture
def reader(sample_database_url: str) -> Iterator[Reader]:
    with Reader.connect(database_url=sample_database_url, environment="production", domains=DOMAINS) as reader:
        yield reader


def make_lane(author: Author, key: str, **values: Any) -> int:
    return author.activate(author.draft(f"lane/{key}", values).id).revision


def newest(reader: Reader) -> int:
    return reader.audit(limit=1)[0].id


def audited(reader: Reader, after: int) -> list[AuditEntry]:
    """What was audited after an entry, oldest first."""
    return [entry for entry in reversed(reader.audit(limit=100)) if entry.id > after]


def test_history_tells_who_changed_a_block_when_why_and_what_newest_first(
    author: Author, reader: Reader, sample_database_url: str
) -> None:
    made = make_lane(author, "a", fast_bars=3)
    author.set({"risk.max_drawdown_pct": 15})
    with author_of(sample_database_url, actor="bob") as bob:
        changed = bob.set({"lane/a.venue.host": AWKWARD, "lane/a.label": "x"}, reason=AWKWARD).revision
        gone = bob.retire("lane/a", reason="closed").revision
    back = make_lane(author, "a", fast_bars=4)
    entries = reader.history("lane/a")
    assert [(e.revision, e.actor, e.reason, e.retired) for e in entries] == [
        (back, "ana", None, False),
        (gone, "bob", "closed", True),
        (changed, "bob", AWKWARD, False),
        (made, "ana", None, False),
    ]
    assert [e.version for e in entries] == [3, None, 2, 1]
    assert {(e.block, e.source) for e in entries} == {("lane/a", "author")}
    assert entries[0].row_id == reader.active("lane/a").id
    assert entries[1].row_id is None
    assert entries[0].changes["fast_bars"] == (None, 4)
    assert {new for _, new in entries[1].changes.values()} == {None}
    assert entries[1].changes["label"] == ("x", None)
    assert entries[2].changes == {"label": ("", "x"), "venue.host": ("localhost", AWKWARD)}
    defaults = load_catalogue(DOMAINS).domain("lane").model().model_dump(mode="json") | {"fast_bars": 3}
    assert entries[3].changes == {field: (None, value) for field, value in defaults.items()}
    times = [e.released_at for e in entries]
    assert times == sorted(times, reverse=True)
    assert datetime.now(UTC) - times[0] < timedelta(minutes=1)


def test_history_of_raw_sql_names_actor_reason_and_source(psql: Psql, reader: Reader) -> None:
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'operator'")
        psql.execute("SET LOCAL configbus.reason = 'at night'")
        psql.execute("UPDATE configbus.trading_config SET score_threshold = 0.8 WHERE status = 'active'")
    psql.execute("UPDATE configbus.trading_config SET score_threshold = 0.9 WHERE status = 'active'")
    unnamed, named = reader.history("trading", 2)
    assert (named.actor, named.reason, named.source) == ("operator", "at night", "sql")
    assert (unnamed.actor, unnamed.reason, unnamed.source) == ("database:configbus", None, "sql")
    assert named.changes == {"score_threshold": ("0.700", "0.800")}
    assert unnamed.changes == {"score_threshold": ("0.800", "0.900")}
    assert (named.version, unnamed.version) == (2, 3)


def test_history_of_what_was_never_released_names_near_misses(author: Author, reader: Reader) -> None:
    make_lane(author, "alpha")
    author.draft("lane/drafted")
    for key, near in (("alpah", ("lane/alpha",)), ("drafted", ())):
        with pytest.raises(UnknownBlock, match=f"'lane/{key}' has no active row in production") as refusal:
            reader.history(f"lane/{key}")
        assert refusal.value.near == near


def test_history_gives_as_many_of_the_newest_as_are_asked_for(author: Author, reader: Reader) -> None:
    revisions = [author.set({"trading.max_slippage_exit_bps": number}).revision for number in range(25)]
    assert [e.revision for e in reader.history("trading")] == revisions[:-21:-1]
    assert [e.revision for e in reader.history("trading", 3)] == revisions[:-4:-1]
    (last,) = reader.history("trading", 1)
    assert last.changes == {"max_slippage_exit_bps": (23, 24)}
    assert len(reader.history("trading", 1000)) == 26
    assert len(reader.audit(limit=7)) == 7
    assert len(reader.versions("trading", 4)) == 4


@pytest.mark.parametrize("name", ["history", "versions", "audit"])
def test_a_limit_below_one_is_an_invalid_value(reader: Reader, name: str) -> None:
    read: Callable[..., list[Any]] = getattr(reader, name)
    for limit in (0, -7):
        with pytest.raises(InvalidValue, match=f"limit: is {limit}"):
            read("trading", limit)


def test_a_release_tells_everything_that_it_changed(author: Author, reader: Reader) -> None:
    make_lane(author, "a", fast_bars=3)
    release = author.set(
        {"trading.score_threshold": "0.8", "lane/a.venue.weight": "2.50", "lane/a.fast_bars": 4}, reason="storm"
    )
    record = reader.release(release.revision)
    assert (record.revision, record.epoch, record.actor, record.reason) == (*release_of(release), "ana", "storm")
    assert (record.source, record.retired, len(record.state)) == ("author", (), 32)
    assert list(record.blocks) == ["lane/a", "trading"]
    assert record.blocks == {
        "lane/a": {"fast_bars": (3, 4), "venue.weight": ("1.0", "2.50")},
        "trading": {"score_threshold": ("0.700", "0.800")},
    }


def release_of(release: Any) -> tuple[int, int]:
    return release.revision, release.epoch


def test_the_first_release_shows_every_field_as_new(reader: Reader) -> None:
    record = reader.release(1)
    assert (record.reason, record.source, record.retired) == ("migrate", "sql", ())
    assert record.blocks["trading"]["score_threshold"] == (None, "0.700")
    assert {old for changes in record.blocks.values() for old, _ in changes.values()} == {None}


def test_a_release_that_retires_beside_a_change_tells_both_apart(psql: Psql, author: Author, reader: Reader) -> None:
    make_lane(author, "a", fast_bars=3)
    with psql.transaction():
        psql.execute("UPDATE configbus.lane_config SET status = 'archived' WHERE status = 'active'")
        psql.execute("UPDATE configbus.risk_config SET max_drawdown_pct = 15 WHERE status = 'active'")
    record = reader.release(revision_of(psql))
    assert record.retired == ("lane/a",)
    assert record.blocks["lane/a"]["fast_bars"] == (3, None)
    assert record.blocks["risk"] == {"max_drawdown_pct": ("20.00", "15.00")}


@pytest.mark.parametrize("revision", [0, -1, 99, 2**63, True, "1", None])
def test_a_release_that_there_is_not_is_refused(reader: Reader, revision: Any) -> None:
    with pytest.raises((UnknownRevision, InvalidValue), match="revision"):
        reader.release(revision)


def test_diff_takes_revisions_instants_ids_and_names_of_rows(author: Author, reader: Reader) -> None:
    first = author.active("trading")
    old = author.set({"trading.score_threshold": "0.8", "trading.max_slippage_exit_bps": 7}).revision
    author.set({"trading.score_threshold": "0.9"})
    draft = author.draft("trading", {"score_threshold": "0.6"})
    told: list[tuple[Any, Any, str | None, str | None]] = [
        (1, "active", "0.700", "0.900"),
        ("active", 1, "0.900", "0.700"),
        (1, old, "0.700", "0.800"),
        (reader.release(old).released_at, "active", "0.800", "0.900"),
        (reader.release(old).released_at - timedelta(microseconds=1), "active", "0.700", "0.900"),
        (first.id, draft.id, "0.700", "0.600"),
        (str(first.id).upper(), draft.short_id, "0.700", "0.600"),
        ("default", draft.id.hex, "0.700", "0.600"),
    ]
    for a, b, was, now in told:
        assert reader.diff("trading", a, b)["score_threshold"] == (was, now), (a, b)
    assert reader.diff("trading", old) == {"score_threshold": ("0.800", "0.900")}
    assert reader.diff("trading", "active", "active") == {}
    assert reader.diff("trading", first.id, "default") == {}
    assert reader.diff("trading", 1, "active") == {
        "score_threshold": ("0.700", "0.900"),
        "max_slippage_exit_bps": (150, 7),
    }


def test_diff_takes_a_short_id_of_digits_alone(psql: Psql, reader: Reader) -> None:
    psql.execute(
        "INSERT INTO configbus.trading_config (id, environment, score_threshold)"
        " VALUES ('12345678-0000-4000-8000-000000000001', 'production', 0.1)"
    )
    assert reader.diff("trading", "12345678") == {"score_threshold": ("0.100", "0.700")}
    with pytest.raises(UnknownRevision, match="no revision 12345679"):
        reader.diff("trading", "12345679")


def test_diff_shows_a_block_that_did_not_exist_as_nothing(author: Author, reader: Reader) -> None:
    made = make_lane(author, "a", fast_bars=3)
    gone = author.retire("lane/a").revision
    appeared = reader.diff("lane/a", made - 1, made)
    assert appeared["fast_bars"] == (None, 3)
    assert appeared["venue"] == (None, {"host": "localhost", "weight": "1.0"})
    assert reader.diff("lane/a", made, gone)["fast_bars"] == (3, None)
    assert reader.diff("lane/a", 1, gone) == {}
    assert reader.diff("lane/a", "default", made) == {"fast_bars": (20, 3)}


def test_diff_of_a_retired_block_with_what_is_active_shows_every_field_against_nothing(
    author: Author, reader: Reader
) -> None:
    made = make_lane(author, "a", fast_bars=3)
    row = reader.active("lane/a")
    author.retire("lane/a")
    gone = {field: (value, None) for field, value in row.content.items()}
    assert {*gone} == {*LANE_FIELDS}
    for which in (made, row.id, row.short_id, reader.release(made).released_at):
        assert reader.diff("lane/a", which) == gone
    assert reader.diff("lane/a", "active", made) == {field: (None, value) for field, value in row.content.items()}
    assert reader.diff("lane/a", made - 1) == {}


def test_diff_of_a_block_that_never_was_names_near_misses(author: Author, reader: Reader) -> None:
    made = make_lane(author, "alpha")
    author.draft("lane/alpah")
    with pytest.raises(UnknownBlock, match="'lane/alpah' has no active row in production") as refusal:
        reader.diff("lane/alpah", made)
    assert refusal.value.near == ("lane/alpha",)


DIFFS: dict[str, tuple[str, Any, type[ConfigBusError], str]] = {
    "unknown revision": ("trading", 99, UnknownRevision, "production has no revision 99; the newest is"),
    "zero": ("trading", 0, UnknownRevision, "no revision 0"),
    "true": ("trading", True, InvalidValue, "True is neither"),
    "no zone": ("trading", datetime(2026, 1, 31), InvalidValue, "has no zone"),  # noqa: DTZ001  # that is what is refused
    "future": ("trading", datetime(9998, 1, 1, tzinfo=UTC), InvalidValue, "lies in the future"),
    "before the first": ("trading", datetime(2001, 1, 1, tzinfo=UTC), UnknownRevision, "had no release at"),
    "unknown id": ("trading", UUID(int=1), UnknownVersion, "no version row"),
    "no id": ("trading", "nonsense", UnknownVersion, "'nonsense' is not the id"),
    "none": ("trading", None, UnknownVersion, "'None' is not the id"),
    "more digits than Python reads": ("trading", "9" * 5000, ConfigBusError, "99999"),
    "no active row": ("lane/a", 1, UnknownBlock, "'lane/a' has no active row in production"),
    "unknown domain": ("tradng", 1, UnknownBlock, "did you mean 'trading'"),
    "no key": ("lane", 1, UnknownBlock, "needs a key"),
}


@pytest.mark.parametrize(("block", "a", "error", "words"), DIFFS.values(), ids=DIFFS)
def test_diff_with_what_there_is_not_is_refused(
    reader: Reader, block: str, a: Any, error: type[ConfigBusError], words: str
) -> None:
    with pytest.raises(error, match=words):
        reader.diff(block, a)


def test_diff_with_a_row_of_another_domain_is_refused(reader: Reader) -> None:
    risk = reader.active("risk")
    with pytest.raises(UnknownVersion, match=rf"row {risk.short_id} is one of risk, not of trading"):
        reader.diff("trading", risk.id)


def test_audit_of_an_author_from_draft_to_retirement(author: Author, reader: Reader) -> None:
    before = newest(reader)
    draft = author.draft("lane/a", {"fast_bars": 3}, name="calm")
    author.edit(draft.id, {"venue.host": "Bern", "slow_bars": 61})
    author.activate(draft.id, reason="calm market")
    author.set({"lane/a.fast_bars": 4}, reason="storm")
    author.retire("lane/a", reason="closed")
    spare = author.draft("lane/a", {"fast_bars": 5})
    author.discard(spare.id)
    entries = audited(reader, before)
    assert [(e.action, e.reason) for e in entries] == [
        ("create", None),
        ("update", None),
        ("activate", "calm market"),
        ("archive", "storm"),
        ("activate", "storm"),
        ("archive", "closed"),
        ("retire", "closed"),
        ("create", None),
        ("delete", None),
    ]
    assert {(e.block, e.performed_by, e.source_ip, e.user_agent) for e in entries} == {
        ("lane/a", "ana", "127.0.0.1", "configbus")
    }
    create, update, first, archive, second, _, retire, _, delete = entries
    lifecycle = {"name": "calm", "status": "draft", "description": None}
    assert create.row_id == update.row_id == first.row_id == archive.row_id == draft.id
    assert (create.old, create.new) == (None, draft.content | lifecycle)
    assert {*LANE_FIELDS, "name", "status"} <= {*create.changed_fields}
    assert (update.old, update.changed_fields) == (create.new, ("slow_bars", "venue"))
    assert update.new == draft.content | lifecycle | {"slow_bars": 61, "venue": {"host": "Bern", "weight": "1.0"}}
    assert (first.old, first.changed_fields) == (None, LANE_FIELDS)
    assert first.new == {field: update.new[field] for field in LANE_FIELDS}
    assert archive.changed_fields == ("status",)
    assert archive.old == first.new | lifecycle | {"status": "active"}
    assert archive.new == first.new | lifecycle | {"status": "archived"}
    assert (second.old, second.changed_fields) == (first.new, ("fast_bars",))
    assert second.new == first.new | {"fast_bars": 4}
    assert second.row_id != draft.id
    assert (retire.old, retire.new, retire.changed_fields) == (second.new, None, LANE_FIELDS)
    assert delete.row_id == spare.id
    assert (delete.old, delete.new) == (
        spare.content | {"name": spare.name, "status": "draft", "description": None},
        None,
    )


def test_audit_of_raw_sql_names_its_author_reason_program_and_address(
    psql: Psql, author: Author, reader: Reader
) -> None:
    make_lane(author, "a", fast_bars=3)
    before = newest(reader)
    psql.execute("SET application_name = 'night shift'")
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'operator'")
        psql.execute("SET LOCAL configbus.reason = 'at night'")
        psql.execute("UPDATE configbus.lane_config SET fast_bars = 4")
        psql.execute("INSERT INTO configbus.lane_config (environment, key) VALUES ('production', 'b')")
        psql.execute("UPDATE configbus.lane_config SET status = 'active' WHERE key = 'b'")
        psql.execute("DELETE FROM configbus.lane_config WHERE key = 'b'")
    entries = audited(reader, before)
    assert [(e.block, e.action) for e in entries] == [
        ("lane/a", "update"),
        ("lane/b", "create"),
        ("lane/b", "activate"),
        ("lane/b", "delete"),
    ]
    assert {(e.performed_by, e.reason, e.source_ip, e.user_agent) for e in entries} == {
        ("operator", "at night", "127.0.0.1", "night shift")
    }
    assert entries[0].changed_fields == ("fast_bars",)
    assert entries[0].old is not None
    assert entries[0].new is not None
    assert (entries[0].old["fast_bars"], entries[0].new["fast_bars"]) == (3, 4)


def test_deleting_the_active_row_of_a_key_is_audited_as_delete_and_retire(
    psql: Psql, author: Author, reader: Reader
) -> None:
    make_lane(author, "a", fast_bars=3)
    live, before = reader.active("lane/a"), newest(reader)
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'operator'")
        psql.execute("DELETE FROM configbus.lane_config WHERE status = 'active'")
    delete, retire = audited(reader, before)
    assert (delete.action, retire.action) == ("delete", "retire")
    assert delete.row_id == retire.row_id == live.id
    assert delete.performed_by == retire.performed_by == "operator"
    assert delete.new is retire.new is None
    assert retire.old == live.content
    assert delete.old == live.content | {"name": live.name, "status": "active", "description": None}
    entry = reader.history("lane/a")[0]
    assert (entry.retired, entry.actor) == (True, "operator")
    assert "lane/a" not in contents(psql)


def test_replacing_the_active_row_of_a_key_is_not_a_retirement(psql: Psql, author: Author, reader: Reader) -> None:
    make_lane(author, "a", fast_bars=3)
    before = newest(reader)
    with psql.transaction():
        psql.execute("DELETE FROM configbus.lane_config WHERE status = 'active'")
        psql.execute(INSERT_LANE)
    assert [e.action for e in audited(reader, before)] == ["delete", "activate"]


@pytest.mark.parametrize("status", ["active", "draft", "default"])
def test_an_update_that_changes_nothing_leaves_no_audit_row_and_no_release(
    psql: Psql, author: Author, reader: Reader, status: str
) -> None:
    author.draft("trading")
    before, head = newest(reader), revision_of(psql)
    psql.execute("UPDATE configbus.trading_config SET score_threshold = score_threshold WHERE status = %s", [status])
    psql.execute("UPDATE configbus.trading_config SET score_threshold = 0.7000 WHERE status = %s", [status])
    assert audited(reader, before) == []
    assert revision_of(psql) == head


def test_audit_is_newest_first_of_one_block_or_of_all(author: Author, reader: Reader) -> None:
    make_lane(author, "a")
    make_lane(author, "aa")
    author.set({"trading.score_threshold": "0.8"})
    entries = reader.audit()
    ids = [entry.id for entry in entries]
    assert ids == sorted(ids, reverse=True)
    assert [(e.block, e.action) for e in entries[:2]] == [("trading", "activate"), ("trading", "archive")]
    assert {e.block for e in reader.audit("lane/a")} == {"lane/a"}
    assert [e.action for e in reader.audit("lane/a")] == ["activate", "create"]
    assert reader.audit("trading", 1)[0].id == ids[0]
    with pytest.raises(UnknownBlock, match="needs a key"):
        reader.audit("lane")


def test_blocks_lists_what_is_active_or_drafted_by_name(author: Author, reader: Reader) -> None:
    make_lane(author, "b")
    make_lane(author, "a")
    author.draft("lane/drafted")
    author.draft("lane/drafted")
    author.draft("trading")
    make_lane(author, "gone")
    author.retire("lane/gone")
    found = {row.block: row for row in reader.blocks()}
    singletons = [domain.name for domain in load_catalogue(DOMAINS) if not domain.keyed]
    assert list(found) == sorted([*singletons, "lane/a", "lane/b", "lane/drafted"])
    live = reader.active("lane/a")
    row = found["lane/a"]
    assert (row.id, row.version, row.name, row.activated_at) == (live.id, live.version, live.name, live.activated_at)
    assert (row.activated_by, row.drafts) == ("ana", 0)
    drafted = found["lane/drafted"]
    assert (drafted.id, drafted.version, drafted.name, drafted.activated_by, drafted.drafts) == (None,) * 4 + (2,)
    assert (found["trading"].drafts, found["trading"].version) == (1, 1)


def test_versions_lists_the_rows_of_a_block_the_last_changed_first(author: Author, reader: Reader) -> None:
    author.set({"trading.score_threshold": "0.8"})
    first = author.draft("trading", name="calm")
    author.draft("trading", name="storm")
    author.edit(first.id, {"score_threshold": "0.6"})
    assert [(row.name, row.status, row.version) for row in reader.versions("trading")] == [
        ("calm", "draft", 4),
        ("storm", "draft", 3),
        ("Active Configuration", "active", 2),
        ("Active Configuration", "archived", 1),
        ("System Defaults", "default", 1),
    ]
    assert reader.versions("trading")[0] == reader.version(first.id)
    with pytest.raises(UnknownBlock, match="'lane/a' has no active row"):
        reader.versions("lane/a")


READS: dict[str, Callable[[Reader], object]] = {
    "blocks": lambda reader: reader.blocks(),
    "active": lambda reader: reader.active("trading"),
    "active of a key": lambda reader: reader.active("lane/a"),
    "version": lambda reader: reader.version(UUID(int=1)),
    "versions": lambda reader: reader.versions("trading"),
    "history": lambda reader: reader.history("trading"),
    "release": lambda reader: reader.release(1),
    "diff": lambda reader: reader.diff("trading", 1),
    "diff of defaults": lambda reader: reader.diff("trading", "default", 1),
    "audit": lambda reader: reader.audit(),
    "audit of a block": lambda reader: reader.audit("trading"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_environment_that_was_never_set_up_is_named_by_every_read(
    sample_database_url: str, read: Callable[[Reader], object]
) -> None:
    with (
        Reader.connect(database_url=sample_database_url, environment="prodution", domains=DOMAINS) as reader,
        pytest.raises(UnknownEnvironment, match=r"no environment 'prodution'.*did you mean 'production'"),
    ):
        read(reader)


def test_reading_changes_nothing_and_sees_its_own_environment_alone(
    psql: Psql, author: Author, sample_database_url: str
) -> None:
    author.set({"trading.score_threshold": "0.8"})
    psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('staging', 1)")
    psql.execute("INSERT INTO configbus.trading_config (environment, status) VALUES ('staging', 'active')")
    before = everything(psql)
    with author_of(sample_database_url, environment="staging") as other:
        assert [row.block for row in other.blocks()] == ["trading"]
        assert [entry.revision for entry in other.history("trading")] == [1]
        assert [entry.action for entry in other.audit()] == ["activate"]
        assert len(other.versions("trading")) == 1
        assert list(other.release(1).blocks) == ["trading"]
        with pytest.raises(UnknownRevision, match="staging has no revision 2; the newest is 1"):
            other.release(2)
    assert everything(psql) == before
