"""What the tables hold any writer to: bounds and rules, the lifecycle of rows, and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest

from configbus.domains import TradingConfig

if TYPE_CHECKING:
    from uuid import UUID

Psql = psycopg.Connection[tuple[Any, ...]]

TRADING = "UPDATE configbus.trading_config SET {} WHERE status = 'active'"
ARCHIVED = "UPDATE configbus.trading_config SET {} WHERE status = 'archived'"
SAMPLE = "UPDATE configbus.sample_config SET {} WHERE status = 'active'"
EDIT_LANE = "UPDATE configbus.lane_config SET {} RETURNING version"
LANE = "INSERT INTO configbus.lane_config (environment, key, {}) VALUES ('production', 'a', {})"
DRAFT = "INSERT INTO configbus.trading_config (environment, {}) VALUES ('production', {}) RETURNING id"

REFUSED: dict[str, tuple[LiteralString, str]] = {
    "not a number": (TRADING.format("max_position_sol = 'NaN'"), r'check constraint "max_position_sol_finite"'),
    "an infinite decimal": (TRADING.format("max_position_sol = 'Infinity'"), "cannot hold an infinite value"),
    "a float that is no number": (SAMPLE.format("ceiling = 'NaN'"), r'check constraint "ceiling_finite"'),
    "an infinite float": (SAMPLE.format("free = '-Infinity'"), r'check constraint "free_finite"'),
    "an infinite time": (SAMPLE.format("until = 'infinity'"), r'check constraint "until_finite"'),
    "a time before the year 1": (SAMPLE.format("since = '0044-03-15 12:00+00 BC'"), r'check constraint "since_\w+"'),
    "a time after the year 9999": (SAMPLE.format("until = '9999-12-31 23:59-01'"), r'check constraint "until_\w+"'),
    "above le": (TRADING.format("score_threshold = 1.001"), r'check constraint "score_threshold_range"'),
    "below ge": (TRADING.format("max_slippage_exit_bps = -1"), r'check constraint "max_slippage_exit_bps_range"'),
    "not above gt": (TRADING.format("min_position_sol = 0"), r'check constraint "min_position_sol_range"'),
    "no choice": (TRADING.format("sizing_mode = 'none'"), r'check constraint "sizing_mode_choice"'),
    "not of the enum": (SAMPLE.format("mode = 'FAST'"), r'check constraint "mode_choice"'),
    "too long": (SAMPLE.format("note = repeat('x', 201)"), r'check constraint "note_length"'),
    "too many digits": (TRADING.format("base_position_pct = 1000"), "numeric field overflow"),
    "beyond an integer": (SAMPLE.format("small = 2147483648"), "integer out of range"),
    "null": (TRADING.format("score_threshold = NULL"), 'null value in column "score_threshold"'),
    "a rule across fields": (TRADING.format("min_position_sol = 2"), r'check constraint "position_range_rule"'),
    "a rule of a keyed domain": (LANE.format("fast_bars", "60"), r'check constraint "fast_below_slow_rule"'),
    "a singleton with a key": (DRAFT.format("key", "'a'"), r'check constraint "\w*key\w*"'),
    "a keyed block without a key": (
        "INSERT INTO configbus.lane_config (environment) VALUES ('production')",
        r'check constraint "\w*key\w*"',
    ),
    "a key that is no name": (
        "INSERT INTO configbus.lane_config (environment, key) VALUES ('production', 'a/b')",
        r'check constraint "\w*key\w*"',
    ),
    "a status that is none": (DRAFT.format("status", "'live'"), 'invalid input value for enum .*"live"'),
    "an unknown environment": (
        "INSERT INTO configbus.trading_config (environment) VALUES ('nowhere')",
        r'Key \(environment\)=\(nowhere\) is not present in table "environment"',
    ),
    "a second active row": (DRAFT.format("status", "'active'"), "trading_config_one_active"),
    "a name that another row has": (DRAFT.format("name", "'System Defaults'"), "trading_config_name"),
    "deleting the only active row": (
        "DELETE FROM configbus.trading_config WHERE status = 'active'",
        "trading must keep an active row in production: activate another row in the same transaction",
    ),
    "archiving the only active row": (
        TRADING.format("status = 'archived'"),
        "trading must keep an active row in production: activate another row in the same transaction",
    ),
    "truncating a domain": (
        "TRUNCATE configbus.trading_config",
        "TRUNCATE of trading_config is refused: it would take the active configuration away; archive rows one by one",
    ),
    "truncating releases": (
        "TRUNCATE configbus.release CASCADE",
        "TRUNCATE of release(_block)? is refused: releases are history",
    ),
    "truncating entries": (
        "TRUNCATE configbus.release_block",
        "TRUNCATE of release_block is refused: releases are history",
    ),
    "truncating environments": ("TRUNCATE configbus.environment CASCADE", r"TRUNCATE of \w+ is refused"),
    "truncating the audit log": (
        "TRUNCATE configbus.config_audit_log",
        "TRUNCATE of config_audit_log is refused: the audit log only grows",
    ),
    "changing the audit log": (
        "UPDATE configbus.config_audit_log SET performed_by = 'nobody'",
        "UPDATE of config_audit_log is refused: the audit log only grows",
    ),
    "deleting from the audit log": (
        "DELETE FROM configbus.config_audit_log",
        "DELETE of config_audit_log is refused: the audit log only grows",
    ),
    "changing a release": (
        "UPDATE configbus.release SET actor = 'nobody'",
        "UPDATE of release is refused: releases are history; change the configuration instead",
    ),
    "unsealing a release": (
        "UPDATE configbus.release SET state = NULL",
        "UPDATE of release is refused: releases are history; change the configuration instead",
    ),
    "changing an entry": (
        "UPDATE configbus.release_block SET content = '{}'",
        "UPDATE of release_block is refused: releases are history; change the configuration instead",
    ),
    "deleting a release": ("DELETE FROM configbus.release", "DELETE of release is refused: releases are history"),
    "deleting an entry": (
        "DELETE FROM configbus.release_block",
        "DELETE of release_block is refused: releases are history",
    ),
    "deleting an environment": ("DELETE FROM configbus.environment", "violates .*foreign key constraint"),
    "an environment that is no name": (
        "INSERT INTO configbus.environment (name, epoch) VALUES ('../etc', 1)",
        r'check constraint "environment_name"',
    ),
    "changing an id": (
        TRADING.format("id = gen_random_uuid()"),
        "trading_config: id, environment and key of a row do not change; insert a new row",
    ),
    "moving a row elsewhere": (
        TRADING.format("environment = 'staging'"),
        "trading_config: id, environment and key of a row do not change; insert a new row",
    ),
    "changing a key": (
        "UPDATE configbus.lane_config SET key = 'c'",
        "lane_config: id, environment and key of a row do not change; insert a new row",
    ),
    "taking the active row back": (
        TRADING.format("status = 'draft'"),
        "trading_config: a row cannot go from active to draft; draft to active to archived is the way",
    ),
    "making the active row the default": (
        TRADING.format("status = 'default'"),
        "a row cannot go from active to default",
    ),
    "activating the default row": (
        "UPDATE configbus.trading_config SET status = 'active' WHERE status = 'default'",
        "a row cannot go from default to active",
    ),
    "archiving the default row": (
        "UPDATE configbus.trading_config SET status = 'archived' WHERE status = 'default'",
        "a row cannot go from default to archived",
    ),
    "making a draft the default": (
        "UPDATE configbus.lane_config SET status = 'default'",
        "a row cannot go from draft to default",
    ),
}


def everything(psql: Psql) -> list[Any]:
    """A digest of all that a refused statement must leave as it was."""
    tables: tuple[LiteralString, ...] = (
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.trading_config AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.sample_config AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.lane_config AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.environment AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.release AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.release_block AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.config_audit_log AS t",
    )
    return [psql.execute(table).fetchall() for table in tables]


@pytest.mark.parametrize(("statement", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_with_a_message_that_says_what_is_wrong(psql: Psql, statement: LiteralString, words: str) -> None:
    psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('staging', 1)")
    psql.execute("INSERT INTO configbus.lane_config (environment, key) VALUES ('production', 'b')")
    before = everything(psql)
    with pytest.raises((psycopg.IntegrityError, psycopg.DataError), match=words):
        psql.execute(statement)
    assert everything(psql) == before


@pytest.mark.parametrize(
    "edit", ["score_threshold = 0.1", "description = 'x'", "status = 'active'", "status = 'draft'"]
)
def test_an_archived_row_is_not_edited(psql: Psql, edit: LiteralString) -> None:
    row = draft(psql, "0.1")
    psql.execute("UPDATE configbus.trading_config SET status = 'archived' WHERE id = %s", [row])
    before = everything(psql)
    words = rf"trading_config: row {str(row)[:8]} is archived; history is not edited, insert a draft with its values"
    with pytest.raises(psycopg.IntegrityError, match=words):
        psql.execute(ARCHIVED.format(edit))
    assert everything(psql) == before


def draft(psql: Psql, score: str) -> UUID:
    query = "INSERT INTO configbus.trading_config (environment, score_threshold) VALUES ('production', %s) RETURNING id"
    row: UUID = psql.execute(query, [score]).fetchall()[0][0]
    return row


def activate(psql: Psql, row: UUID) -> None:
    with psql.transaction():
        psql.execute("UPDATE configbus.trading_config SET status = 'archived' WHERE status = 'active'")
        psql.execute("UPDATE configbus.trading_config SET status = 'active' WHERE id = %s", [row])


def row_of(psql: Psql, row: UUID) -> dict[str, Any]:
    ((whole,),) = psql.execute("SELECT to_jsonb(t) FROM configbus.trading_config AS t WHERE id = %s", [row]).fetchall()
    return dict(whole)


def active_id(psql: Psql) -> UUID:
    row: UUID = psql.execute("SELECT id FROM configbus.trading_config WHERE status = 'active'").fetchall()[0][0]
    return row


def releases(psql: Psql) -> int:
    count: int = psql.execute("SELECT count(*) FROM configbus.release").fetchall()[0][0]
    return count


def test_two_transactions_cannot_both_activate(psql: Psql, sample_database_url: str) -> None:
    insert = "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"
    with psycopg.connect(sample_database_url) as other:
        other.execute(insert)
        psql.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            psql.execute(insert)
        other.commit()
    with pytest.raises(psycopg.errors.UniqueViolation, match="lane_config_one_active"):
        psql.execute(insert)


def test_blocks_of_one_domain_have_an_active_row_each(psql: Psql) -> None:
    psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('staging', 1)")
    psql.execute(
        "INSERT INTO configbus.lane_config (environment, key, status)"
        " SELECT environment, key, 'active' FROM unnest(ARRAY['production', 'staging']) AS environment,"
        " unnest(ARRAY['a', 'b', 'BTC-USD', '0_9']) AS key"
    )
    assert psql.execute("SELECT count(*) FROM configbus.lane_config WHERE status = 'active'").fetchall() == [(8,)]


def test_a_new_row_is_a_draft_of_version_one_with_a_name_of_its_own(psql: Psql) -> None:
    row = row_of(psql, draft(psql, "0.1"))
    assert (row["status"], row["version"], row["key"]) == ("draft", 1, "")
    assert row["name"] == f"draft {row['id'][:8]}"
    assert row["created_by"] == row["updated_by"] == "database:configbus"
    assert row["created_at"] == row["updated_at"]
    assert (row["activated_at"], row["activated_by"], row["description"]) == (None, None, None)


@pytest.mark.parametrize("status", ["draft", "default", "active"])
def test_version_counts_changes_of_content_alone(psql: Psql, status: str) -> None:
    def version(edit: LiteralString) -> int:
        count: int = psql.execute(EDIT_LANE.format(edit)).fetchall()[0][0]
        return count

    psql.execute(
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', %s)", [status]
    )
    assert version("fast_bars = 3") == 2
    assert version("fast_bars = 3") == 2
    assert version("description = 'x', name = 'y'") == 2
    assert version("version = 7") == 2
    assert version("fast_bars = 4, version = 9") == 3
    assert version("label = 'two', slow_bars = 61") == 4


def test_version_does_not_count_activation_and_archiving(psql: Psql) -> None:
    row, other = draft(psql, "0.1"), draft(psql, "0.2")
    psql.execute("UPDATE configbus.trading_config SET score_threshold = 0.3 WHERE id = %s", [row])
    activate(psql, row)
    assert (row_of(psql, row)["status"], row_of(psql, row)["version"]) == ("active", 2)
    activate(psql, other)
    assert (row_of(psql, row)["status"], row_of(psql, row)["version"]) == ("archived", 2)


def test_editing_only_the_description_makes_no_release(psql: Psql) -> None:
    before = releases(psql)
    psql.execute("UPDATE configbus.trading_config SET description = 'for calm markets' WHERE status = 'active'")
    assert releases(psql) == before
    assert row_of(psql, active_id(psql))["description"] == "for calm markets"


def test_renaming_the_active_row_is_a_release_of_the_same_version(psql: Psql) -> None:
    before, activated_at = releases(psql), row_of(psql, active_id(psql))["activated_at"]
    psql.execute("UPDATE configbus.trading_config SET name = 'calm' WHERE status = 'active'")
    row = row_of(psql, active_id(psql))
    assert (releases(psql), row["version"], row["activated_at"]) == (before + 1, 1, activated_at)


def test_times_and_authors_of_a_row_belong_to_the_database(psql: Psql) -> None:
    psql.execute(
        "INSERT INTO configbus.lane_config (environment, key, created_at, created_by, updated_at, updated_by,"
        " activated_at, activated_by)"
        " VALUES ('production', 'a', '2000-01-01Z', 'x', '2000-01-01Z', 'x', '2000-01-01Z', 'x')"
    )
    query = (
        "SELECT created_at, created_by, updated_at, updated_by, activated_at, activated_by FROM configbus.lane_config"
    )
    ((created_at, created_by, updated_at, updated_by, *activated),) = psql.execute(query).fetchall()
    assert created_at == updated_at > datetime.fromisoformat("2020-01-01T00:00:00Z")
    assert created_by == updated_by == "database:configbus"
    assert activated == [None, None]

    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        psql.execute(
            "UPDATE configbus.lane_config SET created_at = '2000-01-01Z', created_by = 'x', updated_at = '2000-01-01Z',"
            " updated_by = 'x', activated_at = '2000-01-01Z', activated_by = 'x', fast_bars = 3"
        )
    ((created_again, *rest),) = psql.execute(query).fetchall()
    assert created_again == created_at
    assert rest[1] > updated_at
    assert (rest[0], *rest[2:]) == ("database:configbus", "ana", None, None)


def test_activation_is_recorded_in_its_row(psql: Psql) -> None:
    row = draft(psql, "0.1")
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        activate(psql, row)
    active = row_of(psql, row)
    assert (active["activated_at"], active["activated_by"]) == (active["updated_at"], "ana")
    activate(psql, draft(psql, "0.2"))
    archived = row_of(psql, row)
    assert (archived["activated_at"], archived["activated_by"]) == (active["activated_at"], "ana")
    assert archived["updated_by"] == "database:configbus"


def test_editing_the_active_row_is_an_activation_of_its_new_content(psql: Psql) -> None:
    before = row_of(psql, active_id(psql))
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        psql.execute("UPDATE configbus.trading_config SET score_threshold = 0.1 WHERE status = 'active'")
    after = row_of(psql, active_id(psql))
    assert (after["id"], after["activated_by"]) == (before["id"], "ana")
    assert after["activated_at"] > before["activated_at"]


def audit(psql: Psql, after: int = 0) -> list[dict[str, Any]]:
    query = "SELECT to_jsonb(a) FROM configbus.config_audit_log AS a WHERE id > %s ORDER BY id"
    return [row for (row,) in psql.execute(query, [after])]


def newest(psql: Psql) -> int:
    number: int = psql.execute("SELECT max(id) FROM configbus.config_audit_log").fetchall()[0][0]
    return number


FIELDS = {*TradingConfig.model_fields, "name", "status"}


def test_audit_of_a_draft_from_its_creation_to_its_end(psql: Psql) -> None:
    before = newest(psql)
    row = draft(psql, "0.1")
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        psql.execute("SET LOCAL configbus.reason = 'calm market'")
        psql.execute(
            "UPDATE configbus.trading_config SET score_threshold = 0.2, max_slippage_exit_bps = 7, name = 'calm'"
            " WHERE id = %s",
            [row],
        )
    psql.execute("DELETE FROM configbus.trading_config WHERE id = %s", [row])
    create, update, delete = audit(psql, before)
    for entry in (create, update, delete):
        assert (entry["config_table"], entry["config_id"]) == ("trading_config", str(row))
        assert (entry["environment"], entry["key"]) == ("production", "")
        assert (entry["source_ip"], entry["user_agent"]) == ("127.0.0.1", "")

    assert (create["action"], create["performed_by"], create["reason"]) == ("create", "database:configbus", None)
    assert create["old_values"] is None
    assert set(create["changed_fields"]) >= FIELDS
    assert create["new_values"]["score_threshold"] == "0.100"
    assert (create["new_values"]["status"], create["new_values"]["name"]) == ("draft", f"draft {str(row)[:8]}")

    assert (update["action"], update["performed_by"], update["reason"]) == ("update", "ana", "calm market")
    assert update["changed_fields"] == ["max_slippage_exit_bps", "name", "score_threshold"]
    assert update["old_values"] == create["new_values"]
    assert update["new_values"] == create["new_values"] | {
        "score_threshold": "0.200",
        "max_slippage_exit_bps": 7,
        "name": "calm",
    }
    assert (delete["action"], delete["new_values"]) == ("delete", None)
    assert set(delete["changed_fields"]) >= FIELDS
    assert delete["old_values"] == update["new_values"]


def test_audit_of_an_activation_shows_what_was_live_and_what_is(psql: Psql) -> None:
    former = active_id(psql)
    psql.execute("UPDATE configbus.trading_config SET max_slippage_exit_bps = 7 WHERE status = 'active'")
    row, before = draft(psql, "0.1"), newest(psql)
    activate(psql, row)
    archive, activation = audit(psql, before)
    assert (archive["action"], archive["config_id"], archive["changed_fields"]) == ("archive", str(former), ["status"])
    assert (archive["old_values"]["status"], archive["new_values"]["status"]) == ("active", "archived")
    assert (activation["action"], activation["config_id"]) == ("activate", str(row))
    assert activation["changed_fields"] == ["max_slippage_exit_bps", "score_threshold"]
    assert sorted(activation["old_values"]) == sorted(activation["new_values"]) == sorted(TradingConfig.model_fields)
    told = [(values["max_slippage_exit_bps"], values["score_threshold"]) for values in values_of(activation)]
    assert told == [(7, "0.700"), (150, "0.100")]


def values_of(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return entry["old_values"], entry["new_values"]


def test_audit_of_an_edit_in_place_shows_both_values(psql: Psql) -> None:
    before = newest(psql)
    psql.execute("UPDATE configbus.trading_config SET score_threshold = 0.1 WHERE status = 'active'")
    (entry,) = audit(psql, before)
    assert (entry["action"], entry["changed_fields"]) == ("update", ["score_threshold"])
    assert [values["score_threshold"] for values in values_of(entry)] == ["0.700", "0.100"]


def test_audit_of_an_edit_of_the_description_shows_both_values(psql: Psql) -> None:
    psql.execute("UPDATE configbus.trading_config SET description = 'calm' WHERE status = 'active'")
    before = newest(psql)
    psql.execute("UPDATE configbus.trading_config SET description = 'storm' WHERE status = 'active'")
    (entry,) = audit(psql, before)
    assert (entry["action"], entry["changed_fields"]) == ("update", ["description"])
    assert [values["description"] for values in values_of(entry)] == ["calm", "storm"]


def test_audit_of_a_keyed_block_names_its_key_and_no_former_content_where_there_was_none(psql: Psql) -> None:
    before = newest(psql)
    insert = "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"
    psql.execute(insert)
    psql.execute("UPDATE configbus.lane_config SET status = 'archived'")
    psql.execute(insert)
    first, archive, retire, again = entries = audit(psql, before)
    assert [entry["key"] for entry in entries] == ["a", "a", "a", "a"]
    assert [entry["action"] for entry in entries] == ["activate", "archive", "retire", "activate"]
    assert first["old_values"] is again["old_values"] is retire["new_values"] is None
    assert retire["old_values"] == first["new_values"]
    assert archive["config_id"] == retire["config_id"]
    assert first["changed_fields"] == ["fast_bars", "label", "slow_bars", "threshold", "venue"]


def test_the_audit_log_tells_which_program_wrote(psql: Psql) -> None:
    before = newest(psql)
    psql.execute("SET application_name = 'night shift'")
    draft(psql, "0.1")
    assert audit(psql, before)[0]["user_agent"] == "night shift"


def test_a_rolled_back_edit_is_not_in_the_audit_log(psql: Psql) -> None:
    before = newest(psql)
    with psql.transaction() as whole:
        draft(psql, "0.1")
        raise psycopg.Rollback(whole)
    assert audit(psql, before) == []


def test_settings_of_one_transaction_do_not_name_the_author_of_the_next(psql: Psql) -> None:
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        psql.execute("SET LOCAL configbus.reason = 'calm market'")
        draft(psql, "0.1")
    before = newest(psql)
    draft(psql, "0.2")
    (entry,) = audit(psql, before)
    assert (entry["performed_by"], entry["reason"]) == ("database:configbus", None)
