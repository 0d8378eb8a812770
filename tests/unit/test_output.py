"""Tables on a terminal: what is copied into the next command stays whole."""

from __future__ import annotations

import os
import pty
import sys
from datetime import UTC, datetime

import pytest

from configbus.cli.output import show_table

AT = datetime(2026, 11, 20, 11, 33, 42, 127_000, UTC)
HISTORY = ("revision", "at", "by", "version", "change", "reason")
AUDIT = ("at", "block", "action", "by", "change", "reason")
LONG = "score_threshold 0.800 -> 0.900, max_slippage_entry_bps 100 -> 90"


def shown(monkeypatch: pytest.MonkeyPatch, width: int, columns: tuple[str, ...], *rows: tuple[object, ...]) -> str:
    """What a terminal of this width is sent."""
    terminal, screen = pty.openpty()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    with os.fdopen(screen, "w", encoding="utf8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        show_table(columns, rows)
        stdout.flush()
        monkeypatch.undo()
        found = os.read(terminal, 100_000).decode()
    os.close(terminal)
    return found


@pytest.mark.parametrize("width", [80, 40])
def test_instants_actors_ids_and_revisions_are_never_folded(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    actor = "somebody@取引.example"
    told = shown(monkeypatch, width, HISTORY, (123_456, AT, actor, 17, LONG, "a reason that is long, too"))
    assert all(whole in told for whole in ("123456", "2026-11-20T11:33:42.127Z", actor))
    block = "strategy/market_maker_of_the_north"
    told = shown(monkeypatch, width, AUDIT, (AT, block, "activate", actor, LONG, "night"))
    assert all(whole in told for whole in ("2026-11-20T11:33:42.127Z", block, actor, "night"))
    told = shown(monkeypatch, width, ("id", "status", "changed", "by", "name"), ("5e553d9c", "active", AT, actor, LONG))
    assert all(whole in told for whole in ("5e553d9c", "2026-11-20T11:33:42.127Z", actor))


def test_texts_are_folded_to_the_width_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(20)]
    told = shown(monkeypatch, 80, HISTORY, (4, AT, "ana", 4, " ".join(words), "volatility"))
    assert max(map(len, told.splitlines())) <= 80
    assert {"volatility", *words} <= {*told.split()}
