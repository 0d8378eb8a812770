"""The five steps of CONTRIBUTING.md, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CONTRIBUTING = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf8")
STEPS = CONTRIBUTING.partition("## Working on configbus")[0]


def test_a_domain_of_ones_own_is_added_in_five_steps(database_url: str, redis_url: str, tmp_path: Path) -> None:
    module, worker = re.findall(r"```python\n(.*?)```", STEPS, re.DOTALL)
    commands = [
        line[2:] for block in re.findall(r"```console\n(.*?)```", STEPS, re.DOTALL) for line in block.splitlines()
    ]
    (tmp_path / "my_domains.py").write_text(module, encoding="utf8")
    (tmp_path / "worker.py").write_text(worker, encoding="utf8")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".configbus").mkdir()
    (tmp_path / ".configbus" / "env").write_text(
        f"export CONFIGBUS_DATABASE_URL='{database_url}' CONFIGBUS_REDIS_URL='{redis_url}'\n", encoding="utf8"
    )
    relay = "timeout 40 .venv/bin/configbus relay & relay=$!; trap 'kill $relay' EXIT"
    script = "\n".join(["set -eu", *commands, relay, ".venv/bin/python -W error worker.py"])

    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert ["momentum", "keyed"] in [words[:2] for words in told]
    assert ["table", "momentum_config"] in told
    assert ["fast_bars", "20", "10"] in told
    assert ["['BTC-USD']", "10"] in told
