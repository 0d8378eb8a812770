"""What the command line's log shows of an error in a worker's callback: no password, nothing a terminal obeys."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from configbus import ConfigBus
from configbus.cli.logs import log_to_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLD = "no redis://default:S3CRET@h:6379/0 nor http://ana:S3CRET@h/x here\x1b[31m"


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    logger = logging.getLogger("configbus")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def log_of_a_failing_callback(form: str, worker: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    called = threading.Event()
    threads: list[threading.Thread] = []

    def fail(_change: object) -> None:
        threads.append(threading.current_thread())
        called.set()
        raise RuntimeError(TOLD)

    with ConfigBus.connect(**worker) as bus:
        log_to_stderr("ERROR", form)
        subscription = bus.on_change("risk", fail)
        assert called.wait(10)
        subscription.cancel()
        threads[0].join(10)
    return capsys.readouterr().err


@pytest.mark.usefixtures("published")
def test_in_the_console_passwords_and_control_characters_are_not_shown(
    worker: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = log_of_a_failing_callback("console", worker, capsys)
    lines = shown.splitlines()
    assert "callback_failed" in lines[0]
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == r"RuntimeError: no redis://default:***@h:6379/0 nor http://ana:***@h/x here\x1b[31m"
    assert "S3CRET" not in shown
    assert "\x1b" not in shown


@pytest.mark.usefixtures("published")
def test_in_json_passwords_are_not_shown(worker: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    shown = log_of_a_failing_callback("json", worker, capsys)
    (line,) = map(json.loads, shown.splitlines())
    assert line["event"] == "callback_failed"
    assert "redis://default:***@h:6379/0 nor http://ana:***@h/x" in line["traceback"]
    assert "S3CRET" not in shown


def test_what_others_log_there_is_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("console", "json"):
        log_to_stderr("INFO", form)
        logging.getLogger("configbus.theirs").warning("%s", TOLD)
        shown = capsys.readouterr().err
        assert "http://ana:***@h/x" in shown
        assert "S3CRET" not in shown
        assert "\x1b" not in shown


def test_facts_that_are_objects_are_masked_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("INFO", "json")
    facts = {"event": "told", "environment": "test", "error": RuntimeError(TOLD)}
    logging.getLogger("configbus").warning("told", extra={"facts": facts})
    assert "S3CRET" not in capsys.readouterr().err
