"""The owner of the database touches its audit log while changes go on: verification names what was touched."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest
from shell import Shell

from configbus.reader import Reader
from configbus.settings import load_settings
from configbus.wire import Position
from faults.cluster import note_times
from faults.databases import epoch_of, is_published
from faults.history import read_commits

if TYPE_CHECKING:
    from pathlib import Path

    from faults.cluster import Cluster, Process

LIMIT = 2.0
DIFFERENT = 8
CUT = 5
LINE = "SELECT id FROM configbus.audit_line WHERE environment = 'production' AND revision = %s ORDER BY id LIMIT 1"
CUT_THE_END: tuple[LiteralString, ...] = (
    """DELETE FROM configbus.config_audit_log
       WHERE id IN (SELECT id FROM configbus.audit_line WHERE revision > %(kept)s OR revision IS NULL)""",
    "DELETE FROM configbus.audit_line WHERE revision > %(kept)s OR revision IS NULL",
    "DELETE FROM configbus.release_block WHERE revision > %(kept)s",
    "DELETE FROM configbus.release WHERE revision > %(kept)s",
    "UPDATE configbus.environment SET revision = %(kept)s",
)

pytestmark = pytest.mark.long


def as_owner(cluster: Cluster, statement: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
    """What nothing in the database keeps its owner from."""
    with psycopg.connect(cluster.database_url) as owner:
        owner.execute("SET session_replication_role = replica")
        found = owner.execute(statement, values)
        return found.fetchall() if found.description else []


def line_of(cluster: Cluster, revision: int) -> int:
    ((number,),) = as_owner(cluster, LINE, revision)
    return int(number)


def test_d2_a_line_changed_or_removed_under_load_is_the_first_that_is_named(cluster: Cluster) -> None:
    with cluster.load(160) as load, Reader(load_settings({}, **cluster.settings)) as reader:
        load.reached(40)
        assert reader.verify_chain().broken == ()
        changed = line_of(cluster, 30)
        as_owner(cluster, "UPDATE configbus.config_audit_log SET performed_by = 'x' WHERE id = %s", changed)
        first = reader.verify_chain().broken[0]
        assert (first.what, first.number, first.why) == ("line", changed, "it is not what was written")
        load.reached(80)
        removed = line_of(cluster, 20)
        as_owner(cluster, "DELETE FROM configbus.config_audit_log WHERE id = %s", removed)
        first, second = reader.verify_chain().broken
        assert (first.what, first.number, first.why) == ("line", removed, "it is gone")
        assert second.number == changed
        cluster.healed()
    note_times("D2", "lines of the audit log changed and removed", LIMIT, cluster.finish(limit=LIMIT))


def noted_by(relay: Process) -> str:
    """The newest hash of history in its log."""
    relay.wait_for("history_noted")
    return str(re.findall(r"chain=([0-9a-f]+)", relay.log)[-1])


def test_d2_an_end_that_was_cut_is_told_by_the_hash_kept_outside(cluster: Cluster, tmp_path: Path) -> None:
    """By the head in Redis until a relay has seen it; by the relay's log for good."""
    shell = Shell(tmp_path, CONFIGBUS_DATABASE_URL=cluster.database_url, CONFIGBUS_REDIS_URL=cluster.valkey.url)
    with cluster.load(80):
        pass
    cluster.settle()
    cluster.relays[0].end(signal.SIGTERM)
    noted = noted_by(relay := cluster.start_relay())
    assert shell("audit", "--verify", "--expect", noted).returncode == 0
    head, epoch, commits = cluster.head(), epoch_of(cluster), read_commits(cluster.database_url)
    relay.send(signal.SIGSTOP)
    kept = head - CUT
    with psycopg.connect(cluster.database_url) as owner:
        owner.execute("SET session_replication_role = replica")
        for statement in CUT_THE_END:
            owner.execute(statement, {"kept": kept})
    told = shell("audit", "--verify", "--json")
    (broken,) = json.loads(told.stdout)["broken"]
    assert (told.returncode, broken["number"]) == (DIFFERENT, head)
    assert broken["why"] == "it is gone, or not what the head in Redis says"
    relay.send(signal.SIGCONT)
    cluster.healed()
    cluster.healed_within(lambda: is_published(cluster, epoch), LIMIT)
    assert "epoch_raised" in relay.log
    with cluster.load(40):
        pass
    assert json.loads(shell("audit", "--verify", "--json").stdout)["broken"] == []
    told = shell("audit", "--verify", "--expect", noted, "--json")
    (broken,) = json.loads(told.stdout)["broken"]
    assert (told.returncode, broken["why"]) == (DIFFERENT, "none has the hash of --expect")
    lost = [commit for commit in commits if commit.position > Position(epoch, kept)]
    times = cluster.finish(limit=LIMIT, lost=lost)
    note_times("D2", f"the last {CUT} releases cut off, with their lines", LIMIT, times, cluster.repaired)
